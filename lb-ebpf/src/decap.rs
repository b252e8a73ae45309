//! `lb_decap`, for backends without a tunnel device: takes the outer header off in all four combinations of
//! families and gives the inner packet to the host. Leaves everything else alone.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{
    Address, checksum,
    counter::Counter,
    encap::{Kind, gue},
    mapped,
    wire::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, Udp, protocol},
};

use crate::{
    maps::DECAP,
    packet::{Packet, move_head},
    parse::IP,
    verdict,
};

/// The outer header that is to be taken off.
struct Outer {
    /// Bytes of the outer IP header, options and extension headers included.
    length: usize,
    /// Bytes of the outer packet, as its header says; the rest of the frame is padding.
    end: usize,
    /// Protocol number of what follows.
    inner: u8,
    ecn: u8,
    /// Bits of the kinds that may come off at its destination.
    kinds: u32,
}

const NOT_OURS: Counter = Counter::PassedNotTunnel;

/// ECN codepoints (RFC 3168, 5).
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

#[inline(always)]
pub(crate) fn try_decap(ctx: &XdpContext) -> Result<u32, Counter> {
    let packet = Packet::of(ctx);
    let ethernet: Ethernet = packet.read(0).ok_or(NOT_OURS)?;
    let outer = if ethernet.ethertype == ETHERTYPE_IPV4 {
        outer_v4(packet)?
    } else if ethernet.ethertype == ETHERTYPE_IPV6 {
        outer_v6(packet)?
    } else {
        return Err(NOT_OURS);
    };
    let kind = if outer.inner == protocol::UDP { Kind::Gue } else { Kind::Ipip };
    if outer.kinds & kind.decap_bit() == 0 {
        return Err(NOT_OURS);
    }
    let outer = if matches!(kind, Kind::Gue) { gue(packet, outer)? } else { outer };
    if outer.end > packet.length() - IP || outer.length > outer.end {
        return Err(Counter::DecapMalformed);
    }
    let at = IP + outer.length;
    let room = outer.end - outer.length;
    let ethertype = if outer.inner == protocol::IPIP {
        inner_v4(packet, at, room, outer.ecn)?;
        ETHERTYPE_IPV4
    } else {
        inner_v6(packet, at, room, outer.ecn)?;
        ETHERTYPE_IPV6
    };
    let packet = move_head(ctx, outer.length as i32).ok_or(Counter::DecapMalformed)?;
    packet.write(0, Ethernet { ethertype, ..ethernet }).ok_or(Counter::DecapMalformed)?;
    verdict::count(Counter::Decapsulated);
    Ok(xdp_action::XDP_PASS)
}

#[inline(always)]
fn is_tunnel(number: u8) -> bool {
    number == protocol::IPIP || number == protocol::IPV6 || number == protocol::UDP
}

/// Bits of the kinds that may come off at an address, if any may.
#[inline(always)]
fn kinds_at(destination: &Address) -> Result<u32, Counter> {
    // SAFETY: a value of 4 bytes, which the agent replaces whole.
    unsafe { DECAP.get(destination) }.copied().ok_or(NOT_OURS)
}

/// Adds the UDP header of GUE to the outer header. Only variant 1, a packet right behind the header, is ours; its version tells
/// what it is. The checksum is not read: that of the inner packet covers as much.
#[inline(always)]
fn gue(packet: Packet, outer: Outer) -> Result<Outer, Counter> {
    let at = IP + outer.length;
    let udp: Udp = packet.read(at).ok_or(NOT_OURS)?;
    if wire::destination_port(udp.ports) != gue::PORT {
        return Err(NOT_OURS);
    }
    let first: u8 = packet.read(at + size_of::<Udp>()).ok_or(NOT_OURS)?;
    let inner = match first >> 4 {
        4 => protocol::IPIP,
        6 => protocol::IPV6,
        _ => return Err(NOT_OURS),
    };
    let length = outer.length + size_of::<Udp>();
    let end = outer.length + u16::from_be(udp.length) as usize;
    // Both headers have a length.
    if end > outer.end {
        return Err(Counter::DecapMalformed);
    }
    Ok(Outer { length, end, inner, ..outer })
}

#[inline(always)]
fn outer_v4(packet: Packet) -> Result<Outer, Counter> {
    let ip: Ipv4 = packet.read(IP).ok_or(NOT_OURS)?;
    let length = ip.header_length();
    // The host reassembles fragments; the whole packet then goes to a tunnel device of the host, or to none.
    if !is_tunnel(ip.protocol) || ip.version() != 4 || length < size_of::<Ipv4>() || ip.is_fragment() {
        return Err(NOT_OURS);
    }
    let kinds = kinds_at(&mapped(ip.destination))?;
    let end = u16::from_be(ip.total_length) as usize;
    Ok(Outer { length, end, inner: ip.protocol, ecn: ip.tos & CE, kinds })
}

/// Where the destination is in an IPv6 header.
const DESTINATION: usize = offset_of!(Ipv6, destination);

#[inline(always)]
fn outer_v6(packet: Packet) -> Result<Outer, Counter> {
    // Word by word, the last one first: the compiler would copy anything longer by a call of `memmove`.
    let word = |offset| packet.read::<u32>(IP + offset).ok_or(NOT_OURS);
    let last = word(DESTINATION + 12)?;
    let destination = [word(DESTINATION)?, word(DESTINATION + 4)?, word(DESTINATION + 8)?, last];
    let first = word(offset_of!(Ipv6, version_class_label))?;
    let payload_length: u16 = packet.read(IP + offset_of!(Ipv6, payload_length)).ok_or(NOT_OURS)?;
    let next_header: u8 = packet.read(IP + offset_of!(Ipv6, next_header)).ok_or(NOT_OURS)?;
    let first = u32::from_be(first);
    if first >> 28 != 6 {
        return Err(NOT_OURS);
    }
    let kinds = kinds_at(&destination)?;
    let mut outer = Outer {
        length: size_of::<Ipv6>(),
        end: size_of::<Ipv6>() + u16::from_be(payload_length) as usize,
        inner: next_header,
        ecn: (first >> 20) as u8 & CE,
        kinds,
    };
    // The kernel's ip6tnl puts a destination option in front: the encapsulation limit (RFC 2473, 5.1).
    if outer.inner == protocol::DESTINATION_OPTIONS {
        let head: [u8; 2] = packet.read(IP + size_of::<Ipv6>()).ok_or(NOT_OURS)?;
        outer.inner = head[0];
        outer.length += 8 + head[1] as usize * 8;
    }
    if is_tunnel(outer.inner) { Ok(outer) } else { Err(NOT_OURS) }
}

/// The inner ECN after decapsulation (RFC 6040, 4.2, figure 4).
#[inline(always)]
fn combine(outer: u8, inner: u8) -> Result<u8, Counter> {
    match (inner, outer) {
        (NOT_ECT, CE) => Err(Counter::DecapEcn),
        (ECT_0 | ECT_1, CE) => Ok(CE),
        (ECT_0, ECT_1) => Ok(ECT_1),
        _ => Ok(inner),
    }
}

/// `room`: bytes that the outer packet has for the inner one, here and in `inner_v6`.
#[inline(always)]
fn inner_v4(packet: Packet, at: usize, room: usize, outer_ecn: u8) -> Result<(), Counter> {
    let ip: Ipv4 = packet.read(at).ok_or(Counter::DecapMalformed)?;
    let header = ip.header_length();
    if ip.version() != 4 || header < size_of::<Ipv4>() || header > room {
        return Err(Counter::DecapMalformed);
    }
    let ecn = combine(outer_ecn, ip.tos & CE)?;
    if ecn != ip.tos & CE {
        let tos = ip.tos & !CE | ecn;
        let before = u16::from_ne_bytes([ip.version_ihl, ip.tos]);
        let after = u16::from_ne_bytes([ip.version_ihl, tos]);
        let checksum = checksum::replace(ip.checksum, before, after);
        packet.write(at, Ipv4 { tos, checksum, ..ip }).ok_or(Counter::DecapMalformed)?;
    }
    Ok(())
}

#[inline(always)]
fn inner_v6(packet: Packet, at: usize, room: usize, outer_ecn: u8) -> Result<(), Counter> {
    let ip: Ipv6 = packet.read(at).ok_or(Counter::DecapMalformed)?;
    if ip.version() != 6 || room < size_of::<Ipv6>() {
        return Err(Counter::DecapMalformed);
    }
    let inner_ecn = ip.traffic_class() & CE;
    let ecn = combine(outer_ecn, inner_ecn)?;
    if ecn != inner_ecn {
        let first = u32::from_be(ip.version_class_label) & !((CE as u32) << 20) | (ecn as u32) << 20;
        packet.write(at, first.to_be()).ok_or(Counter::DecapMalformed)?;
    }
    Ok(())
}
