//! From an HTTP request to the agent's loop and back: bodies within their bounds, errors as JSON, who asks. Which path means what is in `route`, the stream of events in `follow`.

use crate::config::words::plural;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Response, StatusCode,
    body::{Body, Incoming},
    header::{ALLOW, CONTENT_TYPE, EXPECT, HeaderValue},
};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot, watch},
    time::timeout_at,
};

use super::{
    TEXT_LIMIT,
    caller::Users,
    connection::Progress,
    event_stream,
    request::{Envelope, Reply, Request, Sender},
    route,
    view::{ApiError, Caller, Code},
};

/// The bounds of the server. They are the same for every agent; tests make them smaller.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections held at once; when there are more, the oldest whose client keeps us waiting is closed: for its
    /// request, or for taking its answer.
    pub connections: usize,
    /// Of these, how many may follow the events.
    pub followers: usize,
    /// Scrapes answered at once: each may hold megabytes of text.
    pub scrapes: usize,
    /// From the first byte a connection could send to the last of its head.
    pub head_timeout: Duration,
    /// For the whole body.
    pub body_timeout: Duration,
    /// For the agent's loop to answer.
    pub reply_timeout: Duration,
    /// For a client to take a part of its answer.
    pub write_timeout: Duration,
    /// Of one body, in bytes.
    pub body_limit: usize,
    /// Of a body that carries a whole configuration, in bytes.
    pub text_limit: usize,
    /// Of each body, in bytes, what is not counted in `bodies_limit`: small requests never wait for large ones.
    pub body_free: usize,
    /// Of all bodies that are being read or answered, in bytes beyond `body_free` of each.
    pub bodies_limit: usize,
    /// The same of bodies that carry a configuration, so that those never keep others waiting.
    pub texts_limit: usize,
    /// Between two looks at the events for those who follow them.
    pub follow_interval: Duration,
    /// For requests under way when the agent stops.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            // Each may hold an answer of megabytes.
            connections: 128,
            followers: 32,
            scrapes: 4,
            head_timeout: seconds(10),
            body_timeout: seconds(10),
            reply_timeout: seconds(30),
            write_timeout: seconds(10),
            body_limit: 1024 * 1024,
            text_limit: TEXT_LIMIT,
            body_free: 16 * 1024,
            bodies_limit: 4 * 1024 * 1024,
            texts_limit: 2 * TEXT_LIMIT,
            follow_interval: Duration::from_millis(200),
            grace: seconds(2),
        }
    }
}

/// What all connections of a listener share.
pub(super) struct ServerState {
    pub settings: Settings,
    pub sender: Sender,
    pub shutdown: watch::Receiver<bool>,
    pub followers: Arc<Semaphore>,
    users: Users,
    scrapes: Arc<Semaphore>,
    bodies: Semaphore,
    texts: Semaphore,
}

impl ServerState {
    pub(super) fn new(settings: Settings, sender: Sender, shutdown: watch::Receiver<bool>) -> Arc<Self> {
        let followers = Arc::new(Semaphore::new(settings.followers));
        let scrapes = Arc::new(Semaphore::new(settings.scrapes));
        let bodies = Semaphore::new(settings.bodies_limit);
        let (users, texts) = (Users::default(), Semaphore::new(settings.texts_limit));
        Arc::new(Self { settings, sender, shutdown, followers, users, scrapes, bodies, texts })
    }

    /// Waits until a scrape may be answered; `None` = the server ends.
    pub(super) async fn scrape_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.scrapes).acquire_owned().await.ok()
    }

    /// Asks the loop something that changes nothing.
    pub(super) async fn ask(&self, request: Request) -> Reply {
        self.ask_for(request, None).await
    }

    /// Asks the loop.
    async fn ask_for(&self, request: Request, by: Option<Caller>) -> Reply {
        let stopping =
            || error(Code::Unavailable, "the agent is starting or stopping; try again in a moment");
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.sender.send(Envelope { request, by, reply }).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())?
        };
        let limit = self.settings.reply_timeout;
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| {
            let message = format!(
                "the agent did not answer within {} s; a change that was asked for may still be made",
                limit.as_secs_f32()
            );
            Err(error(Code::Unavailable, &message))
        })
    }
}

/// Waits for the agent's word to stop; an agent that is gone without one stops, too.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Who is at the other end, and what it may ask.
#[derive(Clone, Copy, Debug)]
pub(super) enum Client {
    /// A process on this host, over the control socket: everything.
    Local { uid: u32, pid: Option<i32> },
    /// Clients of the TCP port: `GET /metrics`.
    Scraper(std::net::SocketAddr),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid: Some(pid) } => write!(f, "uid {uid}, pid {pid}"),
            Self::Local { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Scraper(address) => write!(f, "{address}"),
        }
    }
}

pub(super) type Payload = UnsyncBoxBody<Bytes, std::io::Error>;

/// The answer to one request; never fails, errors are answers too.
pub(super) async fn answer(
    request: hyper::Request<Incoming>,
    client: Client,
    shared: &Arc<ServerState>,
    progress: &Progress,
) -> Response<Payload> {
    let outcome = match client {
        Client::Local { .. } => control(request, client, shared, progress).await,
        Client::Scraper(_) => {
            progress.asked();
            scrape(&request, shared).await
        }
    };
    progress.asked();
    outcome.unwrap_or_else(|refusal| {
        let mut response = json(&refusal.error);
        *response.status_mut() = StatusCode::from_u16(refusal.error.code.http_status()).unwrap_or_default();
        if let Some(allow) = refusal.allow.and_then(|verbs| HeaderValue::try_from(verbs).ok()) {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    })
}

impl From<ApiError> for route::NoRoute {
    fn from(error: ApiError) -> Self {
        Self { error, allow: None }
    }
}

async fn control(
    request: hyper::Request<Incoming>,
    client: Client,
    shared: &Arc<ServerState>,
    progress: &Progress,
) -> Result<Response<Payload>, route::NoRoute> {
    let (head, body) = request.into_parts();
    let (verb, path) = (head.method.as_str(), head.uri.path());
    let reads = head.method == Method::GET || head.method == Method::HEAD;
    if reads && route::is_index(path) {
        return Ok(json(&route::index()));
    }
    let found = route::find(verb, path)?;
    let (body, _held) = read_body(body, found.route.body, head.headers.contains_key(EXPECT), shared).await?;
    progress.asked();
    let (request, follow) = found.request(head.uri.query(), &body)?;
    drop(body);
    if follow && let Request::Events(filter) = &request {
        // A follower stays: it must not wait for one of the places to become free.
        return Ok(event_stream::stream(filter.clone(), shared).await?);
    }
    let quiet = reads || matches!(request, Request::ConfigCheck { .. } | Request::Plan { .. });
    let by = match client {
        Client::Local { uid, pid } if !quiet => Some(shared.users.caller(uid, pid).await),
        _ => None,
    };
    let reply = shared.ask_for(request, by).await;
    // What the agent has made of it is an event; this is for what has not come that far.
    if !quiet && let Err(ApiError { code: Code::Unavailable, message, .. }) = &reply {
        log::warn!("control: {verb} {path} by {client}: {message}");
    }
    Ok(render(&reply?))
}

async fn scrape(
    request: &hyper::Request<Incoming>,
    shared: &ServerState,
) -> Result<Response<Payload>, route::NoRoute> {
    if request.uri().path() != "/metrics" {
        return Err(error(Code::NotFound, "only /metrics is served here").into());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let error = error(Code::MethodNotAllowed, "/metrics takes GET, HEAD");
        return Err(route::NoRoute { error, allow: Some("GET, HEAD".into()) });
    }
    Ok(render(&shared.ask(Request::Metrics).await?))
}

/// The body whole, and the part of the common bound it holds until the answer is there.
async fn read_body<'a>(
    mut body: Incoming,
    takes: route::Body,
    expects_to_be_asked: bool,
    shared: &'a ServerState,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'a>>), ApiError> {
    let settings = &shared.settings;
    let (limit, room) = match takes {
        route::Body::Text | route::Body::Apply => (settings.text_limit, &shared.texts),
        _ => (settings.body_limit, &shared.bodies),
    };
    let deadline = (Instant::now() + shared.settings.body_timeout).into();
    let too_large = || error(Code::TooLarge, &format!("the body is larger than {limit} bytes"));
    let late = |got: usize| {
        let seconds = shared.settings.body_timeout.as_secs_f32();
        let got = plural(got as u64, "byte", "bytes");
        error(Code::RequestTimeout, &format!("the body did not arrive within {seconds} s: {got} did"))
    };
    let declared = body.size_hint().exact();
    if expects_to_be_asked && declared.is_some_and(|n| n > limit as u64) {
        return Err(too_large());
    }
    let (mut bytes, mut held) = (Vec::new(), None::<SemaphorePermit<'_>>);
    let mut got: usize = 0;
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            // What is too large is still read to its end where that is near: a client in the middle of sending would
            // not see the answer.
            Err(_) if got > limit => return Err(too_large()),
            Err(_) => return Err(late(got)),
            Ok(None) => break,
            Ok(Some(frame)) => frame.map_err(|why| cut_short(got, declared, &why))?,
        };
        let Ok(data) = frame.into_data() else { continue };
        let free = shared.settings.body_free;
        let part = (got + data.len()).saturating_sub(got.max(free));
        got += data.len();
        if got > limit {
            (bytes, held) = (Vec::new(), None);
            if got > limit + 63 * settings.body_limit {
                return Err(too_large());
            }
            continue;
        }
        let part = u32::try_from(part).unwrap_or(u32::MAX);
        match timeout_at(deadline, room.acquire_many(part)).await {
            Ok(Ok(permit)) => match &mut held {
                Some(held) => held.merge(permit),
                None => held = Some(permit),
            },
            Ok(Err(_)) | Err(_) => {
                return Err(error(
                    Code::Unavailable,
                    "too many request bodies at once; try again in a moment",
                ));
            }
        }
        bytes.extend_from_slice(&data);
    }
    if got > limit { Err(too_large()) } else { Ok((bytes, held)) }
}

fn cut_short(got: usize, declared: Option<u64>, why: &hyper::Error) -> ApiError {
    let message = match declared {
        Some(declared) => format!("the body ended after {got} of {}", plural(declared, "byte", "bytes")),
        None => format!("the body cannot be read after {}: {why}", plural(got as u64, "byte", "bytes")),
    };
    error(Code::BadRequest, &message)
}

fn render(value: &Value) -> Response<Payload> {
    match value {
        // Of all answers, only the metrics are a text.
        Value::String(text) => {
            respond("text/plain; version=0.0.4; charset=utf-8", Bytes::copy_from_slice(text.as_bytes()))
        }
        other => json(other),
    }
}

fn json<T: Serialize>(value: &T) -> Response<Payload> {
    respond("application/json", json_text(value).into())
}

fn respond(content_type: &'static str, body: Bytes) -> Response<Payload> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A view as one line of JSON.
pub(super) fn json_text<T: Serialize>(value: &T) -> Vec<u8> {
    // Views are plain data with string keys: there is nothing in them that JSON cannot say.
    let mut text = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    text.push(b'\n');
    text
}

pub(super) fn error(code: Code, message: &str) -> ApiError {
    route::error(code, message.to_owned())
}
