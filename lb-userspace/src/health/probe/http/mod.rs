//! The HTTP part of a probe: one GET (RFC 9112) over a connection that is there already, plain or TLS. Redirects are
//! an answer like any other and are not followed. `head` and `body` read the answer, purely.

mod body;
mod head;

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    pin::{Pin, pin},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use self::{
    body::Search,
    head::{Head, Reader, Step},
};
use super::{ANSWER, Budget, Failure, attempts::Outcome, tls, words::shortened};
use crate::config::spec::HttpProbe;
use crate::config::words::plural;

/// What probes call themselves.
pub(super) const NAME: &str = concat!("lb-health/", env!("CARGO_PKG_VERSION"));
/// Bytes that are read at once.
const PIECE: usize = 8 * 1024;

/// Which host a request is for.
pub struct Host {
    field: String,
    server_name: String,
}

impl Host {
    /// The probe's `host`, or the address with its port where that is not the scheme's own (RFC 9110, 7.2).
    pub fn new(host: Option<&str>, tls: bool, address: SocketAddr) -> Self {
        let Some(host) = host else {
            let ip = address.ip();
            let bare = match ip {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            };
            let usual = if tls { 443 } else { 80 };
            let field = if address.port() == usual { bare } else { format!("{bare}:{}", address.port()) };
            return Self { field, server_name: ip.to_string() };
        };
        // A port belongs into the field, never into the name of a certificate.
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                if host.parse::<IpAddr>().is_ok() { host } else { name }
            }
            _ => host,
        };
        let server_name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        Self { field: host.to_owned(), server_name }
    }

    /// As requests name it.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What a certificate must be for: a name, or an address without brackets.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }
}

/// Sends the request and judges the answer. Takes no longer than what is left of `budget`.
///
/// The answer is what counts: one that comes before the request was read, or with a reset behind it, is an answer. So the
/// two are not done one after the other, and what goes wrong with sending matters only where no answer came. `reset` is
/// an error that the connection had before it was used.
pub(super) async fn ask<S>(
    stream: S,
    probe: &HttpProbe,
    host: &Host,
    budget: Budget,
    reset: Option<io::Error>,
) -> Outcome
where
    S: AsyncRead + AsyncWrite,
{
    let request = match request(probe, host) {
        Ok(request) => request,
        Err(failure) => return Outcome::Answer(Err(failure)),
    };
    let (read, mut write) = tokio::io::split(stream);
    let send = pin!(async move {
        write.write_all(request.as_bytes()).await?;
        write.flush().await
    });
    let mut wire = Wire { read, send: Some(send), broken: reset, buffer: vec![0; PIECE] };

    let mut reader = Reader::default();
    let (head, rest) = match budget.within(read_head(&mut wire, &mut reader, probe)).await {
        Some(Ok(read)) => read,
        Some(Err(why)) => return Outcome::Answer(Err(Failure::Backend(why))),
        None => return Outcome::Silence(ANSWER, late(&reader, budget)),
    };
    if let Err(failure) = judge(head.status, probe) {
        return Outcome::Answer(Err(failure));
    }
    let Some(wanted) = &probe.body else { return Outcome::Answer(Ok(())) };
    let mut search = Search::new(wanted, head.framing);
    match budget.within(read_body(&mut wire, &mut search, rest)).await {
        Some(result) => Outcome::Answer(result.map_err(Failure::Backend)),
        None => Outcome::Silence(ANSWER, format!("body not complete within {} ms", budget.milliseconds())),
    }
}

fn request(probe: &HttpProbe, host: &Host) -> Result<String, Failure> {
    for (name, value) in [("path", &probe.path), ("host", &host.field)] {
        // The configuration lets nothing else through; a request must not be split by what slips past it.
        if let Some(bad) = value.chars().find(|character| !character.is_ascii_graphic()) {
            let value = shortened(value);
            return Err(Failure::LocalError(format!(
                "{name} {value:?} has {bad:?} in it, which a request cannot carry"
            )));
        }
    }
    let mut request = String::with_capacity(256);
    let _ = write!(
        request,
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {NAME}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        probe.path, host.field
    );
    Ok(request)
}

/// The head, and what came behind it with it. Ends early where the status alone settles the matter.
async fn read_head<S, F>(
    wire: &mut Wire<'_, S, F>,
    reader: &mut Reader,
    probe: &HttpProbe,
) -> Result<(Head, Vec<u8>), String>
where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = io::Result<()>>,
{
    loop {
        let piece = match wire.next().await {
            Ok([]) => return reader.close().map(|head| (head, Vec::new())),
            Ok(piece) => piece,
            Err(error) if reader.seen() == 0 => return Err(broken(&error)),
            Err(error) => {
                let seen = plural(reader.seen() as u64, "byte", "bytes");
                let reset = || format!("{} within the head, after {seen}", broken(&error));
                return Err(reader.foreign().unwrap_or_else(reset));
            }
        };
        if let Step::Complete(head, used) = reader.take(piece)? {
            return Ok((head, piece[used..].to_vec()));
        }
        if let Some(status) = reader.status().filter(|status| !expected(*status, probe)) {
            return Ok((Head { status, framing: head::Framing::Empty }, Vec::new()));
        }
    }
}

async fn read_body<S, F>(
    wire: &mut Wire<'_, S, F>,
    search: &mut Search<'_>,
    rest: Vec<u8>,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = io::Result<()>>,
{
    let mut found = search.take(&rest)?;
    while !found {
        found = match wire.next().await {
            Ok([]) => return Err(search.close("connection closed")),
            Ok(piece) => search.take(piece)?,
            Err(error) => return Err(search.close(&broken(&error))),
        };
    }
    Ok(())
}

fn expected(status: u16, probe: &HttpProbe) -> bool {
    probe.expect.iter().any(|range| range.contains(&status))
}

fn judge(status: u16, probe: &HttpProbe) -> Result<(), Failure> {
    if expected(status, probe) {
        return Ok(());
    }
    Err(Failure::Backend(format!("status {status}, expected {}", ranges(&probe.expect))))
}

/// What is said when the time is over within the head.
fn late(reader: &Reader, budget: Budget) -> String {
    let after = budget.milliseconds();
    if let Some(reason) = reader.foreign() {
        return reason;
    }
    match reader.seen() {
        0 => format!("no answer within {after} ms"),
        seen => {
            let seen = plural(seen as u64, "byte", "bytes");
            format!("head of the answer not complete within {after} ms, after {seen}")
        }
    }
}

/// A connection whose request may still be on its way while its answer is read.
struct Wire<'a, S, F> {
    read: tokio::io::ReadHalf<S>,
    /// `None` = it has ended.
    send: Option<Pin<&'a mut F>>,
    /// What went wrong with sending: said where reading finds nothing.
    broken: Option<io::Error>,
    buffer: Vec<u8>,
}

impl<S, F> Wire<'_, S, F>
where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = io::Result<()>>,
{
    /// The next bytes of the answer; none = it has ended.
    async fn next(&mut self) -> io::Result<&[u8]> {
        let Self { read, send, broken, buffer } = self;
        let read = loop {
            let Some(sending) = send else { break read.read(buffer).await };
            tokio::select! {
                biased;
                sent = sending => {
                    *send = None;
                    *broken = sent.err().or(broken.take());
                }
                read = read.read(buffer) => break read,
            }
        };
        let length = match read {
            // TLS that ends without its goodbye. Which bytes are missing, if any, HTTP's own framing says.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        match broken.take() {
            // The kernel reports a reset once. Where sending was given it, reading only sees an end.
            Some(error) if length == 0 => Err(error),
            error => {
                *broken = error;
                Ok(&buffer[..length])
            }
        }
    }
}

fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection reset".into(),
        _ => tls::error_words(error).map_or_else(|| error.to_string(), |words| format!("tls: {words}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host(host: Option<&str>, tls: bool, address: &str) -> (String, String) {
        let host = Host::new(host, tls, address.parse().unwrap());
        (host.field, host.server_name)
    }

    fn pair(a: &str, b: &str) -> (String, String) {
        (a.to_owned(), b.to_owned())
    }

    #[test]
    fn the_default_host_is_address_and_unusual_port() {
        assert_eq!(host(None, false, "10.0.0.1:80"), pair("10.0.0.1", "10.0.0.1"));
        assert_eq!(host(None, false, "10.0.0.1:443"), pair("10.0.0.1:443", "10.0.0.1"));
        assert_eq!(host(None, true, "[fd00::1]:443"), pair("[fd00::1]", "fd00::1"));
        assert_eq!(host(None, true, "[fd00::1]:8443"), pair("[fd00::1]:8443", "fd00::1"));
    }

    #[test]
    fn the_server_name_is_the_host_without_its_port() {
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
}
