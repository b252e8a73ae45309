//! Control messages for services: errors that quote packets of flows that there are, whole, cut and forged; echo requests;
//! and packets that are too big for their backend.

use std::net::IpAddr;

use super::{
    Random,
    frames::{self, Piece},
    scenes::{ADDRESSES, PORTS, address},
};
use crate::{
    frame,
    model::scene::{Family, Protocol, Scene},
};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The ends of a flow: a client and a service.
struct Ends {
    client: IpAddr,
    client_port: u16,
    service: IpAddr,
    service_port: u16,
    protocol: u8,
}

/// One of few flows, so that many of them have a history.
fn ends(random: &Random, scene: &Scene) -> Option<Ends> {
    if scene.services.is_empty() {
        return None;
    }
    let service = &scene.services[random.below(scene.services.len().min(random.one(&[1, 2, 8])))];
    let family = if service.listen.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let every_port = service.listen.port() == 0;
    Some(Ends {
        client: address(family, ADDRESSES + 2 + random.below(2)),
        client_port: 40_000 + random.below(9) as u16,
        service: service.listen.ip(),
        service_port: if every_port { random.one(&PORTS) } else { service.listen.port() },
        protocol: if service.protocol == Protocol::Tcp { frames::TCP } else { frames::UDP },
    })
}

/// An ICMP error for a flow, from anywhere on its path; its quote is as a router would make it, or not.
pub(super) fn error(random: &Random, scene: &Scene) -> Option<Piece> {
    let ends = ends(random, scene)?;
    let family = if ends.service.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let mut quote = quoted(random, &ends, 0);
    if random.percent(70) {
        let header = if family == Family::Ipv4 { usize::from(quote.bytes[0] & 0x0f) * 4 } else { 40 };
        let kept = match random.below(10) {
            0..4 => header + 8,
            4..6 => header + 4,
            6 => header + random.below(4),
            7 => {
                if family == Family::Ipv4 {
                    548
                } else {
                    1232
                }
            }
            _ => random.below(quote.bytes.len() + 1),
        };
        quote.bytes.truncate(kept);
    }
    let types: &[u8] = if family == Family::Ipv4 { &[3, 3, 3, 11, 12] } else { &[1, 2, 2, 3, 4] };
    let from = if random.percent(50) { ends.client } else { frames::client(random, family) };
    let to = if random.percent(95) { ends.service } else { address(family, random.below(ADDRESSES + 2)) };
    let message = head(random, random.one(types)).then(quote);
    Some(frames::ip(random, from, to, number(family), message))
}

/// A packet that the flow's backend has sent. `depth` counts the quotes around it.
fn quoted(random: &Random, ends: &Ends, depth: usize) -> Piece {
    let family = if ends.service.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let source = if random.percent(92) { ends.service } else { frames::client(random, family) };
    if depth < 2 && random.percent(4) {
        // An error about an error, which no node should send.
        let inner = quoted(random, ends, depth + 1);
        let message = head(random, if family == Family::Ipv4 { 3 } else { 2 }).then(inner);
        return frames::ip(random, source, ends.client, number(family), message);
    }
    let mut segment = if ends.protocol == frames::TCP { frames::tcp(random) } else { frames::udp(random) };
    segment.bytes[..2].copy_from_slice(&ends.service_port.to_be_bytes());
    segment.bytes[2..4].copy_from_slice(&ends.client_port.to_be_bytes());
    let protocol = if random.percent(97) { ends.protocol } else { random.byte() };
    frames::ip(random, source, ends.client, protocol, segment)
}

/// An echo request to the address of a service.
pub(super) fn echo(random: &Random, scene: &Scene) -> Option<Piece> {
    let ends = ends(random, scene)?;
    let family = if ends.service.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let from = match random.below(20) {
        0 => ends.service,
        1 if family == Family::Ipv4 => IpAddr::from([127, 0, 0, 1]),
        1 => std::net::Ipv6Addr::LOCALHOST.into(),
        _ => frames::client(random, family),
    };
    let mut message = head(random, if family == Family::Ipv4 { 8 } else { 128 });
    if random.percent(90) {
        message.bytes[1] = 0;
    }
    message.bytes.extend(frames::payload(random));
    match random.below(4) {
        // Sums that carry, and the two forms of 0.
        0 => {
            message.bytes[2..4].copy_from_slice(&random.one(&[
                [0, 0],
                [0xff, 0xff],
                [0xf7, 0xff],
                [0xf8, 0],
            ]));
        }
        1 => {
            message.bytes[2..4].fill(0);
            let sum = frame::ipv4_checksum(&message.bytes);
            message.bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        _ => {}
    }
    Some(frames::ip(random, from, ends.service, number(family), message))
}

/// A packet of a flow that is longer than many backends take.
pub(super) fn large(random: &Random, scene: &Scene) -> Option<Piece> {
    let ends = ends(random, scene)?;
    let mut segment = if ends.protocol == frames::TCP { frames::tcp(random) } else { frames::udp(random) };
    segment.bytes[..2].copy_from_slice(&ends.client_port.to_be_bytes());
    segment.bytes[2..4].copy_from_slice(&ends.service_port.to_be_bytes());
    let more = match random.below(4) {
        // Around the quotes, around the smallest MTU of IPv6 and the usual one.
        0 => random.between(480, 560),
        1 => random.between(1160, 1290),
        2 => random.between(1400, 1500),
        _ => random.between(1500, 2900),
    };
    let extra = random.bytes(more);
    segment.bytes.extend(extra);
    if ends.protocol == frames::UDP {
        let length = segment.bytes.len() as u16;
        segment.bytes[4..6].copy_from_slice(&length.to_be_bytes());
    }
    Some(frames::ip(random, ends.client, ends.service, ends.protocol, segment))
}

fn number(family: Family) -> u8 {
    if family == Family::Ipv4 { ICMP } else { ICMPV6 }
}

/// The 8 bytes of a control message's header.
fn head(random: &Random, kind: u8) -> Piece {
    let mut bytes = vec![kind, random.below(16) as u8];
    bytes.extend(random.bytes(6));
    Piece::new(bytes, &[(0, 1), (1, 1), (4, 2), (6, 2)])
}
