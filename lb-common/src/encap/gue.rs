//! IP in UDP: variant 1 of GUE (draft-ietf-intarea-gue-09, 4), where the packet follows the UDP header at once. Routers and
//! network cards that look at ports spread its flows. The source port is made from the flow hash, so all packets of a flow
//! have the same one (RFC 8085, 5.1.1).
//!
//! The checksum is 0 over IPv4 (RFC 768). Over IPv6 it is right, at the price of a few additions: where the checksum of the
//! inner packet is right, the sum of its bytes follows from its header. TCP and UDP sum up to the complement of their pseudo
//! header, and a header of IPv4 to nothing. A wrong checksum inside makes a wrong one outside, and the packet is dropped at
//! the tunnel's end instead of behind it. Where the sum is not known ([`Inside`]), the checksum is 0 over IPv6, too, which
//! receivers of tunnels take (RFC 6935, 5).

use super::{Inner, Outer, form, ip};
use crate::{
    Address, checksum, is_v4, join,
    wire::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6, Udp, protocol},
};

/// The UDP port of receivers (IANA: gue).
pub const PORT: u16 = 6080;

/// Bytes of the UDP header.
pub const UDP: u16 = size_of::<Udp>() as u16;

/// See [`super::Kind::outer`].
pub(super) const fn outer(source: &Address, destination: &Address) -> Outer {
    if is_v4(destination) {
        let template = ip::template_v4(source[3], destination[3], protocol::UDP);
        let overhead = ip::OVERHEAD_V4 + UDP;
        Outer { form: form::GUE_V4, ethertype: ETHERTYPE_IPV4, overhead, template, sum: 0 }
    } else {
        let template = ip::template_v6(source, destination);
        let overhead = ip::OVERHEAD_V6 + UDP;
        let constant = (protocol::UDP as u16).to_be() as u64 + PORT.to_be() as u64;
        let sum = checksum::fold(checksum::sum(&template) + constant);
        Outer { form: form::GUE_V6, ethertype: ETHERTYPE_IPV6, overhead, template, sum }
    }
}

/// The source port of a flow: one of the 16,384 dynamic ports (RFC 6335, 6).
#[inline(always)]
pub const fn source_port(hash: u64) -> u16 {
    0xc000 | hash as u16 & 0x3fff
}

/// The UDP header, as it is stored, with a checksum as it lies in memory.
#[inline(always)]
pub const fn header(inner: Inner, hash: u64, checksum: u16) -> u64 {
    let ports = wire::ports(source_port(hash), PORT);
    join(ports, ((inner.length() + UDP as u32) << 16).to_be() | ip::lower_half(checksum))
}

/// The checksum over IPv6, as it lies in memory. `sum`: [`crate::backend::Backend::sum`]; `inside`: the sum of the inner
/// packet, `None` = not known.
#[inline(always)]
pub const fn checksum_v6(sum: u16, source_bits: u8, inner: Inner, hash: u64, inside: Option<u64>) -> u16 {
    let Some(inside) = inside else { return 0 };
    // The length is in the pseudo header, too.
    let length = ((inner.length() + UDP as u32) as u16).to_be() as u64;
    let ports = source_port(hash).to_be() as u64;
    let total = inside + sum as u64 + ip::spread_source(hash, source_bits) as u64 + 2 * length + ports;
    match checksum::finish(total) {
        // 0 would say that there is none (RFC 768).
        0 => 0xffff,
        checksum => checksum,
    }
}

/// What is read of a packet to know the sum of its bytes, from its IP header on: a packet without options or extension
/// headers. Of a datagram, its length and checksum: its sum is not known if it has no checksum, or if it ends before the packet.
#[derive(Clone, Copy)]
pub struct Inside {
    pub payload: u16,
    pub protocol: u8,
}

impl Inside {
    /// Whether a datagram is the whole payload and has a checksum.
    #[inline(always)]
    pub const fn is_whole(self, udp: &Udp) -> bool {
        udp.checksum != 0 && u16::from_be(udp.length) == self.payload
    }

    /// Minus the length and the protocol number, which are in the pseudo header.
    #[inline(always)]
    const fn less_lengths(self) -> u64 {
        (!self.payload.to_be()) as u64 + (!(self.protocol as u16).to_be()) as u64
    }

    /// The sum of an IPv4 packet: minus that of the pseudo header, since the header sums up to nothing.
    #[inline(always)]
    pub const fn sum_v4(self, ip: &Ipv4) -> u64 {
        self.less_lengths() + (!ip.source) as u64 + (!ip.destination) as u64
    }

    /// The sum of an IPv6 packet: that of the header without addresses, which are in the pseudo header, too.
    #[inline(always)]
    pub const fn sum_v6(self, ip: &Ipv6) -> u64 {
        let hops = u16::from_ne_bytes([ip.next_header, ip.hop_limit]);
        self.less_lengths() + ip.version_class_label as u64 + ip.payload_length as u64 + hops as u64
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The one's-complement sum of bytes, as RFC 1071 (4.1) has it.
    fn sum(bytes: &[u8]) -> u16 {
        let words =
            bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
        words.fold(0, |sum, word| (sum + word) % 0x1_0000 + (sum + word) / 0x1_0000) as u16
    }

    fn checksummed(mut bytes: Vec<u8>, at: usize, pseudo: &[u8]) -> Vec<u8> {
        let checksum = !sum(&[pseudo, &bytes].concat());
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// A segment or datagram with its checksum.
    fn transport(number: u8, addresses: &[u8], payload: &[u8]) -> Vec<u8> {
        let (header, at) = if number == protocol::TCP { (20, 16) } else { (8, 6) };
        let length = (header + payload.len()) as u16;
        let mut bytes = std::vec![0x5a; header];
        if number == protocol::UDP {
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
        }
        bytes[at..at + 2].fill(0);
        bytes.extend(payload);
        let pseudo = [addresses, &[0, number], &length.to_be_bytes()].concat();
        checksummed(bytes, at, &pseudo)
    }

    fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
        std::array::from_fn(|i| u32::from_ne_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap()))
    }

    proptest! {
        #[test]
        fn the_checksum_of_ipv6_verifies(
            outer in any::<[u8; 32]>(), addresses in any::<[u8; 32]>(), is_v6 in any::<bool>(), tcp in any::<bool>(),
            payload in prop::collection::vec(any::<u8>(), 0..60), hash in any::<u64>(), bits in 0u8..=32, tos in any::<u8>(),
        ) {
            let number = if tcp { protocol::TCP } else { protocol::UDP };
            let used = if is_v6 { &addresses[..] } else { &addresses[..8] };
            let rest = transport(number, used, &payload);
            let (length, inside) = (rest.len() as u16, Inside { payload: rest.len() as u16, protocol: number });
            let (packet, inside) = if is_v6 {
                let mut header = std::vec![0x60 | tos >> 4, tos << 4, 1, 2];
                header.extend(length.to_be_bytes());
                header.extend([number, 63]);
                header.extend(used);
                // SAFETY: 40 bytes, of which every pattern is a header.
                let ip = unsafe { header.as_ptr().cast::<Ipv6>().read_unaligned() };
                ([header, rest].concat(), inside.sum_v6(&ip))
            } else {
                let mut header = std::vec![0x45, tos];
                header.extend((20 + length).to_be_bytes());
                header.extend([1, 2, 0x40, 0, 63, number, 0, 0]);
                header.extend(used);
                let header = checksummed(header, 10, &[]);
                // SAFETY: 20 bytes, of which every pattern is a header.
                let ip = unsafe { header.as_ptr().cast::<Ipv4>().read_unaligned() };
                ([header, rest].concat(), inside.sum_v4(&ip))
            };
            let (source, destination) = outer.split_at(16);
            let mut source: [u32; 4] = words(source);
            let kept = if bits == 32 { 0 } else { u32::MAX << bits };
            source[3] &= kept.to_be();
            let destination: [u32; 4] = words(destination);
            prop_assume!(!is_v4(&destination));
            let outer = super::outer(&source, &destination);
            let inner = Inner::new(packet.len() as u16, tos);
            let checksum = checksum_v6(outer.sum, bits, inner, hash, Some(inside));
            prop_assert_ne!(checksum, 0);
            let udp = header(inner, hash, checksum).to_ne_bytes();
            source[3] |= (hash as u32 & !kept).to_be();
            let pseudo: Vec<u8> = source.iter().chain(&destination).flat_map(|word| word.to_ne_bytes()).collect();
            let whole = [&pseudo[..], &[0, 17], &udp[4..6], &udp, &packet].concat();
            prop_assert_eq!(sum(&whole), 0xffff);
            prop_assert_eq!(udp[..6].to_vec(), {
                let port = 0xc000 + (hash % 0x4000) as u16;
                [port.to_be_bytes(), 6080_u16.to_be_bytes(), (packet.len() as u16 + 8).to_be_bytes()].concat()
            });
        }
    }

    #[test]
    fn a_datagram_without_checksum_or_with_a_rest_behind_it_has_no_sum() {
        let inside = Inside { payload: 20, protocol: protocol::UDP };
        let udp = |length: u16, checksum| Udp { ports: 0, length: length.to_be(), checksum };
        assert!(inside.is_whole(&udp(20, 1)));
        assert!(!inside.is_whole(&udp(20, 0)) && !inside.is_whole(&udp(19, 1)));
        assert_eq!(checksum_v6(1, 0, Inner::new(40, 0), 5, None), 0);
    }
}
