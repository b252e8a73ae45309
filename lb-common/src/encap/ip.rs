//! The outer IP headers that kinds of encapsulation begin with: templates that the agent fills once for each backend, and
//! what a packet adds to them.
//!
//! IPv4 (RFC 2003): TTL 64, DF set and identification 0 (an atomic datagram, RFC 6864, 4.1). IPv6
//! (RFC 2473, without the optional encapsulation-limit header): hop limit 64, flow label from the flow hash
//! (RFC 6438), so that routers and receivers spread flows. DSCP and ECN are copied from the inner
//! header (RFC 6040, 4.1, normal mode). The inner header is not touched: the balancer is the packet's
//! destination, not a router on its way (RFC 2003, 3.1).

use super::{Inner, Template, spread};
use crate::{Address, checksum, join, pair};

/// TTL and hop limit of outer headers.
pub const TTL: u8 = 64;

/// Bytes an outer IPv4 header takes.
pub const OVERHEAD_V4: u16 = 20;
/// Bytes an outer IPv6 header takes.
pub const OVERHEAD_V6: u16 = 40;

/// Don't-fragment, as it is in the flags/offset field.
const DF: u16 = 0x4000;

/// A template for [`outer_v4`]: header words 0–4 with length, TOS and checksum 0, in word 5 the folded sum of the
/// header's words, and two words for what follows the header. `source` and `destination` are as on the wire, `source`
/// with its spread bits 0. `protocol`: what follows.
pub const fn template_v4(source: u32, destination: u32, protocol: u8) -> Template {
    let words = [
        0x4500_0000_u32.to_be(),
        (DF as u32).to_be(),
        ((TTL as u32) << 24 | (protocol as u32) << 16).to_be(),
        source,
        destination,
    ];
    let partial = checksum::fold(checksum::sum(&words)) as u32;
    [words[0], words[1], words[2], words[3], words[4], partial, 0, 0]
}

/// A template for [`outer_v6`]: both addresses, the source with its spread bits 0. A packet knows the rest of the header.
pub const fn template_v6(source: &Address, destination: &Address) -> Template {
    [
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

/// A 16-bit field as it is in memory, moved to where the last two bytes of a word lie in memory.
#[inline(always)]
pub(super) const fn lower_half(field: u16) -> u32 {
    if cfg!(target_endian = "little") { (field as u32) << 16 } else { field as u32 }
}

/// What a packet adds to the last word of a source address that is spread, as it lies in memory.
#[inline(always)]
pub(super) const fn spread_source(hash: u64, bits: u8) -> u32 {
    spread(hash, bits).to_be()
}

/// The outer IPv4 header of one packet, in the pieces in which it is stored: bytes 0–7, 8–15, 16–19. `more`: bytes between
/// this header and the inner packet. The caller has checked that the length of headers and packet fits the MTU.
#[inline(always)]
pub const fn outer_v4(
    template: &Template,
    source_bits: u8,
    inner: Inner,
    more: u16,
    hash: u64,
) -> (u64, u64, u32) {
    let first = (inner.0 + (OVERHEAD_V4 + more) as u32).to_be();
    let source = spread_source(hash, source_bits);
    let total = template[5] as u64 + first as u64 + source as u64;
    (
        pair::<0, 8>(template) | join(first, 0),
        pair::<2, 8>(template) | join(lower_half(checksum::finish(total)), source),
        template[4],
    )
}

/// The outer IPv6 header of one packet, in the pieces in which it is stored: 8 bytes each. `next`: the protocol that
/// follows; other arguments as for [`outer_v4`].
#[inline(always)]
pub const fn outer_v6(
    template: &Template,
    source_bits: u8,
    inner: Inner,
    next: u8,
    more: u16,
    hash: u64,
) -> (u64, u64, u64, u64, u64) {
    let first = 0x6000_0000 | inner.tos() << 20 | (hash as u32 & 0x000f_ffff);
    let second = (inner.length() + more as u32) << 16 | (next as u32) << 8 | TTL as u32;
    let source = spread_source(hash, source_bits);
    (
        join(first.to_be(), second.to_be()),
        pair::<0, 8>(template),
        pair::<2, 8>(template) | join(0, source),
        pair::<4, 8>(template),
        pair::<6, 8>(template),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protocol;
    use proptest::prelude::*;

    fn v4(template: &Template, bits: u8, length: u16, tos: u8, hash: u64) -> [u8; 20] {
        let (a, b, c) = outer_v4(template, bits, Inner::new(length, tos), 0, hash);
        [&a.to_ne_bytes()[..], &b.to_ne_bytes(), &c.to_ne_bytes()].concat().try_into().unwrap()
    }

    fn v6(template: &Template, bits: u8, length: u16, class: u8, hash: u64) -> [u8; 40] {
        let inner = Inner::new(length, class);
        let (a, b, c, d, e) = outer_v6(template, bits, inner, protocol::IPV6, 0, hash);
        [a, b, c, d, e].map(u64::to_ne_bytes).as_flattened().try_into().unwrap()
    }

    #[test]
    fn an_ipv4_header_is_what_rfc_2003_says() {
        let template = template_v4(0x0a00_0100_u32.to_be(), 0x0a00_000b_u32.to_be(), protocol::IPIP);
        let header = v4(&template, 8, 1000, 0xb9, 0xffff_ffff_0000_00fe);
        assert_eq!(header[0..10], [0x45, 0xb9, 0x03, 0xfc, 0, 0, 0x40, 0, 64, 4]);
        assert_eq!(header[12..20], [10, 0, 1, 0xfe, 10, 0, 0, 11]);
    }

    #[test]
    fn an_ipv6_header_is_what_rfc_2473_says() {
        let source = [0x2001_0db8_u32.to_be(), 0, 0, 0];
        let destination = [0x2001_0db8_u32.to_be(), 0, 0, 0xb_u32.to_be()];
        let template = template_v6(&source, &destination);
        let header = v6(&template, 16, 1000, 0xb9, 0x1234_5678_9abc_def0);
        assert_eq!(header[0..8], [0x6b, 0x9c, 0xde, 0xf0, 0x03, 0xe8, 41, 64]);
        assert_eq!(header[20..24], [0, 0, 0xde, 0xf0]);
        assert_eq!(header[24..40], [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb]);
    }

    proptest! {
        #[test]
        fn the_ipv4_checksum_verifies(
            source in any::<u32>(), destination in any::<u32>(), bits in 0u8..=32, length in 20u16..9000,
            tos in any::<u8>(), hash in any::<u64>(), protocol in any::<u8>(),
        ) {
            let kept = if bits == 32 { 0 } else { u32::MAX << bits };
            let source = (source & kept).to_be();
            let header = v4(&template_v4(source, destination, protocol), bits, length, tos, hash);
            let words: [u32; 5] =
                core::array::from_fn(|i| u32::from_ne_bytes(header[i * 4..i * 4 + 4].try_into().unwrap()));
            prop_assert_eq!(checksum::fold(checksum::sum(&words)), 0xffff);
            prop_assert_eq!(u32::from_be(words[3]) & kept, u32::from_be(source));
        }
    }
}
