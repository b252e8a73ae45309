//! Outer headers, byte after byte: RFC 2003 and RFC 791 for IPv4, RFC 2473 and RFC 8200 for IPv6, RFC 6040 (4.1) for
//! DSCP and ECN. Our choices (TTL 64, don't-fragment, identification 0, flow label and source bits from the flow hash)
//! are in lb-ebpf/doc/packet-path.md, "Outer headers".

use std::net::IpAddr;

use super::scene::{Backend, Encapsulation};

/// The length of an outer header in bytes.
pub(super) fn overhead(backend: &Backend) -> usize {
    let ip = if backend.address.is_ipv4() { 20 } else { 40 };
    match backend.encapsulation {
        Encapsulation::Ipip => ip,
        Encapsulation::L2 => 0,
        Encapsulation::Gue => ip + 8,
    }
}

/// The frame as it is sent to a backend. `ip` is the frame as it came, from its IP header on; `length` is the length of the
/// packet in it, without padding.
pub(super) fn encapsulate(
    backend: &Backend,
    number: u32,
    ip: &[u8],
    length: usize,
    tos: u8,
    hash: u64,
) -> Vec<u8> {
    // An inner IPv4 packet is protocol 4, an inner IPv6 packet is protocol 41 (IANA).
    let inside = if ip[0] >> 4 == 4 { 4 } else { 41 };
    let mut out = Vec::from(next_hop(number));
    out.extend(crate::frame::OUR_MAC);
    match backend.encapsulation {
        Encapsulation::Ipip => out.extend(outer_ip(backend, inside, length, tos, hash)),
        Encapsulation::L2 => out.extend(if inside == 4 { [0x08, 0x00] } else { [0x86, 0xdd] }),
        // 17 is UDP.
        Encapsulation::Gue => {
            let header = outer_ip(backend, 17, 8 + length, tos, hash);
            let udp = udp(&header[2..], &ip[..length], hash);
            out.extend(header);
            out.extend(udp);
        }
    }
    out.extend(ip);
    out
}

/// The ethertype and an outer IP header in front of `length` bytes of protocol `inside`.
fn outer_ip(backend: &Backend, inside: u8, length: usize, tos: u8, hash: u64) -> Vec<u8> {
    let mut out = Vec::new();
    match (backend.source, backend.address) {
        (IpAddr::V4(source), IpAddr::V4(address)) => {
            let source = source.to_bits() | low_bits(hash, backend.source_bits);
            out.extend([0x08, 0x00]);
            let mut header = vec![0x45, tos];
            header.extend(((20 + length) as u16).to_be_bytes());
            header.extend([0, 0]); // identification
            header.extend([0x40, 0]); // don't fragment, offset 0
            header.extend([64, inside, 0, 0]);
            header.extend(source.to_be_bytes());
            header.extend(address.octets());
            let checksum = checksum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            out.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(address)) => {
            let source = source.to_bits() | u128::from(low_bits(hash, backend.source_bits));
            let label = (hash % (1 << 20)) as u32;
            out.extend([0x86, 0xdd]);
            out.extend((6 << 28 | u32::from(tos) << 20 | label).to_be_bytes());
            out.extend((length as u16).to_be_bytes());
            out.extend([inside, 64]);
            out.extend(source.to_be_bytes());
            out.extend(address.octets());
        }
        _ => panic!("an outer header has one family"),
    }
    out
}

/// The UDP header of GUE (RFC 768) behind an outer header: port 6080, a source port from the flow hash, and over IPv6 the
/// checksum, where the inner packet shows that its own checksum covers all of it.
fn udp(outer: &[u8], inner: &[u8], hash: u64) -> Vec<u8> {
    let mut header = (49_152 + (hash % 16_384) as u16).to_be_bytes().to_vec();
    header.extend(6080_u16.to_be_bytes());
    header.extend((8 + inner.len() as u16).to_be_bytes());
    header.extend([0, 0]);
    if outer[0] >> 4 == 6 && covers_itself(inner) {
        // RFC 8200, 8.1: addresses, length and next header.
        let pseudo = [&outer[8..40], &[0, 0], &header[4..6], &[0, 0, 0, 17]].concat();
        let checksum = match checksum(&[&pseudo, &header, &claimed(inner)[..]].concat()) {
            0 => 0xffff,
            other => other,
        };
        header[6..].copy_from_slice(&checksum.to_be_bytes());
    }
    header
}

/// Whether the packet has neither options nor extension headers, and its checksum is there and covers all behind the header.
fn covers_itself(packet: &[u8]) -> bool {
    let (header, protocol) = match packet[0] {
        0x45 => (20, packet[9]),
        first if first >> 4 == 6 => (40, packet[6]),
        _ => return false,
    };
    let datagram = &packet[header..];
    let length = || usize::from(u16::from_be_bytes([datagram[4], datagram[5]]));
    protocol == 6 || protocol == 17 && datagram[6..8] != [0, 0] && length() == datagram.len()
}

/// The packet with the checksums that it should have. The balancer does not read what they cover: with a wrong checksum inside,
/// the one outside is wrong as well.
fn claimed(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (at, addresses, number) = if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let header = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&header.to_be_bytes());
        (20, packet[12..20].to_vec(), packet[9])
    } else {
        (40, packet[8..40].to_vec(), packet[6])
    };
    let field = at + if number == 6 { 16 } else { 6 };
    packet[field..field + 2].fill(0);
    let length = (packet.len() - at) as u16;
    let pseudo = [&addresses, &[0, number][..], &length.to_be_bytes(), &packet[at..]].concat();
    let sum = checksum(&pseudo);
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The Ethernet address of a backend's next hop in scenes.
pub fn next_hop(number: u32) -> [u8; 6] {
    let [high, low] = (number as u16).to_be_bytes();
    [0x02, 0, 0, 1, high, low]
}

/// The low `bits` bits of the hash, at most 32.
fn low_bits(hash: u64, bits: u8) -> u32 {
    (hash % (1_u64 << bits)) as u32
}

/// RFC 1071, 4.1, of bytes whose checksum field is 0.
pub(super) fn checksum(header: &[u8]) -> u16 {
    let mut sum = 0;
    for pair in header.chunks(2) {
        sum = ones_complement(sum, u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    !sum
}

/// One's-complement addition: the carry is added at the other end.
pub(super) fn ones_complement(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    (sum % 0x1_0000 + sum / 0x1_0000) as u16
}
