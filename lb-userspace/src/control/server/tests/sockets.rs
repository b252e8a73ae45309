//! A control socket whose file is taken away, and a server that begins without one.

use super::*;

#[tokio::test]
async fn a_replaced_socket_cuts_no_connection() {
    let lb = start(Settings::default());
    let mut before = lb.connect().await;
    assert_eq!(lb.ask("GET", "/v1/version", "").await.0, 200);
    std::fs::remove_file(&lb.path).unwrap();
    assert!(UnixStream::connect(&lb.path).await.is_err());
    lb.others.send(Socket::bind(&lb.path, None).unwrap()).await.unwrap();
    assert_eq!(lb.ask("GET", "/v1/version", "").await.0, 200, "a new one");
    before.write_all(b"GET /v1/version HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    before.read_to_string(&mut answer).await.unwrap();
    assert_eq!(parse(&answer).0, 200, "one from before");
}

#[tokio::test]
async fn a_server_without_a_socket_serves_the_first_it_gets() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let (sender, requests) = mpsc::channel(16);
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(answer_from_a_table(requests));
    let (others, sockets) = mpsc::channel(1);
    let server = tokio::spawn(serve(Sockets::new(None, sockets), sender, shutdown));
    others.send(Socket::bind(&path, None).unwrap()).await.unwrap();
    let lb = Running { path, stop, server, others, _directory: directory };
    assert_eq!(lb.ask("GET", "/v1/version", "").await.0, 200);
    lb.stop.send(true).unwrap();
    tokio::time::timeout(LIMIT, lb.server).await.expect("it ends").unwrap();
    assert!(!lb.path.exists());
}
