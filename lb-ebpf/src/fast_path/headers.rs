//! Where the fields of plain packets are, for both families. Each field is one load at an offset that the compiler
//! knows, behind the one bounds check that [`FastHeaders::of`] makes.

use lb_common::{
    Address,
    encap::Inner,
    service_cache::{self, Entry},
    wire::{Ipv4, Ipv6, Tcp, Udp, protocol},
};

use super::FastHeaders;
use crate::{
    family::{V4, V6},
    martian,
    packet::{HeaderView, Packet},
    parse::{self, Flow, IP, Unread},
};

/// Bytes of a header.
pub(super) const V4_HEADER: usize = size_of::<Ipv4>();
const V6_HEADER: usize = size_of::<Ipv6>();
pub(super) const TCP: usize = size_of::<Tcp>();

impl FastHeaders for V4 {
    type Headers = HeaderView<{ V4_HEADER + TCP }>;

    #[inline(always)]
    fn again(packet: Packet) -> Option<Self::Headers> {
        Some(packet.head::<{ IP + V4_HEADER + TCP }>()?.subview::<IP, { V4_HEADER + TCP }>())
    }

    #[inline(always)]
    fn parse(packet: Packet) -> Result<Flow<Self>, Unread> {
        parse::v4(packet)
    }

    #[inline(always)]
    fn destination_of(packet: Packet) -> Option<Self::Address> {
        parse::destination_v4(packet)
    }

    #[inline(always)]
    fn of(packet: Packet) -> Option<Self::Headers> {
        let headers = Self::again(packet)?;
        let length = Self::length(headers);
        // Version 4 and header length 20. Bytes of the frame behind the packet are padding.
        if headers.load::<u8, 0>() != 0x45 || length as usize > packet.length() - IP {
            return None;
        }
        // Neither the more-fragments flag nor an offset.
        if headers.load::<u16, 6>() & 0x3fff_u16.to_be() != 0 {
            return None;
        }
        let transport = headers.subview::<V4_HEADER, TCP>();
        agree(transport, Self::protocol(headers), V4_HEADER, length).then_some(headers)
    }

    #[inline(always)]
    fn after<const HEAD: usize>(packet: Packet) -> Option<(HeaderView<HEAD>, Self::Headers)> {
        packet.split::<HEAD, { V4_HEADER + TCP }>()
    }

    #[inline(always)]
    fn addresses(headers: Self::Headers) -> (u32, u32) {
        // In one load, as the hash takes them.
        let [source, destination] = halves(headers.load::<u64, 12>());
        (source, destination)
    }

    #[inline(always)]
    fn protocol(headers: Self::Headers) -> u8 {
        headers.load::<u8, 9>()
    }

    #[inline(always)]
    fn ports(headers: Self::Headers) -> u32 {
        headers.load::<u32, V4_HEADER>()
    }

    #[inline(always)]
    fn flags(headers: Self::Headers) -> u8 {
        headers.load::<u8, { V4_HEADER + 13 }>()
    }

    #[inline(always)]
    fn sequence(headers: Self::Headers) -> u32 {
        headers.load::<u32, { V4_HEADER + 4 }>()
    }

    #[inline(always)]
    fn source_port_low(headers: Self::Headers) -> u8 {
        headers.load::<u8, { V4_HEADER + 1 }>()
    }

    #[inline(always)]
    fn has_martian_source(headers: Self::Headers) -> bool {
        martian::v4(headers.load::<u8, 12>()) || headers.load::<u32, 12>() == headers.load::<u32, 16>()
    }

    #[inline(always)]
    fn source_mark(headers: Self::Headers) -> u32 {
        lb_common::known::mark_v4(headers.load::<u32, 12>())
    }

    #[inline(always)]
    fn key(headers: Self::Headers) -> u64 {
        let port = headers.load::<u16, { V4_HEADER + 2 }>();
        service_cache::key_v4(headers.load::<u32, 16>(), port, Self::protocol(headers))
    }

    #[inline(always)]
    fn place(_: Self::Headers, key: u64, shift: u32) -> u32 {
        service_cache::place_v4(key, shift)
    }

    #[inline(always)]
    fn matches_address(_: Self::Headers, _: &Entry) -> bool {
        // The key holds the whole address.
        true
    }

    #[inline(always)]
    fn destination_mark(headers: Self::Headers) -> u32 {
        lb_common::known::mark_v4(headers.load::<u32, 16>())
    }

    #[inline(always)]
    fn tos(headers: Self::Headers) -> u8 {
        headers.load::<u8, 1>()
    }

    #[inline(always)]
    fn length(headers: Self::Headers) -> u16 {
        u16::from_be(headers.load::<u16, 2>())
    }

    #[inline(always)]
    fn inner(headers: Self::Headers) -> Inner {
        Inner::of_v4(headers.load::<u32, 0>())
    }
}

impl FastHeaders for V6 {
    type Headers = HeaderView<{ V6_HEADER + TCP }>;

    #[inline(always)]
    fn again(packet: Packet) -> Option<Self::Headers> {
        Some(packet.head::<{ IP + V6_HEADER + TCP }>()?.subview::<IP, { V6_HEADER + TCP }>())
    }

    #[inline(always)]
    fn parse(packet: Packet) -> Result<Flow<Self>, Unread> {
        parse::v6(packet)
    }

    #[inline(always)]
    fn destination_of(packet: Packet) -> Option<Self::Address> {
        parse::destination_v6(packet)
    }

    #[inline(always)]
    fn of(packet: Packet) -> Option<Self::Headers> {
        let headers = Self::again(packet)?;
        let payload = u16::from_be(headers.load::<u16, 4>());
        // With its header, no packet is longer than 65,535 bytes.
        if headers.load::<u8, 0>() >> 4 != 6
            || payload as usize + V6_HEADER > packet.length() - IP
            || payload > u16::MAX - V6_HEADER as u16
        {
            return None;
        }
        // A mapped address has no place on the wire.
        if headers.load::<u64, 24>() == 0 && headers.load::<u32, 32>() == 0xffff_u32.to_be() {
            return None;
        }
        let length = payload + V6_HEADER as u16;
        let transport = headers.subview::<V6_HEADER, TCP>();
        agree(transport, Self::protocol(headers), V6_HEADER, length).then_some(headers)
    }

    #[inline(always)]
    fn after<const HEAD: usize>(packet: Packet) -> Option<(HeaderView<HEAD>, Self::Headers)> {
        packet.split::<HEAD, { V6_HEADER + TCP }>()
    }

    #[inline(always)]
    fn addresses(headers: Self::Headers) -> (Address, Address) {
        (
            words(headers.load::<u64, 8>(), headers.load::<u64, 16>()),
            words(headers.load::<u64, 24>(), headers.load::<u64, 32>()),
        )
    }

    #[inline(always)]
    fn protocol(headers: Self::Headers) -> u8 {
        headers.load::<u8, 6>()
    }

    #[inline(always)]
    fn ports(headers: Self::Headers) -> u32 {
        headers.load::<u32, V6_HEADER>()
    }

    #[inline(always)]
    fn flags(headers: Self::Headers) -> u8 {
        headers.load::<u8, { V6_HEADER + 13 }>()
    }

    #[inline(always)]
    fn sequence(headers: Self::Headers) -> u32 {
        headers.load::<u32, { V6_HEADER + 4 }>()
    }

    #[inline(always)]
    fn source_port_low(headers: Self::Headers) -> u8 {
        headers.load::<u8, { V6_HEADER + 1 }>()
    }

    #[inline(always)]
    fn has_martian_source(headers: Self::Headers) -> bool {
        martian::v6(headers.load::<u64, 8>())
            || headers.load::<u64, 16>() == headers.load::<u64, 32>()
                && headers.load::<u64, 8>() == headers.load::<u64, 24>()
    }

    #[inline(always)]
    fn source_mark(headers: Self::Headers) -> u32 {
        lb_common::known::mark_v6(headers.load::<u64, 8>(), headers.load::<u64, 16>())
    }

    #[inline(always)]
    fn key(headers: Self::Headers) -> u64 {
        service_cache::key_v6(headers.load::<u16, { V6_HEADER + 2 }>(), Self::protocol(headers))
    }

    #[inline(always)]
    fn place(headers: Self::Headers, key: u64, shift: u32) -> u32 {
        service_cache::place_v6(key, headers.load::<u64, 24>(), headers.load::<u64, 32>(), shift)
    }

    #[inline(always)]
    fn matches_address(headers: Self::Headers, entry: &Entry) -> bool {
        entry.is_at(headers.load::<u64, 24>(), headers.load::<u64, 32>())
    }

    #[inline(always)]
    fn destination_mark(headers: Self::Headers) -> u32 {
        lb_common::known::mark_v6(headers.load::<u64, 24>(), headers.load::<u64, 32>())
    }

    #[inline(always)]
    fn tos(headers: Self::Headers) -> u8 {
        (u16::from_be(headers.load::<u16, 0>()) >> 4) as u8
    }

    #[inline(always)]
    fn length(headers: Self::Headers) -> u16 {
        u16::from_be(headers.load::<u16, 4>()).wrapping_add(V6_HEADER as u16)
    }
}

/// Whether this is TCP or UDP with a length that fits into the packet's, behind an IP header of `before` bytes.
#[inline(always)]
fn agree(transport: HeaderView<TCP>, protocol: u8, before: usize, length: u16) -> bool {
    if protocol == protocol::TCP {
        // As in `header_length`: the upper four bits count words of 4 bytes.
        let header = (transport.load::<u8, 12>() >> 2 & 0x3c) as usize;
        header >= TCP && before + header <= length as usize
    } else if protocol == protocol::UDP {
        let datagram = u16::from_be(transport.load::<u16, 4>()) as usize;
        datagram >= size_of::<Udp>() && before + datagram <= length as usize
    } else {
        false
    }
}

/// An address from its two halves as they lie in memory.
#[inline(always)]
fn words(first: u64, second: u64) -> Address {
    let [a, b] = halves(first);
    let [c, d] = halves(second);
    [a, b, c, d]
}

#[inline(always)]
fn halves(pair: u64) -> [u32; 2] {
    let pair = u64::from_le(pair);
    [(pair as u32).to_le(), ((pair >> 32) as u32).to_le()]
}
