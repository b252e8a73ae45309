//! Errors in a packet: fields with values that cause trouble, truncation, wrong lengths, inserted bytes.

use super::{
    Random,
    frames::Piece,
    scenes::{ADDRESSES, PORTS, address},
};
use crate::model::scene::Family;

/// Bounds of a frame that BPF_PROG_TEST_RUN takes: an Ethernet header, and a page less what the kernel needs.
const SHORTEST: usize = 14;
const LONGEST: usize = 3400;

/// Values of one byte: versions with header lengths, protocol numbers, extremes.
const BYTES: [u8; 32] = [
    0, 1, 2, 3, 4, 5, 6, 17, 41, 43, 44, 50, 51, 58, 59, 60, 0x0f, 0x10, 0x40, 0x44, 0x45, 0x46, 0x4f, 0x50,
    0x54, 0x60, 0x65, 0x7f, 0x80, 0xf0, 0xfe, 0xff,
];

/// Values of two bytes: lengths around headers, fragment fields, types, extremes.
const WORDS: [u16; 28] = [
    0, 1, 7, 8, 9, 19, 20, 21, 27, 28, 39, 40, 41, 48, 59, 60, 61, 0x1fff, 0x2000, 0x4000, 0x8000, 0x0800,
    0x0806, 0x8100, 0x86dd, 0x7fff, 0xfffe, 0xffff,
];

/// A frame with errors, or without; never longer than the kernel takes.
pub(super) fn mutate(random: &Random, piece: Piece) -> Vec<u8> {
    let Piece { mut bytes, fields } = piece;
    let times = match random.below(10) {
        0..4 => 0,
        4..8 => 1,
        _ => random.between(2, 4),
    };
    for _ in 0..times {
        once(random, &mut bytes, &fields);
    }
    bytes.truncate(LONGEST);
    if bytes.len() < SHORTEST {
        bytes.resize(SHORTEST, 0);
    }
    bytes
}

fn once(random: &Random, bytes: &mut Vec<u8>, fields: &[(usize, usize)]) {
    match random.below(21) {
        0..9 => field(random, bytes, fields),
        9..11 => {
            // Any bit of the headers.
            let at = random.below(bytes.len().min(160));
            bytes[at] ^= 1 << random.below(8);
        }
        11..15 => {
            // Mostly inside the headers, where a truncation matters.
            let most = if random.percent(80) { bytes.len().min(140) } else { bytes.len() };
            bytes.truncate(random.between(SHORTEST.min(most), most));
        }
        15..17 => {
            let count = random.between(1, 64);
            let more = random.bytes(count);
            bytes.extend(more);
        }
        17 => {
            let at = random.below(bytes.len());
            let count = random.between(1, 40).min(bytes.len() - at);
            bytes.drain(at..at + count);
        }
        18 => {
            let at = random.below(bytes.len());
            let count = random.between(1, 40);
            let more = random.bytes(count);
            bytes.splice(at..at, more);
        }
        19 => leave_length_out(random, bytes),
        _ => {
            let at = random.below(bytes.len());
            bytes[at] = random.byte();
        }
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

/// Sets the length in the IP header to 0, as in a packet that was merged beyond this field; an IPv6 packet gets the jumbo
/// payload option (RFC 2675) or not.
fn leave_length_out(random: &Random, bytes: &mut Vec<u8>) {
    let v6 = bytes.get(12..14) == Some(&[0x86, 0xdd]);
    let at = if v6 { 18 } else { 16 };
    let Some(length) = bytes.get_mut(at..at + 2) else { return };
    length.fill(0);
    if v6 && bytes.len() >= 54 && random.percent(50) {
        let payload = (bytes.len() - 46) as u32;
        let option =
            [&[std::mem::take(&mut bytes[20]), 0, 0xc2, 4], payload.to_be_bytes().as_slice()].concat();
        bytes.splice(54..54, option);
    }
}

/// Writes a value that causes trouble into a field.
fn field(random: &Random, bytes: &mut [u8], fields: &[(usize, usize)]) {
    if fields.is_empty() {
        return;
    }
    let (at, width) = random.one(fields);
    let Some(place) = bytes.get(at..at + width) else { return };
    let old = place.to_vec();
    let new = match width {
        1 if random.percent(30) => vec![random.byte()],
        1 => vec![random.one(&BYTES)],
        2 => {
            let old = u16::from_be_bytes([old[0], old[1]]);
            let value = match random.below(4) {
                // Around the true value.
                0 => old.wrapping_add(random.one(&[1, 2, 4, 8, 20, 40])),
                1 => old.wrapping_sub(random.one(&[1, 2, 4, 8, 20, 40])),
                2 => random.one(&WORDS),
                _ if random.percent(50) => random.one(&PORTS),
                _ => random.next() as u16,
            };
            value.to_be_bytes().to_vec()
        }
        _ => {
            let family = random.one(&[Family::Ipv4, Family::Ipv6]);
            match address(family, random.below(ADDRESSES + 2)) {
                std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                std::net::IpAddr::V6(v6) => v6.octets()[12..].to_vec(),
            }
        }
    };
    bytes[at..at + width].copy_from_slice(&new);
}
