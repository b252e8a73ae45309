//! A datagram with a spoofed source, the address of another service here: two services would answer each other for ever.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use xtask::{
    lab::{BALANCER, CLIENT, CLIENT_V4, Lab, Node, ROUTER, VIP_V4, backend_name},
    run, wait,
};

use crate::{
    Test,
    echo::PORT,
    scene::{Scene, service, until},
};

pub(crate) const TESTS: &[Test] =
    &[("spoofed::a_datagram_from_another_service_does_not_go_round", goes_not_round)];

/// The address of the other service.
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

fn ip(node: &Node, arguments: &str) -> Result<()> {
    run::capture(node.command("ip").args(arguments.split(' '))).map(drop)
}

/// Answers datagrams to the other service's address on the second backend, and counts them, until `stop`.
fn answer(lab: &Lab, stop: &Arc<AtomicBool>) -> Result<(std::thread::JoinHandle<()>, Arc<AtomicU64>)> {
    let node = lab.node(&backend_name(1))?;
    // A host that has the first service's address would send its answers to that address to itself.
    ip(node, &format!("address del {VIP_V4}/32 dev lo"))?;
    ip(node, &format!("address add {OTHER}/32 dev lo"))?;
    let socket = node.enter(|| UdpSocket::bind((OTHER, PORT)))??;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let (stop, count) = (Arc::clone(stop), Arc::new(AtomicU64::new(0)));
    let answered = Arc::clone(&count);
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                count.fetch_add(1, Ordering::Relaxed);
                socket.send_to(&buffer[..length], from).ok();
            }
        }
    });
    Ok((thread, answered))
}

/// A socket of the client, bound to any address.
fn bound(lab: &Lab, to: SocketAddr) -> Result<UdpSocket> {
    let socket = lab.node(CLIENT)?.enter(|| UdpSocket::bind(to))??;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

/// Asks a service as a client does, until the service answers.
fn asks(lab: &Lab, address: Ipv4Addr) -> Result<()> {
    let socket = bound(lab, (CLIENT_V4, 0).into())?;
    until(&format!("{address} answers"), || {
        socket.send_to(b"asks", (address, PORT))?;
        let mut buffer = [0; 64];
        Ok(socket.recv_from(&mut buffer).map(drop).map_err(|error| error.to_string()))
    })
}

fn goes_not_round() -> Result<()> {
    let config = Scene::lab();
    let address = |index| vec![config.backend_address(index).0.to_string()];
    let services = [
        service("one", &format!("udp/{VIP_V4}:{PORT}"), "false", &address(0)),
        service("two", &format!("udp/{OTHER}:{PORT}"), "false", &address(1)),
    ];
    let scene = Scene::with("", &services.concat(), &[])?;
    let stop = Arc::new(AtomicBool::new(false));
    let result = answer(&scene.lab, &stop).and_then(|(thread, answered)| {
        let result = spoof(&scene, &answered);
        stop.store(true, Ordering::Relaxed);
        thread.join().ok().context("the second backend's server panicked")?;
        result
    });
    scene.judge(result)
}

fn spoof(scene: &Scene, answered: &AtomicU64) -> Result<()> {
    let (lab, agent) = (&scene.lab, &scene.agent);
    let balancer =
        lab.config().links().into_iter().flat_map(|link| link.ends).find(|end| end.node == BALANCER);
    let via = balancer.context("the balancer has no cable")?.v4;
    ip(lab.node(ROUTER)?, &format!("route add {OTHER}/32 via {via}"))?;
    asks(lab, VIP_V4)?;
    asks(lab, OTHER)?;
    // The client takes the other service's address as its own.
    ip(lab.node(CLIENT)?, &format!("address add {OTHER}/32 dev lo"))?;
    let spoofed = bound(lab, (OTHER, PORT).into())?;
    let (dropped, before) = (agent.counter("martian_source")?, answered.load(Ordering::Relaxed));
    let forwarded = agent.counter("forwarded_tx")? + agent.counter("forwarded_redirect")?;
    const SENT: u64 = 20;
    for _ in 0..SENT {
        spoofed.send_to(b"goes round", (VIP_V4, PORT))?;
    }
    wait::until("all are dropped", wait::limit(), || {
        let so_far = agent.counter("martian_source")? - dropped;
        Ok(if so_far >= SENT { Ok(()) } else { Err(format!("{so_far} of {SENT}")) })
    })?;
    // A client's datagram after them has been there and back, so a datagram that loops would have come round, too.
    asks(lab, VIP_V4)?;
    let so_far = agent.counter("martian_source")? - dropped;
    ensure!(so_far == SENT, "{so_far} of {SENT} datagrams were dropped");
    let round = answered.load(Ordering::Relaxed) - before;
    ensure!(round == 0, "the second backend answered {round} of them");
    let more = agent.counter("forwarded_tx")? + agent.counter("forwarded_redirect")? - forwarded;
    // The client may have sent its datagram more than once.
    ensure!(more < SENT, "{more} packets were forwarded");
    Ok(())
}
