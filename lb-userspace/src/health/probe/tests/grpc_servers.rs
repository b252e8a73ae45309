//! gRPC probes against servers that are right, and against servers that are wrong at every layer. The right ones are that of the
//! other half of our HTTP/2 and, where Python has it, `grpcio`, which shares no line with it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use hyper::{HeaderMap, Request, Response};

use super::*;
use crate::config::spec::GrpcProbe;

fn asking(service: &str) -> Probe {
    Probe::Grpc(GrpcProbe { tls: None, host: None, service: service.into() })
}

/// A server in HTTP/2 that answers each call with `each`.
async fn server<F>(
    each: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Copy + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    listener(move |stream| serve(stream, each)).await
}

async fn serve<S, F>(stream: S, each: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, response))) = connection.accept().await {
        // The probe may be gone.
        tokio::spawn(each(request, response));
    }
}

fn head(fields: &[(&'static str, &'static str)]) -> Response<()> {
    let mut head = Response::new(());
    *head.headers_mut() = map(fields);
    head
}

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// A message with trailers behind it, as a right server sends it.
async fn message(
    mut response: SendResponse<Bytes>,
    message: &'static [u8],
    trailers: &[(&'static str, &'static str)],
) -> Result<(), h2::Error> {
    let mut stream = response.send_response(head(&[GRPC]), false)?;
    stream.send_data(Bytes::from_static(message), false)?;
    stream.send_trailers(map(trailers))
}

/// An answer without a message.
async fn code(
    mut response: SendResponse<Bytes>,
    fields: &[(&'static str, &'static str)],
) -> Result<(), h2::Error> {
    response.send_response(head(fields), true).map(drop)
}

const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 2];
const OK: (&str, &str) = ("grpc-status", "0");

/// About the server as a whole: serving; `shop`: not serving; `odd`: state 9; anything else is not known.
async fn health_service(
    request: Request<RecvStream>,
    response: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["te"], "trailers");
    let mut body = request.into_body();
    let mut asked = Vec::new();
    while let Some(piece) = body.data().await {
        asked.extend(piece?);
    }
    match &asked[..] {
        [0, 0, 0, 0, 0] => message(response, SERVING, &[OK]).await,
        [0, 0, 0, 0, 6, 0x0a, 4, b's', b'h', b'o', b'p'] => message(response, NOT_SERVING, &[OK]).await,
        [0, 0, 0, 0, 5, 0x0a, 3, b'o', b'd', b'd'] => message(response, &[0, 0, 0, 0, 2, 8, 9], &[OK]).await,
        _ => code(response, &[GRPC, ("grpc-status", "5")]).await,
    }
}

#[tokio::test]
async fn each_state_of_a_service_is_reported() {
    let address = server(health_service).await;
    for (service, wanted) in [
        ("", Ok(())),
        ("shop", failure("grpc: service \"shop\" is NOT_SERVING")),
        ("odd", failure("grpc: service \"odd\" is in an unknown state")),
        ("other", failure("grpc: service \"other\" is not known there (NOT_FOUND)")),
    ] {
        assert_eq!(probe(address, asking(service)).await, wanted, "{service}");
    }
}

#[tokio::test]
async fn answers_that_are_no_health_answers_are_named() {
    macro_rules! says {
        ($words:literal, $each:expr) => {
            assert_eq!(probe(server($each).await, asking("")).await, failure($words));
        };
    }
    says!("grpc: the server has no health service (UNIMPLEMENTED)", |_, response| {
        code(response, &[GRPC, ("grpc-status", "12")])
    });
    says!("grpc: the call ended with UNAVAILABLE: \"no\\nway ü\"", |_, response| {
        code(response, &[GRPC, ("grpc-status", "14"), ("grpc-message", "no%0Away %C3%BC")])
    });
    says!("grpc: the call ended with an unknown code", |_, response| {
        code(response, &[GRPC, ("grpc-status", "99")])
    });
    says!("grpc: the answer has no grpc-status", |_, response| code(response, &[GRPC]));
    says!("grpc: not a gRPC answer: its content type is \"text/html\"", |_, response| {
        code(response, &[("content-type", "text/html"), OK])
    });
    says!("grpc: HTTP status 404, not a gRPC answer", |_, mut response: SendResponse<Bytes>| async move {
        let mut head = Response::new(());
        *head.status_mut() = hyper::StatusCode::NOT_FOUND;
        response.send_response(head, true).map(drop)
    });
    says!("grpc: the answer is not a message of grpc.health.v1", |_, response| {
        message(response, b"\x00\x00\x00\x00\x09\x08\x01", &[OK])
    });
    says!("grpc: the answer is not a message of grpc.health.v1", |_, response| code(response, &[GRPC, OK]));
    says!(
        "grpc: the server ends the call: refused stream before processing any application logic",
        |_, mut response: SendResponse<Bytes>| async move {
            response.send_reset(Reason::REFUSED_STREAM);
            Ok(())
        }
    );
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_it() {
    async fn endless(_: Request<RecvStream>, mut response: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let mut stream = response.send_response(head(&[GRPC]), false)?;
        loop {
            stream.reserve_capacity(4096);
            std::future::poll_fn(|context| stream.poll_capacity(context)).await.transpose()?;
            stream.send_data(vec![0; 1024].into(), false)?;
        }
    }
    assert_eq!(
        probe(server(endless).await, asking("")).await,
        failure("grpc: the answer is longer than 1 KiB")
    );
    async fn many_fields(_: Request<RecvStream>, mut response: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let mut head = head(&[GRPC, OK]);
        let long: String = "x".repeat(1000);
        for number in 0..60 {
            let name: hyper::header::HeaderName = format!("x-{number}").parse().unwrap();
            head.headers_mut().insert(name, long.parse().unwrap());
        }
        response.send_response(head, true).map(drop)
    }
    let said = probe(server(many_fields).await, asking("")).await;
    let Err(Failure::Backend(words)) = &said else { panic!("{said:?}") };
    assert!(words.starts_with("grpc: "), "{words}");
}

#[tokio::test]
async fn servers_that_hang_half_way_end_with_the_time() {
    async fn says_nothing(_: Request<RecvStream>, response: SendResponse<Bytes>) -> Result<(), h2::Error> {
        tokio::time::sleep(LINGER).await;
        drop(response);
        Ok(())
    }
    async fn has_no_end(_: Request<RecvStream>, mut response: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let mut stream = response.send_response(head(&[GRPC]), false)?;
        stream.send_data(Bytes::from_static(SERVING), false)?;
        tokio::time::sleep(LINGER).await;
        Ok(())
    }
    let late = failure("grpc: no answer within 1500 ms");
    assert_eq!(too_slow(server(says_nothing).await, asking("")).await, late);
    assert_eq!(too_slow(server(has_no_end).await, asking("")).await, late, "its code never comes");
    // Half a frame, and a frame byte by byte.
    let half = listener(|mut stream| async move {
        let _ = stream.write_all(&[0, 0, 6, 4, 0, 0]).await;
        tokio::time::sleep(LINGER).await;
    })
    .await;
    assert_eq!(too_slow(half, asking("")).await, late);
    let drips = listener(|mut stream| async move {
        for byte in [0, 0, 0, 4, 0, 0, 0, 0, 0].iter().cycle() {
            if stream.write_u8(*byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(too_slow(drips, asking("")).await, late);
    // PING after PING, as fast as it is read.
    let pings = listener(|mut stream| async move {
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        while stream.write_all(&ping.repeat(64)).await.is_ok() {}
    })
    .await;
    let Err(Failure::Backend(words)) = too_slow(pings, asking("")).await else { panic!("passed") };
    assert!(words.starts_with("grpc: "), "{words}");
}

#[tokio::test]
async fn servers_that_speak_something_else_or_go_away_fail() {
    assert_eq!(probe(closed_port().await, asking("")).await, failure("connection refused"));
    for other in ["HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1\r\n", ""] {
        let address = listener(move |mut stream| async move {
            let _ = stream.write_all(other.as_bytes()).await;
            let _ = stream.read(&mut [0; 1024]).await;
        })
        .await;
        let Err(Failure::Backend(words)) = probe(address, asking("")).await else {
            panic!("passed: {other}")
        };
        assert!(words.starts_with("grpc: "), "{words}");
    }
    let resets = listener(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let Err(Failure::Backend(words)) = probe(resets, asking("")).await else { panic!("passed") };
    assert!(words.contains("connection reset") || words.contains("connection closed"), "{words}");
}

#[tokio::test]
async fn over_tls_http_2_is_offered_and_the_certificate_is_checked() {
    let address = tls_servers::with_http_2(|stream| serve(stream, health_service)).await;
    let asking = |verify| {
        let tls = Some(TlsProbe { verify, ca: None });
        Probe::Grpc(GrpcProbe { tls, host: Some(tls_servers::NAME.into()), service: String::new() })
    };
    assert_eq!(probe(address, asking(false)).await, Ok(()));
    let Err(Failure::Backend(words)) = probe(address, asking(true)).await else { panic!("passed") };
    assert!(words.starts_with("tls: certificate"), "{words}");
    let plain = server(health_service).await;
    let Err(Failure::Backend(words)) = probe(plain, asking(false)).await else { panic!("passed") };
    assert!(words.starts_with("tls: "), "{words}");
}

/// A server of `grpcio` about which Python says at which port it is, ended with the test.
struct Grpcio(Child);

impl Drop for Grpcio {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SERVER: &str = "\
import grpc, sys
from concurrent import futures
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
server = grpc.server(futures.ThreadPoolExecutor(2))
service = health.HealthServicer()
service.set('', health_pb2.HealthCheckResponse.SERVING)
service.set('shop', health_pb2.HealthCheckResponse.NOT_SERVING)
health_pb2_grpc.add_HealthServicer_to_server(service, server)
print(server.add_insecure_port('127.0.0.1:0'), flush=True)
server.start()
sys.stdin.read()
";

#[tokio::test]
async fn the_server_of_grpcio_is_understood() {
    let has = Command::new("python3").args(["-c", "import grpc, grpc_health.v1.health"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        // Past the test harness, which shows only what failing tests print.
        let test = "health::probe::tests::grpc_servers::the_server_of_grpcio_is_understood";
        let _ = writeln!(std::io::stderr(), "SKIP {test}: Python has no grpcio");
        return;
    }
    let mut child = Command::new("python3")
        .args(["-c", SERVER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Grpcio)
        .unwrap();
    let mut port = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.trim().parse().unwrap()));
    for (service, wanted) in [
        ("", Ok(())),
        ("shop", failure("grpc: service \"shop\" is NOT_SERVING")),
        ("other", failure("grpc: service \"other\" is not known there (NOT_FOUND)")),
    ] {
        assert_eq!(probe(address, asking(service)).await, wanted, "{service}");
    }
}
