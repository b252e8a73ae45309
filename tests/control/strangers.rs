//! Packets of strangers in answer to checks: floods, and forged errors and replies that have everything but what only the backend
//! can know. They take no backend out, keep none in, and hold up no other check.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, sendto, socket,
};

use crate::{
    bad_health_targets::inside,
    probes::{checks, config, filter, ping_groups, probes, servers, service, wait_for_verdicts},
    world::{World, isolated, wait_for},
};

const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const AGENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

const ECHO: &str = "[[service]]\nname = \"echo\"\nlisten = \"udp/203.0.113.10:5000\"\nmax_backends = 2\n\
    health = { kind = \"icmp\", timeout = \"2s\" }\n\
    [[service.backend]]\nname = \"b\"\naddress = \"10.1.1.1\"\n";

/// An ICMP message with its checksum.
fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    let words = message.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}

/// A request from the agent to the backend, as an error quotes it.
fn quoted(identifier: u16, number: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 1, 0, 0];
    packet.extend(AGENT.octets());
    packet.extend(BACKEND.octets());
    let mut rest = Vec::from(identifier.to_be_bytes());
    rest.extend(number.to_be_bytes());
    packet.extend(icmp(8, 0, &[&rest[..], &[0; 16]].concat()));
    packet
}

/// From the backend's address: replies with any identifier, and errors that quote requests with any identifier, one number for
/// each round. Until `stop`.
fn flood(stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> thread::JoinHandle<Result<()>> {
    inside(move || {
        let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(BACKEND, 0)))?;
        let to = SockaddrIn::from(SocketAddrV4::new(AGENT, 0));
        let send = |packet: &[u8]| sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty());
        for round in 0_u32.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (identifier, number) = (round as u16, (round >> 16) as u16);
            let fields = [identifier.to_be_bytes(), number.to_be_bytes()].concat();
            // A full queue of the link is no error of the test.
            let _full = send(&icmp(0, 0, &[&fields[..], &[0; 16]].concat()));
            for code in [1, 3, 13] {
                let _full = send(&icmp(3, code, &[&[0; 4][..], &quoted(identifier, number)].concat()));
            }
            sent.fetch_add(4, Ordering::Relaxed);
            if round % 64 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    })
}

/// How many failures the checks of a service count.
fn failures(agent: &crate::agent::Agent<'_>, service: &str) -> Result<u64> {
    Ok(checks(agent, service)?.iter().filter_map(|one| one["failures"].as_u64()).sum())
}

fn flooded(world: &World, groups: &str) -> Result<()> {
    ping_groups(groups)?;
    let services = ECHO.to_owned() + &service("tcp", 80, "tcp", "10.1", 3);
    let mut agent = world.start(&config(&services))?;
    for service in ["echo", "tcp"] {
        wait_for_verdicts(&agent, service, "up")?;
    }
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let flood = flood(stop.clone(), sent.clone());
    let before = [probes(&checks(&agent, "echo")?), probes(&checks(&agent, "tcp")?)];
    let asked = wait_for("forty probes of each service under the flood", || {
        let now = [probes(&checks(&agent, "echo")?), probes(&checks(&agent, "tcp")?)];
        Ok((now[0] >= before[0] + 40 && now[1] >= before[1] + 40).then_some(()))
    });
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("the flood")?;
    asked?;
    let sent = sent.load(Ordering::Relaxed);
    eprintln!("{groups}: {sent} packets, {} failures of the echo", failures(&agent, "echo")?);
    ensure!(sent > 10_000, "only {sent} packets");
    for service in ["echo", "tcp"] {
        ensure!(failures(&agent, service)? == 0, "{:?}", checks(&agent, service)?);
    }
    // The forged replies keep nothing in: without the backend's own the check fails.
    filter(world, "icmp type echo-request drop")?;
    wait_for_verdicts(&agent, "echo", "down")?;
    filter(world, "")?;
    agent.assert_alive()?;
    agent.end(nix::sys::signal::Signal::SIGTERM)
}

#[test]
fn a_flood_of_forged_icmp_fails_no_check_and_holds_none_up() -> Result<()> {
    isolated(test_name!(), |world| {
        servers(world)?;
        // Raw sockets, which see all ICMP of the backend, and then datagram sockets.
        for groups in ["1 0", "0 0"] {
            flooded(world, groups)?;
        }
        Ok(())
    })
}
