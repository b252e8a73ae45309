//! Probes against real listeners on loopback that behave in every way a backend should not.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::*;
use crate::{config::spec::TlsProbe, wait::LIMIT};

mod agents;
mod dialects;
mod grpc_servers;
mod openssl_servers;
mod tls_servers;

/// For what does not come. What comes has more time, for this machine may have other work.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// How long listeners keep a connection: longer than a test takes.
const LINGER: Duration = Duration::from_secs(3600);

fn health(probe: Probe) -> Health {
    Health {
        probe,
        port: 0,
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_millis(200),
        timeout: LIMIT,
        rise: 1,
        fall: 1,
    }
}

fn http() -> HttpProbe {
    HttpProbe { tls: None, path: "/healthz".into(), host: None, expect: vec![200..=200], body: None }
}

async fn probe(address: SocketAddr, probe: Probe) -> Result<(), Failure> {
    probe_within(LIMIT, address, probe).await
}

/// Where an answer does not come in time.
async fn too_slow(address: SocketAddr, probe: Probe) -> Result<(), Failure> {
    probe_within(TIMEOUT, address, probe).await
}

async fn probe_within(timeout: Duration, address: SocketAddr, probe: Probe) -> Result<(), Failure> {
    let mut clients = tls::Clients::default();
    let tls = match &probe {
        Probe::Http(HttpProbe { tls: Some(tls), .. }) | Probe::Grpc(GrpcProbe { tls: Some(tls), .. }) => {
            clients.prepare([tls]);
            clients.get(tls)
        }
        _ => None,
    };
    let spare = Semaphore::new(8);
    run(address, &Health { timeout, ..health(probe) }, tls, Some(&spare)).await.0
}

async fn probe_http(address: SocketAddr, http: HttpProbe) -> Result<(), Failure> {
    probe(address, Probe::Http(http)).await
}

fn failure(reason: &str) -> Result<(), Failure> {
    Err(Failure::Backend(reason.into()))
}

/// Serves each connection with `each` until the test's runtime ends.
async fn listener<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    address
}

/// Reads a request's header, whole.
async fn request<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(text).unwrap()
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, text: &str) {
    request(&mut stream).await;
    let _ = stream.write_all(text.as_bytes()).await;
    // Lingers, so that only what was said counts and not the end of the connection.
    tokio::time::sleep(LINGER).await;
}

async fn answering(text: &'static str) -> SocketAddr {
    listener(move |stream| answer(stream, text)).await
}

async fn closed_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let address = closed_port().await;
    assert_eq!(probe(address, Probe::Tcp).await, failure("connection refused"));
    assert_eq!(probe_http(address, http()).await, failure("connection refused"));
}

#[tokio::test]
async fn a_full_accept_queue_times_out_in_connect() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await);
    }
    assert_eq!(too_slow(address, Probe::Tcp).await, failure("connect timed out after 1500 ms"));
}

#[tokio::test]
async fn accepting_server_passes_a_tcp_probe() {
    let address = listener(|stream| async move {
        tokio::time::sleep(LINGER).await;
        drop(stream);
    })
    .await;
    assert_eq!(probe(address, Probe::Tcp).await, Ok(()));
}

#[tokio::test]
async fn a_tcp_probe_leaves_no_socket_behind() {
    let address = listener(|mut stream| async move {
        let _ = stream.read_u8().await;
    })
    .await;
    for _ in 0..20 {
        assert_eq!(probe(address, Probe::Tcp).await, Ok(()));
    }
    let port = format!(":{:04X} ", address.port());
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let waiting = table.lines().filter(|line| line.contains(&port) && line.contains(" 06 ")).count();
    assert_eq!(waiting, 0, "sockets in TIME_WAIT");
}

#[tokio::test]
async fn accepting_without_answering_is_no_http_answer() {
    let address = listener(|stream| async move {
        tokio::time::sleep(LINGER).await;
        drop(stream);
    })
    .await;
    assert_eq!(too_slow(address, Probe::Http(http())).await, failure("no answer within 1500 ms"));
}

#[tokio::test]
async fn an_answer_byte_by_byte_does_not_stretch_the_time() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
        for byte in b"HTTP/1.1 200 OK\r\n\r\n" {
            if stream.write_u8(*byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let Err(Failure::Backend(reason)) = too_slow(address, Probe::Http(http())).await else {
        panic!("passed")
    };
    assert!(reason.starts_with("head of the answer not complete within 1500 ms, after "), "{reason}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_reported_as_such() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1").await;
        tokio::time::sleep(LINGER).await;
    })
    .await;
    assert_eq!(
        too_slow(address, Probe::Http(http())).await,
        failure("head of the answer not complete within 1500 ms, after 6 bytes")
    );
}

#[tokio::test]
async fn header_fields_without_end_are_cut_off() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").await.is_ok() {}
    })
    .await;
    assert_eq!(probe_http(address, http()).await, failure("head of the answer is longer than 300 KiB"));
}

#[tokio::test]
async fn a_single_header_field_without_end_is_cut_off() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Filler: ").await;
        while stream.write_all(&[b'a'; 1024]).await.is_ok() {}
    })
    .await;
    assert_eq!(probe_http(address, http()).await, failure("head of the answer is longer than 300 KiB"));
}

#[tokio::test]
async fn the_expected_status_passes_before_the_body() {
    let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
    assert_eq!(probe_http(address, http()).await, Ok(()));
}

#[tokio::test]
async fn another_status_fails_by_name() {
    let address = answering("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(probe_http(address, http()).await, failure("status 503, expected 200"));
    let any = HttpProbe { expect: vec![200..=204, 503..=503], ..http() };
    assert_eq!(probe_http(address, any).await, Ok(()));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let address =
        answering("HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(probe_http(address, http()).await, failure("status 301, expected 200"));
}

#[tokio::test]
async fn an_answer_that_is_not_http_fails() {
    let address = answering("SSH-2.0-OpenSSH_9.2p1\r\n\r\n").await;
    assert_eq!(
        probe_http(address, http()).await,
        failure("not an HTTP answer: begins with \"SSH-2.0-OpenSSH_9.2p1\"")
    );
}

#[tokio::test]
async fn closing_without_an_answer_fails() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
    })
    .await;
    assert_eq!(probe_http(address, http()).await, failure("connection closed without an answer"));
}

#[tokio::test]
async fn resetting_instead_of_answering_fails() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(probe_http(address, http()).await, failure("connection reset"));
}

fn wanting(body: &str) -> HttpProbe {
    HttpProbe { body: Some(body.into()), ..http() }
}

#[tokio::test]
async fn the_wanted_words_are_found_across_the_pieces_of_a_body() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
        for piece in
            ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nall i\r\n", "4\r\ns ok\r\n"]
        {
            let _ = stream.write_all(piece.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(LINGER).await;
    })
    .await;
    assert_eq!(probe_http(address, wanting("is ok")).await, Ok(()));
}

#[tokio::test]
async fn a_body_without_the_wanted_words_fails() {
    let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").await;
    assert_eq!(probe_http(address, wanting("ok")).await, failure("body lacks \"ok\""));
}

#[tokio::test]
async fn an_endless_body_is_read_up_to_its_limit() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'a'; 4096]).await.is_ok() {}
    })
    .await;
    assert_eq!(probe_http(address, wanting("ok")).await, failure("body lacks \"ok\" in its first 64 KiB"));
    assert_eq!(probe_http(address, http()).await, Ok(()), "the body is not asked for");
}

#[tokio::test]
async fn a_body_that_drips_does_not_stretch_the_time() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").await;
        while stream.write_u8(b'o').await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(
        too_slow(address, Probe::Http(wanting("ok"))).await,
        failure("body not complete within 1500 ms")
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_fails() {
    let address = listener(|mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfin").await;
    })
    .await;
    assert_eq!(
        probe_http(address, wanting("ok")).await,
        failure("body broke off after 3 of 100 bytes, without \"ok\": connection closed")
    );
}

#[tokio::test]
async fn the_request_names_path_host_and_prober() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let address = listener(move |mut stream| {
        let sender = sender.clone();
        async move {
            sender.send(request(&mut stream).await).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let named = HttpProbe { host: Some("www.example".into()), path: "/a?b=c".into(), ..http() };
    assert_eq!(probe_http(address, named).await, Ok(()));
    let text = receiver.recv().await.unwrap().to_lowercase();
    assert!(text.starts_with("get /a?b=c http/1.1\r\n"), "{text}");
    assert!(text.contains("\r\nhost: www.example\r\n"), "{text}");
    assert!(text.contains("\r\nuser-agent: lb-health/"), "{text}");
}

#[tokio::test]
async fn an_invalid_path_is_not_a_failure_of_the_backend() {
    let address = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let result = probe_http(address, HttpProbe { path: "/a b".into(), ..http() }).await;
    assert!(matches!(result, Err(Failure::LocalError(_))), "{result:?}");
}
