//! From an HTTP request to the agent's loop and back: bodies within their bounds, errors as JSON, who asks. Which path means what is in `route`, the stream of events in `event_stream`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Response, StatusCode,
    body::{Body, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderValue, VARY},
};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::SemaphorePermit,
    time::{timeout, timeout_at},
};

use super::{
    connection::Progress,
    encoding::{self, takes_gzip},
    event_stream,
    parse::Query,
    route, routes,
    shared::{Client, Payload, ServerState, error, json_text},
};
use crate::{
    api::{
        filter::{Parameter, SCOPE},
        request::Request,
        view::{ApiError, Code, Ready},
    },
    config::words::plural,
    printable::printable,
};

/// Where clients of the TCP port find the metrics.
const METRICS: &str = "/metrics";
/// Whether the agent answers.
const HEALTH: &str = "/healthz";
/// Whether it does its work.
const READY: &str = "/readyz";
/// The parameter of `/readyz` for those who want to hear of everything.
const STRICT: Parameter = ("strict", "true: not ready, too, where anything of the node needs attention");
/// For an answer to those who watch: an agent that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(5);

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
    if follow {
        // A follower stays: it must not wait for one of the places to become free.
        return Ok(event_stream::stream(request, shared).await?);
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
    Ok(render(reply?, takes_gzip(&head.headers)).await)
}

async fn scrape(
    request: &hyper::Request<Incoming>,
    shared: &ServerState,
) -> Result<Response<Payload>, route::NoRoute> {
    let path = request.uri().path();
    if ![METRICS, HEALTH, READY].contains(&path) {
        let message = format!("only {METRICS}, {HEALTH} and {READY} are served here");
        return Err(error(Code::NotFound, &message).into());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let error = error(Code::MethodNotAllowed, &format!("{path} takes GET, HEAD"));
        return Err(route::NoRoute { error, allow: Some("GET, HEAD".into()) });
    }
    let query = request.uri().query().unwrap_or_default();
    match path {
        HEALTH => {
            Query::parse(&[], query)?;
            return Ok(healthy(shared).await);
        }
        READY => {
            let strict = Query::parse(&[STRICT], query)?.strict;
            return Ok(ready(shared, strict).await);
        }
        _ => {}
    }
    let scopes = Query::parse(&[SCOPE], query)?.scopes;
    Ok(render(shared.ask(Request::Metrics(scopes)).await?, takes_gzip(request.headers())).await)
}

/// Whether what is asked for can have megabytes, so that only a few get it at once. A client that reads the metrics slowly must not
/// make the balancer look ill.
pub(super) fn is_large(request: &hyper::Request<Incoming>) -> bool {
    request.uri().path() == METRICS
}

/// 200 where the agent's loop answers.
async fn healthy(shared: &ServerState) -> Response<Payload> {
    match timeout(PATIENCE, shared.ask(Request::Version)).await {
        Ok(Ok(_)) => plain(StatusCode::OK, "ok\n".to_owned()),
        Ok(Err(error)) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.message)),
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, late()),
    }
}

/// 200 where the node does its work, else 503 and why not, a line each.
async fn ready(shared: &ServerState, strict: bool) -> Response<Payload> {
    let answer = match timeout(PATIENCE, shared.ask(Request::Ready)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.message)),
        Err(_) => return plain(StatusCode::SERVICE_UNAVAILABLE, late()),
    };
    let Ready { ready, mut reasons, attention } = serde_json::from_value(answer).unwrap_or_default();
    if strict {
        reasons.extend(attention);
    }
    if ready && reasons.is_empty() {
        return plain(StatusCode::OK, "ready\n".to_owned());
    }
    let lines: String = reasons.iter().map(|reason| printable(reason) + "\n").collect();
    plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{lines}"))
}

fn late() -> String {
    format!("the agent did not answer within {} s\n", PATIENCE.as_secs())
}

fn plain(status: StatusCode, text: String) -> Response<Payload> {
    let mut response = respond("text/plain; charset=utf-8", text.into());
    *response.status_mut() = status;
    // Of now, and of no moment after.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The body whole, and the part of the common bound it holds until the answer is there.
async fn read_body<'a>(
    mut body: Incoming,
    takes: routes::Body,
    expects_to_be_asked: bool,
    shared: &'a ServerState,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'a>>), ApiError> {
    let settings = &shared.settings;
    let (limit, room) = match takes {
        routes::Body::Text | routes::Body::Apply => (settings.text_limit, &shared.texts),
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

async fn render(value: Value, compressed: bool) -> Response<Payload> {
    // Of all answers, only the metrics are a text.
    let Value::String(text) = value else { return json(&value) };
    let text = Bytes::from(text);
    let short = if compressed { encoding::gzip(&text).await } else { None };
    let is_short = short.is_some();
    let mut response = respond("text/plain; version=0.0.4; charset=utf-8", short.unwrap_or(text));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    if is_short {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn json<T: Serialize>(value: &T) -> Response<Payload> {
    respond("application/json", json_text(value).into())
}

fn respond(content_type: &'static str, body: Bytes) -> Response<Payload> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
