//! The tables of the packet rows: one world for each question, so that a row measures nothing else.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_common::{
    backend::Backend,
    balance::Balance,
    encap::Kind,
    hash::Seed,
    icmp::Ping,
    map::Node,
    ring::{default_max_backends, length_for},
    service::Service,
    slot::{Slot, Track},
    wire::protocol,
};

use crate::world::{self, Sizes, World};

/// The world of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::bench) enum Key {
    /// One TCP service, IPv4 in IPv4.
    Plain,
    /// The same service on a node that answers echo requests and packets that are too big, with backends at the end of an
    /// MTU of 1,500.
    Answers,
    /// The same service, without its entry in front of the index.
    Index,
    /// The same service, and another one that listens on every port; on a host that has an address.
    AnyPort,
    /// A service for each other combination of families and protocols.
    Families,
    /// A service for each other kind of encapsulation.
    Kinds,
    /// Services whose packets end early on their path.
    Stages,
    /// Tracked slots in all states.
    Tracked,
    /// Tracked slots, with a table of unconfirmed flows of its default size.
    Flood,
    /// One service with this many backends, in the ring that it would get.
    Backends(u32),
    /// This many services of ten backends each.
    Services(u32),
    /// The same in the rings of services whose file does not say for how many backends they are planned.
    ServicesByDefault(u32),
    /// A service that balances by the number of live flows.
    LeastConnections,
}

/// Slots and backends of an ordinary service.
pub(super) const SLOTS: u32 = 65_537;
const BACKENDS: u32 = 100;
/// Backends of each of many services.
const FEW: u32 = 10;

const SEED: Seed = Seed([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);

/// The address of service `number`, IPv4.
pub(super) fn vip(number: u32) -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::from(VIP + number), 443))
}

/// 203.0.113.10, in host order: the first service's address.
pub(super) const VIP: u32 = 0xcb00_710a;

/// Numbered like a service: the host's own address.
pub(super) const HOST: u32 = 90;

/// The address of service `number`, IPv6.
pub(super) fn vip6(number: u16) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, number], 443))
}

/// Services of [`Key::Families`], in the order of their numbers.
pub(super) mod family {
    pub(in super::super) const UDP4: u32 = 0;
    pub(in super::super) const TCP4_IN_6: u32 = 1;
    pub(in super::super) const TCP6_IN_6: u16 = 2;
    pub(in super::super) const TCP6_IN_4: u16 = 3;
}

/// Services of [`Key::Kinds`], in the order of their numbers.
pub(super) mod kind {
    pub(in super::super) const L2: u32 = 0;
    pub(in super::super) const GUE_4: u32 = 1;
    pub(in super::super) const GUE_6: u32 = 2;
}

/// Services of [`Key::Stages`].
pub(super) mod stage {
    pub(in super::super) const NO_BACKEND: u32 = 0;
    pub(in super::super) const NO_NEXT_HOP: u32 = 1;
    pub(in super::super) const TOO_BIG: u32 = 2;
}

/// Services of [`Key::Tracked`] and [`Key::Flood`].
pub(super) mod tracked {
    /// Remembering; nothing is recorded.
    pub(in super::super) const MISS: u32 = 0;
    /// Learning: data is recorded at its backend, a SYN as unconfirmed.
    pub(in super::super) const LEARNING: u32 = 1;
    /// `track = "always"`.
    pub(in super::super) const ALWAYS: u32 = 2;
}

/// Makes a world.
pub(super) fn make(key: Key) -> Result<World> {
    match key {
        Key::Plain => plain(),
        Key::Answers => answers(),
        Key::Index => index(),
        Key::AnyPort => any_port(),
        Key::Families => families(),
        Key::Kinds => kinds(),
        Key::Stages => stages(),
        // Four times as many records as the rows have flows, so that no record is evicted.
        Key::Tracked => tracking(1 << 22),
        Key::Flood => tracking(1 << 16),
        Key::Backends(count) => services(1, count, count),
        Key::Services(count) => services(count, FEW, FEW),
        Key::ServicesByDefault(count) => services(count, FEW, default_max_backends(FEW)),
        Key::LeastConnections => least_connections(),
    }
}

/// `limits.services` of all worlds.
pub(super) const SERVICES: u32 = 1024;

fn sizes(slots: u32) -> Sizes {
    Sizes { services: SERVICES, backends: 16_385, slots, flows: 1 << 16 }
}

/// Backend `number`, with an outer header of either family.
fn record(number: u32, outer_v6: bool, inner_v6: bool) -> Backend {
    record_by(Kind::Ipip, number, outer_v6, inner_v6)
}

fn record_by(kind: Kind, number: u32, outer_v6: bool, inner_v6: bool) -> Backend {
    let number = number as u16;
    let (from, to): (IpAddr, IpAddr) = if outer_v6 {
        ([0xfd00, 0, 0, 0, 0, 0, 0, 0].into(), [0xfd00, 0, 0, 1, 0, 0, 0, number].into())
    } else {
        let [upper, lower] = number.to_be_bytes();
        ([10, 0, 0, 0].into(), [10, 1, upper, lower].into())
    };
    Backend { source_bits: 8, ..world::backend_by(kind, from, to, inner_v6) }
}

/// `slots` slots, dealt in turn to `count` backends, the first of which has number `first`.
fn dealt(slots: u32, first: u32, count: u32, state: impl Fn(u32) -> Slot) -> Vec<Slot> {
    (0..slots).map(|slot| state(first + slot % count)).collect()
}

/// Adds `count` backends, the first of which has number `first`.
fn backends(world: &mut World, first: u32, count: u32, of: impl Fn(u32) -> Backend) -> Result<()> {
    (first..first + count).try_for_each(|number| world.set_backend(number, of(number)))
}

fn plain() -> Result<World> {
    plain_of(SLOTS)
}

/// The same with an arena of this many slots.
fn plain_of(slots: u32) -> Result<World> {
    let mut world = World::new(sizes(slots), SEED)?;
    backends(&mut world, 1, BACKENDS, |number| record(number, false, false))?;
    world.add_service(vip(0), protocol::TCP, &dealt(SLOTS, 1, BACKENDS, Slot::stable))?;
    Ok(world)
}

fn answers() -> Result<World> {
    let mut world = plain()?;
    world.set_node(|node| node.flags |= Node::ANSWER_TOO_BIG | Node::ping_flags(Ping::Answer))?;
    Ok(world)
}

fn any_port() -> Result<World> {
    let mut world = plain_of(2 * SLOTS)?;
    let every = SocketAddr::new(vip(1).ip(), 0);
    world.add_service(every, protocol::TCP, &dealt(SLOTS, 1, BACKENDS, Slot::stable))?;
    world.add_host(vip(HOST).ip())?;
    Ok(world)
}

/// As where services share a place in front of the index: packets ask the index.
fn index() -> Result<World> {
    let mut world = plain()?;
    world.ask_index()?;
    Ok(world)
}

fn families() -> Result<World> {
    let mut world = World::new(sizes(4 * SLOTS), SEED)?;
    let services = [
        (vip(family::UDP4), protocol::UDP, false, false),
        (vip(family::TCP4_IN_6), protocol::TCP, true, false),
        (vip6(family::TCP6_IN_6), protocol::TCP, true, true),
        (vip6(family::TCP6_IN_4), protocol::TCP, false, true),
    ];
    for (first, (listen, protocol, outer_v6, inner_v6)) in (1..).step_by(BACKENDS as usize).zip(services) {
        backends(&mut world, first, BACKENDS, |number| record(number, outer_v6, inner_v6))?;
        world.add_service(listen, protocol, &dealt(SLOTS, first, BACKENDS, Slot::stable))?;
    }
    Ok(world)
}

/// IPv4 behind the other kinds.
fn kinds() -> Result<World> {
    let mut world = World::new(sizes(3 * SLOTS), SEED)?;
    let services =
        [(kind::L2, Kind::L2, false), (kind::GUE_4, Kind::Gue, false), (kind::GUE_6, Kind::Gue, true)];
    for (first, (service, kind, outer_v6)) in (1..).step_by(BACKENDS as usize).zip(services) {
        backends(&mut world, first, BACKENDS, |number| record_by(kind, number, outer_v6, false))?;
        world.add_service(vip(service), protocol::TCP, &dealt(SLOTS, first, BACKENDS, Slot::stable))?;
    }
    Ok(world)
}

fn stages() -> Result<World> {
    let mut world = World::new(sizes(3 * SLOTS), SEED)?;
    backends(&mut world, 1, BACKENDS, |number| Backend { interface: 0, ..record(number, false, false) })?;
    backends(&mut world, 1 + BACKENDS, BACKENDS, |number| Backend {
        room: 0,
        ..record(number, false, false)
    })?;
    world.add_service(vip(stage::NO_BACKEND), protocol::TCP, &vec![Slot::EMPTY; SLOTS as usize])?;
    world.add_service(vip(stage::NO_NEXT_HOP), protocol::TCP, &dealt(SLOTS, 1, BACKENDS, Slot::stable))?;
    let first = 1 + BACKENDS;
    world.add_service(vip(stage::TOO_BIG), protocol::TCP, &dealt(SLOTS, first, BACKENDS, Slot::stable))?;
    Ok(world)
}

fn tracking(flows: u32) -> Result<World> {
    let mut world = World::new(Sizes { flows, ..sizes(3 * SLOTS) }, SEED)?;
    backends(&mut world, 1, BACKENDS, |number| record(number, false, false))?;
    let learning = |current| Slot::learning(current, current % BACKENDS + 1, 0);
    let miss = dealt(SLOTS, 1, BACKENDS, Slot::remembering);
    world.add_service(vip(tracked::MISS), protocol::TCP, &miss)?;
    world.add_service(vip(tracked::LEARNING), protocol::TCP, &dealt(SLOTS, 1, BACKENDS, learning))?;
    let always = world.add_service(vip(tracked::ALWAYS), protocol::TCP, &miss)?;
    world.change_service(always, |service| service.flags |= Service::ALWAYS)?;
    Ok(world)
}

/// `count` services of so many backends each, in rings that are planned for `planned` backends.
fn services(count: u32, backends_each: u32, planned: u32) -> Result<World> {
    let length = length_for(planned).unwrap_or(SLOTS);
    let mut world = World::new(sizes(count * length), SEED)?;
    for (number, first) in (0..count).zip((1..).step_by(backends_each as usize)) {
        backends(&mut world, first, backends_each, |number| record(number, false, false))?;
        let slots = dealt(length, first, backends_each, Slot::stable);
        world.add_service(vip(number), protocol::TCP, &slots)?;
    }
    Ok(world)
}

fn least_connections() -> Result<World> {
    let mut world = World::new(sizes(SLOTS), SEED)?;
    backends(&mut world, 1, BACKENDS, |number| Backend { weight: 100, ..record(number, false, false) })?;
    // The slots of each backend are together, as the second draw requires.
    let slots: Vec<Slot> =
        (0..SLOTS).map(|slot| Slot::remembering(1 + slot / (SLOTS / BACKENDS + 1))).collect();
    let service = world.add_service(vip(0), protocol::TCP, &slots)?;
    world.change_service(service, |service| {
        service.flags = Service::flags_of(Track::Always, Balance::LeastConnections);
        service.longest = SLOTS / BACKENDS + 1;
    })?;
    Ok(world)
}
