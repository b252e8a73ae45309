//! The way to the agent: HTTP/1.1 over its Unix socket, a connection a request.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use super::{
    exit::Failure,
    peer::{Peer, SILENCE},
};
use crate::api::view::{ApiError, Code};

/// For a place in the queue of the socket. Once there, a stopped agent is found out by [`Peer::guard`].
const CONNECT: Duration = SILENCE;
/// For the whole answer: longer than the agent takes to say that it does not answer.
const ANSWER: Duration = Duration::from_secs(45);

/// Where the agent is.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    instance: String,
}

/// An answer that is read line by line as it comes.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Client {
    /// The instance that is meant.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// `socket` where one was named, else that of the instance.
    pub fn new(socket: Option<PathBuf>, instance: &str) -> Self {
        let socket = socket.unwrap_or_else(|| format!("/run/lb/{instance}.sock").into());
        Self { socket, instance: instance.to_owned() }
    }

    /// `GET`: the answer as it came and as a view.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(Value, T), Failure> {
        self.call(Method::GET, path, None).await
    }

    /// A request with its answer, as it came and as a view.
    pub async fn call<T: DeserializeOwned>(
        &self,
        verb: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Value, T), Failure> {
        let text = self.text(verb, path, body).await?;
        let not_understood = |why: serde_json::Error| {
            Failure::Failed(format!(
                "the agent's answer to {path} is not understood: {why}; compare the versions with `lbctl version`"
            ))
        };
        let value: Value = serde_json::from_slice(&text).map_err(not_understood)?;
        let view = T::deserialize(&value).map_err(not_understood)?;
        Ok((value, view))
    }

    /// A request with the bytes of its answer.
    pub async fn text(&self, verb: Method, path: &str, body: Option<&Value>) -> Result<Bytes, Failure> {
        let answer = async {
            let (response, peer) = self.send(verb, path, body).await?;
            peer.guard(collect(response.into_body())).await
        };
        timeout(ANSWER, answer).await.unwrap_or_else(|_| {
            let seconds = ANSWER.as_secs();
            Err(Failure::Unreachable(format!(
                "lbd did not answer within {seconds} s; is the host overloaded?"
            )))
        })
    }

    /// A `GET` whose answer goes on.
    pub async fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let (response, _) = self.send(Method::GET, path, None).await?;
        Ok(Lines { body: response.into_body(), rest: Vec::new() })
    }

    /// Sends a request; an answer that is an error becomes one.
    async fn send(
        &self,
        verb: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Response<Incoming>, Peer), Failure> {
        let stream = self.connect().await?;
        let peer = Peer::of(&stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // Ends with the answer, or with the runtime.
        tokio::spawn(connection);
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(verb)
            .uri(path)
            .header(HOST, "lb")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|why| Failure::Usage(format!("{path}: {why}")))?;
        let answer = async { sender.send_request(request).await.map_err(|error| broken(&error)) };
        let response = peer.guard(answer).await?;
        if response.status() == StatusCode::OK {
            return Ok((response, peer));
        }
        let status = response.status();
        let text = peer.guard(collect(response.into_body())).await?;
        Err(serde_json::from_slice::<ApiError>(&text).map_or_else(
            |_| Failure::Failed(format!("the agent answered {status} without saying why")),
            Failure::Refused,
        ))
    }

    async fn connect(&self) -> Result<UnixStream, Failure> {
        let deadline = Instant::now() + CONNECT;
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                // The queue of the socket is full.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(self.unreachable(&error)),
            }
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let (socket, instance) = (self.socket.display(), &self.instance);
        Failure::Unreachable(match error.kind() {
            io::ErrorKind::NotFound => {
                let others = others(&self.socket);
                let others = if others.is_empty() {
                    String::new()
                } else {
                    format!("; sockets there are: {}", others.join(", "))
                };
                format!(
                    "lbd is not running for instance {instance} (no socket at {socket}); start it, or name another with \
                     --instance or --socket{others}"
                )
            }
            io::ErrorKind::ConnectionRefused => format!(
                "lbd is not running for instance {instance} (no answer at {socket}, which an earlier one left behind)"
            ),
            io::ErrorKind::PermissionDenied => {
                format!("permission denied at {socket}: {}", who_may(&self.socket))
            }
            io::ErrorKind::WouldBlock => {
                let full = format!("lbd takes no connections at {socket}: its queue is full");
                match Peer::locking(&self.socket).stopped() {
                    Some(why) => format!("{full}; {why}"),
                    None => format!("{full}; is it stuck?"),
                }
            }
            _ => format!("cannot connect to {socket}: {error}"),
        })
    }
}

/// What broke off in the middle.
fn broken(error: &hyper::Error) -> Failure {
    Failure::Unreachable(format!("lbd ended the connection before it answered ({error}); did it stop?"))
}

async fn collect(body: Incoming) -> Result<Bytes, Failure> {
    Ok(body.collect().await.map_err(|error| broken(&error))?.to_bytes())
}

/// The other sockets in the directory of one that is not there.
fn others(socket: &Path) -> Vec<String> {
    let entries = socket.parent().and_then(|directory| fs::read_dir(directory).ok());
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".sock"))
        .collect();
    names.sort();
    names
}

/// Who may use a socket that we may not.
fn who_may(socket: &Path) -> String {
    match fs::metadata(socket) {
        Ok(metadata) if metadata.gid() != 0 => {
            let gid = metadata.gid();
            let group =
                Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or(gid.to_string(), |g| g.name);
            format!(
                "it is open to root and the group {group}; use sudo, or join the group (`usermod -aG {group} $USER`, \
                 then log in again)"
            )
        }
        Ok(_) => "it is open to root only; use sudo, or let a group in with node.socket_group".into(),
        Err(_) => "its directory is closed to you; use sudo".into(),
    }
}

impl Lines {
    /// The next line that is not blank; `None` = the agent ended the stream.
    pub async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&error)),
                Some(Ok(frame)) => self.rest.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            }
        }
    }
}

/// A path with names in it, percent-encoded.
pub fn path(parts: &[&str]) -> String {
    parts.iter().fold(String::from("/v1"), |path, part| path + "/" + &encode(part))
}

/// Percent-encoding of everything but the unreserved characters of RFC 3986, 2.3.
pub fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// Whether an error says that the object is not there.
pub fn is_not_found(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(ApiError { code: Code::NotFound, .. }))
}
