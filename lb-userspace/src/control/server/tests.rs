//! The server over a real socket, with a loop that answers from a table: what is tested is the way there and back.

use std::{path::PathBuf, time::Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
};

mod scrapes;
mod sockets;

use super::*;
use crate::{
    api::{
        request::{Envelope, Request},
        since::Since,
        view::{ApiError, Code},
    },
    wait::LIMIT,
};

struct Running {
    path: PathBuf,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    /// Takes sockets that are to take the first one's place.
    others: mpsc::Sender<Socket>,
    _directory: tempfile::TempDir,
}

/// Two events, and a third that happens a while after somebody began to follow.
fn events(since: u64, asked: u32) -> Value {
    let event =
        |n: u64| json!({ "number": n, "at_ms": n, "kind": "backend_up", "object": "", "message": "" });
    let last = if asked > 2 { 3 } else { 2 };
    (since + 1..=last).map(event).collect()
}

/// The stand-in for the agent's loop.
async fn answer_from_a_table(mut requests: mpsc::Receiver<Envelope>) {
    let mut asked_for_events = 0;
    while let Some(Envelope { request, reply, .. }) = requests.recv().await {
        let answer = match request {
            Request::Version => Ok(json!({ "version": "0.1.0", "abi_version": 1, "api_version": 1 })),
            Request::Metrics(_) => Ok(json!("# HELP lb_up …\nlb_up 1\n")),
            Request::Service { service } => Ok(json!({ "name": service })),
            Request::ServiceAdd { body } => Ok(body),
            Request::ConfigApply { replacement, confirm: _ } => {
                Ok(json!(replacement.map(|(text, _)| text.len())))
            }
            Request::Events(filter) => {
                asked_for_events += 1;
                let Since::Number(since) = filter.since else { panic!("not a number: {filter:?}") };
                Ok(events(since, asked_for_events))
            }
            Request::BackendRemove { service, backend, force: _ } => Err(ApiError {
                code: Code::NotFound,
                message: format!("there is no backend {backend} in service {service}"),
                object: format!("backend {service}/{backend}"),
                details: vec!["one".into(), "two".into()],
            }),
            // Never answers.
            Request::ConfigRevert => {
                tokio::spawn(async move {
                    sleep(Duration::from_secs(60)).await;
                    drop(reply);
                });
                continue;
            }
            // Goes away without an answer.
            Request::ConfigSave => continue,
            _ => Ok(json!({})),
        };
        let _ = reply.send(answer);
    }
}

fn start(settings: Settings) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let socket = Socket::bind(&path, None).unwrap();
    let (sender, requests) = mpsc::channel(16);
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(answer_from_a_table(requests));
    let (others, sockets) = mpsc::channel(1);
    let sockets = Sockets::new(Some(socket), sockets);
    let server = tokio::spawn(serve_with(sockets, sender, shutdown, settings));
    Running { path, stop, server, others, _directory: directory }
}

/// Longer than a test takes.
const HOUR: Duration = Duration::from_secs(3600);

fn quick() -> Settings {
    Settings {
        head_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        reply_timeout: Duration::from_millis(300),
        follow_interval: Duration::from_millis(20),
        ..Settings::default()
    }
}

impl Running {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    /// Sends bytes, ends this side where `end` says so, and reads all that comes.
    async fn raw(&self, bytes: &[u8], end: bool) -> String {
        let mut stream = self.connect().await;
        // A server that has refused already does not take the rest.
        let _ = stream.write_all(bytes).await;
        if end {
            stream.shutdown().await.unwrap();
        }
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(LIMIT, read).await.expect("no answer").unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Status and body of the answer to a well-made request.
    async fn ask(&self, verb: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!("{verb} {path} HTTP/1.1\r\nhost: lb\r\ncontent-length: {length}\r\n\r\n{body}");
        parse(&self.raw(request.as_bytes(), false).await)
    }
}

fn parse(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
}

#[tokio::test]
async fn a_request_is_answered_and_the_connection_closed() {
    let lb = start(Settings::default());
    let answer = lb.raw(b"GET /v1/version HTTP/1.1\r\nhost: lb\r\n\r\n", false).await;
    assert!(
        answer.contains("content-type: application/json") && answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(parse(&answer), (200, json!({ "version": "0.1.0", "abi_version": 1, "api_version": 1 })));
}

#[tokio::test]
async fn a_client_that_ends_its_side_early_is_answered() {
    let lb = start(Settings::default());
    let answer = lb.raw(b"GET /v1/version HTTP/1.1\r\nhost: lb\r\n\r\n", true).await;
    assert_eq!(parse(&answer).0, 200);
}

#[tokio::test]
async fn metrics_are_text_and_a_head_has_no_body() {
    let lb = start(Settings::default());
    let answer = lb.raw(b"GET /v1/metrics HTTP/1.1\r\nhost: lb\r\n\r\n", false).await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n# HELP lb_up …\nlb_up 1\n"), "{answer}");
    let answer = lb.raw(b"HEAD /v1/metrics HTTP/1.1\r\nhost: lb\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn the_index_lists_the_paths() {
    let lb = start(Settings::default());
    for path in ["/", "/v1"] {
        let (status, body) = lb.ask("GET", path, "").await;
        assert_eq!(status, 200);
        assert_eq!(body["paths"][0]["path"], "/v1/version");
    }
}

#[tokio::test]
async fn names_arrive_decoded_and_bodies_whole() {
    let lb = start(Settings::default());
    assert_eq!(lb.ask("GET", "/v1/services/w%20eb", "").await, (200, json!({ "name": "w eb" })));
    let body = json!({ "name": "web", "backend": [{ "name": "ü" }] });
    assert_eq!(lb.ask("POST", "/v1/services", &body.to_string()).await, (200, body));
    let chunked = b"POST /v1/services HTTP/1.1\r\nhost: lb\r\ntransfer-encoding: chunked\r\n\r\n\
                    3\r\n{\"a\r\n5\r\n\": 1}\r\n0\r\n\r\n";
    assert_eq!(parse(&lb.raw(chunked, false).await), (200, json!({ "a": 1 })));
}

#[tokio::test]
async fn an_error_of_the_loop_is_sent_whole() {
    let lb = start(Settings::default());
    let (status, body) = lb.ask("DELETE", "/v1/services/web/backends/b", "").await;
    assert_eq!(status, 404);
    assert_eq!(
        body,
        json!({ "code": "not_found", "message": "there is no backend b in service web",
                "object": "backend web/b", "details": ["one", "two"] })
    );
}

#[tokio::test]
async fn an_unknown_path_and_a_wrong_verb_are_refused() {
    let lb = start(Settings::default());
    let (status, body) = lb.ask("GET", "/v1/statsu", "").await;
    assert_eq!((status, &body["code"]), (404, &json!("not_found")));
    let answer = lb.raw(b"PUT /v1/services HTTP/1.1\r\nhost: lb\r\n\r\n", false).await;
    assert!(answer.contains("allow: GET, POST, HEAD"), "{answer}");
    let (status, body) = parse(&answer);
    assert_eq!((status, &body["code"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn truncated_requests_are_refused_in_json() {
    let lb = start(Settings::default());
    for (bytes, says) in [
        (&b"GET /v1/ver"[..], "before its head was complete"),
        (b"GET /v1/version HTTP/1.1\r\nhost:", "before its head was complete"),
        (b"POST /v1/services HTTP/1.1\r\ncontent-length: 100\r\n\r\n{\"a\":", "after 5 of 100 bytes"),
        (b"POST /v1/services HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{\"a", "after 3 bytes"),
    ] {
        let (status, body) = parse(&lb.raw(bytes, true).await);
        assert_eq!((status, &body["code"]), (400, &json!("bad_request")), "{body}");
        assert!(body["message"].as_str().unwrap().contains(says), "{body}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused_in_json() {
    let lb = start(Settings::default());
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"{\"what\": 1}\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ] {
        let (status, body) = parse(&lb.raw(bytes, false).await);
        assert_eq!((status, &body["code"]), (400, &json!("bad_request")), "{body}");
    }
    assert_eq!(lb.ask("GET", "/v1/version", "").await.0, 200, "the agent lives");
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let lb = start(Settings::default());
    let head = format!("GET /v1/version HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let (status, body) = parse(&lb.raw(head.as_bytes(), false).await);
    assert_eq!((status, &body["code"]), (413, &json!("too_large")), "{body}");
}

#[tokio::test]
async fn only_a_body_above_the_limit_is_refused() {
    let lb = start(Settings::default());
    let Settings { body_limit, text_limit, .. } = Settings::default();
    let body = |length: usize| format!("{{\"text\":\"{}\"}}", "x".repeat(length - 11));
    assert_eq!(lb.ask("POST", "/v1/config/apply", &body(text_limit)).await, (200, json!(text_limit - 11)));
    assert_eq!(lb.ask("POST", "/v1/services", &body(body_limit)).await.0, 200);
    for (path, length) in [
        ("/v1/services", body_limit + 1),
        ("/v1/services", 8 * body_limit),
        ("/v1/config/apply", text_limit + 1),
        ("/v1/plan", text_limit + body_limit),
    ] {
        let (status, answer) = lb.ask("POST", path, &body(length)).await;
        assert_eq!((status, &answer["code"]), (413, &json!("too_large")), "{path} {length}");
    }
    let mut chunked = b"POST /v1/services HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..20 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.resize(chunked.len() + 0x10000, b' ');
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(parse(&lb.raw(&chunked, false).await).0, 413);
    let ask_first =
        b"POST /v1/config/apply HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 9000000\r\n\r\n";
    let answer = lb.raw(ask_first, false).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "refused before the body is sent: {answer}");
}

#[tokio::test]
async fn wrong_types_are_refused() {
    let lb = start(Settings::default());
    for (verb, path, body) in [
        ("POST", "/v1/services", "[]"),
        ("POST", "/v1/services", ""),
        ("POST", "/v1/services", "{\"name\": }"),
        ("PATCH", "/v1/services/web/backends/b", "{\"weight\": \"many\"}"),
        ("POST", "/v1/config/apply", "{\"text\": 3}"),
        ("GET", "/v1/events?since=yesterday", ""),
    ] {
        let (status, answer) = lb.ask(verb, path, body).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_request")), "{verb} {path} {body}: {answer}");
    }
}

#[tokio::test]
async fn a_head_and_a_body_that_do_not_arrive_time_out() {
    let lb = start(quick());
    for bytes in [&b"GET /v1/vers"[..], b"POST /v1/services HTTP/1.1\r\ncontent-length: 100\r\n\r\n{\"a\":"] {
        let (status, body) = parse(&lb.raw(bytes, false).await);
        assert_eq!((status, &body["code"]), (408, &json!("request_timeout")), "{body}");
    }
    assert_eq!(lb.raw(b"", false).await, "", "one that says nothing is closed without a word");
}

#[tokio::test]
async fn a_loop_that_does_not_answer_is_unavailable() {
    let lb = start(quick());
    for (path, says) in [("revert", "did not answer within"), ("save", "starting or stopping")] {
        let (status, body) = lb.ask("POST", &format!("/v1/config/{path}"), "").await;
        assert_eq!((status, &body["code"]), (503, &json!("unavailable")));
        assert!(body["message"].as_str().unwrap().contains(says), "{body}");
    }
}

#[tokio::test]
async fn silent_connections_delay_no_other() {
    // An ordinary user has 1,024 open files, and both ends are in this process.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // None of them goes by itself.
    let lb = start(Settings { head_timeout: HOUR, ..Settings::default() });
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(lb.connect().await);
        if silent.len() % 200 == 0 {
            assert_eq!(lb.ask("GET", "/v1/version", "").await.0, 200);
        }
    }
}

#[tokio::test]
async fn half_sent_bodies_do_not_keep_others_from_asking() {
    let lb = start(Settings { body_free: 0, bodies_limit: 100, ..quick() });
    let mut slow = lb.connect().await;
    slow.write_all(b"POST /v1/services HTTP/1.1\r\ncontent-length: 100\r\n\r\n").await.unwrap();
    slow.write_all(&[b' '; 99]).await.unwrap();
    // The first holds nearly all of the common bound, and lets it go when its time is over.
    sleep(Duration::from_millis(50)).await;
    assert_eq!(lb.ask("GET", "/v1/version", "").await.0, 200);
    assert_eq!(lb.ask("POST", "/v1/services", "{\"a\": 1}").await, (200, json!({ "a": 1 })));
}

#[tokio::test]
async fn half_sent_bodies_in_every_place_make_room_for_others() {
    let lb = start(Settings { connections: 4, body_timeout: HOUR, ..Settings::default() });
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = lb.connect().await;
        stream.write_all(b"POST /v1/services HTTP/1.1\r\ncontent-length: 100\r\n\r\n{\"a\": ").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(lb.ask("POST", "/v1/services", "{\"a\": 1}").await, (200, json!({ "a": 1 })));
}

#[tokio::test]
async fn small_bodies_do_not_wait_for_large_ones() {
    let lb = start(Settings { body_free: 100, bodies_limit: 100, body_timeout: HOUR, ..Settings::default() });
    let mut large = lb.connect().await;
    large.write_all(b"POST /v1/services HTTP/1.1\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
    large.write_all(&[b' '; 200]).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(lb.ask("POST", "/v1/services", "{\"a\": 1}").await, (200, json!({ "a": 1 })));
}

#[tokio::test]
async fn followers_get_old_and_new_events_until_the_stop() {
    let lb = start(quick());
    let mut stream = lb.connect().await;
    stream.write_all(b"GET /v1/events?since=1&follow=true HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("\"number\":3") {
        let n = stream.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "ended early: {text}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    assert!(text.contains("application/x-ndjson") && text.contains("transfer-encoding: chunked"), "{text}");
    assert!(!text.contains("\"number\":1"), "{text}");
    assert_eq!(text.matches("\"number\"").count(), 2, "each event once: {text}");
    lb.stop.send(true).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream ends properly: {rest:?}");
}

#[tokio::test]
async fn a_follower_of_the_last_n_gets_no_older_events() {
    let lb = start(quick());
    let mut stream = lb.connect().await;
    stream.write_all(b"GET /v1/events?follow=true&limit=0 HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("\"number\":3") {
        let n = stream.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "ended early: {text}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    assert_eq!(text.matches("\"number\"").count(), 1, "{text}");
}

#[tokio::test]
async fn more_followers_than_places_are_refused() {
    let lb = start(Settings { followers: 1, ..quick() });
    let mut stream = lb.connect().await;
    stream.write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
    stream.read_u8().await.unwrap();
    assert_eq!(lb.ask("GET", "/v1/events?follow=true", "").await.0, 503);
}

#[tokio::test]
async fn a_stop_removes_the_socket_and_finishes_requests() {
    let lb = start(quick());
    let mut stream = lb.connect().await;
    stream.write_all(b"POST /v1/config/revert HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
    let _silent = lb.connect().await;
    sleep(Duration::from_millis(50)).await;
    lb.stop.send(true).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(parse(&answer).0, 503);
    lb.server.await.unwrap();
    assert!(!lb.path.exists());
}
