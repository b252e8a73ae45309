//! Hostile local clients, a thousand at a time: the agent's memory stays bounded, and the agent still answers `lbctl`.
//! `request` tests single malformed requests.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    agent::Agent,
    resource_usage::Cost,
    world::{CONFIG, World, address, isolated},
};

/// Connections that a hostile client opens.
const CROWD: usize = 1000;
/// How much the agent's own memory may grow in any of these tests, in KiB: the buffers of 128 connections, 4 MiB of bodies,
/// and what the allocator keeps of both.
const GROWTH: u64 = 32 * 1024;
/// The same where bodies may be configurations: twice the longest one (8 MiB each) comes on top, in buffers that have doubled.
const GROWTH_OF_BODIES: u64 = GROWTH + 32 * 1024;
/// How often the test runs `lbctl`. The agent must answer; how soon is only printed, since the machine may have other work.
const TRIES: usize = 7;

/// Fails unless the agent answers `lbctl`, for reads and for changes, and its memory is bounded. Prints what the test
/// measured.
fn assert_unmoved(agent: &mut Agent<'_>, before: Cost, what: &str) -> Result<()> {
    eprintln!("{what}: {}", measured(agent, before, GROWTH)?);
    Ok(())
}

fn measured(agent: &mut Agent<'_>, before: Cost, growth: u64) -> Result<String> {
    let mut slowest = Duration::ZERO;
    for arguments in [["status"].as_slice(), &["backend", "set", "web/web-1", "--weight", "7"]] {
        for _ in 0..TRIES {
            let begun = Instant::now();
            agent.lbctl(arguments)?.done()?;
            slowest = slowest.max(begun.elapsed());
        }
    }
    let now = agent.cost()?;
    ensure!(now.memory <= before.memory + growth, "memory went from {before:?} to {now:?}");
    agent.assert_alive()?;
    let (old, new) = (before.memory, now.memory);
    Ok(format!("lbctl took at most {} ms; memory {old} KiB before, {new} KiB now", slowest.as_millis()))
}

/// Starts the agent of the test, and measures its cost before the abuse.
fn start<'a>(world: &'a World, config: &str) -> Result<(Agent<'a>, Cost)> {
    // The limit of this process, which opens the crowd; the agent raises its own limit.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let agent = world.start(config)?;
    for _ in 0..TRIES {
        agent.lbctl(&["status"])?.done()?;
    }
    let cost = agent.cost()?;
    Ok((agent, cost))
}

/// Opens many connections, each of which sends these bytes and then stays silent.
fn crowd(agent: &Agent<'_>, many: usize, sends: &[u8]) -> Result<Vec<UnixStream>> {
    let mut crowd = Vec::new();
    for _ in 0..many {
        let mut stream = UnixStream::connect(agent.world.socket())?;
        stream.set_nonblocking(true)?;
        // Not an error: the agent closed a connection in favour of others, or the bytes do not fit into a socket's buffer.
        let _sent = stream.write(sends);
        crowd.push(stream);
    }
    Ok(crowd)
}

#[test]
fn a_thousand_connections_that_say_nothing() -> Result<()> {
    isolated(test_name!(), |world| {
        let (mut agent, before) = start(world, CONFIG)?;
        let _crowd = crowd(&agent, CROWD, b"")?;
        assert_unmoved(&mut agent, before, "silent")?;
        let now = agent.cost()?;
        ensure!(now.descriptors <= before.descriptors + 130, "{before:?}, {now:?}");
        Ok(())
    })
}

#[test]
fn a_thousand_halves_of_a_head() -> Result<()> {
    isolated(test_name!(), |world| {
        let (mut agent, before) = start(world, CONFIG)?;
        let head = format!("GET /v1/status HTTP/1.1\r\nHost: lb\r\nX-Filler: {}", "a".repeat(12_000));
        let _crowd = crowd(&agent, CROWD, head.as_bytes())?;
        assert_unmoved(&mut agent, before, "half a head")
    })
}

#[test]
fn a_thousand_halves_of_a_body() -> Result<()> {
    isolated(test_name!(), |world| {
        let (mut agent, before) = start(world, CONFIG)?;
        let request = format!(
            "POST /v1/services HTTP/1.1\r\nHost: lb\r\nContent-Length: 1000000\r\n\r\n{}",
            " ".repeat(100_000)
        );
        let _crowd = crowd(&agent, CROWD, request.as_bytes())?;
        assert_unmoved(&mut agent, before, "half a body")
    })
}

#[test]
fn a_thousand_clients_that_send_a_byte_at_a_time() -> Result<()> {
    isolated(test_name!(), |world| {
        let (mut agent, before) = start(world, CONFIG)?;
        let mut crowd = crowd(&agent, CROWD, b"G")?;
        let request = b"ET /v1/status HTTP/1.1\r\nHost: lb\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        let ends = Arc::new(AtomicBool::new(false));
        let drip = {
            let ends = Arc::clone(&ends);
            thread::spawn(move || {
                for byte in request.iter().cycle() {
                    for stream in &mut crowd {
                        let _closed = stream.write(&[*byte]);
                    }
                    if ends.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            })
        };
        let outcome = assert_unmoved(&mut agent, before, "a byte at a time");
        ends.store(true, Ordering::Relaxed);
        ensure!(drip.join().is_ok(), "the drip failed");
        outcome
    })
}

/// Sends bodies of 100 MB one after another, as long as the agent takes them; counts the bytes.
fn flood(socket: &PathBuf, chunked: bool, ends: &AtomicBool, sent: &AtomicU64) {
    const BODY: usize = 100_000_000;
    let piece = vec![b' '; 64 * 1024];
    while !ends.load(Ordering::Relaxed) {
        let Ok(mut stream) = UnixStream::connect(socket) else { continue };
        let length =
            if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {BODY}") };
        let head = format!("POST /v1/config/apply HTTP/1.1\r\nHost: lb\r\n{length}\r\n\r\n");
        let mut left = BODY;
        let mut good = stream.write_all(head.as_bytes()).is_ok();
        while good && left > 0 && !ends.load(Ordering::Relaxed) {
            good = !chunked || write!(stream, "{:x}\r\n", piece.len()).is_ok();
            good =
                good && stream.write_all(&piece).is_ok() && (!chunked || stream.write_all(b"\r\n").is_ok());
            left = left.saturating_sub(piece.len());
            sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        let _answer = stream.read(&mut [0; 512]);
    }
}

#[test]
fn bodies_of_100_mb_announced_and_not() -> Result<()> {
    isolated(test_name!(), |world| {
        let (mut agent, before) = start(world, CONFIG)?;
        let ends = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let floods: Vec<_> = (0..8)
            .map(|number| {
                let (socket, ends, sent) = (world.socket(), Arc::clone(&ends), Arc::clone(&sent));
                thread::spawn(move || flood(&socket, number % 2 == 0, &ends, &sent))
            })
            .collect();
        let mut outcome = measured(&mut agent, before, GROWTH_OF_BODIES);
        while outcome.is_ok() && sent.load(Ordering::Relaxed) < 100_000_000 {
            outcome = measured(&mut agent, before, GROWTH_OF_BODIES);
        }
        ends.store(true, Ordering::Relaxed);
        for flood in floods {
            ensure!(flood.join().is_ok(), "a flood failed");
        }
        eprintln!("100 MB bodies, {} MB sent: {}", sent.load(Ordering::Relaxed) / 1_000_000, outcome?);
        Ok(())
    })
}

#[test]
fn too_many_clients_that_do_not_read_answers() -> Result<()> {
    isolated(test_name!(), |world| {
        // An answer that does not fit into a socket's buffer.
        let mut config =
            CONFIG.replace("backends = 64", "backends = 4096").replace("slots = 4096", "slots = 524288")
                + "[[service]]\nname = \"large\"\nlisten = \"tcp/203.0.113.99:0\"\nmax_backends = 1800\n";
        for number in 0..1800 {
            config += &format!(
                "[[service.backend]]\nname = \"{}-{number}\"\naddress = \"{}\"\n",
                "a-name-as-long-as-names-may-be-and-then-a-little-more",
                address(number)
            );
        }
        let (mut agent, _) = start(world, &config)?;
        let request = b"GET /v1/config HTTP/1.1\r\nHost: lb\r\n\r\n";
        let mut stream = UnixStream::connect(world.socket())?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(answer.len() > 250_000, "the answer has {} bytes only", answer.len());
        let before = agent.cost()?;
        let _crowd = crowd(&agent, 150, request)?;
        // The crowd asks for much, and came first.
        agent.lbctl(&["status"])?.done()?;
        let most = 128 * answer.len() as u64 / 1024;
        let outcome = measured(&mut agent, before, GROWTH + most)?;
        eprintln!("answers of {} bytes unread: {outcome}", answer.len());
        Ok(())
    })
}
