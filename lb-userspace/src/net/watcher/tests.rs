//! The watcher against the kernel, in network namespaces that have no name and end with the threads that made them,
//! however the test ends. They need root and say so when they are skipped.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    process::Command,
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Uid, gettid},
};

use super::*;
use crate::{
    net::{Hop, Hops, link, state::PATIENCE},
    wait::{LIMIT, until},
};

mod forged;

/// A thread in a network namespace of its own that does what it is asked to.
struct Namespace {
    work: Option<Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
    path: String,
}

impl Namespace {
    fn new() -> Self {
        let (work, todo) = channel::<Box<dyn FnOnce() + Send>>();
        let (ready, path) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())).unwrap();
            todo.into_iter().for_each(|task| task());
        });
        let path = path.recv().unwrap();
        let this = Self { work: Some(work), thread: Some(thread), path };
        this.ip("link set lo up");
        this
    }

    fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let task = Box::new(move || drop(done.send(task())));
        self.work.as_ref().unwrap().send(task).unwrap();
        result.recv().expect("the task panicked")
    }

    fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.work = None;
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.unwrap();
        }
    }
}

/// Runs `ip` in the namespace of the calling thread.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn root() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        // Past the test harness, which shows only what failing tests print; a thread of the harness is called as its test.
        let test = std::thread::current().name().unwrap_or("net::watcher").to_owned();
        writeln!(std::io::stderr(), "SKIP {test}: making network namespaces needs root").unwrap();
    }
    root
}

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

/// Runs `test` in a namespace with `eth0` (10.0.0.2/24, fd00::2/64), a cable away from another with 10.0.0.11,
/// 10.0.0.1, fd00::11, which it may give orders to.
fn with_peer<F: Future<Output = ()>>(test: impl FnOnce(Arc<Namespace>) -> F + Send + 'static) {
    if !root() {
        return;
    }
    let (ours, peer) = (Namespace::new(), Arc::new(Namespace::new()));
    let other_end = peer.path.clone();
    ours.run(move || {
        ip("link add eth0 address 02:00:00:00:00:02 mtu 1400 type veth peer name veth0 mtu 1400");
        ip(&format!("link set veth0 netns {other_end}"));
        ip("addr add 10.0.0.2/24 dev eth0");
        ip("addr add fd00::2/64 dev eth0 nodad");
        ip("link set eth0 up");
    });
    for arguments in [
        "link set veth0 name eth0 address 02:00:00:00:00:11",
        "addr add 10.0.0.11/24 dev eth0",
        "addr add 10.0.0.1/24 dev eth0",
        "addr add fd00::11/64 dev eth0 nodad",
        "link set eth0 up",
    ] {
        peer.ip(arguments);
    }
    let given = Arc::clone(&peer);
    ours.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(given));
    });
    // Not before: the cable goes with it.
    drop(peer);
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

struct Watched {
    handle: Handle,
    events: mpsc::Receiver<NetEvent>,
    last: Hops,
}

impl Watched {
    fn new(interfaces: &[&str], addresses: &[&str]) -> Self {
        let (handle, events) =
            Watcher::spawn(interfaces.iter().map(|&name| name.to_owned()).collect(), Seeds::new());
        handle.track(addresses.iter().map(|text| address(text)).collect());
        Self { handle, events, last: Hops::default() }
    }

    /// Takes events until the hops are as wanted.
    async fn until(&mut self, wanted: impl Fn(&Hops) -> bool) -> &Hops {
        let deadline = Instant::now() + LIMIT;
        while !wanted(&self.last) {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(NetEvent::Hops(hops))) => self.last = hops,
                Ok(Some(NetEvent::Link { .. } | NetEvent::Addresses(_) | NetEvent::Forwarded(_))) => {}
                other => panic!("{other:?}; last was {:?}", self.last),
            }
        }
        &self.last
    }

    async fn hop(&mut self, to: &str) -> Hop {
        let to = address(to);
        let hops = self.until(|hops| matches!(hops.hops.get(&to), Some(Ok(_)))).await;
        hops.hops[&to].clone().unwrap()
    }

    async fn reason(&mut self, to: &str) -> String {
        let to = address(to);
        let hops = self.until(|hops| matches!(hops.hops.get(&to), Some(Err(_)))).await;
        hops.hops[&to].clone().unwrap_err()
    }

    async fn link(&mut self) -> (String, Option<u32>, bool) {
        let events = &mut self.events;
        until("a word on an interface", LIMIT, async || match events.recv().await {
            Some(NetEvent::Link { name, index, up, .. }) => Ok((name, index, up)),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Takes events until one is as wanted.
    async fn event(&mut self, wanted: impl Fn(&NetEvent) -> bool) {
        let deadline = Instant::now() + LIMIT;
        let mut last = None;
        loop {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) if wanted(&event) => return,
                Ok(Some(event)) => last = Some(event),
                other => panic!("{other:?}; last was {last:?}"),
            }
        }
    }
}

#[test]
fn addresses_of_the_host_are_reported_and_followed() {
    with_peer(|_peer| async {
        let mut watched = Watched::new(&[], &[]);
        let has = |wanted: bool, text: &'static str| move |event: &NetEvent| matches!(event, NetEvent::Addresses(hosts) if hosts.contains(&address(text)) == wanted);
        watched.event(has(true, "10.0.0.2")).await;
        ip("addr add 10.0.0.77/24 dev eth0");
        watched.event(has(true, "10.0.0.77")).await;
        ip("addr add fd00::77/64 dev eth0");
        watched.event(has(true, "fd00::77")).await;
        ip("addr del 10.0.0.77/24 dev eth0");
        watched.event(has(false, "10.0.0.77")).await;
    });
}

#[test]
fn forwarded_vips_are_reported_until_a_route_ends_them() {
    with_peer(|_peer| async {
        let mut watched = Watched::new(&[], &[]);
        watched.handle.track_services(vec![address("203.0.113.10"), address("2001:db8::10")]);
        let forwarded = |wanted: &'static [&'static str]| {
            move |event: &NetEvent| {
                let wanted: BTreeSet<IpAddr> = wanted.iter().map(|text| address(text)).collect();
                matches!(event, NetEvent::Forwarded(addresses) if *addresses == wanted)
            }
        };
        ip("route add default via 10.0.0.1");
        watched.event(forwarded(&["203.0.113.10"])).await;
        ip("-6 route add default via fd00::1");
        watched.event(forwarded(&["203.0.113.10", "2001:db8::10"])).await;
        ip("route add blackhole 203.0.113.10/32");
        watched.event(forwarded(&["2001:db8::10"])).await;
        ip("-6 route add blackhole 2001:db8::10/128");
        watched.event(forwarded(&[])).await;
    });
}

#[test]
fn neighbours_on_the_link_are_resolved_by_asking() {
    with_peer(|_peer| async {
        let mut watched = Watched::new(&[], &["10.0.0.11", "fd00::11"]);
        let expected = Hop {
            interface: link::index_of("eth0").unwrap(),
            interface_name: "eth0".into(),
            via: address("10.0.0.11"),
            mac: PEER_MAC,
            local_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1400,
            source: address("10.0.0.2"),
        };
        assert_eq!(watched.hop("10.0.0.11").await, expected);
        let six = Hop { via: address("fd00::11"), source: address("fd00::2"), ..expected };
        assert_eq!(watched.hop("fd00::11").await, six);
    });
}

#[test]
fn reachable_neighbours_are_resolved_at_once() {
    with_peer(|_peer| async {
        let begun = Instant::now();
        let mut watched = Watched::new(&[], &["10.0.0.11", "10.0.0.1"]);
        loop {
            let hops = match watched.events.recv().await {
                Some(NetEvent::Hops(hops)) => hops,
                Some(NetEvent::Link { .. } | NetEvent::Addresses(_) | NetEvent::Forwarded(_)) => continue,
                None => panic!("ended"),
            };
            // Where the machine had other work for longer than an answer is waited for, the word is a true one.
            let late = begun.elapsed() >= PATIENCE;
            assert!(late || hops.hops.values().all(Result::is_ok), "{hops:?}");
            let all = hops.hops.len() == 2;
            watched.last = hops;
            if late || all {
                break;
            }
        }
        watched.until(|hops| hops.hops.len() == 2 && hops.hops.values().all(Result::is_ok)).await;
    });
}

#[test]
fn routes_through_a_router_are_followed_as_they_change() {
    with_peer(|_peer| async {
        let mut watched = Watched::new(&[], &["192.0.2.1"]);
        assert_eq!(watched.reason("192.0.2.1").await, "no route to 192.0.2.1");
        ip("route add 192.0.2.0/24 via 10.0.0.1 mtu 1300");
        let hop = watched.hop("192.0.2.1").await;
        assert_eq!((hop.via, hop.mac, hop.mtu), (address("10.0.0.1"), PEER_MAC, 1300));
        ip("route replace 192.0.2.0/24 via 10.0.0.11");
        let to = address("192.0.2.1");
        let via = address("10.0.0.11");
        watched.until(|hops| matches!(&hops.hops[&to], Ok(hop) if hop.via == via && hop.mtu == 1400)).await;
        ip("route replace blackhole 192.0.2.0/24");
        assert!(watched.reason("192.0.2.1").await.contains("blackhole"));
        ip("route del blackhole 192.0.2.0/24");
        ip("rule add to 192.0.2.0/24 table 77");
        ip("route add default via 10.0.0.1 table 77");
        assert_eq!(watched.hop("192.0.2.1").await.via, address("10.0.0.1"));
        ip("rule del to 192.0.2.0/24 table 77");
        assert_eq!(watched.reason("192.0.2.1").await, "no route to 192.0.2.1");
    });
}

#[test]
fn an_ipv4_route_by_an_ipv6_router_is_followed() {
    with_peer(|_peer| async {
        ip("route add 192.0.2.0/24 via inet6 fd00::11");
        let mut watched = Watched::new(&[], &["192.0.2.1"]);
        let hop = watched.hop("192.0.2.1").await;
        assert_eq!((hop.via, hop.source, hop.mac), (address("fd00::11"), address("10.0.0.2"), PEER_MAC));
    });
}

#[test]
fn what_cannot_be_a_backend_is_named() {
    with_peer(|_peer| async {
        ip("tuntap add tun0 mode tun");
        ip("link set tun0 up");
        ip("route add 198.51.100.0/24 dev tun0");
        ip("route add unreachable 203.0.113.0/24");
        ip("-6 route add blackhole fd01::/64");
        for (to, words) in [
            ("10.0.0.2", "10.0.0.2 is an address of this host"),
            ("127.0.0.1", "127.0.0.1 is an address of this host"),
            ("::1", "::1 is an address of this host"),
            ("fd00::2", "fd00::2 is an address of this host"),
            ("10.0.0.255", "10.0.0.255 is not the address of one host"),
            ("198.51.100.1", "interface tun0 on the way to 198.51.100.1 has no Ethernet header"),
            ("203.0.113.1", "no route to 203.0.113.1: an unreachable route covers it"),
            ("fd01::1", "no route to fd01::1: a blackhole route covers it"),
            ("fd02::1", "no route to fd02::1"),
        ] {
            let mut watched = Watched::new(&[], &[to]);
            let reason = watched.reason(to).await;
            assert!(reason.starts_with(words), "{to}: {reason}");
        }
    });
}

#[test]
fn a_silent_neighbour_is_asked_until_it_answers() {
    with_peer(|peer| async move {
        let mut watched = Watched::new(&[], &["10.0.0.77"]);
        assert_eq!(watched.reason("10.0.0.77").await, "neighbour 10.0.0.77 on eth0 not resolved yet");
        let to = address("10.0.0.77");
        watched
            .until(|hops| matches!(&hops.hops[&to], Err(reason) if reason.contains("does not answer")))
            .await;
        peer.ip("addr add 10.0.0.77/24 dev eth0");
        assert_eq!(watched.hop("10.0.0.77").await.mac, PEER_MAC);
    });
}

#[test]
fn a_new_hardware_address_is_followed() {
    with_peer(|_peer| async {
        let mut watched = Watched::new(&[], &["10.0.0.11"]);
        watched.hop("10.0.0.11").await;
        ip("neigh replace 10.0.0.11 lladdr 02:00:00:00:00:99 nud reachable dev eth0");
        let to = address("10.0.0.11");
        watched.until(|hops| matches!(&hops.hops[&to], Ok(hop) if hop.mac[5] == 0x99)).await;
    });
}

#[test]
fn flushed_neighbour_table_cuts_no_backend_off() {
    with_peer(|peer| async move {
        let mut watched = Watched::new(&[], &["10.0.0.11"]);
        watched.hop("10.0.0.11").await;
        peer.ip("addr del 10.0.0.11/24 dev eth0");
        ip("neigh flush dev eth0");
        let to = address("10.0.0.11");
        let hops = watched.until(|hops| hops.notes.contains_key(&to)).await;
        assert_eq!(hops.hops[&to].as_ref().unwrap().mac, PEER_MAC);
        peer.ip("addr add 10.0.0.11/24 dev eth0");
        watched.until(|hops| hops.notes.is_empty()).await;
    });
}

#[test]
fn a_link_that_goes_down_and_up_again_is_followed() {
    with_peer(|_peer| async {
        let mut watched = Watched::new(&["eth0"], &["10.0.0.11"]);
        watched.hop("10.0.0.11").await;
        ip("link set eth0 down");
        assert_eq!(watched.reason("10.0.0.11").await, "no route to 10.0.0.11");
        ip("link set eth0 up");
        watched.hop("10.0.0.11").await;
        ip("link set eth0 mtu 1280");
        let to = address("10.0.0.11");
        watched.until(|hops| matches!(&hops.hops[&to], Ok(hop) if hop.mtu == 1280)).await;
        ip("link set eth0 address 02:00:00:00:00:22");
        watched.until(|hops| matches!(&hops.hops[&to], Ok(hop) if hop.local_mac[5] == 0x22)).await;
    });
}

#[test]
fn lost_carrier_cuts_no_backend_off() {
    with_peer(|peer| async move {
        let mut watched = Watched::new(&[], &["10.0.0.11"]);
        let before = watched.hop("10.0.0.11").await;
        peer.ip("link set eth0 down");
        let to = address("10.0.0.11");
        let hops = watched.until(|hops| hops.notes.contains_key(&to)).await;
        assert_eq!(hops.hops[&to], Ok(before));
        assert!(hops.notes[&to].contains("no carrier"), "{hops:?}");
        peer.ip("link set eth0 up");
        watched.until(|hops| hops.notes.is_empty()).await;
    });
}

#[test]
fn attach_interfaces_come_go_and_change_their_names() {
    with_peer(|_peer| async {
        let mut watched = Watched::new(&["eth0", "eth7"], &[]);
        let eth0 = link::index_of("eth0");
        assert_eq!(watched.link().await, ("eth0".into(), eth0, true));
        assert_eq!(watched.link().await, ("eth7".into(), None, false));
        ip("link add eth7 index 4711 type veth peer name eth8");
        assert_eq!(watched.link().await, ("eth7".into(), Some(4711), false));
        ip("link del eth7");
        assert_eq!(watched.link().await, ("eth7".into(), None, false));
        ip("link set eth0 down");
        assert_eq!(watched.link().await, ("eth0".into(), eth0, false));
        ip("link set eth0 name eth7");
        assert_eq!(watched.link().await, ("eth0".into(), None, false));
        assert_eq!(watched.link().await, ("eth7".into(), eth0, false));
    });
}

#[test]
fn a_recreated_interface_is_reported_gone_first() {
    with_peer(|_peer| async {
        ip("link add eth7 index 4711 type veth peer name eth8");
        let mut watched = Watched::new(&["eth7"], &[]);
        assert_eq!(watched.link().await.1, Some(4711));
        // The runtime does not turn in between: the watcher sees both at once.
        ip("link del eth7");
        ip("link add eth7 index 4711 type veth peer name eth8");
        assert_eq!(watched.link().await.1, None);
        assert_eq!(watched.link().await.1, Some(4711));
    });
}

#[test]
fn a_bridge_port_that_leaves_its_bridge_is_still_there() {
    with_peer(|_peer| async {
        ip("link add br0 type bridge");
        ip("link add eth7 type veth peer name eth8");
        ip("link set eth7 master br0");
        let mut watched = Watched::new(&["eth7"], &[]);
        assert!(watched.link().await.1.is_some());
        ip("link set eth7 nomaster");
        ip("link set eth7 mtu 1300");
        assert!(watched.link().await.1.is_some());
    });
}

#[test]
fn lost_notifications_are_made_up_for() {
    with_peer(|_peer| async {
        let mut watched = Watched::new(&[], &["10.0.0.11", "192.0.2.1"]);
        watched.hop("10.0.0.11").await;
        watched.reason("192.0.2.1").await;
        // The runtime is blocked while more routes come and go than its socket can hold.
        let directory = tempfile::tempdir().unwrap();
        let batch = directory.path().join("routes");
        let mut text = String::new();
        for n in 0..40_000_u32 {
            let prefix = Ipv4Addr::from_bits(0x6440_0000 + (n << 2));
            text.push_str(&format!("route add {prefix}/30 dev eth0\n"));
        }
        text.push_str("route add 192.0.2.0/24 via 10.0.0.1\n");
        std::fs::write(&batch, text).unwrap();
        ip(&format!("-batch {}", batch.display()));
        assert_eq!(watched.hop("192.0.2.1").await.via, address("10.0.0.1"));
    });
}

/// Prints how long ten thousand addresses take (`--nocapture`). Behind a router: the kernel's neighbour table, which
/// all namespaces share, need not take ten thousand entries for it.
#[test]
fn ten_thousand_addresses_are_resolved() {
    with_peer(|peer| async move {
        peer.ip("route add local 10.0.0.128/25 dev lo");
        ip("route add default via 10.0.0.1");
        let many = (0..10_000_u32).map(|n| IpAddr::from(Ipv4Addr::from_bits(0xc612_0000 + n)));
        let on_link = (128..228_u8).map(|n| IpAddr::from([10, 0, 0, n]));
        let all: Vec<IpAddr> = many.chain(on_link).collect();
        let count = all.len();
        let mut watched = Watched::new(&[], &[]);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = Instant::now();
        watched.handle.track(all);
        watched.until(|hops| hops.hops.len() == count && hops.hops.values().all(Result::is_ok)).await;
        let took = begun.elapsed();
        println!("{count} addresses, 101 neighbours: resolved in {took:?}");
    });
}

#[test]
fn the_watcher_ends_with_its_handle() {
    with_peer(|_peer| async {
        let mut watched = Watched::new(&[], &["10.0.0.11"]);
        watched.hop("10.0.0.11").await;
        let (addresses, _) = watch::channel(Arc::from([]));
        let (services, _) = watch::channel(Arc::from([]));
        drop(std::mem::replace(&mut watched.handle, Handle { addresses, services }));
        let ended = async { while watched.events.recv().await.is_some() {} };
        tokio::time::timeout(LIMIT, ended).await.unwrap();
    });
}
