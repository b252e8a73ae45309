//! The state without a kernel: events and answers in, news and questions out.

use netlink_packet_route::route::RouteType;
use proptest::prelude::*;

use super::*;
use crate::net::{message::Route, tables::tests::ethernet};

const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 11));
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 11));
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

fn on_link() -> Lookup {
    Ok(Route {
        kind: RouteType::Unicast,
        interface: Some(2),
        gateway: None,
        source: Some(IpAddr::from([10, 0, 0, 2])),
        mtu: None,
        encapsulated: false,
    })
}

/// A state that knows eth0 as number 2, and a clock.
struct World {
    state: State,
    now: Instant,
}

impl World {
    fn new(interfaces: &[&str]) -> Self {
        let mut state = State::new(interfaces.iter().map(|&name| name.to_owned()).collect(), Seeds::new());
        let now = Instant::now();
        state.apply(Event::Link(2, ethernet("eth0")), now);
        Self { state, now }
    }

    fn tracking(addresses: &[IpAddr]) -> Self {
        let mut world = Self::new(&[]);
        world.state.track(addresses, world.now);
        world.settle();
        world
    }

    /// Does what the watcher does when it is time, with every address on the link.
    fn settle(&mut self) -> Vec<Key> {
        for address in self.state.stale() {
            self.state.looked_up(address, on_link());
        }
        self.state.settle(self.now)
    }

    fn neighbour(&mut self, address: IpAddr, neighbour: Neighbour) {
        self.state.apply(Event::Neighbour((2, address), neighbour), self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn hops(&mut self) -> Option<Hops> {
        match self.state.news() {
            Some(NetEvent::Hops(hops)) => Some(hops),
            None => None,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_tracked_address_is_worked_on_without_delay() {
    let mut world = World::new(&[]);
    world.settle();
    assert_eq!(world.state.wake(), None);
    world.state.track(&[BACKEND], world.now);
    assert!(world.state.wake().unwrap() <= world.now);
    assert_eq!(world.state.stale(), [BACKEND]);
}

#[tokio::test]
async fn changes_are_collected_for_a_moment() {
    let mut world = World::tracking(&[BACKEND]);
    world.neighbour(BACKEND, Neighbour::Reachable(MAC));
    let due = world.now + DEBOUNCE;
    world.pass(Duration::from_millis(10));
    world.neighbour(BACKEND, Neighbour::Reachable([9; 6]));
    assert_eq!(
        world.state.wake(),
        Some(due),
        "the first change sets the time, later ones do not push it away"
    );
}

#[tokio::test]
async fn after_hard_work_there_is_a_rest() {
    let mut world = World::tracking(&[BACKEND]);
    world.state.rest(world.now, Duration::from_millis(20));
    world.neighbour(BACKEND, Neighbour::Reachable(MAC));
    assert_eq!(world.state.wake(), Some(world.now + Duration::from_millis(80)));
    world.state.rest(world.now, Duration::from_secs(10));
    assert_eq!(world.state.wake(), Some(world.now + Duration::from_millis(300)), "but not for ever");
}

#[tokio::test]
async fn a_neighbour_is_asked_for_once_until_the_next_tick() {
    let mut world = World::new(&[]);
    world.state.track(&[BACKEND], world.now);
    assert_eq!(world.settle(), [(2, BACKEND)]);
    assert_eq!(world.settle(), []);
    assert_eq!(world.state.tick(), [(2, BACKEND)]);
    world.neighbour(BACKEND, Neighbour::Incomplete);
    world.settle();
    assert_eq!(world.state.tick(), [], "the kernel is at it");
}

#[tokio::test]
async fn neighbour_that_answers_in_time_is_reported_once() {
    let mut world = World::tracking(&[BACKEND]);
    assert_eq!(world.hops(), None);
    world.neighbour(BACKEND, Neighbour::Reachable(MAC));
    world.settle();
    assert_eq!(world.hops().unwrap().hops[&BACKEND].as_ref().unwrap().mac, MAC);
    assert_eq!(world.hops(), None);
}

#[tokio::test]
async fn neighbour_that_does_not_answer_is_reported_after_a_while() {
    let mut world = World::tracking(&[BACKEND]);
    world.neighbour(BACKEND, Neighbour::Incomplete);
    world.settle();
    let wake = world.state.wake().unwrap();
    assert_eq!(wake, world.now + PATIENCE);
    world.now = wake;
    world.settle();
    assert_eq!(
        world.hops().unwrap().hops[&BACKEND],
        Err("neighbour 10.0.0.11 on eth0 not resolved yet".to_owned())
    );
    assert_eq!(world.state.wake(), None);
}

#[tokio::test]
async fn address_without_a_route_is_reported_at_once() {
    let mut world = World::new(&[]);
    world.state.track(&[BACKEND], world.now);
    world.state.looked_up(BACKEND, Err(libc::ENETUNREACH));
    world.state.settle(world.now);
    assert_eq!(world.hops().unwrap().hops[&BACKEND], Err("no route to 10.0.0.11".to_owned()));
}

#[tokio::test]
async fn address_no_longer_tracked_is_not_reported() {
    let mut world = World::tracking(&[BACKEND, OTHER]);
    world.neighbour(BACKEND, Neighbour::Reachable(MAC));
    world.neighbour(OTHER, Neighbour::Reachable(MAC));
    world.settle();
    assert_eq!(world.hops().unwrap().hops.len(), 2);
    world.state.track(&[OTHER, OTHER], world.now);
    assert_eq!(world.hops().unwrap().hops.into_keys().collect::<Vec<_>>(), [OTHER]);
}

#[tokio::test]
async fn the_same_addresses_again_change_nothing() {
    let mut world = World::tracking(&[BACKEND, OTHER]);
    world.state.track(&[OTHER, BACKEND, OTHER], world.now);
    assert!(world.state.stale().is_empty());
    assert!(!world.state.has_news());
}

#[tokio::test]
async fn a_kept_hop_has_a_note_until_the_neighbour_answers() {
    let mut world = World::tracking(&[BACKEND]);
    world.neighbour(BACKEND, Neighbour::Reachable(MAC));
    world.settle();
    world.hops().unwrap();
    world.neighbour(BACKEND, Neighbour::Failed);
    world.settle();
    let hops = world.hops().unwrap();
    assert_eq!(hops.hops[&BACKEND].as_ref().unwrap().mac, MAC);
    assert!(hops.notes[&BACKEND].contains("does not answer"), "{hops:?}");
    world.neighbour(BACKEND, Neighbour::Reachable([9; 6]));
    world.settle();
    let hops = world.hops().unwrap();
    assert_eq!(hops.hops[&BACKEND].as_ref().unwrap().mac, [9; 6]);
    assert!(hops.notes.is_empty());
}

#[tokio::test]
async fn a_changed_route_concerns_the_addresses_of_its_prefix() {
    let mut world = World::tracking(&[BACKEND, OTHER]);
    world.state.apply(Event::Route { prefix: IpAddr::from([10, 0, 1, 0]), length: 24 }, world.now);
    assert_eq!(world.state.stale(), [OTHER]);
    world.pass(PATIENCE);
    world.settle();
    world.state.apply(Event::Route { prefix: IpAddr::from([192, 0, 2, 0]), length: 24 }, world.now);
    assert_eq!(world.state.wake(), None, "a stranger's route wakes no one");
    world.state.apply(Event::Routing, world.now);
    assert_eq!(world.state.stale(), [BACKEND, OTHER]);
}

#[tokio::test]
async fn a_full_neighbour_table_is_said_to_be_the_reason() {
    let mut world = World::tracking(&[BACKEND]);
    world.state.asked((2, BACKEND), libc::ENOBUFS, world.now);
    world.settle();
    let reason = world.hops().unwrap().hops[&BACKEND].clone().unwrap_err();
    assert!(reason.contains("gc_thresh3"), "{reason}");
    world.state.asked((2, BACKEND), 0, world.now);
    world.pass(PATIENCE);
    world.settle();
    let reason = world.hops().unwrap().hops[&BACKEND].clone().unwrap_err();
    assert!(!reason.contains("gc_thresh3"), "{reason}");
}

#[tokio::test]
async fn fresh_neighbours_are_asked_after_in_turn() {
    let addresses: Vec<IpAddr> = (0..100_u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    let mut world = World::tracking(&addresses);
    for &address in &addresses {
        world.neighbour(address, Neighbour::Reachable(MAC));
    }
    world.settle();
    let mut asked = HashMap::new();
    for _ in 0..REFRESH_TICKS {
        let keys = world.state.tick();
        assert_eq!(keys.len(), addresses.len() / REFRESH_TICKS);
        keys.into_iter().for_each(|key| *asked.entry(key).or_insert(0) += 1);
    }
    assert_eq!(asked.len(), addresses.len());
    assert!(asked.values().all(|&times| times == 1));
}

#[tokio::test]
async fn silent_neighbours_are_asked_again_in_bounded_rounds() {
    let count = RETRIES + 100;
    let addresses: Vec<IpAddr> =
        (0..count).map(|n| IpAddr::from([10, 1, (n / 250) as u8, (n % 250) as u8])).collect();
    let mut world = World::tracking(&addresses);
    for &address in &addresses {
        world.neighbour(address, Neighbour::Failed);
    }
    world.settle();
    let first = world.state.tick();
    assert_eq!(first.len(), RETRIES);
    let second = world.state.tick();
    let all: HashSet<Key> = first.into_iter().chain(second).collect();
    assert_eq!(all.len(), count, "the second round goes on where the first ended");
}

fn index(event: Option<NetEvent>) -> Option<u32> {
    match event {
        Some(NetEvent::Link { index, .. }) => index,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_interface_is_reported_at_the_start() {
    let mut world = World::new(&["eth0", "eth1"]);
    world.settle();
    assert_eq!(index(world.state.news()), Some(2));
    assert_eq!(index(world.state.news()), None);
    assert!(!world.state.has_news());
}

#[tokio::test]
async fn replaced_interface_is_reported_gone_first() {
    let mut world = World::new(&["eth0"]);
    world.settle();
    world.state.news();
    world.state.apply(Event::LinkGone(2), world.now);
    world.state.apply(Event::Link(2, ethernet("eth0")), world.now);
    world.settle();
    assert_eq!(index(world.state.news()), None);
    assert_eq!(index(world.state.news()), Some(2));
}

#[tokio::test]
async fn untaken_reports_do_not_pile_up_and_gone_is_not_lost() {
    let mut world = World::new(&["eth0"]);
    world.settle();
    for n in 0..20 {
        world.state.apply(Event::LinkGone(2 + n), world.now);
        world.state.apply(Event::Link(3 + n, ethernet("eth0")), world.now);
        world.settle();
        world.state.apply(Event::Link(3 + n, Link { mtu: 9000 + n, ..ethernet("eth0") }), world.now);
        world.settle();
    }
    assert!(world.state.links_to_tell.len() <= 2, "{:?}", world.state.links_to_tell);
    assert_eq!(index(world.state.news()), None);
    assert_eq!(index(world.state.news()), Some(22));
}

#[tokio::test]
async fn another_interface_says_nothing() {
    let mut world = World::new(&["eth0"]);
    world.settle();
    world.state.news();
    world.state.apply(Event::Link(3, ethernet("eth1")), world.now);
    world.settle();
    assert!(!world.state.has_news());
}

proptest! {
    #[test]
    fn a_prefix_holds_what_its_bits_say(address: u32, prefix: u32, length in 0_u8..=32) {
        let mask = if length == 0 { 0 } else { u32::MAX << (32 - length) };
        let ip = |bits: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(bits));
        prop_assert_eq!(within(ip(address), ip(prefix), length), address & mask == prefix & mask);
        prop_assert!(within(ip(address), ip(address), length));
        prop_assert!(!within(ip(address), IpAddr::from([0; 16]), 0), "another family");
    }

    #[test]
    fn a_prefix_of_ipv6_holds_what_its_bits_say(address: u128, prefix: u128, length in 0_u8..=128) {
        let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
        let ip = |bits: u128| IpAddr::from(std::net::Ipv6Addr::from_bits(bits));
        prop_assert_eq!(within(ip(address), ip(prefix), length), address & mask == prefix & mask);
    }
}
