//! Answers as servers of thirty years write them, delivered in every way in which servers deliver them. The rule: what curl
//! takes, a check takes. Where curl is installed it is asked, too; so are real servers.

use std::{
    io::{BufRead, BufReader, Write as _},
    net::TcpListener as StdListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::*;

/// An answer with `ok` in its body, and its status or the reason for which it is refused.
struct Dialect {
    server: &'static str,
    answer: &'static [u8],
    verdict: Result<u16, &'static str>,
}

const fn takes(server: &'static str, answer: &'static str) -> Dialect {
    Dialect { server, answer: answer.as_bytes(), verdict: Ok(200) }
}

const fn refuses(server: &'static str, answer: &'static str, reason: &'static str) -> Dialect {
    Dialect { server, answer: answer.as_bytes(), verdict: Err(reason) }
}

const DIALECTS: &[Dialect] = &[
    takes(
        "nginx",
        "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\nContent-Type: text/html\r\n\
         Content-Length: 2\r\nLast-Modified: Sat, 28 Nov 2026 09:00:00 GMT\r\nConnection: close\r\nETag: \"65-2\"\r\n\
         Accept-Ranges: bytes\r\n\r\nok",
    ),
    takes(
        "Apache",
        "HTTP/1.1 200 OK\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\nServer: Apache/2.4.62 (Debian)\r\nUpgrade: h2,h2c\r\n\
         Connection: Upgrade, close\r\nVary: Accept-Encoding\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes(
        "IIS",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/html\r\nServer: Microsoft-IIS/10.0\r\n\
         X-Powered-By: ASP.NET\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\nConnection: close\r\n\r\nok",
    ),
    takes(
        "IIS 5 with an interim answer that was not asked for",
        "HTTP/1.1 100 Continue\r\nServer: Microsoft-IIS/5.1\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\n\r\n\
         HTTP/1.1 200 OK\r\nServer: Microsoft-IIS/5.1\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes(
        "lighttpd",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: \"1\"\r\nAccept-Ranges: bytes\r\nContent-Length: 2\r\n\
         Connection: close\r\nServer: lighttpd/1.4.69\r\n\r\nok",
    ),
    takes(
        "Caddy",
        "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":443\"; ma=2592000\r\nServer: Caddy\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes(
        "Node with Express",
        "HTTP/1.1 200 OK\r\nX-Powered-By: Express\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    takes(
        "Go",
        "HTTP/1.1 200 OK\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\nContent-Length: 2\r\n\
         Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nok",
    ),
    takes(
        "Python http.server",
        "HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6 Python/3.11.7\r\nContent-type: text/html; charset=utf-8\r\n\r\nok",
    ),
    takes(
        "gunicorn",
        "HTTP/1.1 200 OK\r\nServer: gunicorn\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes(
        "uvicorn",
        "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
    ),
    takes(
        "Twisted",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nServer: TwistedWeb/22.4.0\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    takes(
        "WEBrick, with a blank behind the reason",
        "HTTP/1.1 200 OK \r\nServer: WEBrick/1.8.1 (Ruby/3.2.2)\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    ),
    takes(
        "Puma",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes("Tomcat, without a reason", "HTTP/1.1 200 \r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"),
    takes("Jetty", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: Jetty(9.4.51.v20230217)\r\n\r\nok"),
    takes("cowboy", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\nserver: Cowboy\r\n\r\nok"),
    takes(
        "Yaws",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nServer: Yaws 2.1.1\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes(
        "Kestrel",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nServer: Kestrel\r\n\r\nok",
    ),
    takes("Netty", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    takes(
        "PHP's own",
        "HTTP/1.1 200 OK\r\nHost: 10.0.0.1:8000\r\nConnection: close\r\nX-Powered-By: PHP/8.2.7\r\n\r\nok",
    ),
    takes(
        "Perl's HTTP::Daemon",
        "HTTP/1.1 200 OK\r\nServer: libwww-perl-daemon/6.16\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes("Envoy", "HTTP/1.1 200 OK\r\nx-envoy-upstream-service-time: 1\r\ncontent-length: 2\r\n\r\nok"),
    takes(
        "HAProxy's monitor",
        "HTTP/1.0 200 OK\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n<html><body>ok</body></html>\n",
    ),
    Dialect {
        server: "HAProxy without a server",
        answer: b"HTTP/1.0 503 Service Unavailable\r\nConnection: close\r\n\r\n<html>ok</html>\n",
        verdict: Ok(503),
    },
    takes(
        "Varnish",
        "HTTP/1.1 200 OK\r\nX-Varnish: 32770\r\nAge: 0\r\nVia: 1.1 varnish (Varnish/7.1)\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes(
        "Squid",
        "HTTP/1.1 200 OK\r\nX-Cache: MISS from proxy\r\nVia: 1.1 proxy (squid/5.7)\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes("busybox httpd", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-type: text/html\r\n\r\nok"),
    takes("thttpd", "HTTP/1.0 200 OK\r\nServer: thttpd/2.29 23May2018\r\nContent-Length: 2\r\n\r\nok"),
    takes("mini_httpd", "HTTP/1.0 200 Ok\r\nServer: mini_httpd/1.30\r\nConnection: close\r\n\r\nok"),
    takes("GoAhead", "HTTP/1.0 200 OK\r\nServer: GoAhead-Webs\r\nPragma: no-cache\r\n\r\nok"),
    takes("NCSA", "HTTP/1.0 200 Document follows\r\nServer: NCSA/1.5.2\r\nContent-length: 2\r\n\r\nok"),
    takes("a script behind netcat", "HTTP/1.1 200 OK\n\nok"),
    takes("a device with bare LF", "HTTP/1.0 200 OK\nServer: Boa/0.94\nContent-Length: 2\n\nok"),
    takes("a device with small letters", "http/1.1 200 ok\r\ncontent-length: 2\r\n\r\nok"),
    takes("a device with two blanks", "HTTP/1.1  200  OK\r\nContent-Length:  2\r\n\r\nok"),
    takes("a device with a tab", "HTTP/1.1\t200\tOK\r\nContent-Length:\t2\r\n\r\nok"),
    takes("a device without a reason", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
    takes("a device without a blank", "HTTP/1.1 200OK\r\nContent-Length: 2\r\n\r\nok"),
    takes(
        "a device with blanks before colons",
        "HTTP/1.1 200 OK\r\nServer : x\r\nContent-Length : 2\r\n\r\nok",
    ),
    takes("folded fields", "HTTP/1.1 200 OK\r\nX-A: one,\r\n two,\r\n\tthree\r\nContent-Length: 2\r\n\r\nok"),
    takes("fields of bytes", "HTTP/1.1 200 \u{e4}\u{f6}\r\nX-A: \u{7f}\u{1}\u{ff}\r\n: none\r\n\r\nok"),
    takes("a CGI without a colon", "HTTP/1.1 200 OK\r\nX-Powered-By magic\r\nContent-Length: 2\r\n\r\nok"),
    takes("a NUL in a field", "HTTP/1.1 200 OK\r\nX-A: \0\r\nContent-Length: 2\r\n\r\nok"),
    takes("a proxy that says HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    takes("a proxy that says HTTP/2", "HTTP/2 200\r\nContent-Length: 2\r\n\r\nok"),
    takes("an empty line too many", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    takes(
        "early hints",
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ),
    takes(
        "chunks in capitals",
        "HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n02;x=y\r\nok\r\n0\r\n\r\n",
    ),
    takes("chunks with bare LF", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n"),
    takes("identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok"),
    takes("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 2\r\n\r\nok"),
    takes("a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"),
    takes(
        "a length that no number holds",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
    ),
    refuses("SHOUTcast", "ICY 200 OK\r\n\r\nok", "not an HTTP answer: begins with \"ICY 200 OK\""),
    refuses("HTTP/0.9", "<html>ok</html>", "not an HTTP answer: begins with \"<html>ok</html>\""),
    refuses(
        "SMTP",
        "220 mail.example ESMTP ok\r\n",
        "not an HTTP answer: begins with \"220 mail.example ESMTP ok\"",
    ),
    refuses("Redis", "-ERR unknown command\r\n", "not an HTTP answer: begins with \"-ERR unknown command\""),
    refuses("no status", "HTTP/1.1 OK\r\n\r\nok", "status line \"HTTP/1.1 OK\" has no status"),
    refuses("four digits", "HTTP/1.1 2000 OK\r\n\r\nok", "status line \"HTTP/1.1 2000 OK\" has no status"),
];

/// How an answer is delivered.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The connection stays open behind it.
    KeptAlive,
    Closed,
    ByteByByte,
    /// Half-closed, and read to its end.
    HalfClosed,
    BeforeTheRequest,
    /// The request is left unread, so that the kernel resets the connection behind the answer.
    BeforeAReset,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::KeptAlive,
        Self::Closed,
        Self::ByteByByte,
        Self::HalfClosed,
        Self::BeforeTheRequest,
        Self::BeforeAReset,
    ];

    async fn deliver(self, mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
        if !matches!(self, Self::BeforeTheRequest | Self::BeforeAReset) {
            request(&mut stream).await;
        }
        if matches!(self, Self::ByteByByte) {
            stream.set_nodelay(true)?;
            for byte in answer {
                stream.write_all(&[*byte]).await?;
                tokio::task::yield_now().await;
            }
        } else {
            stream.write_all(answer).await?;
        }
        match self {
            Self::KeptAlive => tokio::time::sleep(Duration::from_secs(5)).await,
            Self::Closed | Self::ByteByByte => {}
            Self::HalfClosed | Self::BeforeTheRequest => {
                stream.shutdown().await?;
                while stream.read(&mut [0; 1024]).await? > 0 {}
            }
            Self::BeforeAReset => stream.set_zero_linger()?,
        }
        Ok(())
    }
}

async fn delivering(way: Way, answer: Vec<u8>) -> SocketAddr {
    let answer: Arc<[u8]> = answer.into();
    listener(move |stream| {
        let answer = Arc::clone(&answer);
        async move {
            // A client that has seen enough closes; that is no fault of the server.
            let _closed = way.deliver(stream, &answer).await;
        }
    })
    .await
}

fn expecting(status: u16) -> HttpProbe {
    HttpProbe { expect: vec![status..=status], ..http() }
}

#[tokio::test]
async fn every_dialect_is_judged_by_its_status() {
    for Dialect { server, answer, verdict } in DIALECTS {
        for way in Way::ALL {
            let address = delivering(way, answer.to_vec()).await;
            let probe = expecting(verdict.unwrap_or(200));
            let wanted = verdict.map(drop).map_err(|reason| Failure::Backend(reason.into()));
            assert_eq!(probe_http(address, probe.clone()).await, wanted, "{server}, {way:?}");
            let with_body = HttpProbe { body: Some("ok".into()), ..probe };
            assert_eq!(probe_http(address, with_body).await, wanted, "{server}, {way:?}, with a body");
        }
    }
}

#[tokio::test]
async fn heads_of_many_or_long_fields_are_taken() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\nok", "A: b\r\n".repeat(120));
    let more = format!("HTTP/1.1 200 OK\r\n{}\r\nok", "A: b\r\n".repeat(40_000));
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\nok", "b".repeat(90_000));
    for answer in [many, more, long] {
        let probe = HttpProbe { body: Some("ok".into()), ..http() };
        let address = delivering(Way::Closed, answer.clone().into()).await;
        assert_eq!(probe_http(address, probe).await, Ok(()), "{} bytes", answer.len());
    }
}

/// A reset may come before the probe has looked at the connection it made: what was sent before it counts all the same.
#[tokio::test]
async fn an_answer_counts_however_early_the_reset_behind_it_comes() {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(200) {
            let mut stream = stream.unwrap();
            socket_linger_zero(&stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    for attempt in 0..200 {
        let probe = HttpProbe { body: Some("ok".into()), ..http() };
        assert_eq!(probe_http(address, probe).await, Ok(()), "attempt {attempt}");
    }
}

fn socket_linger_zero(stream: &std::net::TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt::Linger};
    setsockopt(stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

#[tokio::test]
async fn a_complete_status_line_counts_and_a_broken_one_not() {
    let answer = || b"HTTP/1.1 200 OK\r\nServer: x".to_vec();
    assert_eq!(probe_http(delivering(Way::Closed, answer()).await, http()).await, Ok(()));
    assert_eq!(
        probe_http(delivering(Way::BeforeAReset, answer()).await, http()).await,
        failure("connection reset within the head, after 26 bytes")
    );
}

#[tokio::test]
async fn an_unread_request_does_not_delay_the_answer() {
    // More than the kernels keep between them.
    let path = format!("/{}", "x".repeat(16 << 20));
    let address = delivering(Way::BeforeTheRequest, b"HTTP/1.1 414 URI Too Long\r\n\r\n".to_vec()).await;
    assert_eq!(probe_http(address, HttpProbe { path, ..expecting(414) }).await, Ok(()));
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|d| d.join(program))
        .find(|file| file.is_file())
}

fn skip(test: &str, reason: &str) {
    // Past the test harness, which shows only what failing tests print.
    let _ = writeln!(std::io::stderr(), "SKIP health::probe::tests::dialects::{test}: {reason}");
}

/// The status that curl takes, or how it refuses.
fn curl(program: &Path, address: SocketAddr) -> Result<u16, String> {
    let output = Command::new(program)
        .args(["-q", "-sS", "--noproxy", "*", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("http://{address}/healthz"))
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_curl_takes_is_taken() {
    let Some(program) = find("curl") else { return skip("what_curl_takes_is_taken", "no curl") };
    let mut taken = 0;
    for Dialect { server, answer, verdict } in DIALECTS {
        let (address, program) = (delivering(Way::HalfClosed, answer.to_vec()).await, program.clone());
        let curls = tokio::task::spawn_blocking(move || curl(&program, address)).await.unwrap();
        match curls {
            Ok(status) => {
                assert_eq!(*verdict, Ok(status), "{server}: curl takes it");
                taken += 1;
            }
            Err(why) => eprintln!("{server}: curl refuses it: {why}; here: {verdict:?}"),
        }
    }
    assert!(taken >= 40, "curl takes only {taken} of {}: is it curl?", DIALECTS.len());
}

/// A server program that is ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// `http.server` of Python chooses its port itself and says which.
fn python(directory: &Path) -> Option<(Server, u16)> {
    let mut child = Command::new(find("python3")?)
        .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"])
        .arg(directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
    let server = Server(child);
    Some((server, line.split("port ").nth(1)?.split(' ').next()?.parse().ok()?))
}

fn nginx(directory: &Path) -> Option<(Server, u16)> {
    let (program, port, place) = (find("nginx")?, free_port(), directory.display());
    let configuration = format!(
        "daemon off; master_process off; pid {place}/pid; error_log {place}/error;\n\
         events {{ }}\nhttp {{ access_log off; client_body_temp_path {place}/b; proxy_temp_path {place}/p;\n\
         fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
         server {{ listen 127.0.0.1:{port}; root {place}; }} }}\n"
    );
    std::fs::write(directory.join("nginx.conf"), configuration).ok()?;
    let mut command = Command::new(program);
    command.arg("-e").arg(directory.join("error")).arg("-c").arg(directory.join("nginx.conf"));
    Some((Server(command.stderr(Stdio::null()).spawn().ok()?), port))
}

fn busybox(directory: &Path) -> Option<(Server, u16)> {
    let port = free_port();
    let mut command = Command::new(find("busybox")?);
    command.args(["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h"]).arg(directory);
    Some((Server(command.stderr(Stdio::null()).spawn().ok()?), port))
}

async fn real(name: &str, start: fn(&Path) -> Option<(Server, u16)>) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("healthz"), "all is ok\n").unwrap();
    let Some((_server, port)) = start(directory.path()) else {
        return skip(name, "the server is not installed");
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut last = Ok(());
    for _ in 0..600 {
        last = probe_http(address, HttpProbe { body: Some("is ok".into()), ..http() }).await;
        if last != failure("connection refused") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(last, Ok(()));
    let missing = HttpProbe { path: "/missing".into(), ..http() };
    assert_eq!(probe_http(address, missing).await, failure("status 404, expected 200"));
    if let Some(program) = find("curl") {
        let curls = tokio::task::spawn_blocking(move || curl(&program, address)).await.unwrap();
        assert_eq!(curls, Ok(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_nginx_is_up() {
    real("a_real_nginx_is_up", nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_http_server_of_python_is_up() {
    real("a_real_http_server_of_python_is_up", python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_httpd_of_busybox_is_up() {
    real("a_real_httpd_of_busybox_is_up", busybox).await;
}
