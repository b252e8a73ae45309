//! MTUs that differ along the path, with kernels that do not probe for it (`tcp_mtu_probing = 0`, their default): what
//! routers report reaches the backends through the balancer, and the balancer reports what is too big for its backends.
//! And echo requests to the virtual addresses.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
};

use anyhow::{Context, Result, ensure};
use lb_tests::frame::ipv4_checksum;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use xtask::{
    lab::{self, BALANCER, CLIENT, CLIENT_V4, CLIENT_V6, Node, ROUTER, VIP_V4, VIP_V6, backend_name},
    run, wait,
};

use crate::{
    Test,
    client::there_and_back,
    scene::{Scene, on_usual, until, usual},
};

pub(crate) const TESTS: &[Test] = &[
    ("mtu::the_virtual_addresses_answer_echo_requests", echo),
    ("mtu::a_router_with_a_smaller_mtu_is_heard_by_backends", download),
    ("mtu::clients_learn_the_mtu_of_the_tunnel", upload),
];

/// Bytes that are sent and come back.
const BYTES: usize = 10_000_000;

fn ip(node: &Node, arguments: &str) -> Result<String> {
    run::capture(node.command("ip").args(arguments.split(' ')))
}

/// Asserts that nodes learn the path's MTU by ICMP, and by nothing else.
fn no_probing(scene: &Scene) -> Result<()> {
    for index in 0..scene.lab.config().backends {
        let node = scene.lab.node(&backend_name(index))?;
        let value = node.enter(|| std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mtu_probing"))??;
        ensure!(value.trim() == "0", "tcp_mtu_probing is {value}");
    }
    Ok(())
}

/// Sends an echo request to the virtual address; whether a reply to it came.
fn ping(v6: bool, sequence: u16, payload: usize) -> Result<()> {
    let (family, protocol) = if v6 {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    } else {
        (AddressFamily::Inet, SockProtocol::Icmp)
    };
    let raw: OwnedFd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let socket = UdpSocket::from(raw);
    socket.set_read_timeout(Some(wait::limit()))?;
    let vip: IpAddr = if v6 { VIP_V6.into() } else { VIP_V4.into() };
    socket.connect(SocketAddr::new(vip, 0))?;
    let (request, reply) = if v6 { (128, 129) } else { (8, 0) };
    let mut message = vec![request, 0, 0, 0, 0x1b, 0x1b];
    message.extend(sequence.to_be_bytes());
    message.extend((0..payload).map(|number| number as u8));
    if !v6 {
        let sum = ipv4_checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    socket.send(&message)?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).context("no reply to an echo request")?;
        // IPv4 sockets of this kind get the IP header, too.
        let came = if v6 { &buffer[..length] } else { &buffer[20..length] };
        if came[0] == reply && came[4..] == message[4..] {
            return Ok(());
        }
    }
}

fn echo() -> Result<()> {
    on_usual(|scene| {
        const REQUESTS: u16 = 10;
        let before = scene.agent.counter("echo")?;
        let client = scene.lab.node(CLIENT)?;
        for v6 in [false, true] {
            for sequence in 0..REQUESTS {
                client.enter(|| ping(v6, sequence, usize::from(sequence) * 140 + 1))??;
            }
        }
        let answered = scene.agent.counter("echo")? - before;
        ensure!(answered == u64::from(REQUESTS) * 2, "the balancer answered {answered} requests");
        Ok(())
    })
}

fn download() -> Result<()> {
    on_usual(|scene| {
        no_probing(scene)?;
        // Towards the client only: what the client sends is as large as before.
        let router = scene.lab.node(ROUTER)?;
        ip(router, &format!("route replace {CLIENT_V4}/32 dev {CLIENT} mtu 1400"))?;
        ip(router, &format!("route replace {CLIENT_V6}/128 dev {CLIENT} mtu 1400"))?;
        for v6 in [false, true] {
            let before = scene.agent.counter("icmp_steered")?;
            let name = there_and_back(&scene.lab, v6, BYTES)?;
            let steered = scene.agent.counter("icmp_steered")? - before;
            ensure!(steered > 0, "no error of the router came by");
            let client = if v6 { CLIENT_V6.to_string() } else { CLIENT_V4.to_string() };
            let route = ip(scene.lab.node(&name)?, &format!("route get {client}"))?;
            ensure!(route.contains("mtu 1400"), "{name} has not learnt the MTU: {route}");
        }
        ensure!(scene.agent.counter("icmp_quote")? == 0, "an error of the router was not understood");
        Ok(())
    })
}

fn upload() -> Result<()> {
    // No link has room for the outer header.
    let config = lab::Config { direct: false, client_mtu: 1500, fabric_mtu: 1500, ..Scene::lab() };
    let scene = Scene::in_lab(&config, &usual(&config, config.backends))?;
    let result = (|| {
        no_probing(&scene)?;
        let reported = |v6: bool, mtu: u32| -> Result<()> {
            let before = scene.agent.counter("packet_too_big")?;
            there_and_back(&scene.lab, v6, BYTES).with_context(|| format!("an MTU of {mtu}"))?;
            let answered = scene.agent.counter("packet_too_big")? - before;
            ensure!(answered > 0, "no one learnt it");
            let vip = if v6 { VIP_V6.to_string() } else { VIP_V4.to_string() };
            let route = ip(scene.lab.node(CLIENT)?, &format!("route get {vip}"))?;
            ensure!(route.contains(&format!("mtu {mtu}")), "the client has not learnt {mtu}: {route}");
            Ok(())
        };
        reported(false, 1480)?;
        reported(true, 1460)?;
        // And a smaller one between balancer and backends.
        let balancer = scene.lab.node(BALANCER)?;
        for route in config.routes().iter().filter(|route| route.node == BALANCER) {
            ip(balancer, &format!("route replace {} via {} mtu 1400", route.to_v4, route.via_v4))?;
            ip(balancer, &format!("route replace {} via {} mtu 1400", route.to_v6, route.via_v6))?;
        }
        until("the agent sees the MTU", || {
            let shown =
                scene.agent.ctl(&["backend", "show", &format!("echo/{}", backend_name(0))])?.to_string();
            Ok(if shown.contains("1400") { Ok(()) } else { Err(shown) })
        })?;
        reported(false, 1380)?;
        reported(true, 1360)
    })();
    scene.judge(result)
}
