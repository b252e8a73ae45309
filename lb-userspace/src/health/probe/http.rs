//! The HTTP part of a probe: one GET (RFC 9112) over a connection that is there already, plain or TLS. Redirects are
//! an answer like any other and are not followed.

use std::{
    error::Error as _,
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    pin::pin,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Budget, Failure, Phase};
use crate::config::spec::HttpProbe;

/// Bytes of an answer's status line and header fields that are read before the probe gives up.
const HEAD_LIMIT: usize = 16 * 1024;
/// Bytes of a body that are searched.
const BODY_LIMIT: usize = 64 * 1024;
const USER_AGENT: &str = concat!("lb-health/", env!("CARGO_PKG_VERSION"));

/// Whom a request says it is for.
pub struct Host {
    field: String,
    server_name: String,
}

impl Host {
    /// The probe's `host`, or the address with its port where that is not the scheme's own (RFC 9110, 7.2).
    pub fn new(probe: &HttpProbe, address: SocketAddr) -> Self {
        let Some(host) = &probe.host else {
            let ip = address.ip();
            let bare = match ip {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            };
            let usual = if probe.tls.is_some() { 443 } else { 80 };
            let field = if address.port() == usual { bare } else { format!("{bare}:{}", address.port()) };
            return Self { field, server_name: ip.to_string() };
        };
        // A port belongs into the field, never into the name of a certificate.
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                if host.parse::<IpAddr>().is_ok() { host.as_str() } else { name }
            }
            _ => host.as_str(),
        };
        let server_name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        Self { field: host.clone(), server_name }
    }

    /// What a certificate must be for: a name, or an address without brackets.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }
}

/// Sends the request and judges the answer. Takes no longer than what is left of `budget`.
pub(super) async fn ask<S>(stream: S, probe: &HttpProbe, host: &Host, budget: Budget) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(&probe.path)
        .header(header::HOST, &host.field)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::NotAsked(format!("path {:?}: {error}", shortened(&probe.path))))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::Backend(broken(&error)))?;

    let exchange = async {
        let answer = budget
            .spend(Phase::Head, async {
                sender.send_request(request).await.map_err(|error| Failure::Backend(broken(&error)))
            })
            .await?;
        let status = answer.status().as_u16();
        if !probe.expect.iter().any(|range| range.contains(&status)) {
            return Err(Failure::Backend(format!("status {status}, expected {}", ranges(&probe.expect))));
        }
        match &probe.body {
            None => Ok(()),
            Some(wanted) => budget.spend(Phase::Body, search(answer.into_body(), wanted)).await,
        }
    };
    // The connection moves the bytes of the exchange; when it ends first, what it read is still there for the other.
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        result = &mut exchange => return result,
        _ = connection => {}
    }
    exchange.await
}

/// Reads the body until `wanted` has come by, it ends, or the limit is reached.
async fn search(mut body: Incoming, wanted: &str) -> Result<(), Failure> {
    let wanted_bytes = wanted.as_bytes();
    let mut seen: Vec<u8> = Vec::new();
    let lacks = |place: &str| Err(Failure::Backend(format!("body lacks {:?}{place}", shortened(wanted))));
    if wanted_bytes.is_empty() {
        return Ok(());
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Backend(format!("body: {}", broken(&error))))?;
        let Ok(data) = frame.into_data() else { continue };
        // What was searched before matters only as far as a match may begin in it.
        let from = seen.len().saturating_sub(wanted_bytes.len() - 1);
        let room = BODY_LIMIT - seen.len();
        seen.extend_from_slice(&data[..data.len().min(room)]);
        if seen[from..].windows(wanted_bytes.len()).any(|window| window == wanted_bytes) {
            return Ok(());
        }
        if data.len() >= room {
            return lacks(" in its first 64 KiB");
        }
    }
    lacks("")
}

fn broken(error: &hyper::Error) -> String {
    if error.is_parse_too_large() {
        return format!("answer with more than {} KiB of header", HEAD_LIMIT / 1024);
    }
    if error.is_parse() {
        return format!("not an HTTP answer: {error}");
    }
    if error.is_incomplete_message() {
        return "connection closed before the answer was complete".into();
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(io) if io.kind() == io::ErrorKind::ConnectionReset => "connection reset".into(),
        Some(io) if io.kind() == io::ErrorKind::UnexpectedEof => {
            "connection closed before the answer was complete".into()
        }
        Some(io) => io.to_string(),
        None => error.to_string(),
    }
}

fn ranges(ranges: &[RangeInclusive<u16>]) -> String {
    let one = |range: &RangeInclusive<u16>| {
        if range.start() == range.end() {
            range.start().to_string()
        } else {
            format!("{}-{}", range.start(), range.end())
        }
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// At most 40 characters of what the operator wrote, so that a reason stays a line.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 40 {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(39).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::TlsProbe;

    fn host(host: Option<&str>, tls: bool, address: &str) -> (String, String) {
        let probe = HttpProbe {
            tls: tls.then_some(TlsProbe { verify: false, ca: None }),
            path: "/".into(),
            host: host.map(str::to_owned),
            expect: vec![200..=200],
            body: None,
        };
        let host = Host::new(&probe, address.parse().unwrap());
        (host.field, host.server_name)
    }

    fn pair(a: &str, b: &str) -> (String, String) {
        (a.to_owned(), b.to_owned())
    }

    #[test]
    fn without_a_host_the_address_is_named_with_a_port_that_is_not_the_usual_one() {
        assert_eq!(host(None, false, "10.0.0.1:80"), pair("10.0.0.1", "10.0.0.1"));
        assert_eq!(host(None, false, "10.0.0.1:443"), pair("10.0.0.1:443", "10.0.0.1"));
        assert_eq!(host(None, true, "[fd00::1]:443"), pair("[fd00::1]", "fd00::1"));
        assert_eq!(host(None, true, "[fd00::1]:8443"), pair("[fd00::1]:8443", "fd00::1"));
    }

    #[test]
    fn a_host_is_sent_as_written_and_its_port_is_no_part_of_the_server_name() {
        assert_eq!(host(Some("a.example"), true, "10.0.0.1:1"), pair("a.example", "a.example"));
        assert_eq!(host(Some("a.example:8443"), true, "10.0.0.1:1"), pair("a.example:8443", "a.example"));
        assert_eq!(host(Some("[fd00::7]:8443"), true, "10.0.0.1:1"), pair("[fd00::7]:8443", "fd00::7"));
        assert_eq!(host(Some("fd00::7"), true, "10.0.0.1:1"), pair("fd00::7", "fd00::7"));
    }

    #[test]
    fn expected_statuses_read_like_the_file() {
        assert_eq!(ranges(&[200..=200]), "200");
        assert_eq!(ranges(&[200..=204, 301..=301]), "200-204, 301");
    }

    #[test]
    fn long_words_are_shortened_in_reasons() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"ä".repeat(41)).chars().count(), 40);
    }
}
