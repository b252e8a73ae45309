//! The flow hash: which slot a flow falls into. Keyed by the node's seed; the hash is equal on all nodes that share the
//! seed.
//!
//! Two or more rounds of xor, odd multiply, shift-down over the tuple as 64-bit words, then one finishing round. This is
//! not a cryptographic hash: the seed keeps an attacker who cannot see our slots from aiming at one. Measured against
//! jhash and SipHash-1-3 by `cargo xtask bench` (rows `hash/*`), figures in lb-ebpf/doc/performance.md.

use crate::{Address, is_v4, ring::Ring};

/// The key of the hash: 128 bits made from the configuration's seed string.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seed(pub [u64; 2]);

// Odd constants with about half their bits set, from the splitmix64 and murmur3 finishers.
pub(crate) const K0: u64 = 0xbf58_476d_1ce4_e5b9;
const K1: u64 = 0x94d0_49bb_1331_11eb;
const K2: u64 = 0xff51_afd7_ed55_8ccd;

#[inline(always)]
const fn absorb(state: u64, word: u64, k: u64) -> u64 {
    let h = (state ^ word).wrapping_mul(k);
    h ^ h >> 32
}

#[inline(always)]
const fn finish(h: u64) -> u64 {
    let h = h.wrapping_mul(K2);
    h ^ h >> 29
}

/// The hash of an IPv4 flow. Addresses and ports are as in the headers.
#[inline(always)]
pub const fn flow_v4(seed: &Seed, source: u32, destination: u32, ports: u32, protocol: u8) -> u64 {
    // The source address varies most and goes into the lower half: a product only carries upwards.
    let addresses = (destination as u64) << 32 | source as u64;
    let rest = (protocol as u64) << 32 | ports as u64;
    finish(absorb(absorb(seed.0[0], addresses, K0), rest ^ seed.0[1], K1))
}

/// The hash of an IPv6 flow. Addresses and ports are as in the headers.
#[inline(always)]
pub const fn flow_v6(seed: &Seed, source: &Address, destination: &Address, ports: u32, protocol: u8) -> u64 {
    let rest = (protocol as u64) << 32 | ports as u64;
    // The two halves of each address go through one multiply each, in parallel; the sum of products of
    // seed-dependent words does not cancel for an attacker who does not know the seed.
    let a = absorb(seed.0[0], (source[0] as u64) << 32 | source[1] as u64, K0);
    let b = absorb(seed.0[1], (source[2] as u64) << 32 | source[3] as u64, K1);
    let c = absorb(seed.0[0] ^ K2, (destination[0] as u64) << 32 | destination[1] as u64, K1);
    let d = absorb(seed.0[1] ^ K2, (destination[2] as u64) << 32 | destination[3] as u64, K0);
    let addresses = a ^ b.rotate_left(17) ^ c.rotate_left(31) ^ d.rotate_left(47);
    finish(absorb(absorb(seed.0[0], addresses, K0), rest ^ seed.0[1], K1))
}

/// The hash of a flow of either family; the agent and the tests use it, and it equals the hash that packets get.
#[inline(always)]
pub const fn flow(seed: &Seed, source: &Address, destination: &Address, ports: u32, protocol: u8) -> u64 {
    if is_v4(destination) {
        flow_v4(seed, source[3], destination[3], ports, protocol)
    } else {
        flow_v6(seed, source, destination, ports, protocol)
    }
}

/// The hash of an IPv4 client by the first `bits` bits of its address: the same for all flows of the client, to any
/// service.
#[inline(always)]
pub const fn source_v4(seed: &Seed, source: u32, bits: u32) -> u64 {
    flow_v4(seed, source & leading(bits), 0, 0, 0)
}

/// The same for an IPv6 client.
#[inline(always)]
pub const fn source_v6(seed: &Seed, source: &Address, bits: u32) -> u64 {
    let source = [
        source[0] & leading(bits),
        source[1] & leading(bits.saturating_sub(32)),
        source[2] & leading(bits.saturating_sub(64)),
        source[3] & leading(bits.saturating_sub(96)),
    ];
    flow_v6(seed, &source, &[0; 4], 0, 0)
}

/// A mask of the first `bits` bits of a word as it is in a header; all bits from 32 on.
#[inline(always)]
const fn leading(bits: u32) -> u32 {
    match bits {
        0 => 0,
        1..32 => (u32::MAX << (32 - bits)).to_be(),
        _ => u32::MAX,
    }
}

/// The hash that decides a flow's slot in that ring; the agent and the tests use it, and it equals the hash that packets
/// get.
#[inline(always)]
pub const fn slot_hash(
    seed: &Seed,
    ring: Ring,
    source: &Address,
    destination: &Address,
    ports: u32,
    protocol: u8,
) -> u64 {
    match ring.source_bits() {
        0 => flow(seed, source, destination, ports, protocol),
        bits if is_v4(destination) => source_v4(seed, source[3], bits),
        bits => source_v6(seed, source, bits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mapped, wire};

    /// Pearson's chi-square over slots, as standard deviations from its mean (normal approximation).
    fn deviation(hashes: impl Iterator<Item = u64>, slots: u32) -> f64 {
        let ring = Ring::new(0, slots);
        let mut counts = std::vec![0u32; slots as usize];
        let mut n = 0u32;
        for hash in hashes {
            counts[ring.slot(hash) as usize] += 1;
            n += 1;
        }
        let expected = f64::from(n) / f64::from(slots);
        let chi: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        let degrees = f64::from(slots - 1);
        (chi - degrees) / (2.0 * degrees).sqrt()
    }

    const SEEDS: [Seed; 3] =
        [Seed([1, 2]), Seed([0, 0]), Seed([0xdead_beef_0bad_cafe, 0x0123_4567_89ab_cdef])];

    #[test]
    fn sequential_ports_of_one_client_spread_evenly() {
        for seed in SEEDS {
            let hashes = (1024..65_535u16).map(|port| {
                flow_v4(&seed, 0x0a00_0001_u32.to_be(), 0xcb00_710a_u32.to_be(), wire::ports(port, 443), 6)
            });
            let sigma = deviation(hashes, 251);
            assert!(sigma.abs() < 5.0, "{seed:?}: {sigma}");
        }
    }

    #[test]
    fn sequential_clients_spread_evenly_over_large_rings() {
        for seed in SEEDS {
            let hashes = (0..1_000_000u32).map(|i| {
                flow_v4(
                    &seed,
                    (0x0a00_0000 + i).to_be(),
                    0xcb00_710a_u32.to_be(),
                    wire::ports(50_000, 443),
                    6,
                )
            });
            let sigma = deviation(hashes, 65_537);
            assert!(sigma.abs() < 5.0, "{seed:?}: {sigma}");
        }
    }

    #[test]
    fn sequential_ipv6_clients_spread_evenly() {
        for seed in SEEDS {
            let destination = [0x2001_0db8_u32.to_be(), 0, 0, 0x10_u32.to_be()];
            let hashes = (0..500_000u32).map(|i| {
                // The low 8 bits of `i` count in the interface id, the others in the subnet.
                let source = [0x2001_0db8_u32.to_be(), (i >> 8).to_be(), 0, (i & 0xff).to_be()];
                flow_v6(&seed, &source, &destination, wire::ports(50_000, 443), 6)
            });
            let sigma = deviation(hashes, 65_537);
            assert!(sigma.abs() < 5.0, "{seed:?}: {sigma}");
        }
    }

    #[test]
    fn every_input_bit_moves_about_half_of_the_slot_bits() {
        let seed = SEEDS[2];
        let base = flow_v4(&seed, 1, 2, 3, 6);
        for bit in 0..32 {
            for flipped in [
                flow_v4(&seed, 1 ^ 1 << bit, 2, 3, 6),
                flow_v4(&seed, 1, 2 ^ 1 << bit, 3, 6),
                flow_v4(&seed, 1, 2, 3 ^ 1 << bit, 6),
            ] {
                let moved = ((base ^ flipped) >> 32).count_ones();
                assert!((6..=26).contains(&moved), "bit {bit}: {moved}");
            }
        }
    }

    #[test]
    fn the_hash_depends_on_seed_and_destination_family() {
        let (s, d) = (mapped(1), mapped(2));
        assert_ne!(flow(&SEEDS[0], &s, &d, 3, 6), flow(&SEEDS[1], &s, &d, 3, 6));
        assert_eq!(flow(&SEEDS[0], &s, &d, 3, 6), flow_v4(&SEEDS[0], 1, 2, 3, 6));
    }

    #[test]
    fn clients_and_their_networks_spread_evenly() {
        for seed in SEEDS {
            let client = |i: u32| (0x0a00_0000 + i).to_be();
            let hosts = (0..500_000).map(|i| source_v4(&seed, client(i), 32));
            let networks = (0..60_000).map(|i| source_v4(&seed, client(i << 8), 24));
            let v6 = |i: u32| [0x2001_0db8_u32.to_be(), i.to_be(), 0, 1];
            let sites = (0..60_000).map(|i| source_v6(&seed, &v6(i << 8), 56));
            for (what, sigma) in [
                ("hosts", deviation(hosts, 65_537)),
                ("networks", deviation(networks, 251)),
                ("sites", deviation(sites, 251)),
            ] {
                assert!(sigma.abs() < 5.0, "{seed:?}, {what}: {sigma}");
            }
        }
    }

    #[test]
    fn only_the_leading_bits_of_a_client_count() {
        let seed = SEEDS[2];
        for bits in 1..=32 {
            let base = 0x5a5a_5a5a_u32;
            for bit in 0..32 {
                // Bit 0 is the address's first.
                let other = base ^ 0x8000_0000 >> bit;
                let same = source_v4(&seed, base.to_be(), bits) == source_v4(&seed, other.to_be(), bits);
                assert_eq!(same, bit >= bits, "bit {bit} of /{bits}");
            }
        }
        for bits in 1..=128u32 {
            let base = [0x5a5a_5a5a_u32; 4];
            for bit in 0..128 {
                let mut other = base;
                other[bit as usize / 32] ^= 0x8000_0000 >> (bit % 32);
                let wire = |words: [u32; 4]| words.map(u32::to_be);
                let same = source_v6(&seed, &wire(base), bits) == source_v6(&seed, &wire(other), bits);
                assert_eq!(same, bit >= bits, "bit {bit} of /{bits}");
            }
        }
    }

    #[test]
    fn a_ring_says_what_places_a_flow() {
        let (seed, ring) = (SEEDS[2], Ring::new(0, 251));
        let (source, destination) = (mapped(1), mapped(2));
        let slot_hash = |ring, ports| super::slot_hash(&seed, ring, &source, &destination, ports, 6);
        assert_eq!(slot_hash(ring, 3), flow(&seed, &source, &destination, 3, 6));
        assert_eq!(slot_hash(ring.with_source_prefix(32), 3), slot_hash(ring.with_source_prefix(32), 4));
        assert_eq!(slot_hash(ring.with_source_prefix(32), 3), source_v4(&seed, 1, 32));
        let (source, destination) = ([1, 2, 3, 4], [5, 6, 7, 8]);
        let hash = super::slot_hash(&seed, ring.with_source_prefix(64), &source, &destination, 3, 6);
        assert_eq!(hash, source_v6(&seed, &source, 64));
    }
}
