//! What all connections of a listener have in common: its bounds, the way to the agent's loop, and the form of answers.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{TEXT_LIMIT, caller::Users, parse};
use crate::api::{
    request::{Envelope, Reply, Request, Sender},
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
    pub(super) users: Users,
    pub(super) scrapes: Arc<Semaphore>,
    pub(super) bodies: Semaphore,
    pub(super) texts: Semaphore,
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
    pub(super) async fn ask_for(&self, request: Request, by: Option<Caller>) -> Reply {
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
    /// Clients of the TCP port: `GET /metrics`, `/healthz`, `/readyz`.
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

/// A view as one line of JSON.
pub(super) fn json_text<T: Serialize>(value: &T) -> Vec<u8> {
    // Views are plain data with string keys: there is nothing in them that JSON cannot say.
    let mut text = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    text.push(b'\n');
    text
}

pub(super) fn error(code: Code, message: &str) -> ApiError {
    parse::error(code, message.to_owned())
}
