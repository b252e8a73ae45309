//! gRPC's own health check: the call `grpc.health.v1.Health/Check` over HTTP/2, on a connection that is there already, plain or TLS.
//! HTTP/2 is the business of `h2`; the message is one field and is read here.

use std::io;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT},
};
use percent_encoding::percent_decode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    pin,
};

use super::{
    ANSWER, Budget, Failure, Outcome,
    http::{Host, NAME},
    words::{quoted, shortened},
};
use crate::config::spec::GrpcProbe;

const PATH: &str = "/grpc.health.v1.Health/Check";

/// Bytes of fields that an answer may have, and of its message. One that is right has a few.
const LONGEST_FIELDS: u32 = 16 * 1024;
const LONGEST_MESSAGE: usize = 1024;

/// What flows at once, for one answer. HTTP/2 allows no less.
const WINDOW: u32 = 65_535;

/// States of a service (`HealthCheckResponse.ServingStatus`), by number.
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// Codes of a call, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Makes the call and judges its answer. Takes no longer than what is left of `budget`.
pub(super) async fn ask<S>(stream: S, probe: &GrpcProbe, host: &Host, budget: Budget) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match budget.within(call(stream, probe, host, budget)).await {
        Some(answer) => Outcome::Answer(answer),
        None => Outcome::Silence(ANSWER, format!("grpc: no answer within {} ms", budget.milliseconds())),
    }
}

async fn call<S>(stream: S, probe: &GrpcProbe, host: &Host, budget: Budget) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = request(probe, host, budget)?;
    let made = Builder::new()
        .enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(LONGEST_FIELDS)
        .handshake::<_, Bytes>(stream)
        .await;
    let (sender, connection) = made.map_err(|error| backend(words(&error)))?;
    let exchange = exchange(sender, request, message(&probe.service));
    pin!(exchange, connection);
    let answered = tokio::select! {
        biased;
        answered = &mut exchange => answered,
        // Its last frames may have come with its end.
        _ended = &mut connection => exchange.await,
    };
    judge(&probe.service, answered.map_err(backend)?).map_err(backend)
}

fn backend(words: impl std::fmt::Display) -> Failure {
    Failure::Backend(format!("grpc: {words}"))
}

fn request(probe: &GrpcProbe, host: &Host, budget: Budget) -> Result<Request<()>, Failure> {
    let scheme = if probe.tls.is_some() { "https" } else { "http" };
    Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://{}{PATH}", host.field()))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, NAME)
        .header("grpc-timeout", format!("{}m", budget.milliseconds()))
        .body(())
        .map_err(|error| {
            let host = shortened(host.field());
            Failure::LocalError(format!("host {host:?} cannot be asked for: {error}"))
        })
}

/// A `HealthCheckRequest` behind its length: `string service = 1`, left out where it is empty.
fn message(service: &str) -> Bytes {
    let mut field = Vec::new();
    if !service.is_empty() {
        field.push(1 << 3 | 2);
        let mut length = service.len();
        while length > 0x7f {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        field.extend(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend((field.len() as u32).to_be_bytes());
    framed.extend(field);
    framed.into()
}

/// What there is of an answer.
struct Answer {
    status: StatusCode,
    fields: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    message: Bytes,
) -> Result<Answer, String> {
    let words = |error: h2::Error| words(&error);
    let mut sender = sender.ready().await.map_err(words)?;
    let (response, mut stream) = sender.send_request(request, false).map_err(words)?;
    // An answer that comes without the message being read is one: what is wrong with sending shows there.
    let _ = stream.send_data(message, true);
    let (head, mut incoming) = response.await.map_err(words)?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = incoming.data().await {
        let piece = piece.map_err(words)?;
        if body.len() + piece.len() > LONGEST_MESSAGE {
            return Err("the answer is longer than 1 KiB".to_owned());
        }
        body.extend(&piece);
        incoming.flow_control().release_capacity(piece.len()).map_err(words)?;
    }
    let trailers = incoming.trailers().await.map_err(words)?;
    Ok(Answer { status: head.status, fields: head.headers, body, trailers })
}

/// What went wrong with the connection or the call.
fn words(error: &h2::Error) -> String {
    if let Some(error) = error.get_io() {
        return match error.kind() {
            io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                "connection closed without an answer".to_owned()
            }
            _ => {
                super::tls::error_words(error).map_or_else(|| error.to_string(), |why| format!("tls: {why}"))
            }
        };
    }
    let reason = error.reason();
    let reason = reason.as_ref().map_or("no reason", |reason| reason.description());
    match (error.is_remote(), error.is_go_away()) {
        (true, true) => format!("the server closes the connection: {reason}"),
        (true, false) => format!("the server ends the call: {reason}"),
        (false, _) => format!("not an answer in HTTP/2: {reason}"),
    }
}

fn judge(service: &str, answer: Answer) -> Result<(), String> {
    let Answer { status, fields, body, trailers } = answer;
    if status != StatusCode::OK {
        return Err(format!("HTTP status {}, not a gRPC answer", status.as_u16()));
    }
    let kind = fields.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !kind.starts_with(b"application/grpc") {
        return Err(format!("not a gRPC answer: its content type is {}", quoted(kind)));
    }
    // An answer without a message has the code in its head.
    let ends = trailers.as_ref().unwrap_or(&fields);
    let Some(code) = ends.get("grpc-status") else {
        return Err("the answer has no grpc-status".to_owned());
    };
    let about = match service {
        "" => "the server".to_owned(),
        service => format!("service {:?}", shortened(service)),
    };
    match code.to_str().ok().and_then(|code| code.parse::<usize>().ok()) {
        Some(0) => {}
        Some(5) => return Err(format!("{about} is not known there (NOT_FOUND)")),
        Some(12) => return Err("the server has no health service (UNIMPLEMENTED)".to_owned()),
        code => {
            let name = code.and_then(|code| CODES.get(code)).unwrap_or(&"an unknown code");
            let said = ends.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
            let said: Vec<u8> = percent_decode(said).collect();
            let said = if said.is_empty() { String::new() } else { format!(": {}", quoted(&said)) };
            return Err(format!("the call ended with {name}{said}"));
        }
    }
    let state = state(&body).ok_or("the answer is not a message of grpc.health.v1")?;
    match state {
        SERVING => Ok(()),
        other => {
            let other = usize::try_from(other).ok().and_then(|other| STATES.get(other));
            Err(format!("{about} is {}", other.unwrap_or(&"in an unknown state")))
        }
    }
}

/// The `status = 1` of a `HealthCheckResponse` behind its length; `None` = it is something else. Unknown fields are passed over.
fn state(body: &[u8]) -> Option<u64> {
    let (&[compressed, a, b, c, d], message) = body.split_first_chunk::<5>()?;
    if compressed != 0 || u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return None;
    }
    let (mut rest, mut state) = (message, 0);
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let skip = match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if tag >> 3 == 1 {
                    state = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        rest = rest.get(skip..)?;
    }
    Some(state)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_service_behind_its_length() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = message(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn a_state_is_found_among_other_fields() {
        for (body, wanted) in [
            (&[0, 0, 0, 0, 0][..], Some(0)),
            (&[0, 0, 0, 0, 2, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 6, 0x12, 2, 8, 2, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 7, 0x1d, 8, 2, 8, 2, 8, 3], Some(3)),
            (&[0, 0, 0, 0, 4, 8, 1, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 2, 8, 0x81], None),
            (&[0, 0, 0, 0, 3, 0x12, 9, 1], None),
            (&[0, 0, 0, 0, 1, 0x0b], None),
            (&[0, 0, 0, 0], None),
            (&[], None),
        ] {
            assert_eq!(state(body), wanted, "{body:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_message_is_read_without_a_panic(
            message in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..64),
        ) {
            let mut body = vec![0];
            body.extend((message.len() as u32).to_be_bytes());
            body.extend(&message);
            let _ = (state(&message), state(&body));
        }
    }
}
