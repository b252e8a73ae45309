//! The network of a cell: the device under test leads from the balancer, which is the test's own namespace, to a segment
//! with a client and a backend.
//!
//! ```text
//!   balancer ── device ══ segment ═╤═ client   10.7.0.2
//!   10.7.0.1                       └─ backend  10.7.0.3, with the service's address
//!      └───────── in0 ────────────── client, only where packets come in by another interface
//! ```

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use xtask::{lab::xdp::PassProgram, wait};

use super::{device::Device, tap, traffic};
use crate::{agent::Said, world::World};

pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(super) const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 3);
pub(super) const PORT: u16 = 80;

/// The outer header fits into this MTU as well: no packet is too big.
const MTU: u32 = 1600;

/// Runs a closure on a thread in a network namespace of the scene.
pub(super) fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn(namespace, work)?.join().map_err(|_| anyhow!("a thread of the test panicked"))?
}

fn spawn<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<thread::JoinHandle<Result<T>>> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    Ok(thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        work()
    }))
}

/// Runs shell commands in a namespace of the scene; without a name, on the balancer.
pub(super) fn shell(namespace: &str, script: &str) -> Result<String> {
    let mut command = if namespace.is_empty() {
        Command::new("sh")
    } else {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg("sh");
        command
    };
    Said::of(command.args(["-ec", script]))?.done().with_context(|| format!("{namespace}: {script}"))
}

/// Makes the network. `apart`: the client has a cable of its own to the balancer.
pub(super) fn make(world: &World, device: Device, apart: bool) -> Result<()> {
    std::fs::create_dir_all("/run/netns")?;
    shell("", "for name in segment client backend; do ip netns add $name; done; ip link del lb0")?;
    cable("segment", "client", "client", "eth0")?;
    cable("segment", "backend", "backend", "eth0")?;
    shell("segment", &format!("ip link add seg0 mtu {MTU} type bridge; ip link set seg0 up"))?;
    for &(near, far) in device.cables() {
        match device {
            Device::Tap => tap::cable(near, "segment", far)?,
            _ => cable("", near, "segment", far)?,
        }
        let up = format!("ip link set $1 mtu {MTU} up");
        let (tagged, port) = match device {
            Device::Vlan => (
                format!("ip link add link far name far.7 mtu {MTU} type vlan id 7; ip link set far.7 up"),
                "far.7",
            ),
            _ => (String::new(), far),
        };
        shell("segment", &format!("set -- {far}; {up}; {tagged}\nip link set {port} master seg0"))?;
        shell("", &format!("set -- {near}; {up}"))?;
    }
    shell("segment", "for port in client backend; do ip link set $port master seg0; done")?;
    shell("", device.above())?;
    match device {
        Device::VethWithGro => drop(shell("segment", "ethtool -K far gro on >/dev/null")?),
        Device::VethWithProgram | Device::Bond => {
            device.cables().iter().try_for_each(|(_, far)| program(far))?;
        }
        _ => {}
    }
    let interface = device.interface();
    shell("", &format!("ip address add 10.7.0.1/24 dev {interface}"))?;
    shell("client", "ip link set eth0 mtu 1500; ip address add 10.7.0.2/24 dev eth0")?;
    if apart {
        cable("client", "own0", "", "in0")?;
        shell(
            "client",
            "ip link set own0 mtu 1500; ip address add 10.8.0.2/24 dev own0; ip route add 203.0.113.10 via 10.8.0.1 src 10.7.0.2",
        )?;
        shell("", "ip address add 10.8.0.1/24 dev in0; ip route add 10.7.0.2 via 10.8.0.2")?;
    } else {
        shell("client", "ip route add 203.0.113.10 via 10.7.0.1")?;
    }
    shell("backend", "ip address add 10.7.0.3/24 dev eth0; ip address add 203.0.113.10/32 dev lo")?;
    decap(world, &["attach", "--interface", "eth0", "--address", "10.7.0.3"])?;
    let listener = inside("backend", || Ok(TcpListener::bind(SocketAddr::from((VIP, PORT)))?))?;
    thread::spawn(move || traffic::serve(&listener));
    Ok(())
}

/// Attaches an XDP program that passes everything to an interface of the segment.
pub(super) fn program(interface: &'static str) -> Result<()> {
    inside("segment", || PassProgram::here(interface))
}

/// Sends datagrams from the client to the service; no program answers them.
pub(super) fn datagrams(count: u64) -> Result<()> {
    inside("client", move || {
        for number in 0..count {
            // A socket for each datagram: an ICMP error for one datagram must not become the error of the next one.
            let socket = UdpSocket::bind("10.7.0.2:0")?;
            socket.send_to(&number.to_be_bytes(), (VIP, PORT))?;
        }
        Ok(())
    })
}

/// Makes a veth pair between two namespaces, up, without the offloads that hand on packets no wire would carry.
fn cable(near: &str, name: &str, far: &str, peer: &str) -> Result<()> {
    let place =
        |namespace: &str| if namespace.is_empty() { String::new() } else { format!("netns {namespace}") };
    shell(
        near,
        &format!(
            "ip link add {name} mtu {MTU} type veth peer name {peer} mtu {MTU} {}",
            here_or(&place(far))
        ),
    )?;
    for (namespace, interface) in [(near, name), (far, peer)] {
        shell(
            namespace,
            &format!(
                "ethtool -K {interface} tx off tso off gso off gro off txvlan off >/dev/null\n\
                 sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
                 net.ipv4.conf.{interface}.rp_filter=0\n\
                 ip link set lo up; ip link set {interface} up"
            ),
        )?;
    }
    Ok(())
}

/// The balancer's namespace has no name: it is the namespace of this thread of the test.
fn here_or(place: &str) -> String {
    if place.is_empty() { format!("netns {}", nix::unistd::gettid()) } else { place.to_owned() }
}

/// `lbd decap` on the backend, as on a host: its pins stay when it ends.
fn decap(world: &World, arguments: &[&str]) -> Result<String> {
    let lbd = crate::world::binary("lbd")?.display().to_string();
    world.booted(&["nsenter", "--net=/run/netns/backend", &lbd, "decap"], arguments)?.done()
}

/// Packets from which the backend has taken the outer header off.
pub(super) fn arrived(world: &World) -> Result<u64> {
    let text = decap(world, &["stats", "--interface", "eth0"])?;
    let line = text.lines().find(|line| line.contains("decapsulated")).context("no such counter")?;
    let count = line.split_whitespace().find_map(|word| word.parse().ok());
    count.with_context(|| format!("no number in {line:?}"))
}

/// Frames that devices of the scene took and dropped later, by their own counters: a queue is full when no processor empties
/// it in time. The number may be too high, since devices drop frames of other kinds, too.
pub(super) fn dropped_by_devices() -> Result<u64> {
    let mut dropped = 0;
    for namespace in ["", "segment", "backend"] {
        let links: Value = serde_json::from_str(&shell(namespace, "ip -s -j link show")?)?;
        for link in links.as_array().context("no list of links")? {
            for way in ["rx", "tx"] {
                let count = link["stats64"][way]["dropped"].as_u64();
                dropped += count.with_context(|| format!("{namespace}: no counters of {link}"))?;
            }
        }
    }
    Ok(dropped)
}

/// Transfers 10 MB there and back over one connection from the client to the service.
pub(super) fn transfer() -> Result<()> {
    let done = inside("client", || {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((VIP, PORT)), wait::limit())?;
        traffic::exchange(stream)
    })?;
    ensure!(done == traffic::BYTES, "{done} bytes came back");
    Ok(())
}
