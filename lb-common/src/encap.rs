//! Kinds of encapsulation: how a packet travels to its backend. A kind is a file here, with the template that the agent
//! fills once for each backend and what a packet adds to it, and an arm of `encapsulate` in `lb-ebpf/src/encap.rs`.
//! [`ip`] has the outer IP headers, which several kinds begin with.

pub mod gue;
pub mod ip;
pub mod ipip;
mod l2;

use crate::Address;

/// A kind of encapsulation. The family of the outer header follows from the address of the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An IP header and nothing else.
    Ipip,
    /// No outer header: only the Ethernet header is another one.
    L2,
    /// IP in UDP.
    Gue,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Ipip, Self::L2, Self::Gue];

    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::L2 => "l2",
            Self::Gue => "gue",
        }
    }

    /// The kind of a form.
    pub const fn of(form: u8) -> Option<Self> {
        match form & !form::MARKED {
            form::IPIP_V4 | form::IPIP_V6 => Some(Self::Ipip),
            form::L2 => Some(Self::L2),
            form::GUE_V4 | form::GUE_V6 => Some(Self::Gue),
            _ => None,
        }
    }

    /// The bit of a kind that a backend accepts, in a value of [`crate::map::name::DECAP`].
    pub const fn decap_bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether a backend must be its own next hop.
    pub const fn is_for_one_link(self) -> bool {
        matches!(self, Self::L2)
    }

    /// The outer header of packets from `source` to the backend at `destination`. `source` has its spread bits 0, and is of
    /// the family of `destination`. `inner_is_v6`: the family of the service.
    pub const fn outer(self, source: &Address, destination: &Address, inner_is_v6: bool) -> Outer {
        match self {
            Self::Ipip => ipip::outer(source, destination, inner_is_v6),
            Self::L2 => l2::outer(inner_is_v6),
            Self::Gue => gue::outer(source, destination),
        }
    }
}

/// A kind with the family of its outer header, if it has one: [`crate::backend::Backend::encap`].
pub mod form {
    pub const IPIP_V4: u8 = 0;
    pub const IPIP_V6: u8 = 1;
    pub const L2: u8 = 2;
    pub const GUE_V4: u8 = 3;
    pub const GUE_V6: u8 = 4;

    /// With the others: the outer header has the DSCP of the record, not that of the packet.
    pub const MARKED: u8 = 1 << 7;
}

/// The part of the outer header that is the same for all packets of a backend, as its kind wants it.
pub type Template = [u32; 8];

/// What a backend's record says of the outer header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// One of [`form`].
    pub form: u8,
    /// What follows the Ethernet header, in network order.
    pub ethertype: u16,
    /// Bytes in front of the inner packet, without the Ethernet header.
    pub overhead: u16,
    pub template: Template,
    /// A folded sum of what is the same for all packets, where the kind needs one.
    pub sum: u16,
}

/// What an outer header says of the inner packet: bits 0–15 its length in bytes, from its IP header on, and bits 16–23
/// its DSCP and ECN. IPv4 has them in this order, so that a packet without options gives them in one load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner(u32);

impl Inner {
    #[inline(always)]
    pub const fn new(length: u16, tos: u8) -> Self {
        Self((tos as u32) << 16 | length as u32)
    }

    /// From the first word of an IPv4 header, as it lies in memory.
    #[inline(always)]
    pub const fn of_v4(word: u32) -> Self {
        Self(u32::from_be(word) & 0x00ff_ffff)
    }

    /// The same packet with another DSCP: only its ECN is copied (RFC 2983, pipe model; RFC 6040, 4.1).
    #[inline(always)]
    pub const fn with_dscp(self, dscp: u8) -> Self {
        Self(self.0 & 0x0003_ffff | (dscp as u32) << 18)
    }

    #[inline(always)]
    const fn length(self) -> u32 {
        self.0 & 0xffff
    }

    #[inline(always)]
    const fn tos(self) -> u32 {
        self.0 >> 16
    }
}

/// The low `bits` bits of the flow hash, 0–32: what the packet adds to a source address that is spread.
#[inline(always)]
const fn spread(hash: u64, bits: u8) -> u32 {
    // Two shifts, because one by 32 would be undefined at `bits` = 0.
    (hash as u32 as u64 & ((1u64 << (bits as u64 & 63)) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_of_an_ipv4_header_gives_length_and_class() {
        assert_eq!(Inner::of_v4(u32::from_ne_bytes([0x45, 0xb9, 0x03, 0xe8])), Inner::new(1000, 0xb9));
    }
    #[test]
    fn another_dscp_leaves_length_and_ecn() {
        assert_eq!(Inner::new(0xffff, 10 << 2 | 3).with_dscp(46), Inner::new(0xffff, 46 << 2 | 3));
        assert_eq!(Inner::new(1000, 0xff).with_dscp(0), Inner::new(1000, 0b11));
    }
}
