//! One probe: a question to one backend, answered within its time by yes or by a reason in words. A file per kind, and
//! `attempts` for asking again where packets may have been lost;
//! what answers mean for the verdict is `machine`'s business, when to ask is `scheduler`'s.

mod agent;
mod attempts;
mod dns;
mod exec;
mod grpc;
pub mod http;
mod icmp;
pub mod tcp;
pub mod tls;
mod udp;
mod words;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::Semaphore, time::Instant};
use tokio_rustls::client::TlsStream;

use self::attempts::{Outcome, Progress, first_answer};

use super::said::Words;
use crate::config::spec::{GrpcProbe, Health, HttpProbe, Probe};

/// Why a probe did not succeed: short, in words, naming the layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The backend, or the way to it, does not work. Counts against the backend.
    #[error("{0}")]
    Backend(String),
    /// This host could not ask (no file descriptors, no ports, an unreadable CA file). Says nothing about the backend
    /// and leaves its verdict alone: else one exhausted limit here would take every backend out.
    #[error("not asked: {0}")]
    LocalError(String),
    /// The host is there, and who was to answer says nothing, or nothing that can be understood. Leaves the verdict alone, too.
    #[error("{0}")]
    Unsaid(String),
}

/// The time of one probe, over all its phases.
#[derive(Clone, Copy, Debug)]
struct Budget {
    timeout: Duration,
    deadline: Instant,
}

impl Budget {
    fn new(timeout: Duration) -> Self {
        Self { timeout, deadline: Instant::now() + timeout }
    }

    /// `None` = the time is over. Polls `work` before the clock: an answer that lay ready when a busy process woke up
    /// too late counts.
    async fn within<T>(self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.deadline, work).await.ok()
    }

    fn milliseconds(self) -> u128 {
        self.timeout.as_millis()
    }
}

/// Asks `address`. Everything together takes at most the health's `timeout`; `tls` is what [`tls::Clients`] made
/// of the probe's settings, and only looked at by an HTTPS probe. Where nothing is heard, further attempts are made as long as
/// `spare` has places for their connections; `None` = one attempt has to do.
///
/// The second part of the answer is what the backend says of itself, where the probe is of a kind that asks for it.
pub async fn run(
    address: SocketAddr,
    health: &Health,
    tls: Option<&Result<Arc<rustls::ClientConfig>, String>>,
    spare: Option<&Semaphore>,
) -> (Result<(), Failure>, Words) {
    let spare = spare.filter(|_| health.probe.asks_again());
    let (budget, progress) = (Budget::new(health.timeout), Progress::default());
    let result =
        first_answer(budget, spare, &progress, || attempt(address, health, tls, budget, &progress)).await;
    (result, progress.words())
}

/// Phases of an attempt that silence may end.
const CONNECT: u8 = 0;
const HANDSHAKE: u8 = 1;
const ANSWER: u8 = 2;

async fn attempt(
    address: SocketAddr,
    health: &Health,
    tls: Option<&Result<Arc<rustls::ClientConfig>, String>>,
    budget: Budget,
    progress: &Progress,
) -> Outcome {
    match &health.probe {
        Probe::Dns(probe) => Box::pin(dns::ask(address, probe, budget, progress)).await,
        Probe::Icmp => icmp::ask(address, budget).await,
        Probe::AgentCheck(payload) => Box::pin(agent::ask(address, payload, budget, progress)).await,
        Probe::Exec(probe) => Box::pin(exec::ask(address, probe, budget, progress)).await,
        Probe::Grpc(probe) => Box::pin(ask_grpc(address, probe, tls, budget, progress)).await,
        Probe::Udp(probe) => Box::pin(udp::ask(address, probe, budget)).await,
        Probe::Tcp => match connect(address, budget, progress).await {
            Ok(tcp::Connection { reset: None, .. }) => Outcome::Answer(Ok(())),
            Ok(tcp::Connection { reset: Some(error), .. }) => Outcome::Answer(Err(tcp::refused(&error))),
            Err(outcome) => outcome,
        },
        // Boxed, so that the thousands of probes that only connect do not carry the room for this.
        Probe::Http(probe) => Box::pin(ask_http(address, probe, tls, budget, progress)).await,
    }
}

/// Connects within the time, or ends the attempt.
async fn connect(
    address: SocketAddr,
    budget: Budget,
    progress: &Progress,
) -> Result<tcp::Connection, Outcome> {
    let Some(connected) = budget.within(tcp::connect(address)).await else {
        let words = format!("connect timed out after {} ms", budget.milliseconds());
        return Err(Outcome::Silence(CONNECT, words));
    };
    let connection = connected.map_err(|failure| Outcome::Answer(Err(failure)))?;
    progress.connected();
    Ok(connection)
}

async fn ask_http(
    address: SocketAddr,
    probe: &HttpProbe,
    tls: Option<&Result<Arc<rustls::ClientConfig>, String>>,
    budget: Budget,
    progress: &Progress,
) -> Outcome {
    let tcp::Connection { stream, reset } = match connect(address, budget, progress).await {
        Ok(connection) => connection,
        Err(outcome) => return outcome,
    };
    let host = http::Host::new(probe.host.as_deref(), probe.tls.is_some(), address);
    if probe.tls.is_none() {
        return http::ask(stream, probe, &host, budget, reset).await;
    }
    match encrypted(stream, reset, tls, tls::HTTP_1, &host, budget).await {
        Ok(stream) => http::ask(stream, probe, &host, budget, None).await,
        Err(outcome) => outcome,
    }
}

async fn ask_grpc(
    address: SocketAddr,
    probe: &GrpcProbe,
    tls: Option<&Result<Arc<rustls::ClientConfig>, String>>,
    budget: Budget,
    progress: &Progress,
) -> Outcome {
    let tcp::Connection { stream, reset } = match connect(address, budget, progress).await {
        Ok(connection) => connection,
        Err(outcome) => return outcome,
    };
    let host = http::Host::new(probe.host.as_deref(), probe.tls.is_some(), address);
    if probe.tls.is_none() {
        return match reset {
            None => grpc::ask(stream, probe, &host, budget).await,
            Some(error) => Outcome::Answer(Err(tcp::refused(&error))),
        };
    }
    match encrypted(stream, reset, tls, tls::HTTP_2, &host, budget).await {
        Ok(stream) => grpc::ask(stream, probe, &host, budget).await,
        Err(outcome) => outcome,
    }
}

/// TLS over a connection, which offers `protocol` (ALPN).
async fn encrypted(
    stream: TcpStream,
    reset: Option<io::Error>,
    tls: Option<&Result<Arc<rustls::ClientConfig>, String>>,
    protocol: &[u8],
    host: &http::Host,
    budget: Budget,
) -> Result<TlsStream<TcpStream>, Outcome> {
    let failed = |failure| Err(Outcome::Answer(Err(failure)));
    if let Some(error) = reset {
        return failed(tcp::refused(&error));
    }
    let client = match tls {
        Some(Ok(client)) => client,
        Some(Err(reason)) => return failed(Failure::LocalError(reason.clone())),
        None => return failed(Failure::LocalError("tls: no settings".into())),
    };
    let Some(stream) = budget.within(tls::handshake(stream, client, protocol, host)).await else {
        let words = format!("tls: handshake not complete within {} ms", budget.milliseconds());
        return Err(Outcome::Silence(HANDSHAKE, words));
    };
    stream.or_else(failed)
}

#[cfg(test)]
mod tests;
