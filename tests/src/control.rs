//! Control messages for tests: ICMP (RFC 792) and ICMPv6 (RFC 4443) with right checksums.

use std::net::{IpAddr, SocketAddr};

use crate::frame::{self, IP, Segment};

/// A control message of this type and code: `rest` is the second half of its header, `body` is what follows.
///
/// # Panics
/// If the two addresses are not of one family.
pub fn message(from: IpAddr, to: IpAddr, (kind, code): (u8, u8), rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest);
    bytes.extend(body);
    let number = if to.is_ipv4() { 1 } else { 58 };
    let mut frame = frame::ip(from, to, number, &bytes);
    repair_checksum(&mut frame);
    frame
}

/// Writes the right checksum into the control message of a frame without extension headers.
pub fn repair_checksum(frame: &mut [u8]) {
    let at = frame::transport(frame);
    frame[at + 2..at + 4].fill(0);
    let checksum = checksum(frame);
    frame[at + 2..at + 4].copy_from_slice(&checksum.to_be_bytes());
}

/// The checksum of a frame's control message, with the field as it is: 0 where that is right.
pub fn checksum(frame: &[u8]) -> u16 {
    let message = &frame[frame::transport(frame)..IP + frame::length(frame)];
    if frame::is_v4(frame) {
        return frame::ipv4_checksum(message);
    }
    // RFC 4443, 2.3: with the pseudo header of RFC 8200, 8.1.
    let length = (message.len() as u32).to_be_bytes();
    frame::ipv4_checksum(&[&frame[IP + 8..IP + 40], &length, &[0, 0, 0, 58], message].concat())
}

/// An IP packet that a backend has sent to a client from the address of its service: what errors quote.
pub fn sent(service: SocketAddr, client: SocketAddr, protocol: u8, payload: usize) -> Vec<u8> {
    let frame = if protocol == 6 {
        frame::tcp(service, client, Segment::Data, 0, payload)
    } else {
        frame::udp(service, client, 0, payload)
    };
    frame[IP..].to_vec()
}

/// Types and codes of errors.
pub const ERRORS_V4: [(u8, u8); 7] = [(3, 0), (3, 1), (3, 3), (3, 4), (11, 0), (11, 1), (12, 0)];
pub const ERRORS_V6: [(u8, u8); 6] = [(1, 0), (1, 4), (2, 0), (3, 0), (3, 1), (4, 1)];
