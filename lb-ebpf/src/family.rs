//! IPv4 and IPv6 as two instances of one path: everything behind the Ethernet header is compiled once for each, so
//! that an IPv4 packet carries one word of address through it and not four.

use lb_common::{
    Address,
    hash::{self, Seed},
    join, known, mapped,
    service::{self, Service},
};

use crate::{encap, martian, packet::Packet, parse};

/// What differs between the two families.
pub(crate) trait Family: Copy {
    /// An address as it is in the header.
    type Address: Copy;

    const IS_V6: bool;

    /// The form that table keys have.
    fn mapped(address: Self::Address) -> Address;

    fn is_of(address: Self::Address, service: &Service) -> bool;

    fn flow_hash(
        seed: &Seed,
        source: Self::Address,
        destination: Self::Address,
        ports: u32,
        protocol: u8,
    ) -> u64;

    /// The hash of the first `bits` bits of the client's address.
    fn source_hash(seed: &Seed, source: Self::Address, bits: u32) -> u64;

    /// Where the address's bit is, see [`lb_common::known`].
    fn mark(address: Self::Address) -> u32 {
        known::mark(&Self::mapped(address))
    }

    fn service_hash(address: Self::Address, key: u32) -> u64 {
        service::hash(&Self::mapped(address), key)
    }

    /// Whether a packet is a TCP segment that is longer than the length field of its header can say.
    fn is_without_length(packet: Packet) -> bool;
    /// The sum of a packet's bytes, see [`encap::Payload`].
    fn sum(packet: Packet) -> Option<u64>;
    /// Whether no client has that source, see [`crate::martian`].
    fn is_martian(source: Self::Address, destination: Self::Address) -> bool;
}

#[derive(Clone, Copy)]
pub(crate) struct V4;
#[derive(Clone, Copy)]
pub(crate) struct V6;

impl Family for V4 {
    type Address = u32;

    const IS_V6: bool = false;

    #[inline(always)]
    fn is_without_length(packet: Packet) -> bool {
        parse::is_without_length_v4(packet)
    }

    #[inline(always)]
    fn sum(packet: Packet) -> Option<u64> {
        encap::sum_v4(packet)
    }

    #[inline(always)]
    fn mapped(address: u32) -> Address {
        mapped(address)
    }

    #[inline(always)]
    fn is_of(address: u32, service: &Service) -> bool {
        service.has_address(&mapped(address))
    }

    #[inline(always)]
    fn flow_hash(seed: &Seed, source: u32, destination: u32, ports: u32, protocol: u8) -> u64 {
        hash::flow_v4(seed, source, destination, ports, protocol)
    }

    #[inline(always)]
    fn source_hash(seed: &Seed, source: u32, bits: u32) -> u64 {
        hash::source_v4(seed, source, bits)
    }

    #[inline(always)]
    fn is_martian(source: u32, destination: u32) -> bool {
        martian::v4((u32::from_be(source) >> 24) as u8) || source == destination
    }
}

impl Family for V6 {
    type Address = Address;

    const IS_V6: bool = true;

    #[inline(always)]
    fn is_without_length(packet: Packet) -> bool {
        parse::is_without_length_v6(packet)
    }

    #[inline(always)]
    fn sum(packet: Packet) -> Option<u64> {
        encap::sum_v6(packet)
    }

    #[inline(always)]
    fn mapped(address: Address) -> Address {
        address
    }

    #[inline(always)]
    fn is_of(address: Address, service: &Service) -> bool {
        service.has_address(&address)
    }

    #[inline(always)]
    fn flow_hash(seed: &Seed, source: Address, destination: Address, ports: u32, protocol: u8) -> u64 {
        hash::flow_v6(seed, &source, &destination, ports, protocol)
    }

    #[inline(always)]
    fn source_hash(seed: &Seed, source: Address, bits: u32) -> u64 {
        hash::source_v6(seed, &source, bits)
    }

    #[inline(always)]
    fn is_martian(source: Address, destination: Address) -> bool {
        martian::v6(join(source[0], source[1])) || source == destination
    }
}
