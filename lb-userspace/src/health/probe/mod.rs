//! One probe: a question to one backend, answered within its time by yes or by a reason in words. A file per kind;
//! what answers mean for the verdict is `machine`'s business, when to ask is `scheduler`'s.

pub mod http;
pub mod tcp;
pub mod tls;

use std::{cell::Cell, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::config::spec::{Health, Probe};

/// Why a probe did not succeed: short, in words, naming the layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The backend, or the way to it, does not work. Counts against the backend.
    #[error("{0}")]
    Backend(String),
    /// This host could not ask (no file descriptors, no ports, an unreadable CA file). Says nothing about the backend
    /// and leaves its verdict alone: else one exhausted limit here would take every backend out.
    #[error("not asked: {0}")]
    NotAsked(String),
}

/// What a probe is doing, for the words when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Handshake,
    Head,
    Body,
}

impl Phase {
    fn timed_out(self, timeout: Duration) -> String {
        let after = timeout.as_millis();
        match self {
            Self::Connecting => format!("connect timed out after {after} ms"),
            Self::Handshake => format!("tls: handshake not complete within {after} ms"),
            Self::Head => format!("no answer within {after} ms"),
            Self::Body => format!("body not complete within {after} ms"),
        }
    }
}

/// Asks `address` once. Everything together takes at most the health's `timeout`; `tls` is what [`tls::Clients`] made
/// of the probe's settings, and only looked at by an HTTPS probe.
pub async fn run(
    address: SocketAddr,
    health: &Health,
    tls: Option<&Result<Arc<rustls::ClientConfig>, String>>,
) -> Result<(), Failure> {
    let phase = Cell::new(Phase::Connecting);
    let probe = async {
        let stream = tcp::connect(address).await?;
        match &health.probe {
            Probe::Tcp => Ok(()),
            Probe::Http(probe) => {
                let host = http::Host::new(probe, address);
                match (&probe.tls, tls) {
                    (None, _) => http::ask(stream, probe, &host, &phase).await,
                    (Some(_), Some(Ok(client))) => {
                        phase.set(Phase::Handshake);
                        let stream = tls::handshake(stream, client, &host).await?;
                        http::ask(stream, probe, &host, &phase).await
                    }
                    (Some(_), Some(Err(reason))) => Err(Failure::NotAsked(reason.clone())),
                    (Some(_), None) => Err(Failure::NotAsked("tls: no settings".into())),
                }
            }
        }
    };
    // The probe is polled before the clock: an answer that lay ready when a busy process woke up too late counts.
    match tokio::time::timeout_at(Instant::now() + health.timeout, probe).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Backend(phase.get().timed_out(health.timeout))),
    }
}

#[cfg(test)]
mod tests;
