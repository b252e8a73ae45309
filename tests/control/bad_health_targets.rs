//! Health targets that behave badly, behind a real network: what the agent reports of them, and what they cost the agent.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::{
    agent::Agent,
    world::{World, isolated, until, wait_for},
};

/// Moves the other end of `lb0` into the network of the backends.
const BACKENDS: &str = "\
netns add backends
link set lb0p address 02:00:00:00:00:02 netns backends
";

/// Settings inside of that network.
const INSIDE: &str = "\
link set lo up
link set lb0p up
address add 10.9.0.2/24 dev lb0p
address add 10.0.0.11/32 dev lo
";

const TIMEOUT: Duration = Duration::from_millis(500);

/// What a target does with a connection.
type Behaviour = fn(TcpStream) -> std::io::Result<()>;

/// Each target has a port of its own, with the check that asks it and the expected report (`ok` = the target is up).
const TARGETS: &[(u16, &str, Behaviour, &str)] = &[
    (8001, "kind = \"http\"", answers, "ok"),
    (8002, "kind = \"tcp\"", is_silent, "ok"),
    (8003, "kind = \"http\"", is_silent, "no answer within 500 ms"),
    (8004, "kind = \"http\"", drips_its_head, "head of the answer not complete within 500 ms, after 1 byte"),
    (8005, "kind = \"http\", body = \"ready\"", drips_its_body, "body not complete within 500 ms"),
    (8006, "kind = \"http\", body = \"ready\"", never_ends, "body lacks \"ready\" in its first 64 KiB"),
    (8007, "kind = \"http\"", never_ends, "ok"),
    (8008, "kind = \"http\"", has_no_end_of_head, "head of the answer is longer than 300 KiB"),
    (8009, "kind = \"http\"", redirects, "ok"),
    (8010, "kind = \"http\", expect = 200", redirects, "status 302, expected 200"),
    (8011, "kind = \"http\"", resets, "connection"),
    (8012, "kind = \"https\"", answers, "tls: "),
];

fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut request = [0; 1024];
    stream.read(&mut request).map(drop)
}

fn answers(mut stream: TcpStream) -> std::io::Result<()> {
    ask(&mut stream)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready")
}

/// Says nothing until the agent closes.
fn is_silent(mut stream: TcpStream) -> std::io::Result<()> {
    while stream.read(&mut [0; 1024])? > 0 {}
    Ok(())
}

fn drip(stream: &mut TcpStream, bytes: impl Iterator<Item = u8>) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[byte])?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn drips_its_head(mut stream: TcpStream) -> std::io::Result<()> {
    ask(&mut stream)?;
    drip(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n".iter().copied())
}

fn drips_its_body(mut stream: TcpStream) -> std::io::Result<()> {
    ask(&mut stream)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
    drip(&mut stream, std::iter::repeat_n(b'x', 1000))
}

fn never_ends(mut stream: TcpStream) -> std::io::Result<()> {
    ask(&mut stream)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    loop {
        stream.write_all(&[b'x'; 65_536])?;
    }
}

fn has_no_end_of_head(mut stream: TcpStream) -> std::io::Result<()> {
    ask(&mut stream)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
    loop {
        stream.write_all(&[&b"x-filler: "[..], &[b'x'; 1000], b"\r\n"].concat())?;
    }
}

fn redirects(mut stream: TcpStream) -> std::io::Result<()> {
    ask(&mut stream)?;
    stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.11:8001/\r\nContent-Length: 0\r\n\r\n")
}

/// Closes with data unread; the kernel then sends a reset.
fn resets(stream: TcpStream) -> std::io::Result<()> {
    thread::sleep(Duration::from_millis(50));
    drop(stream);
    Ok(())
}

/// Runs a closure on a thread in the network of the backends.
pub(crate) fn inside(work: impl FnOnce() -> Result<()> + Send + 'static) -> thread::JoinHandle<Result<()>> {
    thread::spawn(move || {
        setns(File::open("/run/netns/backends")?, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Accepts on a port for as long as the test runs; every connection has a thread and a time limit.
fn listen(
    port: u16,
    behave: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((IpAddr::from([10, 0, 0, 11]), port)))?;
    let behave = Arc::new(behave);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let behave = behave.clone();
            let limits = stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .and_then(|()| stream.set_write_timeout(Some(Duration::from_secs(20))));
            thread::spawn(move || {
                // The agent closes the connection when it has had enough; this is what the test checks.
                let _closed = limits.and_then(|()| behave(stream));
            });
        }
    });
    Ok(())
}

/// Makes the network of the backends, in which no program listens yet.
pub(crate) fn make_backends(world: &World) -> Result<()> {
    std::fs::create_dir_all("/run/netns")?;
    world.ip(BACKENDS)?;
    let mut ip = world.command("ip")?;
    ip.args(["-netns", "backends", "-batch"]).arg(world.write("inside", INSIDE)?);
    ensure!(ip.status()?.success(), "the network of the backends cannot be made");
    Ok(())
}

fn config(services: &str) -> String {
    format!(
        "[node]\ninterface = \"lb0\"\nseed = \"control tests\"\nstate_directory = \"/run/t/state\"\n\
         [limits]\nservices = 16\nbackends = 64\nslots = 8192\nflows = 1024\n{services}"
    )
}

fn service(port: u16, check: &str) -> String {
    format!(
        "[[service]]\nname = \"s{port}\"\nlisten = \"tcp/203.0.113.10:{port}\"\nmax_backends = 2\n\
         health = {{ {check}, interval = \"1s\", timeout = \"{}ms\" }}\n[[service.backend]]\nname = \"b\"\n\
         address = \"10.0.0.11\"\n",
        TIMEOUT.as_millis()
    )
}

/// The `lbctl health` entry of a service's only backend.
fn health(agent: &Agent<'_>, port: u16) -> Result<Value> {
    let all = agent.json(&["health"])?;
    let mut found = all.as_array().into_iter().flatten();
    let name = format!("s{port}");
    found.find(|one| one["service"] == name.as_str()).cloned().context("it is not checked")
}

fn wait_for_verdict(agent: &Agent<'_>, port: u16, wanted: &str, words: &str) -> Result<Value> {
    until(&format!("s{port} is {wanted}: {words}"), || {
        let health = health(agent, port)?;
        let said = health["last"].as_str().unwrap_or_default();
        let found = health["verdict"] == wanted && said.contains(words);
        Ok(if found { Ok(health) } else { Err(health.to_string()) })
    })
}

#[test]
fn bad_answers_get_the_right_verdict_and_cost_little() -> Result<()> {
    isolated(test_name!(), |world| {
        make_backends(world)?;
        let made = inside(|| {
            for (port, _, behaviour, _) in TARGETS {
                listen(*port, *behaviour)?;
            }
            Ok(())
        });
        made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let services: String = TARGETS.iter().map(|(port, check, ..)| service(*port, check)).collect();
        let mut agent = world.start(&config(&services))?;
        for (port, _, _, words) in TARGETS {
            let verdict = if *words == "ok" { "up" } else { "down" };
            let health = wait_for_verdict(&agent, *port, verdict, words)?;
            // The clock of a busy machine is late; a probe without a bound would take 20 s.
            let took = health["last_us"].as_u64().unwrap_or(u64::MAX);
            ensure!((1..15_000_000).contains(&took), "{health}");
            eprintln!("port {port}: {verdict}, {} after {took} µs", health["last"]);
        }
        let before = agent.cost()?;
        let probes =
            |agent: &Agent<'_>| Ok::<_, anyhow::Error>(health(agent, 8006)?["probes"].as_u64().unwrap_or(0));
        let begun = probes(&agent)?;
        wait_for("fifteen more probes", || Ok((probes(&agent)? >= begun + 15).then_some(())))?;
        let after = agent.cost()?;
        eprintln!("before and after 15 more probes of each: {before:?}, {after:?}");
        ensure!(after.memory < before.memory + 4096, "{before:?} became {after:?}");
        ensure!(after.descriptors <= before.descriptors + TARGETS.len(), "{before:?} became {after:?}");
        for (backend, state) in [("s8001/b", "up"), ("s8003/b", "down")] {
            until(&format!("{backend} is {state}"), || {
                let shown = agent.json(&["backend", "show", backend])?;
                Ok(if shown["state"] == state { Ok(()) } else { Err(shown.to_string()) })
            })?;
        }
        agent.assert_alive()
    })
}

/// A TLS server whose certificate no authority has signed, and which is for another name.
fn tls_server() -> Result<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["elsewhere.example".to_owned()])?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    Ok(config)
}

fn answers_encrypted(config: &Arc<rustls::ServerConfig>, stream: TcpStream) -> std::io::Result<()> {
    let connection = rustls::ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    match stream.read(&mut [0; 1024]) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
        other => other?,
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready")?;
    stream.flush()
}

#[test]
fn a_wrong_certificate_is_named_and_fails_with_verify() -> Result<()> {
    isolated(test_name!(), |world| {
        make_backends(world)?;
        let config_of_server = Arc::new(tls_server()?);
        let made = inside(move || listen(8443, move |stream| answers_encrypted(&config_of_server, stream)));
        made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let services = [
            service(8443, "kind = \"https\", verify = true, host = \"web.example\""),
            service(8444, "kind = \"https\", port = 8443"),
        ];
        let mut agent = world.start(&config(&services.concat()))?;
        let refused = wait_for_verdict(&agent, 8443, "down", "certificate")?;
        eprintln!("{}", refused["last"]);
        wait_for_verdict(&agent, 8444, "up", "ok")?;
        let shown = agent.lbctl(&["health"])?.done()?;
        ensure!(
            shown.lines().any(|line| line.contains("s8443/b") && line.contains("certificate")),
            "{shown}"
        );
        agent.assert_alive()
    })
}
