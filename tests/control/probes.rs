//! Health checks over links that lose packets, and in parallel to backends that are silent: real servers in a network of
//! their own, where nftables drops packets.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use serde_json::Value;

use crate::{
    agent::Agent,
    bad_health_targets::{inside, make_backends},
    world::{World, isolated, until, wait_for},
};

/// Sets rules for packets that come into the network of the backends.
pub(crate) fn filter(world: &World, rules: &str) -> Result<()> {
    let mut nft = world.command("nsenter")?;
    let mut child = nft
        .args(["--net=/run/netns/backends", "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("running nft")?;
    let text = format!(
        "table ip t {{}}\ndelete table ip t\n\
         table ip t {{ chain in {{ type filter hook input priority 0; policy accept;\n{rules}\n}}\n}}\n"
    );
    child.stdin.take().context("no pipe to nft")?.write_all(text.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refused:\n{text}");
    Ok(())
}

/// Packets that a rule with a counter has matched.
pub(crate) fn met(world: &World) -> Result<u64> {
    let mut nft = world.command("nsenter")?;
    let listed = nft.args(["--net=/run/netns/backends", "nft", "-j", "list", "table", "ip", "t"]).output()?;
    let listed: Value = serde_json::from_slice(&listed.stdout)?;
    let all = listed["nftables"].as_array().into_iter().flatten();
    let expressions = all.filter_map(|one| one["rule"]["expr"].as_array()).flatten();
    Ok(expressions.filter_map(|one| one["counter"]["packets"].as_u64()).sum())
}

/// At every address of 10.1.0.0/16 and 10.2.0.0/16 a server answers HTTP on port 8080.
pub(crate) fn servers(world: &World) -> Result<()> {
    make_backends(world)?;
    for network in ["10.1.0.0/16", "10.2.0.0/16"] {
        let mut ip = world.command("ip")?;
        ip.args(["-netns", "backends", "route", "add", "local", network, "dev", "lo"]);
        ensure!(ip.status()?.success(), "no route to {network}");
    }
    inside(|| {
        let listener = TcpListener::bind("0.0.0.0:8080")?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    // The agent closes the connection when it has read enough.
                    let _closed = answer(stream);
                });
            }
        });
        Ok(())
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    if stream.read(&mut [0; 1024])? > 0 {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
    Ok(())
}

/// A service with `count` backends from `network`.1.1 on; the check has its defaults except for the kind.
pub(crate) fn service(name: &str, port: u16, kind: &str, network: &str, count: u32) -> String {
    let mut text = format!(
        "[[service]]\nname = \"{name}\"\nlisten = \"tcp/203.0.113.10:{port}\"\nmax_backends = {count}\n\
         health = {{ kind = \"{kind}\", port = 8080 }}\n"
    );
    for n in 0..count {
        let (high, low) = (1 + n / 250, 1 + n % 250);
        text += &format!("[[service.backend]]\nname = \"b{n}\"\naddress = \"{network}.{high}.{low}\"\n");
    }
    text
}

pub(crate) fn config(services: &str) -> String {
    format!(
        "[node]\ninterface = \"lb0\"\nseed = \"control tests\"\nstate_directory = \"/run/t/state\"\n\
         [limits]\nservices = 16\nbackends = 16384\nslots = 4194304\nflows = 1024\n{services}"
    )
}

/// What the agent reports of a service's checks, one entry for each backend.
pub(crate) fn checks(agent: &Agent<'_>, service: &str) -> Result<Vec<Value>> {
    let all = agent.json(&["health"])?;
    let all = all.as_array().context("no checks")?;
    Ok(all.iter().filter(|one| one["service"] == service).cloned().collect())
}

pub(crate) fn probes(checks: &[Value]) -> u64 {
    checks.iter().filter_map(|one| one["probes"].as_u64()).sum()
}

pub(crate) fn wait_for_verdicts(agent: &Agent<'_>, service: &str, verdict: &str) -> Result<()> {
    until(&format!("every backend of {service} is {verdict}"), || {
        let checks = checks(agent, service)?;
        let other = checks.iter().find(|one| one["verdict"] != verdict);
        Ok(match other {
            None if !checks.is_empty() => Ok(()),
            _ => Err(format!("{other:?}")),
        })
    })
}

#[test]
fn loss_of_a_fifth_takes_no_good_backend_out() -> Result<()> {
    const BACKENDS: u32 = 10;
    const PROBES: u64 = 40 * BACKENDS as u64;
    isolated(test_name!(), |world| {
        servers(world)?;
        let services =
            service("tcp", 80, "tcp", "10.1", BACKENDS) + &service("http", 81, "http", "10.2", BACKENDS);
        let mut agent = world.start(&config(&services))?;
        for service in ["tcp", "http"] {
            wait_for_verdicts(&agent, service, "up")?;
        }
        filter(world, "tcp dport 8080 numgen random mod 100 < 20 counter drop")?;
        let before: Vec<u64> = ["tcp", "http"]
            .map(|s| checks(&agent, s).map(|c| probes(&c)))
            .into_iter()
            .collect::<Result<_>>()?;
        until("many probes over the lossy link", || {
            let now = [probes(&checks(&agent, "tcp")?), probes(&checks(&agent, "http")?)];
            let enough = now.iter().zip(&before).all(|(now, before)| *now >= before + PROBES);
            Ok(if enough { Ok(()) } else { Err(format!("{before:?} became {now:?}")) })
        })?;
        let lost = met(world)?;
        ensure!(lost > PROBES / 10, "only {lost} packets were lost");
        let failures: u64 = ["tcp", "http"]
            .map(|service| checks(&agent, service))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|one| one["failures"].as_u64())
            .sum();
        eprintln!("{lost} packets lost, {failures} of {} probes failed", 2 * PROBES);
        let downs = agent.lbctl(&["events", "--kind", "backend_down"])?.done()?;
        ensure!(!downs.contains("backend_down"), "{downs}");
        // The agent believes a refusal at once, and silence when the timeout is over.
        filter(
            world,
            "ip daddr 10.1.0.0/16 tcp dport 8080 reject with tcp reset\nip daddr 10.2.0.0/16 tcp dport 8080 drop",
        )?;
        for service in ["tcp", "http"] {
            wait_for_verdicts(&agent, service, "down")?;
        }
        let first = &checks(&agent, "tcp")?[0];
        ensure!(first["last"] == "connection refused", "{first}");
        agent.assert_alive()
    })
}

#[test]
fn silent_backends_delay_no_other_check() -> Result<()> {
    const SILENT: u32 = 2_000;
    isolated(test_name!(), |world| {
        servers(world)?;
        let services = service("good", 80, "tcp", "10.1", 3) + &service("silent", 81, "tcp", "10.2", SILENT);
        filter(world, "ip daddr 10.2.0.0/16 tcp dport 8080 drop")?;
        let mut agent = world.start(&config(&services))?;
        wait_for_verdicts(&agent, "good", "up")?;
        wait_for_verdicts(&agent, "silent", "down")?;
        let (begun, before) = (Instant::now(), probes(&checks(&agent, "good")?));
        wait_for("sixty more probes of three good backends", || {
            Ok((probes(&checks(&agent, "good")?) >= before + 60).then_some(()))
        })?;
        let took = begun.elapsed();
        // Ten seconds by their interval; more than a minute if they had to wait for a place that a silent backend holds.
        ensure!(took < Duration::from_secs(40), "sixty probes took {took:?}");
        filter(
            world,
            "ip daddr 10.2.0.0/16 tcp dport 8080 drop\nip daddr 10.1.1.3 tcp dport 8080 reject with tcp reset",
        )?;
        let begun = Instant::now();
        wait_for("the dead backend is out", || {
            let shown = agent.json(&["backend", "show", "good/b2"])?;
            Ok((shown["state"] == "down" && shown["slots"] == 0).then_some(()))
        })?;
        let late = agent.json(&["status"])?["services"][0]["checks_late_ms"].clone();
        eprintln!(
            "next to {SILENT} silent ones 60 probes took {took:?}, a dead backend was out after {:?}; late by {late} ms; {:?}",
            begun.elapsed(),
            agent.cost()?
        );
        agent.assert_alive()
    })
}

#[test]
fn late_checks_are_reported_until_they_are_in_time() -> Result<()> {
    isolated(test_name!(), |world| {
        servers(world)?;
        let services = service("silent", 80, "tcp", "10.2", 40);
        filter(world, "ip daddr 10.2.0.0/16 tcp dport 8080 drop")?;
        let narrow = config(&services).replace("seed =", "health_concurrency = 2\nseed =");
        let mut agent = world.start(&narrow)?;
        let line =
            |agent: &Agent<'_>| Ok::<_, anyhow::Error>(agent.json(&["status"])?["services"][0].clone());
        until("the checks are late", || {
            let line = line(&agent)?;
            let late =
                line["checks_late_ms"].as_u64() > Some(250) && line["notes"].to_string().contains("s late");
            Ok(if late { Ok(()) } else { Err(line.to_string()) })
        })?;
        let metrics = agent.lbctl(&["metrics"])?.done()?;
        let metric = metrics.lines().find(|line| line.starts_with("lb_service_checks_late_seconds{"));
        ensure!(metric.is_some_and(|line| !line.ends_with(" 0")), "{metric:?}");
        wait_for("an event says so", || {
            let events = agent.lbctl(&["events", "--kind", "checks_late"])?.done()?;
            Ok(events.contains("service silent").then_some(()))
        })?;
        filter(world, "")?;
        wait_for("they are in time again", || Ok((line(&agent)?["checks_late_ms"] == 0).then_some(())))?;
        wait_for("an event says so", || {
            let events = agent.lbctl(&["events", "--kind", "checks_in_time"])?.done()?;
            Ok(events.contains("service silent").then_some(()))
        })?;
        agent.assert_alive()
    })
}

/// A service whose two backends are asked for an echo: one of each family.
const ECHO: &str = "[[service]]\nname = \"echo\"\nlisten = \"udp/203.0.113.10:5000\"\nmax_backends = 2\n\
    health = { kind = \"icmp\", timeout = \"2s\" }\n\
    [[service.backend]]\nname = \"v4\"\naddress = \"10.1.1.1\"\n\
    [[service]]\nname = \"echo6\"\nlisten = \"udp/[2001:db8::10]:5000\"\nmax_backends = 2\n\
    health = { kind = \"icmp\", timeout = \"2s\" }\n\
    [[service.backend]]\nname = \"v6\"\naddress = \"fd00:9::2\"\n";

/// Gives the network of the backends an address of IPv6.
fn six(world: &World) -> Result<()> {
    let mut ip = world.command("ip")?;
    ip.args(["-netns", "backends", "address", "add", "fd00:9::2/64", "dev", "lb0p", "nodad"]);
    ensure!(ip.status()?.success(), "no address of IPv6");
    Ok(())
}

/// Lets these groups have datagram ICMP sockets.
pub(crate) fn ping_groups(groups: &str) -> Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", groups).context("ping_group_range")
}

pub(crate) fn wait_for_words(agent: &Agent<'_>, service: &str, verdict: &str, words: &str) -> Result<()> {
    until(&format!("{service} is {verdict}: {words}"), || {
        let checks = checks(agent, service)?;
        let found = |one: &Value| {
            one["verdict"] == verdict && one["last"].as_str().unwrap_or_default().contains(words)
        };
        Ok(if checks.iter().all(found) && !checks.is_empty() { Ok(()) } else { Err(format!("{checks:?}")) })
    })
}

#[test]
fn echo_requests_are_sent_by_either_kind_of_socket() -> Result<()> {
    isolated(test_name!(), |world| {
        servers(world)?;
        six(world)?;
        // No group may: raw sockets. Then root's group may: datagram sockets.
        for groups in ["1 0", "0 0"] {
            ping_groups(groups)?;
            let agent = world.start(&config(ECHO))?;
            for service in ["echo", "echo6"] {
                wait_for_verdicts(&agent, service, "up")?;
            }
            // A fifth of all requests and replies is lost.
            filter(world, "icmp type echo-request numgen random mod 100 < 20 counter drop")?;
            let before = probes(&checks(&agent, "echo")?);
            wait_for("forty probes over a lossy link", || {
                Ok((probes(&checks(&agent, "echo")?) >= before + 40).then_some(()))
            })?;
            ensure!(met(world)? > 0, "no packet was lost");
            let downs = agent.lbctl(&["backend", "events", "echo/v4", "--kind", "backend_down"])?.done()?;
            ensure!(downs.is_empty(), "{groups}: {downs}");
            filter(world, "icmp type echo-request reject with icmp type admin-prohibited")?;
            wait_for_words(
                &agent,
                "echo",
                "down",
                "administratively prohibited (ICMP type 3 code 13 from 10.1.1.1)",
            )?;
            filter(world, "icmp type echo-request drop")?;
            wait_for_words(&agent, "echo", "down", "no echo reply within 2000 ms")?;
            filter(world, "")?;
            wait_for_verdicts(&agent, "echo", "up")?;
            let shown = agent.json(&["service", "show", "echo"])?;
            ensure!(shown["health"] == "icmp every 500ms", "{shown}");
            agent.end(nix::sys::signal::Signal::SIGTERM)?;
        }
        Ok(())
    })
}

#[test]
fn without_permission_no_echo_is_asked_for() -> Result<()> {
    isolated(test_name!(), |world| {
        servers(world)?;
        ping_groups("1 0")?;
        world.write("lb.toml", config(ECHO))?;
        let mut command = world.command("setpriv")?;
        command.args(["--bounding-set=-net_raw", "--"]).arg(crate::world::binary("lbd")?);
        let mut agent = Agent::run(world, &mut command)?;
        ensure!(agent.serves()?.is_none(), "the agent ended:\n{}", agent.log());
        wait_for_words(&agent, "echo", "checking", "not asked: no permission for ICMP sockets")?;
        let line = agent.json(&["status"])?["services"][0].clone();
        ensure!(line["notes"].to_string().contains("1 backend is not checked"), "{line}");
        agent.assert_alive()
    })
}

/// The answer to a DNS query about any name: 192.0.2.1, or cut off.
fn dns_answer(query: &[u8], cut_off: bool) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(if cut_off { &[0x83, 0x80] } else { &[0x81, 0x80] });
    if !cut_off {
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    answer
}

/// A name server on port 53 of every address of the backends, whose answers over UDP are all cut off.
fn name_server() -> Result<()> {
    let socket = std::net::UdpSocket::bind("10.1.1.1:53")?;
    let listener = TcpListener::bind("10.1.1.1:53")?;
    thread::spawn(move || {
        let mut room = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut room) {
            // The agent may have closed its socket.
            let _closed = socket.send_to(&dns_answer(&room[..length], true), from);
        }
    });
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut room = [0; 512];
            let _closed = stream.read(&mut room).and_then(|length| {
                let answer = dns_answer(room.get(2..length).unwrap_or_default(), false);
                stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat())
            });
        }
    });
    Ok(())
}

#[test]
fn a_name_server_is_asked_on_the_port_of_its_udp_service() -> Result<()> {
    isolated(test_name!(), |world| {
        servers(world)?;
        inside(name_server).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let dns = "[[service]]\nname = \"dns\"\nlisten = \"udp/203.0.113.10:53\"\nmax_backends = 2\n\
            health = { kind = \"dns\", name = \"www.example\", type = \"A\", answer = \"192.0.2.1\", timeout = \"2s\" }\n\
            [[service.backend]]\nname = \"b\"\naddress = \"10.1.1.1\"\n";
        let mut agent = world.start(&config(dns))?;
        wait_for_verdicts(&agent, "dns", "up")?;
        let shown = agent.json(&["service", "show", "dns"])?;
        ensure!(shown["health"] == "dns port 53 name www.example type A every 500ms", "{shown}");
        let set = |arguments: &[&str]| agent.lbctl(&[&["service", "set", "dns"], arguments].concat())?.done();
        set(&["--health-answer", "192.0.2.2"])?;
        wait_for_words(&agent, "dns", "down", "tcp: the answer has A 192.0.2.1, not 192.0.2.2")?;
        set(&["--health-answer", "192.0.2.1", "--health-transport", "tcp"])?;
        wait_for_verdicts(&agent, "dns", "up")?;
        // A fifth of all segments is lost.
        filter(world, "tcp dport 53 numgen random mod 100 < 20 counter drop")?;
        let before = probes(&checks(&agent, "dns")?);
        wait_for("forty probes over a lossy link", || {
            Ok((probes(&checks(&agent, "dns")?) >= before + 40).then_some(()))
        })?;
        let last = agent.lbctl(&["backend", "events", "dns/b", "-n", "1"])?.done()?;
        ensure!(met(world)? > 0 && last.contains("backend_up"), "{last}");
        filter(world, "tcp dport 53 reject with tcp reset")?;
        wait_for_words(&agent, "dns", "down", "connection refused")?;
        agent
            .lbctl(&["service", "set", "dns", "--health-code", "refused"])?
            .refused(2, &["health.answer is set"]);
        agent.assert_alive()
    })
}
