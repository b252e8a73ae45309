//! What may be between the headers of a frame: IPv4 options, IPv6 extension headers, VLAN tags, padding. Each function
//! takes a whole frame and returns a whole, valid one, unless its comment says otherwise.

use lb_common::wire::protocol;

use crate::frame::{IP, is_v4, repair_ipv4_checksum, set_length};

/// One IPv6 extension header: its protocol number and its bytes; `extend` fills in byte 0, the number of the next header.
#[derive(Clone, Debug)]
pub struct Extension {
    pub number: u8,
    pub bytes: Vec<u8>,
}

/// An options header (hop-by-hop or destination) of `8 + 8 × units` bytes, filled with one PadN option (RFC 8200, 4.2). PadN
/// holds at most 257 bytes, which is enough for `units` up to 31. In a longer header the length of the PadN option wraps, and
/// the zeros behind it are Pad1 options, so that the header stays valid.
pub fn options(number: u8, units: u8) -> Extension {
    let mut bytes = vec![0; 8 + usize::from(units) * 8];
    bytes[1] = units;
    bytes[2] = 1;
    bytes[3] = (bytes.len() - 4) as u8;
    Extension { number, bytes }
}

/// A routing header of type 4 (RFC 8754) with room for `addresses` addresses.
pub fn routing(segments_left: u8, addresses: u8) -> Extension {
    let mut bytes = vec![0; 8 + usize::from(addresses) * 16];
    bytes[1] = addresses * 2;
    bytes[2] = 4;
    bytes[3] = segments_left;
    Extension { number: protocol::ROUTING, bytes }
}

/// An authentication header whose check value has `words` 4-byte words (RFC 4302, 2).
pub fn authentication(words: u8) -> Extension {
    let mut bytes = vec![0; 12 + usize::from(words) * 4];
    bytes[1] = words + 1;
    Extension { number: protocol::AUTHENTICATION, bytes }
}

/// A fragment header (RFC 8200, 4.5), `offset` in units of 8 bytes.
pub fn fragment(offset: u16, more: bool) -> Extension {
    let mut bytes = vec![0; 8];
    bytes[2..4].copy_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
    Extension { number: protocol::FRAGMENT, bytes }
}

/// The IPv6 frame with `chain` between its IP header and what follows.
pub fn extend(frame: &[u8], chain: &[Extension]) -> Vec<u8> {
    let mut out = frame[..IP + 40].to_vec();
    let transport = frame[IP + 6];
    let mut next_header = IP + 6;
    for Extension { number, bytes } in chain {
        out[next_header] = *number;
        next_header = out.len();
        out.extend_from_slice(bytes);
    }
    out[next_header] = transport;
    out.extend_from_slice(&frame[IP + 40..]);
    let length = out.len() - IP;
    set_length(&mut out, length);
    out
}

/// The IPv4 frame with `words` 4-byte words of options (1–10), all of them no-operation.
pub fn with_options(frame: &[u8], words: u8) -> Vec<u8> {
    let mut out = frame[..IP + 20].to_vec();
    out.extend(std::iter::repeat_n(1, usize::from(words) * 4));
    out.extend_from_slice(&frame[IP + 20..]);
    out[IP] = 0x40 | (5 + words);
    let length = out.len() - IP;
    set_length(&mut out, length);
    out
}

/// The frame with the fragment fields set as given, `offset` in units of 8 bytes. An IPv6 frame gets a fragment
/// header.
pub fn fragmented(frame: &[u8], offset: u16, more: bool) -> Vec<u8> {
    if !is_v4(frame) {
        return extend(frame, &[fragment(offset, more)]);
    }
    let mut out = frame.to_vec();
    out[IP + 6..IP + 8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
    repair_ipv4_checksum(&mut out, IP);
    out
}

/// The frame with an 802.1Q tag.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    out.extend_from_slice(&[0x81, 0x00]);
    out.extend_from_slice(&vlan.to_be_bytes());
    out.extend_from_slice(&frame[12..]);
    out
}

/// The frame with `count` bytes after the IP packet, as short frames have them on Ethernet.
pub fn padded(frame: &[u8], count: usize) -> Vec<u8> {
    let mut out = frame.to_vec();
    out.extend(std::iter::repeat_n(0xee, count));
    out
}
