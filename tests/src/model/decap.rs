//! `lb_decap`: RFC 2003, RFC 2473 and RFC 6040 (4.2), in the order of lb-ebpf/doc/packet-path.md, "Decapsulation".

use std::net::IpAddr;

use lb_common::counter::Counter;

use super::{
    Answer, Model,
    ip::{self, ETHERNET, u16_at},
    outer::ones_complement,
};

const NOT_TUNNEL: Counter = Counter::PassedNotTunnel;
const MALFORMED: Counter = Counter::DecapMalformed;

/// ECN codepoints (RFC 3168, 5).
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

pub(super) fn run(model: &Model, frame: &[u8]) -> Answer {
    match inner(model, frame) {
        Ok(out) => Answer::sent(Counter::Decapsulated, out),
        Err(counter) => Answer::ended(counter, frame),
    }
}

fn inner(model: &Model, frame: &[u8]) -> Result<Vec<u8>, Counter> {
    let ours = |address: IpAddr| model.scene.decap.contains(&address);
    let packet = frame.get(ETHERNET..).ok_or(NOT_TUNNEL)?;
    // From the outer header: the inner protocol, the bytes in front of it, the stated length of the outer packet, the ECN.
    let (protocol, header, length, outer_ecn) = match ip::ethertype(frame) {
        Some(0x0800) => {
            if packet.len() < 20 || packet[0] >> 4 != 4 || packet[0] & 15 < 5 {
                return Err(NOT_TUNNEL);
            }
            let fragment = u16_at(packet, 6) & 0x3fff != 0;
            if fragment || !ours(ip::v4_at(packet, 16).into()) {
                return Err(NOT_TUNNEL);
            }
            (packet[9], usize::from(packet[0] & 15) * 4, u16_at(packet, 2), packet[1] & 3)
        }
        Some(0x86dd) => {
            if packet.len() < 40 || packet[0] >> 4 != 6 || !ours(ip::v6_at(packet, 24).into()) {
                return Err(NOT_TUNNEL);
            }
            let (mut protocol, mut header) = (packet[6], 40);
            // The program skips one destination-options header: RFC 2473 (5.1) puts the encapsulation limit there.
            if protocol == 60 {
                let options = packet.get(40..42).ok_or(NOT_TUNNEL)?;
                protocol = options[0];
                header += (usize::from(options[1]) + 1) * 8;
            }
            (protocol, header, 40 + u16_at(packet, 4), packet[1] >> 4 & 3)
        }
        _ => return Err(NOT_TUNNEL),
    };
    // 17 is UDP.
    let gue = protocol == 17 && model.scene.decap_gue;
    if protocol != 4 && protocol != 41 && !gue {
        return Err(NOT_TUNNEL);
    }
    let (protocol, header, length) =
        if gue { datagram(packet, header, length)? } else { (protocol, header, length) };
    // After `length` bytes there is only padding of the link layer.
    if length > packet.len() || header > length {
        return Err(MALFORMED);
    }
    let announced = &packet[header..length];
    let mut inside = packet[header..].to_vec();
    let ethertype: u16;
    if protocol == 4 {
        let whole = announced.len() >= 20 && announced.len() >= usize::from(announced[0] & 15) * 4;
        if !whole || announced[0] >> 4 != 4 || announced[0] & 15 < 5 {
            return Err(MALFORMED);
        }
        ethertype = 0x0800;
        let ecn = combined(outer_ecn, inside[1] & 3)?;
        let before = u16::from_be_bytes([inside[0], inside[1]]);
        inside[1] = inside[1] & 0xfc | ecn;
        let after = u16::from_be_bytes([inside[0], inside[1]]);
        if before != after {
            // RFC 1624, equation 3: a wrong checksum stays wrong.
            let old = u16::from_be_bytes([inside[10], inside[11]]);
            let checksum = !ones_complement(ones_complement(!old, !before), after);
            inside[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    } else {
        if announced.len() < 40 || announced[0] >> 4 != 6 {
            return Err(MALFORMED);
        }
        ethertype = 0x86dd;
        let ecn = combined(outer_ecn, inside[1] >> 4 & 3)?;
        inside[1] = inside[1] & 0xcf | ecn << 4;
    }
    let mut out = frame[..12].to_vec();
    out.extend(ethertype.to_be_bytes());
    out.extend(inside);
    Ok(out)
}

/// Variant 1 of GUE: the inner protocol, the bytes in front of it with the UDP header, and the end that this header states.
fn datagram(packet: &[u8], header: usize, length: usize) -> Result<(u8, usize, usize), Counter> {
    let udp = packet.get(header..header + 8).ok_or(NOT_TUNNEL)?;
    if u16_at(udp, 2) != 6080 {
        return Err(NOT_TUNNEL);
    }
    let protocol = match packet.get(header + 8).ok_or(NOT_TUNNEL)? >> 4 {
        4 => 4,
        6 => 41,
        _ => return Err(NOT_TUNNEL),
    };
    let end = header + u16_at(udp, 4);
    if end > length {
        return Err(MALFORMED);
    }
    Ok((protocol, header + 8, end))
}

/// RFC 6040, figure 4, row by row.
fn combined(outer: u8, inner: u8) -> Result<u8, Counter> {
    Ok(match (inner, outer) {
        (NOT_ECT, CE) => return Err(Counter::DecapEcn),
        (NOT_ECT, _) => NOT_ECT,
        (ECT_0, NOT_ECT | ECT_0) => ECT_0,
        (ECT_0, ECT_1) => ECT_1,
        (ECT_1, NOT_ECT | ECT_0 | ECT_1) => ECT_1,
        _ => CE,
    })
}
