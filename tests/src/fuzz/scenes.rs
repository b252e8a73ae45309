//! Random configurations, and random changes between packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Random;
use crate::model::scene::{
    Backend, Balance, Change, Encapsulation, Family, Node, Ping, Protocol, Scene, Service, Slot, State,
    TooBig, Unserved, Via,
};

/// Ports that services listen on, and that packets go to.
pub(super) const PORTS: [u16; 4] = [443, 80, 53, 0];

/// Addresses of services. Two more of each family belong to no service.
pub(super) fn address(family: Family, number: usize) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(203, 0, 113, 10 + number as u8).into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10 + number as u16).into(),
    }
}

/// The number of addresses that services have.
pub(super) const ADDRESSES: usize = 2;

pub(super) fn scene(random: &Random) -> Scene {
    let mut backends = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for _ in 0..random.between(1, 6) {
            let number = backends.len() + 1;
            backends.push(backend(random, family, number));
        }
    }
    let mut services: Vec<Service> = Vec::new();
    for _ in 0..random.between(1, 8) {
        let family = random.one(&[Family::Ipv4, Family::Ipv6]);
        let listen = SocketAddr::new(address(family, random.below(ADDRESSES)), random.one(&PORTS));
        let protocol = random.one(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
        if services.iter().any(|other| other.listen == listen && other.protocol == protocol) {
            continue;
        }
        let length = if random.percent(5) { 0 } else { random.one(&[1, 1, 2, 3, 5, 7, 13]) };
        let tracked = random.one(&[0, 50, 100]);
        let ring = |length| (0..length).map(|_| slot(random, &backends, family, tracked)).collect();
        let (mut slots, old): (Vec<Slot>, Vec<Slot>) = (ring(length), ring(3));
        let old_slots = if random.percent(50) { old } else { Vec::new() };
        let always = tracked == 100 && random.percent(60);
        let balance = if always { balance(random) } else { Balance::Hash };
        let longest = longest(random, balance, &mut slots);
        let bits = || match family {
            _ if random.percent(60) => 0,
            Family::Ipv4 => random.one(&[1, 8, 24, 29, 31, 32]),
            Family::Ipv6 => random.one(&[1, 32, 33, 64, 65, 96, 125, 127, 128]),
        };
        let (source_bits, old_source_bits) = (bits(), bits());
        services.push(Service {
            listen,
            protocol,
            always,
            balance,
            longest,
            source_bits,
            old_source_bits,
            slots,
            old_slots,
        });
    }
    let node = match random.below(100) {
        0 => Node::Unconfigured,
        1 => Node::OtherVersion,
        _ => Node::Ready,
    };
    let decap = (0..ADDRESSES)
        .flat_map(|number| [Family::Ipv4, Family::Ipv6].map(|family| address(family, number)))
        .filter(|_| random.percent(70))
        .collect();
    let seed = [format!("{:x}", random.next()), format!("{:x}", random.next())];
    // Also addresses of services: those count as the services' addresses.
    let hosts = (0..ADDRESSES + 2)
        .flat_map(|number| [Family::Ipv4, Family::Ipv6].map(|family| address(family, number)))
        .filter(|_| random.percent(40))
        .collect();
    let healthy = (0..ADDRESSES)
        .flat_map(|number| [Family::Ipv4, Family::Ipv6].map(|family| address(family, number)))
        .filter(|_| random.percent(50))
        .collect();
    Scene {
        about: String::new(),
        node,
        seed,
        ping: random.one(&[Ping::Answer, Ping::Answer, Ping::Healthy, Ping::Host, Ping::Drop]),
        healthy,
        too_big: random.one(&[TooBig::Answer, TooBig::Answer, TooBig::Answer, TooBig::Drop]),
        unserved: random.one(&[Unserved::Pass, Unserved::Drop]),
        hosts,
        ingress_mtu: random.one(&[None, Some(1500), Some(60), Some(random.between(40, 160) as u32)]),
        crowded: random.percent(20),
        decap,
        decap_gue: random.percent(60),
        backends,
        services,
    }
}

fn backend(random: &Random, carries: Family, number: usize) -> Backend {
    let source_bits = random.one(&[0, 0, 0, 1, 8, 16, 31, 32]);
    let kept = u32::MAX.checked_shl(u32::from(source_bits)).unwrap_or(0);
    let (source, address): (IpAddr, IpAddr) = if random.percent(50) {
        let source = Ipv4Addr::from_bits(0x0a00_0001 & kept);
        (source.into(), Ipv4Addr::new(10, 1, 0, number as u8).into())
    } else {
        let source = Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(0xffff_0001 & kept));
        (source.into(), Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number as u16).into())
    };
    let mtu = match random.below(10) {
        0 => random.one(&[0, 39, 40, 41, 60, 68, 80, 576, 1280, 9000, 65535]),
        1 => random.between(48, 160) as u16,
        // The smallest MTU that is reported over IPv6, and MTUs around it.
        2 => random.one(&[1279, 1280, 1299, 1300, 1320, 1328, 1400]),
        _ => 1500,
    };
    let via = match random.below(20) {
        0 => Via::Unknown,
        1 => Via::Unmapped,
        2..6 => Via::Other,
        _ => Via::Same,
    };
    let weight = random.one(&[100, 100, 100, 0, 1, 50, 300, 65535]);
    let (_, encapsulation) = random.one(&Encapsulation::ALL);
    Backend { address, source, source_bits, carries, encapsulation, mtu, weight, via, state: state(random) }
}

fn state(random: &Random) -> State {
    random.one(&[State::Up, State::Up, State::Up, State::Up, State::Draining, State::Down, State::Failing])
}

fn balance(random: &Random) -> Balance {
    random.one(&[Balance::Hash, Balance::RoundRobin, Balance::Random, Balance::LeastConnections])
}

/// The length that a service states for its longest run of slots. Mostly its slots are sorted then, as the agent lays them; at
/// times the length is wrong.
fn longest(random: &Random, balance: Balance, slots: &mut [Slot]) -> u32 {
    if balance != Balance::LeastConnections || random.percent(20) {
        return 0;
    }
    if random.percent(20) {
        return random.one(&[1, 2, 3, 7, 20, u32::MAX]);
    }
    let owned = slots.to_vec();
    let share = |slot: &Slot| owned.iter().filter(|other| other.owner() == slot.owner()).count();
    slots.sort_by_key(|slot| (std::cmp::Reverse(share(slot)), slot.owner()));
    slots.first().map_or(0, |first| share(first) as u32)
}

/// A slot for a family; `tracked` is the likelihood of a tracked slot in percent.
fn slot(random: &Random, backends: &[Backend], family: Family, tracked: usize) -> Slot {
    let mut numbers = (1..).zip(backends).filter(|(_, backend)| backend.carries == family);
    let first = numbers.next().map_or(0, |(number, _)| number);
    let last = numbers.last().map_or(first, |(number, _)| number);
    let one = || if random.percent(4) { 0 } else { random.between(first as usize, last as usize) as u32 };
    let (current, previous) = (one(), one());
    if !random.percent(tracked) {
        return Slot::Stable(current);
    }
    match random.below(4) {
        0 => Slot::Remembering(current),
        1 => Slot::LearningFromRing(current),
        _ if previous == 0 => Slot::Remembering(current),
        _ => Slot::Learning(current, previous),
    }
}

/// A change in a scene.
pub(super) fn change(random: &Random, scene: &Scene) -> Change {
    if random.percent(45) {
        let number = random.between(1, scene.backends.len()) as u32;
        return Change::Backend { number, state: state(random) };
    }
    if random.percent(10) {
        return Change::Silence;
    }
    let number = random.below(scene.services.len());
    let service = &scene.services[number];
    if service.always && random.percent(20) {
        return Change::Balance { service: number as u32, to: balance(random) };
    }
    let family = if service.listen.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let slot_number = random.below(service.slots.len().max(1)) as u32;
    let to = slot(random, &scene.backends, family, 80);
    Change::Slot { service: number as u32, slot: slot_number, to }
}
