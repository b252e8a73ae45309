//! Control messages to addresses of services: lb-ebpf/doc/packet-path.md, "Control messages". ICMP is RFC 792, ICMPv6 RFC 4443;
//! what an error quotes is the packet of a backend, and turned round it is a packet of the flow.

use std::net::IpAddr;

use lb_common::counter::Counter;

use super::{
    Answer, Model, balance, flows,
    ip::{ETHERNET, Flow, Says, TCP, UDP, u16_at, v4_at, v6_at},
    outer::{checksum, ones_complement},
    scene::{Balance, Ping, Slot, TooBig},
};

/// Bytes of the header of a control message.
const HEADER: usize = 8;
/// Extension headers that a quoted packet may have in front of its ports.
const MOST_EXTENSIONS: usize = 6;
/// TTL and hop limit of what we send ourselves.
const TTL: u8 = 64;

/// A control message.
struct Control<'a> {
    source: IpAddr,
    destination: IpAddr,
    tos: u8,
    /// Bytes of the IP header, with its options.
    at: usize,
    /// Bytes from the IP header on, as the header says.
    length: usize,
    kind: u8,
    code: u8,
    ip: &'a [u8],
}

/// `room`: bytes that the driver left in front of the frame.
pub(super) fn run(model: &mut Model, frame: &[u8], room: usize) -> Answer {
    let ip = &frame[ETHERNET..];
    let Some(control) = read(ip) else { return Answer::ended(Counter::PassedOtherProtocol, frame) };
    let is_v4 = ip[0] >> 4 == 4;
    let (errors, echo): (&[u8], u8) = if is_v4 { (&[3, 11, 12], 8) } else { (&[1, 2, 3, 4], 128) };
    let is_error = errors.contains(&control.kind);
    if !balance::is_ours(model, control.destination) || !is_error && control.kind != echo {
        return Answer::ended(Counter::PassedOtherProtocol, frame);
    }
    if control.length > ip.len() {
        return Answer::ended(Counter::BadLength, frame);
    }
    if is_error { error(model, frame, &control, room) } else { request(model, frame, &control) }
}

/// Reads a message that may be ours: no fragment, nothing between it and an IPv6 header, its own header whole.
fn read(ip: &[u8]) -> Option<Control<'_>> {
    let (at, length, tos, source, destination): (_, _, _, IpAddr, IpAddr) = if ip[0] >> 4 == 4 {
        if u16_at(ip, 6) & 0x3fff != 0 {
            return None;
        }
        let at = usize::from(ip[0] & 0x0f) * 4;
        (at, u16_at(ip, 2), ip[1], v4_at(ip, 12).into(), v4_at(ip, 16).into())
    } else {
        if ip[6] != 58 {
            return None;
        }
        let tos = ip[0] << 4 | ip[1] >> 4;
        (40, 40 + u16_at(ip, 4), tos, v6_at(ip, 8).into(), v6_at(ip, 24).into())
    };
    if length < at + HEADER || length > 65_535 || ip.len() < at + HEADER {
        return None;
    }
    Some(Control { source, destination, tos, at, length, kind: ip[at], code: ip[at + 1], ip })
}

/// An echo request to one of our addresses.
fn request(model: &Model, frame: &[u8], control: &Control<'_>) -> Answer {
    let ping = model.scene.ping;
    let has_options = control.ip[0] >> 4 == 4 && control.at != 20;
    let to_a_group = frame[0] & 1 != 0;
    if ping == Ping::Host || control.code != 0 || has_options || to_a_group {
        return Answer::ended(Counter::PassedOtherProtocol, frame);
    }
    if balance::has_no_client(control.source, control.destination) {
        return Answer::ended(Counter::MartianSource, frame);
    }
    let answers = match ping {
        Ping::Answer => true,
        Ping::Healthy => model.scene.healthy.contains(&control.destination),
        Ping::Host | Ping::Drop => false,
    };
    if answers {
        Answer::answered(Counter::Echo, reply(frame, control.at))
    } else {
        Answer::ended(Counter::EchoUnanswered, frame)
    }
}

/// The request as its reply. What changes in a checksum is the difference (RFC 1624, equation 3): a wrong one stays wrong.
fn reply(frame: &[u8], at: usize) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..6].copy_from_slice(&frame[6..12]);
    out[6..12].copy_from_slice(&frame[..6]);
    let (ip, message) = (ETHERNET, ETHERNET + at);
    if frame[ip] >> 4 == 4 {
        out[ip + 12..ip + 16].copy_from_slice(&frame[ip + 16..ip + 20]);
        out[ip + 16..ip + 20].copy_from_slice(&frame[ip + 12..ip + 16]);
        out[ip + 8] = TTL;
        let now = u16_at(&out, ip + 8) as u16;
        update(&mut out, ip + 10, u16_at(frame, ip + 8) as u16, now);
        out[message] = 0;
    } else {
        out[ip + 8..ip + 24].copy_from_slice(&frame[ip + 24..ip + 40]);
        out[ip + 24..ip + 40].copy_from_slice(&frame[ip + 8..ip + 24]);
        out[ip + 7] = TTL;
        out[message] = 129;
    }
    let now = u16_at(&out, message) as u16;
    update(&mut out, message + 2, u16_at(frame, message) as u16, now);
    // The sum of a reply that is all zeros is 0, and only its complement is right.
    if out[message + 2..message + 4] == [0, 0] {
        out[message + 2..message + 4].fill(0xff);
    }
    out
}

/// The checksum at `at` after one 16-bit word changed.
fn update(bytes: &mut [u8], at: usize, old: u16, new: u16) {
    let sum = ones_complement(ones_complement(!(u16_at(bytes, at) as u16), !old), new);
    bytes[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
}

/// The packet that an error quotes.
struct Quote {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// What there is of it behind its IP header and extension headers.
    behind: Vec<u8>,
}

fn error(model: &mut Model, frame: &[u8], control: &Control<'_>, room: usize) -> Answer {
    let quoted = &control.ip[control.at + HEADER..control.length];
    let quote = if control.destination.is_ipv4() { quote_v4(quoted) } else { quote_v6(quoted) };
    let Some(quote) = quote.filter(|quote| quote.source == control.destination) else {
        return Answer::ended(Counter::IcmpQuote, frame);
    };
    if quote.protocol != TCP && quote.protocol != UDP {
        return Answer::ended(Counter::PassedOtherProtocol, frame);
    }
    if quote.behind.len() < 4 {
        return Answer::ended(Counter::IcmpQuote, frame);
    }
    // A packet of the client: the quoted one with its ends exchanged, and as large as the message is.
    let flow = Flow {
        source: quote.destination,
        source_port: u16_at(&quote.behind, 2) as u16,
        destination: quote.source,
        destination_port: u16_at(&quote.behind, 0) as u16,
        protocol: quote.protocol,
        opens: false,
        says: Says::Nothing,
        sequence: 0,
        tos: control.tos,
        length: control.length,
    };
    let Some(number) = balance::service(model, &flow) else {
        return Answer::ended(balance::not_taken(model, flow.destination), frame);
    };
    let service = &model.scene.services[number as usize];
    let hash = balance::flow_hash(model, &flow);
    let old_place = balance::place(model, &flow, service.old_source_bits);
    let Some(slot) = flows::slot(&service.slots, balance::place(model, &flow, service.source_bits)) else {
        return Answer::ended(Counter::NoBackend, frame);
    };
    let (backend, is_known) = match slot {
        Slot::Stable(backend) => (backend, true),
        _ => flows::whose(model, number, slot, old_place, &flow),
    };
    let guesses = !is_known && service.balance != Balance::Hash;
    let mut answer = balance::send(model, frame, &flow, backend, hash, room, true);
    if matches!(answer.verdict, Counter::ForwardedTx | Counter::ForwardedRedirect) {
        answer.events.push(Counter::IcmpSteered);
        if guesses {
            answer.events.push(Counter::IcmpGuessed);
        }
    }
    answer
}

fn quote_v4(quoted: &[u8]) -> Option<Quote> {
    let first = *quoted.first()?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < 20 || quoted.len() < header {
        return None;
    }
    // A later fragment has data where the first one has ports.
    if u16_at(quoted, 6) & 0x1fff != 0 {
        return None;
    }
    Some(Quote {
        source: v4_at(quoted, 12).into(),
        destination: v4_at(quoted, 16).into(),
        protocol: quoted[9],
        behind: quoted[header..].to_vec(),
    })
}

fn quote_v6(quoted: &[u8]) -> Option<Quote> {
    if quoted.len() < 40 || quoted[0] >> 4 != 6 {
        return None;
    }
    let (mut protocol, mut behind, mut count) = (quoted[6], &quoted[40..], 0);
    let (hop_by_hop, routing, fragment, authentication, destination) = (0, 43, 44, 51, 60);
    while [hop_by_hop, routing, fragment, authentication, destination].contains(&protocol) {
        count += 1;
        if count > MOST_EXTENSIONS || behind.len() < 4 {
            return None;
        }
        let length = match protocol {
            44 => 8,
            51 => (usize::from(behind[1]) + 2) * 4,
            _ => (usize::from(behind[1]) + 1) * 8,
        };
        if protocol == fragment && u16_at(behind, 2) & 0xfff8 != 0 {
            return None;
        }
        protocol = behind[0];
        behind = behind.get(length..)?;
    }
    Some(Quote {
        source: v6_at(quoted, 8).into(),
        destination: v6_at(quoted, 24).into(),
        protocol,
        behind: behind.to_vec(),
    })
}

/// *Packet too big*, or nothing where the packet is not answered: lb-ebpf/doc/packet-path.md, "Too big". `allows`: the largest
/// packet for its backend; `length`: that of the packet.
pub(super) fn too_big(model: &Model, frame: &[u8], length: usize, allows: usize, room: usize) -> Answer {
    let ip = &frame[ETHERNET..];
    let is_v4 = ip[0] >> 4 == 4;
    if is_v4 && ip[6] & 0x40 == 0 {
        let events = vec![Counter::TooBigMayFragment];
        return Answer { events, ..Answer::ended(Counter::TooBig, frame) };
    }
    // 576 bytes in all (RFC 1812, 4.3.2.3), 1,280 in all (RFC 4443, 2.4).
    let (header, quote) = if is_v4 { (20, 576 - 28) } else { (40, 1280 - 48) };
    let to_a_group = frame[0] & 1 != 0;
    let is_obeyed = is_v4 || allows >= 1280;
    if model.scene.too_big == TooBig::Drop
        || to_a_group
        || length < quote
        || !is_obeyed
        || room < header + HEADER
    {
        return Answer::ended(Counter::TooBig, frame);
    }
    let (kind, code) = if is_v4 { (3, 4) } else { (2, 0) };
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend((allows as u16).to_be_bytes());
    message.extend(&ip[..quote]);
    let mut out = [&frame[6..12], &frame[..6], &frame[12..14]].concat();
    if is_v4 {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let total = (20 + message.len() as u16).to_be_bytes();
        let mut head = vec![0x45, 192, total[0], total[1], 0, 0, 0, 0, TTL, 1, 0, 0];
        head.extend(&ip[16..20]);
        head.extend(&ip[12..16]);
        let sum = checksum(&head);
        head[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(head);
    } else {
        let payload = (message.len() as u16).to_be_bytes();
        let addresses = [&ip[24..40], &ip[8..24]].concat();
        let pseudo = [&addresses[..], &[0, 0, payload[0], payload[1], 0, 0, 0, 58]].concat();
        let sum = checksum(&[&pseudo[..], &message].concat());
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        out.extend([0x6c, 0, 0, 0, payload[0], payload[1], 58, TTL]);
        out.extend(addresses);
    }
    out.extend(message);
    Answer::answered(Counter::PacketTooBig, out)
}
