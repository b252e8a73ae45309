//! Outer headers: templates that the agent fills once per backend, and what a packet adds to them.
//!
//! IPv4 (RFC 2003): TTL 64, DF set and identification 0 (an atomic datagram, RFC 6864, 4.1). IPv6
//! (RFC 2473, without the optional encapsulation-limit header): hop limit 64, flow label from the flow hash
//! (RFC 6438), so that routers and receivers spread flows. DSCP and ECN are copied from the inner
//! header (RFC 6040, 4.1, normal mode). The inner header is not touched: the balancer is the packet's
//! destination, not a router on its way (RFC 2003, 3.1).

use crate::{Address, checksum, join, pair, wire::protocol};

/// TTL and hop limit of outer headers.
pub const TTL: u8 = 64;

/// Bytes an outer IPv4 header takes.
pub const OVERHEAD_V4: u16 = 20;
/// Bytes an outer IPv6 header takes.
pub const OVERHEAD_V6: u16 = 40;

/// Don't-fragment, as it is in the flags/offset field.
const DF: u16 = 0x4000;

/// The protocol number for an inner packet of that family.
#[inline(always)]
pub const fn inner_protocol(inner_is_v6: bool) -> u8 {
    if inner_is_v6 { protocol::IPV6 } else { protocol::IPIP }
}

/// A template for [`outer_v4`]: header words 0–4 with length, TOS and checksum 0, then in word 5 the folded sum of the
/// header's words. `source` and `destination` are as on the wire, `source` with its spread bits 0.
pub const fn template_v4(source: u32, destination: u32, inner_is_v6: bool) -> [u32; 10] {
    let words = [
        0x4500_0000_u32.to_be(),
        (DF as u32).to_be(),
        ((TTL as u32) << 24 | (inner_protocol(inner_is_v6) as u32) << 16).to_be(),
        source,
        destination,
    ];
    let partial = checksum::fold(checksum::sum(&words)) as u32;
    [words[0], words[1], words[2], words[3], words[4], partial, 0, 0, 0, 0]
}

/// A template for [`outer_v6`]. `source` with its spread bits 0.
pub const fn template_v6(source: Address, destination: Address, inner_is_v6: bool) -> [u32; 10] {
    let next = (inner_protocol(inner_is_v6) as u32) << 8 | TTL as u32;
    [
        0x6000_0000_u32.to_be(),
        next.to_be(),
        source[0],
        source[1],
        source[2],
        source[3],
        destination[0],
        destination[1],
        destination[2],
        destination[3],
    ]
}

/// The low `bits` bits of the flow hash, 0–32: what the packet adds to a source address that is spread.
#[inline(always)]
const fn spread(hash: u64, bits: u8) -> u32 {
    // Two shifts, because one by 32 would be undefined at `bits` = 0.
    (hash as u32 as u64 & ((1u64 << (bits as u64 & 63)) - 1)) as u32
}

/// A 16-bit field as it is in memory, moved to where the last two bytes of a word lie in memory.
#[inline(always)]
const fn lower_half(field: u16) -> u32 {
    if cfg!(target_endian = "little") { (field as u32) << 16 } else { field as u32 }
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

    #[inline(always)]
    const fn length(self) -> u32 {
        self.0 & 0xffff
    }

    #[inline(always)]
    const fn tos(self) -> u32 {
        self.0 >> 16
    }
}

/// The outer IPv4 header of one packet, in the pieces in which it is stored: bytes 0–7, 8–15, 16–19. The caller has
/// checked that the length of both headers and the packet fits the MTU.
#[inline(always)]
pub const fn outer_v4(template: &[u32; 10], source_bits: u8, inner: Inner, hash: u64) -> (u64, u64, u32) {
    let first = (inner.0 + OVERHEAD_V4 as u32).to_be();
    let source = spread(hash, source_bits).to_be();
    let total = template[5] as u64 + first as u64 + source as u64;
    (
        pair::<0, 10>(template) | join(first, 0),
        pair::<2, 10>(template) | join(lower_half(checksum::finish(total)), source),
        template[4],
    )
}

/// The outer IPv6 header of one packet, in the pieces in which it is stored: 8 bytes each. Arguments as for
/// [`outer_v4`].
#[inline(always)]
pub const fn outer_v6(
    template: &[u32; 10],
    source_bits: u8,
    inner: Inner,
    hash: u64,
) -> (u64, u64, u64, u64, u64) {
    let first = (inner.tos() << 20 | (hash as u32 & 0x000f_ffff)).to_be();
    let source = spread(hash, source_bits).to_be();
    (
        pair::<0, 10>(template) | join(first, (inner.length() << 16).to_be()),
        pair::<2, 10>(template),
        pair::<4, 10>(template) | join(0, source),
        pair::<6, 10>(template),
        pair::<8, 10>(template),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(template: &[u32; 10], bits: u8, length: u16, tos: u8, hash: u64) -> [u8; 20] {
        let (a, b, c) = outer_v4(template, bits, Inner::new(length, tos), hash);
        [&a.to_ne_bytes()[..], &b.to_ne_bytes(), &c.to_ne_bytes()].concat().try_into().unwrap()
    }

    fn v6(template: &[u32; 10], bits: u8, length: u16, class: u8, hash: u64) -> [u8; 40] {
        let (a, b, c, d, e) = outer_v6(template, bits, Inner::new(length, class), hash);
        [a, b, c, d, e].map(u64::to_ne_bytes).as_flattened().try_into().unwrap()
    }

    #[test]
    fn an_ipv4_header_is_what_rfc_2003_says() {
        let template = template_v4(0x0a00_0100_u32.to_be(), 0x0a00_000b_u32.to_be(), false);
        let header = v4(&template, 8, 1000, 0xb9, 0xffff_ffff_0000_00fe);
        assert_eq!(header[0..10], [0x45, 0xb9, 0x03, 0xfc, 0, 0, 0x40, 0, 64, 4]);
        assert_eq!(header[12..20], [10, 0, 1, 0xfe, 10, 0, 0, 11]);
    }

    #[test]
    fn the_first_word_of_an_ipv4_header_gives_length_and_class() {
        assert_eq!(Inner::of_v4(u32::from_ne_bytes([0x45, 0xb9, 0x03, 0xe8])), Inner::new(1000, 0xb9));
    }

    #[test]
    fn an_ipv6_header_is_what_rfc_2473_says() {
        let source = [0x2001_0db8_u32.to_be(), 0, 0, 0];
        let destination = [0x2001_0db8_u32.to_be(), 0, 0, 0xb_u32.to_be()];
        let template = template_v6(source, destination, true);
        let header = v6(&template, 16, 1000, 0xb9, 0x1234_5678_9abc_def0);
        assert_eq!(header[0..8], [0x6b, 0x9c, 0xde, 0xf0, 0x03, 0xe8, 41, 64]);
        assert_eq!(header[20..24], [0, 0, 0xde, 0xf0]);
        assert_eq!(header[24..40], [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb]);
    }

    proptest! {
        #[test]
        fn the_ipv4_checksum_verifies(
            source in any::<u32>(), destination in any::<u32>(), bits in 0u8..=32, length in 20u16..9000,
            tos in any::<u8>(), hash in any::<u64>(), inner_is_v6 in any::<bool>(),
        ) {
            let kept = if bits == 32 { 0 } else { u32::MAX << bits };
            let source = (source & kept).to_be();
            let header = v4(&template_v4(source, destination, inner_is_v6), bits, length, tos, hash);
            let words: [u32; 5] =
                core::array::from_fn(|i| u32::from_ne_bytes(header[i * 4..i * 4 + 4].try_into().unwrap()));
            prop_assert_eq!(checksum::fold(checksum::sum(&words)), 0xffff);
            prop_assert_eq!(u32::from_be(words[3]) & kept, u32::from_be(source));
        }
    }
}
