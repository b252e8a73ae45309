//! A new program replaces the old one, again and again, under traffic on a real interface: every packet
//! reaches its backend, and at every moment the kernel reports a program on the interface.

use std::{
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use lb_common::slot::since;
use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recv, send,
            setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

use super::{
    kill::{flow, wanted},
    traffic::frame,
    *,
};
use crate::{
    bpf::xdp_netlink::program_on,
    config::spec::AttachMode,
    reconcile::Reconciler,
    tables::{Tables, memory::Packet},
    tools::xdp_pass,
    wait::LIMIT,
};

/// A packet socket for the frames of an interface.
fn socket_on(interface: u32) -> std::os::fd::OwnedFd {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: all as u16,
        sll_ifindex: interface as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to a live sockaddr_ll of that length.
    let address =
        unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(size_of_val(&address) as u32)) };
    bind(socket.as_raw_fd(), &address.unwrap()).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(2, 0)).unwrap();
    socket
}

/// Stops the other threads, also when this thread panics: a thread scope waits for all of them.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends a packet and waits for it to come back encapsulated. Returns the backend's last octet.
fn ask(socket: &std::os::fd::OwnedFd, packet: &Packet) -> Option<u8> {
    let frame = frame(packet);
    send(socket.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
    let mut answer = [0u8; 256];
    loop {
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
        let ours = length == frame.len() + 20 && answer[34..84] == frame[14..];
        if ours {
            return Some(answer[33]);
        }
    }
}

#[test]
fn an_upgrade_under_traffic_loses_no_packet() {
    isolated("an_upgrade_under_traffic_loses_no_packet", |world| {
        veth("lbt0");
        run("ethtool -K lbt0p tx off");
        xdp_pass::attach("lbt0p").unwrap();
        let index = if_nametoindex("lbt0").unwrap();
        let peer = if_nametoindex("lbt0p").unwrap();
        let up = (true, true);
        let here = |backends: &[(u8, (bool, bool))]| {
            let mut wanted = wanted(backends, 251);
            let backends = wanted.services.iter_mut().flat_map(|service| &mut service.backends);
            backends.for_each(|backend| backend.record.interface = index);
            wanted
        };
        let mut agent = Reconciler::new(world.open().0).unwrap();
        let plan = agent.plan(&here(&[(1, up), (2, up)]), 0).unwrap();
        agent.apply(&plan).unwrap();
        agent.tables_mut().attach("lbt0", AttachMode::Native).unwrap();
        let socket = socket_on(peer);
        let mut flows: Vec<(Packet, u8)> = Vec::new();
        for client in 0..40 {
            let packet = flow(client, client);
            flows.push((packet, ask(&socket, &Packet { syn: packet.protocol == 6, ..packet }).unwrap()));
        }
        // From now on some slots learn, and flows are recorded.
        let plan = agent.plan(&here(&[(1, up), (2, up), (3, up)]), since(16)).unwrap();
        agent.apply(&plan).unwrap();
        drop(agent);
        let stop = AtomicBool::new(false);
        let (polls, packets) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let poller = scope.spawn(|| {
                let mut programs = std::collections::BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    let present = program_on(index).unwrap().expect("a program is on the interface");
                    programs.insert(present.program);
                    polls.fetch_add(1, Ordering::Relaxed);
                }
                programs.len()
            });
            let client = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (packet, backend) in &flows {
                        assert_eq!(ask(&socket, packet), Some(*backend), "{packet:?}");
                        packets.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let stopper = Stop(&stop);
            let (mut replaced, mut migrated) = (0, 0);
            for round in 0..12u32 {
                // Every second round has other sizes, so new maps are made, too.
                let slots = LIMITS.slots + 100 * (round / 2 % 3);
                let limits = Limits { slots, ..LIMITS };
                let (mut kernel, opened) = open(&Options { limits, ..world.options() }).unwrap();
                assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
                assert_eq!(kernel.sizes().slots, slots);
                migrated += u32::from(round % 2 == 0 && round > 0);
                assert!(kernel.attach("lbt0", AttachMode::Native).unwrap().replaced);
                replaced += 1;
                // Wait until packets have gone through the new program, however busy this machine is.
                let (before, begun) = (packets.load(Ordering::Relaxed), Instant::now());
                while packets.load(Ordering::Relaxed) < before + 40 {
                    assert!(begun.elapsed() < LIMIT, "{} packets", packets.load(Ordering::Relaxed) - before);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            drop(stopper);
            client.join().unwrap();
            let programs = poller.join().unwrap();
            let _ = writeln!(
                std::io::stderr(),
                "{replaced} programs replaced, {migrated} times with new maps: {} packets answered by their backend, {} \
                 polls found one of {programs} programs",
                packets.load(Ordering::Relaxed),
                polls.load(Ordering::Relaxed)
            );
            assert!(programs >= replaced as usize && packets.load(Ordering::Relaxed) > 400);
        });
    });
}
