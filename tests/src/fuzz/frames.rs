//! Valid packets of every kind that the programs distinguish, with the places of their fields, so that `mutate` knows where
//! a wrong value matters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Random, control,
    scenes::{ADDRESSES, PORTS, address},
};
use crate::{
    frame::{self, OUR_MAC, ROUTER_MAC},
    model::scene::{Balance, Family, Protocol, Scene},
};

/// Bytes, and the places of their fields: offset and width.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) fields: Vec<(usize, usize)>,
}

impl Piece {
    pub(super) fn new(bytes: Vec<u8>, fields: &[(usize, usize)]) -> Self {
        Self { bytes, fields: fields.to_vec() }
    }

    /// Puts this piece in front of another one.
    pub(super) fn then(mut self, next: Self) -> Self {
        let offset = self.bytes.len();
        self.fields.extend(next.fields.iter().map(|(at, width)| (offset + at, *width)));
        self.bytes.extend(next.bytes);
        self
    }
}

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// A frame for `lb_xdp`.
pub(super) fn for_services(random: &Random, scene: &Scene) -> Piece {
    let special = match random.below(100) {
        0..15 => control::error(random, scene),
        15..20 => control::echo(random, scene),
        20..28 => control::large(random, scene),
        _ => None,
    };
    let packet = if let Some(special) = special {
        special
    } else if random.percent(60) && !scene.services.is_empty() {
        talk(random, scene)
    } else {
        let family = random.one(&[Family::Ipv4, Family::Ipv6]);
        let to = address(family, random.below(if random.percent(75) { ADDRESSES } else { ADDRESSES + 2 }));
        packet(random, client(random, family), to, 0)
    };
    ethernet(random, packet)
}

/// A packet of one of few flows to an existing service, so that flows have a history.
fn talk(random: &Random, scene: &Scene) -> Piece {
    let service = &scene.services[random.below(scene.services.len().min(random.one(&[1, 2, 8])))];
    let family = if service.listen.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let port = if service.listen.port() == 0 { random.one(&PORTS) } else { service.listen.port() };
    let (number, mut segment) = match service.protocol {
        Protocol::Tcp => (TCP, tcp(random)),
        Protocol::Udp => (UDP, udp(random)),
    };
    // Loads differ only between backends with several flows.
    let ports = if service.balance == Balance::Hash { 3 } else { 9 };
    segment.bytes[0..2].copy_from_slice(&(40_000 + random.below(ports) as u16).to_be_bytes());
    segment.bytes[2..4].copy_from_slice(&port.to_be_bytes());
    let clients = [address(family, ADDRESSES + 2), address(family, ADDRESSES + 3)];
    ip(random, random.one(&clients), service.listen.ip(), number, segment)
}

/// A frame for `lb_decap`: mostly a tunnel.
pub(super) fn for_decap(random: &Random) -> Piece {
    let family = random.one(&[Family::Ipv4, Family::Ipv6]);
    let to = address(family, random.below(ADDRESSES + 1));
    let from = client(random, family);
    let packet = if random.percent(10) { packet(random, from, to, 0) } else { tunnel(random, from, to, 0) };
    ethernet(random, packet)
}

pub(super) fn client(random: &Random, family: Family) -> IpAddr {
    let number = random.below(4) as u8;
    match family {
        Family::Ipv4 => Ipv4Addr::new(198, 51, 100, number).into(),
        // One in four is an IPv4-mapped address, which must not appear on the wire.
        Family::Ipv6 if number == 3 => Ipv4Addr::new(198, 51, 100, 1).to_ipv6_mapped().into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, number.into()).into(),
    }
}

fn ethernet(random: &Random, packet: Piece) -> Piece {
    let mut bytes = [OUR_MAC, ROUTER_MAC].concat();
    if random.percent(2) {
        bytes[0] |= 1; // a frame to a group
    }
    if random.percent(2) {
        for _ in 0..random.between(1, 3) {
            bytes.extend(random.one(&[[0x81, 0x00], [0x88, 0xa8]]));
            bytes.extend(random.bytes(2));
        }
    }
    let ethertype = if packet.bytes[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    bytes.extend(ethertype);
    let field = [(bytes.len() - 2, 2)];
    let mut whole = Piece::new(bytes, &field).then(packet);
    if random.percent(10) {
        let padding = random.between(1, 46);
        whole.bytes.extend(random.bytes(padding));
    }
    whole
}

/// An IP packet of any kind; `depth` counts the headers around it.
fn packet(random: &Random, from: IpAddr, to: IpAddr, depth: usize) -> Piece {
    match random.below(100) {
        0..55 => {
            let segment = tcp(random);
            ip(random, from, to, TCP, segment)
        }
        55..80 => {
            let datagram = udp(random);
            ip(random, from, to, UDP, datagram)
        }
        80..88 => icmp(random, from, to, depth),
        88..94 if depth < 3 => tunnel(random, from, to, depth),
        _ => {
            let number = random.byte();
            let count = random.below(60);
            let payload = Piece::new(random.bytes(count), &[]);
            ip(random, from, to, number, payload)
        }
    }
}

fn tunnel(random: &Random, from: IpAddr, to: IpAddr, depth: usize) -> Piece {
    let family = random.one(&[Family::Ipv4, Family::Ipv6]);
    let inner = packet(random, client(random, family), address(family, random.below(ADDRESSES)), depth + 1);
    if random.percent(40) {
        let length = (8 + inner.bytes.len()) as u16;
        let length =
            if random.percent(90) { length } else { length.wrapping_sub(random.between(0, 40) as u16) };
        let port = if random.percent(90) { 6080_u16 } else { 6081 };
        let head =
            [&random.bytes(2)[..], &port.to_be_bytes(), &length.to_be_bytes(), &random.bytes(2)].concat();
        let head = Piece::new(head, &[(2, 2), (4, 2)]);
        return ip(random, from, to, UDP, head.then(inner));
    }
    let number = if family == Family::Ipv4 { 4 } else { 41 };
    ip(random, from, to, number, inner)
}

/// An ICMP message that quotes some packet, as errors do (RFC 792, RFC 4443).
fn icmp(random: &Random, from: IpAddr, to: IpAddr, depth: usize) -> Piece {
    let types: &[u8] = if from.is_ipv4() { &[0, 3, 4, 5, 8, 11, 12] } else { &[1, 2, 3, 4, 128, 129, 135] };
    let mut head = vec![random.one(types), random.below(16) as u8];
    head.extend(random.bytes(6));
    let head = Piece::new(head, &[(0, 1), (1, 1), (4, 2), (6, 2)]);
    let message = if depth < 3 {
        // The quoted packet went in the other direction.
        head.then(packet(random, to, from, depth + 1))
    } else {
        head
    };
    ip(random, from, to, if from.is_ipv4() { 1 } else { 58 }, message)
}

pub(super) fn payload(random: &Random) -> Vec<u8> {
    let count = match random.below(20) {
        0 => random.below(1500),
        1 => random.between(1380, 1480),
        2 => random.below(3000),
        _ => random.below(24),
    };
    random.bytes(count)
}

fn ports(random: &Random) -> [u8; 4] {
    let from = 40_000 + random.below(6) as u16;
    let to = if random.percent(95) { random.one(&PORTS) } else { random.next() as u16 };
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    [a, b, c, d]
}

/// One of few numbers: some fit each other, others are around the limits of what fits; at times any number.
fn sequence(random: &Random) -> u32 {
    const MIB: u32 = 1 << 20;
    const FAR: [u32; 4] = [0, 1 << 30, 2 << 30, 3 << 30];
    const NEAR: [u32; 10] = [0, 1, 1000, 0x1_0000, MIB, 2 * MIB, 14 * MIB, 18 * MIB, 62 * MIB, 68 * MIB];
    if random.percent(5) {
        return random.next() as u32;
    }
    random.one(&FAR).wrapping_add(random.one(&NEAR))
}

pub(super) fn tcp(random: &Random) -> Piece {
    let options = if random.percent(30) { random.between(1, 10) } else { 0 };
    let mut bytes = ports(random).to_vec();
    bytes.extend(sequence(random).to_be_bytes());
    bytes.extend(random.bytes(4));
    bytes.push(((5 + options) << 4) as u8 | random.below(2) as u8);
    // SYN, SYN+ACK, ACK, PSH+ACK, FIN+ACK, RST, RST+ACK, or any.
    bytes.push(match random.below(10) {
        0..7 => random.one(&[0x02, 0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0xc2]),
        _ => random.byte(),
    });
    bytes.extend(random.bytes(6));
    bytes.extend(vec![1; options * 4]);
    bytes.extend(payload(random));
    Piece::new(bytes, &[(0, 2), (2, 2), (12, 1), (13, 1), (13, 1)])
}

pub(super) fn udp(random: &Random) -> Piece {
    let mut bytes = ports(random).to_vec();
    let payload = payload(random);
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    Piece::new(bytes, &[(0, 2), (2, 2), (4, 2), (4, 2)])
}

/// The IP header, and what may be between it and its payload.
pub(super) fn ip(random: &Random, from: IpAddr, to: IpAddr, protocol: u8, payload: Piece) -> Piece {
    let tos = random.byte();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let options = if random.percent(10) { random.between(1, 10) } else { 0 };
            let mut bytes = vec![0x45 + options as u8, tos];
            bytes.extend((20 + options as u16 * 4 + payload.bytes.len() as u16).to_be_bytes());
            bytes.extend(random.bytes(2));
            bytes.extend(random.one(&[[0, 0], [0x40, 0], [0x40, 0], [0xc0, 0]]));
            bytes.extend([random.byte(), protocol, 0, 0]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
            bytes.extend(vec![1; options * 4]);
            if random.percent(3) {
                bytes[6] |= 0x20; // more fragments
            }
            if random.percent(3) {
                bytes[7] = random.byte(); // some offset
            }
            let checksum = frame::ipv4_checksum(&bytes);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            let fields = [(0, 1), (0, 1), (1, 1), (2, 2), (2, 2), (6, 2), (9, 1), (12, 4), (16, 4)];
            Piece::new(bytes, &fields).then(payload)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (first, chain) = chain(random, protocol);
            let rest = chain.then(payload);
            let mut bytes =
                (6 << 28 | u32::from(tos) << 20 | random.next() as u32 & 0xf_ffff).to_be_bytes().to_vec();
            bytes.extend((rest.bytes.len() as u16).to_be_bytes());
            bytes.extend([first, random.byte()]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
            let fields = [(0, 1), (1, 1), (4, 2), (4, 2), (6, 1), (6, 1), (8, 4), (24, 4), (36, 4)];
            Piece::new(bytes, &fields).then(rest)
        }
        (IpAddr::V4(from), to) => ip(random, from.to_ipv6_mapped().into(), to, protocol, payload),
        (from, IpAddr::V4(to)) => ip(random, from, to.to_ipv6_mapped().into(), protocol, payload),
    }
}

/// Extension headers in front of `protocol` (RFC 8200, 4): the first one's number, and all of them.
fn chain(random: &Random, protocol: u8) -> (u8, Piece) {
    let count = match random.below(10) {
        0 => random.between(1, 3),
        1 => random.between(4, 9),
        _ => 0,
    };
    let mut next = protocol;
    let mut whole = Piece::default();
    for _ in 0..count {
        let number = random.one(&[0, 60, 60, 60, 43, 51, if random.percent(20) { 44 } else { 60 }]);
        let units = if random.percent(5) { random.byte() } else { random.below(4) as u8 };
        let length = match number {
            44 => 8,
            51 => 8 + usize::from(units) * 4,
            _ => 8 + usize::from(units) * 8,
        };
        let mut bytes = random.bytes(length);
        bytes[0] = next;
        bytes[1] = if number == 44 { 0 } else { units };
        if number == 43 && random.percent(80) {
            bytes[3] = 0; // segments left
        }
        whole = Piece::new(bytes, &[(0, 1), (1, 1), (3, 1)]).then(whole);
        next = number;
        // The kernel takes a frame in one piece only up to a limit.
        if whole.bytes.len() > 2000 {
            break;
        }
    }
    (next, whole)
}
