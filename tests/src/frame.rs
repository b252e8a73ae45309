//! Frames for the data path, made by a foreign library.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, PacketBuilder};

/// Our own Ethernet address in the tests' frames.
pub const OUR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// The router's Ethernet address in the tests' frames.
pub const ROUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
/// The Ethernet address of the backends' next hop in the tests' frames.
pub const NEXT_HOP_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 9];

/// Where the IP header of a frame begins.
pub const IP: usize = 14;

/// Whether a frame carries IPv4.
pub fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x00]
}

/// Where the transport header begins in a frame without IPv6 extension headers.
pub fn transport(frame: &[u8]) -> usize {
    if is_v4(frame) { IP + usize::from(frame[IP] & 0x0f) * 4 } else { IP + 40 }
}

/// The kind of a TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    Syn,
    Data,
    Fin,
    Rst,
}

/// A TCP frame with `payload` bytes, TTL 57, DSCP/ECN `tos` (IPv4 and IPv6).
///
/// # Panics
/// If the two addresses are not of one family.
pub fn tcp(
    source: SocketAddr,
    destination: SocketAddr,
    segment: Segment,
    tos: u8,
    payload: usize,
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(ROUTER_MAC, OUR_MAC);
    let ip = match (source.ip(), destination.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => ethernet.ipv4(s.octets(), d.octets(), 57),
        (IpAddr::V6(s), IpAddr::V6(d)) => ethernet.ipv6(s.octets(), d.octets(), 57),
        _ => panic!("a packet has one family: {source} and {destination}"),
    };
    // The sequence number after a SYN continues the SYN's number.
    let sequence = if segment == Segment::Syn { 999 } else { 1000 };
    let tcp = ip.tcp(source.port(), destination.port(), sequence, 64_000);
    let tcp = match segment {
        Segment::Syn => tcp.syn(),
        Segment::Data => tcp.ack(2000).psh(),
        Segment::Fin => tcp.ack(2000).fin(),
        Segment::Rst => tcp.rst(),
    };
    let mut frame = Vec::new();
    tcp.write(&mut frame, &vec![0x5a; payload]).expect("writing into memory");
    set_tos(&mut frame, tos);
    frame
}

/// The same TCP frame with another sequence number. Its checksum is then wrong, and the balancer does not check it.
pub fn with_sequence(mut frame: Vec<u8>, sequence: u32) -> Vec<u8> {
    let at = transport(&frame) + 4;
    frame[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
    frame
}

/// A UDP frame with `payload` bytes.
///
/// # Panics
/// If the two addresses are not of one family.
pub fn udp(source: SocketAddr, destination: SocketAddr, tos: u8, payload: usize) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(ROUTER_MAC, OUR_MAC);
    let ip = match (source.ip(), destination.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => ethernet.ipv4(s.octets(), d.octets(), 57),
        (IpAddr::V6(s), IpAddr::V6(d)) => ethernet.ipv6(s.octets(), d.octets(), 57),
        _ => panic!("a packet has one family: {source} and {destination}"),
    };
    let mut frame = Vec::new();
    ip.udp(source.port(), destination.port())
        .write(&mut frame, &vec![0x5a; payload])
        .expect("writing into memory");
    set_tos(&mut frame, tos);
    frame
}

/// A frame with an arbitrary IP protocol and `payload` behind the IP header.
///
/// # Panics
/// If the two addresses are not of one family.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(ROUTER_MAC, OUR_MAC);
    let ip = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => ethernet.ipv4(s.octets(), d.octets(), 57),
        (IpAddr::V6(s), IpAddr::V6(d)) => ethernet.ipv6(s.octets(), d.octets(), 57),
        _ => panic!("a packet has one family: {source} and {destination}"),
    };
    let mut frame = Vec::new();
    ip.write(&mut frame, IpNumber(protocol), payload).expect("writing into memory");
    frame
}

/// An ARP request for this address.
pub fn arp(target: [u8; 4]) -> Vec<u8> {
    let mut frame = [0xff; 6].to_vec();
    frame.extend_from_slice(&ROUTER_MAC);
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&ROUTER_MAC);
    frame.extend_from_slice(&[203, 0, 113, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&target);
    frame
}

/// Writes `length`, counted in bytes from the IP header on, into the IP header's length field, whatever the real length of
/// the frame is; the IPv4 checksum is repaired.
pub fn set_length(frame: &mut [u8], length: usize) {
    if is_v4(frame) {
        frame[IP + 2..IP + 4].copy_from_slice(&(length as u16).to_be_bytes());
        repair_ipv4_checksum(frame, IP);
    } else {
        frame[IP + 4..IP + 6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
    }
}

/// The length that the IP header states, in bytes from the IP header on.
pub fn length(frame: &[u8]) -> usize {
    if is_v4(frame) {
        usize::from(u16::from_be_bytes([frame[IP + 2], frame[IP + 3]]))
    } else {
        40 + usize::from(u16::from_be_bytes([frame[IP + 4], frame[IP + 5]]))
    }
}

/// DSCP and ECN of a frame's IP header.
pub fn tos(frame: &[u8]) -> u8 {
    if is_v4(frame) { frame[IP + 1] } else { frame[IP] << 4 | frame[IP + 1] >> 4 }
}

/// Sets DSCP and ECN of a frame's IP header, checksum included.
pub fn set_tos(frame: &mut [u8], tos: u8) {
    if is_v4(frame) {
        frame[IP + 1] = tos;
        repair_ipv4_checksum(frame, IP);
    } else {
        frame[IP] = 0x60 | tos >> 4;
        frame[IP + 1] = frame[IP + 1] & 0x0f | tos << 4;
    }
}

/// Writes the right checksum into the IPv4 header at `offset`.
pub fn repair_ipv4_checksum(frame: &mut [u8], offset: usize) {
    let length = usize::from(frame[offset] & 0x0f) * 4;
    frame[offset + 10] = 0;
    frame[offset + 11] = 0;
    let checksum = ipv4_checksum(&frame[offset..offset + length]);
    frame[offset + 10..offset + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// The checksum of a header as in RFC 1071 (4.1), with the checksum field included: 0 when it is right.
pub fn ipv4_checksum(header: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in header.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}
