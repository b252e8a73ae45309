//! The TCP port for those who watch: the metrics, in parts and compressed, and how strangers are kept from it.

use std::io::Read as _;

use super::*;

/// A metrics port whose loop answers with `answer`.
async fn port(
    answer: impl Fn(Request) -> Result<Value, ApiError> + Send + 'static,
) -> (std::net::SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut requests) = mpsc::channel::<Envelope>(16);
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(async move {
        while let Some(Envelope { request, reply, .. }) = requests.recv().await {
            let _ = reply.send(answer(request));
        }
    });
    tokio::spawn(serve_metrics(listener, sender, shutdown));
    (address, stop)
}

/// Head and body of an answer.
async fn ask(address: std::net::SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), body)
}

#[tokio::test]
async fn a_scrape_is_compressed_where_the_client_says_so() {
    let text = "lb_backend_packets_total{service=\"web\"} 7\n".repeat(1000);
    let sent = text.clone();
    let (address, _stop) = port(move |_| Ok(json!(sent))).await;
    let (head, body) = ask(address, "GET /metrics HTTP/1.1\r\nhost: lb").await;
    assert!(body == text.as_bytes() && !head.contains("content-encoding"), "{head}");
    assert!(head.contains("vary: accept-encoding"), "{head}");
    let gzip = "GET /metrics HTTP/1.1\r\nhost: lb\r\naccept-encoding: deflate, gzip";
    let (head, body) = ask(address, gzip).await;
    assert!(head.contains("content-encoding: gzip") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(
        head.contains(&format!("content-length: {}", body.len())) && body.len() * 10 < text.len(),
        "{head}"
    );
    let mut back = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut back).unwrap();
    assert_eq!(back, text);
}

#[tokio::test]
async fn a_scrape_may_be_of_a_part() {
    let (address, _stop) = port(|request| Ok(json!(format!("{request:?}\n")))).await;
    let (_, body) = ask(address, "GET /metrics?scope=node,service HTTP/1.1\r\nhost: lb").await;
    let mut wanted = crate::api::scope::Scopes::default();
    wanted.add("node,service").unwrap();
    assert_eq!(String::from_utf8(body).unwrap(), format!("{:?}\n", Request::Metrics(wanted)));
    let (head, body) = ask(address, "GET /metrics?scope=node,x HTTP/1.1\r\nhost: lb").await;
    assert!(head.starts_with("http/1.1 400 "), "{head}");
    let error: ApiError = serde_json::from_slice(&body).unwrap();
    assert_eq!(error.message, "parameter `scope`: unknown scope `x`; known are node, service, backend");
    let (head, _) = ask(address, "GET /metrics?secrets=true HTTP/1.1\r\nhost: lb").await;
    assert!(head.starts_with("http/1.1 400 "), "{head}");
}

#[tokio::test]
async fn a_stuck_scraper_blocks_others_for_a_bounded_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut requests) = mpsc::channel::<Envelope>(16);
    let (_stop, shutdown) = watch::channel(false);
    // More than the buffers of both sockets take.
    let text = "lb_up 1\n".repeat(4_000_000);
    tokio::spawn(async move {
        while let Some(Envelope { reply, .. }) = requests.recv().await {
            let _ = reply.send(Ok(json!(text)));
        }
    });
    let settings = Settings { scrapes: 1, write_timeout: Duration::from_millis(300), ..Settings::default() };
    tokio::spawn(run(listener, ServerState::new(settings, sender, shutdown)));
    let request = b"GET /metrics HTTP/1.1\r\nhost: lb\r\n\r\n";
    let begun = Instant::now();
    let mut lazy = TcpStream::connect(address).await.unwrap();
    lazy.write_all(request).await.unwrap();
    // It has its place as soon as something of its answer comes.
    lazy.readable().await.unwrap();
    let mut eager = TcpStream::connect(address).await.unwrap();
    eager.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    eager.read_to_end(&mut answer).await.unwrap();
    assert!(answer.len() > 32_000_000, "{}", answer.len());
    assert!(begun.elapsed() > Duration::from_millis(300), "one at a time: {:?}", begun.elapsed());
}

#[tokio::test]
async fn the_metrics_port_serves_those_who_watch_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel(16);
    let (_stop, shutdown) = watch::channel(false);
    tokio::spawn(answer_from_a_table(requests));
    tokio::spawn(serve_metrics(listener, sender, shutdown));
    for (line, status) in [
        ("GET /metrics", 200),
        ("GET /healthz", 200),
        ("GET /v1/status", 404),
        ("GET /v1/ready", 404),
        ("POST /v1/detach", 404),
        ("POST /metrics", 405),
        ("POST /readyz", 405),
        ("GET /healthz?strict=true", 400),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{line} HTTP/1.1\r\nhost: lb\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(parse(&answer).0, status, "{line}");
    }
}

#[tokio::test]
async fn a_node_is_ready_or_says_why_not() {
    let answer = |ready: bool, reasons: &[&str], attention: &[&str]| json!({ "ready": ready, "reasons": reasons, "attention": attention });
    for (answer, query, status, text) in [
        (answer(true, &[], &[]), "", 200, "ready\n"),
        (answer(true, &[], &["limit flows: 90%"]), "", 200, "ready\n"),
        (answer(true, &[], &["limit flows: 90%"]), "?strict=true", 503, "not ready\nlimit flows: 90%\n"),
        (answer(true, &[], &[]), "?strict", 200, "ready\n"),
        (
            answer(false, &["interface eth0: detached: a\u{1b}[2Jb"], &["x"]),
            "",
            503,
            "not ready\ninterface eth0: detached: a\\u{1b}[2Jb\n",
        ),
        // An agent of another version.
        (json!("what"), "", 503, "not ready\n"),
    ] {
        let (address, _stop) = port(move |request| match request {
            Request::Ready => Ok(answer.clone()),
            other => panic!("{other:?} was asked"),
        })
        .await;
        let (head, body) = ask(address, &format!("GET /readyz{query} HTTP/1.1\r\nhost: lb")).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{query}: {head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        assert_eq!(String::from_utf8(body).unwrap(), text, "{query}");
    }
    let (address, _stop) = port(|_| {
        Err(ApiError {
            code: Code::Failed,
            message: "map gone".into(),
            object: String::new(),
            details: vec![],
        })
    })
    .await;
    for path in ["/healthz", "/readyz"] {
        let (head, body) = ask(address, &format!("GET {path} HTTP/1.1\r\nhost: lb")).await;
        assert!(head.starts_with("http/1.1 503 ") && body == b"map gone\n", "{path}: {head}");
    }
}

#[tokio::test]
async fn a_stuck_agent_is_not_healthy_and_stuck_scrapers_do_not_matter() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut requests) = mpsc::channel::<Envelope>(16);
    let (_stop, shutdown) = watch::channel(false);
    let text = "lb_up 1\n".repeat(4_000_000);
    let stuck = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_stuck = Arc::clone(&stuck);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(Envelope { request, reply, .. }) = requests.recv().await {
            match request {
                Request::Metrics(_) => drop(reply.send(Ok(json!(text)))),
                _ if is_stuck.load(std::sync::atomic::Ordering::Relaxed) => kept.push(reply),
                _ => drop(reply.send(Ok(json!({})))),
            }
        }
    });
    let settings = Settings { scrapes: 1, ..Settings::default() };
    tokio::spawn(run(listener, ServerState::new(settings, sender, shutdown)));
    let mut lazy = TcpStream::connect(address).await.unwrap();
    lazy.write_all(b"GET /metrics HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
    lazy.readable().await.unwrap();
    let begun = Instant::now();
    let (head, body) = ask(address, "GET /healthz HTTP/1.1\r\nhost: lb").await;
    assert!(head.starts_with("http/1.1 200 ") && body == b"ok\n", "{head}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    stuck.store(true, std::sync::atomic::Ordering::Relaxed);
    let (head, body) = ask(address, "GET /healthz HTTP/1.1\r\nhost: lb").await;
    assert!(head.starts_with("http/1.1 503 ") && body == b"the agent did not answer within 5 s\n", "{head}");
}
