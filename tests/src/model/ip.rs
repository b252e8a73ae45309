//! Reads a packet: from the bytes of a frame to the flow it belongs to, or to the counter under which it ends because the
//! flow is not readable. Slices and `Option`s only; RFC 791 (3.1), RFC 8200 (3 and 4), RFC 9293 (3.1), RFC 768, RFC 4302.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::counter::Counter;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;

/// The number of extension headers that are read (lb-ebpf/doc/packet-path.md, "Where the chart is too short").
const MOST_EXTENSIONS: usize = 6;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What a packet says about the age of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Syn,
    Ordinary {
        fin: bool,
    },
    Reset,
    /// What no client sends: SYN with ACK, FIN or RST, or neither ACK nor SYN.
    Nothing,
    Datagram,
}

/// What a packet says about the flow it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// SYN without ACK: counts as a new connection, whatever other flags are set.
    pub(super) opens: bool,
    pub(super) says: Says,
    /// The TCP sequence number; 0 for UDP.
    pub(super) sequence: u32,
    /// DSCP and ECN.
    pub(super) tos: u8,
    /// Bytes of the IP packet, with its header and without padding of the link layer.
    pub(super) length: usize,
}

/// Why a packet has no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// ICMP, ICMPv6.
    Control,
    Counter(Counter),
}

impl From<Counter> for Unread {
    fn from(counter: Counter) -> Self {
        Self::Counter(counter)
    }
}

/// The verdict for a protocol other than TCP and UDP.
fn other(number: u8, control: u8) -> Unread {
    if number == control { Unread::Control } else { Counter::PassedOtherProtocol.into() }
}

/// Whether the frame is IPv4 or IPv6 in plain Ethernet.
pub(super) fn ethertype(frame: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

pub(super) fn v4_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

pub(super) fn v6_at(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets)
}

/// Reads an IPv4 packet; `ip` is the frame from its IP header on.
pub(super) fn v4(ip: &[u8]) -> Result<Flow, Unread> {
    if ip.len() < 20 {
        return Err(Counter::PassedMalformed.into());
    }
    let version = ip[0] >> 4;
    let header = usize::from(ip[0] & 0x0f) * 4;
    if version != 4 || header < 20 {
        return Err(Counter::PassedMalformed.into());
    }
    let protocol = ip[9];
    if protocol != TCP && protocol != UDP {
        return Err(other(protocol, ICMP));
    }
    let more_fragments = ip[6] & 0x20 != 0;
    let fragment_offset = u16_at(ip, 6) & 0x1fff;
    if more_fragments || fragment_offset != 0 {
        return Err(Counter::Fragment.into());
    }
    let total = u16_at(ip, 2);
    if total > ip.len() || total < header {
        return Err(Counter::BadLength.into());
    }
    let flow = Flow {
        source: v4_at(ip, 12).into(),
        destination: v4_at(ip, 16).into(),
        protocol,
        source_port: 0,
        destination_port: 0,
        opens: false,
        says: Says::Datagram,
        sequence: 0,
        tos: ip[1],
        length: total,
    };
    transport(flow, &ip[header..total])
}

/// Reads an IPv6 packet; `ip` is the frame from its IP header on.
pub(super) fn v6(ip: &[u8]) -> Result<Flow, Unread> {
    if ip.len() < 40 {
        return Err(Counter::PassedMalformed.into());
    }
    if ip[0] >> 4 != 6 {
        return Err(Counter::PassedMalformed.into());
    }
    let destination = v6_at(ip, 24);
    if destination.to_ipv4_mapped().is_some() {
        return Err(Counter::PassedNotService.into());
    }
    // The chain is followed as far as the frame goes; the payload length is compared afterwards.
    let (protocol, skipped) = chain(ip[6], &ip[40..])?;
    let payload = u16_at(ip, 4);
    if 40 + payload > ip.len() || skipped > payload {
        return Err(Counter::BadLength.into());
    }
    let flow = Flow {
        source: v6_at(ip, 8).into(),
        destination: destination.into(),
        protocol,
        source_port: 0,
        destination_port: 0,
        opens: false,
        says: Says::Datagram,
        sequence: 0,
        tos: ip[0] << 4 | ip[1] >> 4,
        length: 40 + payload,
    };
    transport(flow, &ip[40 + skipped..40 + payload])
}

/// Whether a packet is TCP and leaves its length out, as a packet longer than 65,535 bytes does: 0 in the IPv4 header, or 0 in
/// the IPv6 header if TCP follows at once or after nothing but the jumbo payload option (RFC 2675).
pub(super) fn is_beyond_its_length(ip: &[u8]) -> bool {
    match ip {
        [first, ..] if first >> 4 == 4 && ip.len() >= 20 => u16_at(ip, 2) == 0 && ip[9] == TCP,
        [first, ..] if first >> 4 == 6 && ip.len() >= 40 => {
            let behind = match ip[6] {
                TCP => true,
                0 => ip.get(40..44) == Some(&[TCP, 0, 0xc2, 4]),
                _ => false,
            };
            // Or a length that fits into its field, and not into 16 bits together with the header.
            let payload = u16_at(ip, 4);
            behind && (payload == 0 || payload + 40 > 65_535 && payload + 40 <= ip.len())
        }
        _ => false,
    }
}

/// The transport protocol after the extension headers, and the number of bytes in front of it.
fn chain(first: u8, bytes: &[u8]) -> Result<(u8, usize), Unread> {
    let mut next = first;
    let mut at = 0;
    let mut walked = 0;
    loop {
        if next == TCP || next == UDP {
            return Ok((next, at));
        }
        if walked == MOST_EXTENSIONS {
            return Err(Counter::ExtensionHeaders.into());
        }
        let (hop_by_hop, routing, fragment, authentication, destination) = (0, 43, 44, 51, 60);
        if next == fragment {
            return Err(Counter::Fragment.into());
        }
        if ![hop_by_hop, routing, authentication, destination].contains(&next) {
            return Err(other(next, ICMPV6));
        }
        // The first bytes of all of them; in a routing header the fourth byte is "segments left".
        let Some(head) = bytes.get(at..at + 4) else {
            return Err(Counter::Truncated.into());
        };
        if next == routing && head[3] != 0 {
            return Err(Counter::PassedRoutingHeader.into());
        }
        let length = usize::from(head[1]);
        at += if next == authentication { (length + 2) * 4 } else { (length + 1) * 8 };
        next = head[0];
        walked += 1;
    }
}

/// Reads ports and flags; `payload` is the payload by the length in the IP header.
fn transport(mut flow: Flow, payload: &[u8]) -> Result<Flow, Unread> {
    if flow.protocol == TCP {
        if payload.len() < 20 {
            return Err(Counter::Truncated.into());
        }
        let header = usize::from(payload[12] >> 4) * 4;
        if header < 20 || header > payload.len() {
            return Err(Counter::BadLength.into());
        }
        let flags = payload[13];
        let (fin, syn, rst, ack) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
        flow.opens = syn && !ack;
        flow.says = match (syn, rst, ack) {
            (true, false, false) if !fin => Says::Syn,
            (true, ..) => Says::Nothing,
            (false, true, _) => Says::Reset,
            (false, false, true) => Says::Ordinary { fin },
            (false, false, false) => Says::Nothing,
        };
        flow.sequence = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
    } else {
        if payload.len() < 8 {
            return Err(Counter::Truncated.into());
        }
        let length = u16_at(payload, 4);
        if length < 8 || length > payload.len() {
            return Err(Counter::BadLength.into());
        }
    }
    flow.source_port = u16_at(payload, 0) as u16;
    flow.destination_port = u16_at(payload, 2) as u16;
    Ok(flow)
}

/// The destination of a packet that cannot be read, if at least the destination is readable.
pub(super) fn destination(ethertype: u16, ip: &[u8]) -> Option<IpAddr> {
    match ethertype {
        0x0800 if ip.len() >= 20 => Some(v4_at(ip, 16).into()),
        0x86dd if ip.len() >= 40 => Some(v6_at(ip, 24).into()),
        _ => None,
    }
}
