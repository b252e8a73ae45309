//! `lb_xdp`: the flowchart of lb-ebpf/doc/packet-path.md, "The path of a packet", from top to bottom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{Address, counter::Counter, hash, mapped, wire};

use super::{
    Answer, Model, Tally, Witness, control, flows,
    flows::Choice,
    ip::{self, ETHERNET, Flow, Unread},
    outer,
    scene::{Node, Protocol, Slot, Unserved, Via},
};

/// `room`: bytes that the driver left in front of the frame.
pub(super) fn run(model: &mut Model, frame: &[u8], room: usize, witness: Witness<'_>) -> Answer {
    if model.scene.node != Node::Ready {
        return Answer::ended(Counter::PassedNotReady, frame);
    }
    let ethertype = ip::ethertype(frame);
    let packet = frame.get(ETHERNET..).unwrap_or_default();
    let flow = match ethertype {
        Some(0x0800) => ip::v4(packet),
        Some(0x86dd) => ip::v6(packet),
        _ => return Answer::ended(Counter::PassedNotIp, frame),
    };
    match flow {
        Ok(flow) => forward(model, frame, &flow, room, witness),
        Err(Unread::Control) => control::run(model, frame, room),
        Err(Unread::Counter(counter)) => {
            let to = ip::destination(ethertype.unwrap_or_default(), packet);
            let merged = model.scene.ingress_mtu.is_some_and(|mtu| packet.len() > mtu as usize)
                && ip::is_beyond_its_length(packet);
            // Several packets were merged into one, whose length does not fit into its header.
            let counter = match counter {
                Counter::BadLength | Counter::Truncated if merged => Counter::Merged,
                counter => counter,
            };
            Answer::ended(to.map_or(counter, |to| blame(model, counter, to)), frame)
        }
    }
}

/// The counter of a packet that cannot be read, if at least its destination can be read.
fn blame(model: &Model, counter: Counter, to: IpAddr) -> Counter {
    match counter {
        // A drop only if the destination is one of our addresses.
        Counter::Fragment
        | Counter::Truncated
        | Counter::BadLength
        | Counter::Merged
        | Counter::ExtensionHeaders => {
            if is_ours(model, to) {
                counter
            } else {
                not_taken(model, to)
            }
        }
        // These packets pass, except those to one of our addresses where no service takes them.
        Counter::PassedOtherProtocol | Counter::PassedRoutingHeader if is_ours(model, to) => {
            not_taken(model, to)
        }
        _ => counter,
    }
}

/// The counter of a packet that no service takes.
pub(super) fn not_taken(model: &Model, to: IpAddr) -> Counter {
    let scene = &model.scene;
    if is_ours(model, to) {
        match scene.unserved {
            Unserved::Pass => Counter::PassedUnserved,
            Unserved::Drop => Counter::Unserved,
        }
    } else if scene.hosts.contains(&to) {
        Counter::PassedHost
    } else {
        Counter::PassedNotService
    }
}

pub(super) fn is_ours(model: &Model, address: IpAddr) -> bool {
    model.scene.services.iter().any(|service| service.listen.ip() == address)
}

/// The number of the service: the service of this port, or else the service of every port.
pub(super) fn service(model: &Model, flow: &Flow) -> Option<u32> {
    let listens = |port: u16| {
        model.scene.services.iter().position(|service| {
            let protocol = if service.protocol == Protocol::Tcp { ip::TCP } else { ip::UDP };
            service.listen == SocketAddr::new(flow.destination, port) && protocol == flow.protocol
        })
    };
    listens(flow.destination_port).or_else(|| listens(0)).map(|number| number as u32)
}

/// An address in the form that the hash takes.
fn words(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let o = v6.octets();
            [0, 4, 8, 12].map(|i| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]))
        }
    }
}

/// The published flow hash over the packet's tuple.
pub(super) fn flow_hash(model: &Model, flow: &Flow) -> u64 {
    let ports = wire::ports(flow.source_port, flow.destination_port);
    hash::flow(&model.seed, &words(flow.source), &words(flow.destination), ports, flow.protocol)
}

/// The published hash over the client's address alone; only its first `bits` bits count, the others are set to 0.
fn source_hash(model: &Model, flow: &Flow, bits: u8) -> u64 {
    let network: IpAddr = match flow.source {
        IpAddr::V4(v4) => {
            (v4 & Ipv4Addr::from_bits(!(u32::MAX.checked_shr(bits.into()).unwrap_or(0)))).into()
        }
        IpAddr::V6(v6) => {
            (v6 & Ipv6Addr::from_bits(!(u128::MAX.checked_shr(bits.into()).unwrap_or(0)))).into()
        }
    };
    let nowhere: IpAddr =
        if network.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    hash::flow(&model.seed, &words(network), &words(nowhere), 0, 0)
}

/// The hash by which a ring finds the flow's slot.
pub(super) fn place(model: &Model, flow: &Flow, source_bits: u8) -> u64 {
    if source_bits == 0 { flow_hash(model, flow) } else { source_hash(model, flow, source_bits) }
}

/// Whether no client has that address, or none that sends something there.
pub(super) fn has_no_client(source: IpAddr, destination: IpAddr) -> bool {
    let nowhere = match source {
        IpAddr::V4(v4) => {
            v4.octets()[0] == 0 || v4.is_loopback() || v4.is_multicast() || v4.octets()[0] >= 240
        }
        // Unspecified, loopback, mapped, compatible: the first 64 bits are 0.
        IpAddr::V6(v6) => v6.is_multicast() || v6.segments()[..4] == [0; 4],
    };
    nowhere || source == destination
}

/// Whether the source is one that no client has.
fn is_martian(model: &Model, flow: &Flow) -> bool {
    // A datagram from a UDP service of ours would come back as the answer to itself.
    let back = Flow { destination: flow.source, destination_port: flow.source_port, ..flow.clone() };
    has_no_client(flow.source, flow.destination)
        || flow.protocol == ip::UDP && service(model, &back).is_some()
}

fn forward(model: &mut Model, frame: &[u8], flow: &Flow, room: usize, witness: Witness<'_>) -> Answer {
    let Some(number) = service(model, flow) else {
        return Answer::ended(not_taken(model, flow.destination), frame);
    };
    if is_martian(model, flow) {
        return Answer::ended(Counter::MartianSource, frame);
    }
    let hash = flow_hash(model, flow);
    let service = &model.scene.services[number as usize];
    let old_place = place(model, flow, service.old_source_bits);
    let Some(slot) = flows::slot(&service.slots, place(model, flow, service.source_bits)) else {
        return Answer::ended(Counter::NoBackend, frame);
    };
    let Choice { backend, events, chance } = match slot {
        Slot::Stable(backend) => Choice { backend, events: Vec::new(), chance: None },
        _ => flows::choose(model, number, slot, old_place, flow, witness),
    };
    let mut answer = send(model, frame, flow, backend, hash, room, false);
    answer.events.extend(events);
    Answer { chance, ..answer }
}

/// `is_error`: an ICMP error, which is not answered by another one.
pub(super) fn send(
    model: &mut Model,
    frame: &[u8],
    flow: &Flow,
    chosen: u32,
    hash: u64,
    room: usize,
    is_error: bool,
) -> Answer {
    let Some(backend) = model.scene.backends.get((chosen as usize).wrapping_sub(1)) else {
        return Answer::ended(Counter::NoBackend, frame);
    };
    if backend.via == Via::Unknown {
        return Answer::ended(Counter::NoNextHop, frame);
    }
    let overhead = outer::overhead(backend);
    if flow.length + overhead > usize::from(backend.mtu) {
        // Longer than the interface's MTU: when it came in, it was several packets.
        let merged = model.scene.ingress_mtu.is_some_and(|mtu| flow.length > mtu as usize);
        if merged || is_error {
            return Answer::ended(if merged { Counter::Merged } else { Counter::TooBig }, frame);
        }
        let allows = usize::from(backend.mtu).saturating_sub(overhead);
        return control::too_big(model, frame, flow.length, allows, room);
    }
    if overhead > room {
        return Answer::ended(Counter::NoHeadroom, frame);
    }
    let verdict = match backend.via {
        Via::Same => Counter::ForwardedTx,
        Via::Other => Counter::ForwardedRedirect,
        Via::Unmapped | Via::Unknown => return Answer::ended(Counter::NoEgress, frame),
    };
    let out = outer::encapsulate(backend, chosen, &frame[ETHERNET..], flow.length, flow.tos, hash);
    let Tally { packets, bytes, connections } = model.backends.entry(chosen).or_default();
    *packets += 1;
    *bytes += flow.length as u64;
    *connections += u64::from(flow.opens);
    Answer::sent(verdict, out)
}
