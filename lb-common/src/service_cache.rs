//! The table in front of the index: all that the fast path needs of a service in a stable slot, in one cache line. The
//! agent writes it, packets only read it.
//!
//! A service has one place, by a hash of its key. An entry names the service that has the place, or says that no service
//! has it, or says that the packet has to look further, in the index: because two services share the place, or because
//! the agent is changing the entry. Tables that were just made (all zero) are a *miss*.
//!
//! Everything here is in the index and in the services' records, too. Those decide; an entry that would disagree with
//! them is a *miss* instead.

use crate::{
    Address,
    hash::{K0, Seed},
    pair, pod,
    ring::Ring,
};

/// What a packet reads first: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// The key of the service that has this place, as [`key_v4`] or [`key_v6`] makes it; or [`Entry::MISS`] or
    /// [`Entry::NO_SERVICE`]. The agent writes it last.
    pub key: u64,
    /// The service's [`crate::service::Service::ring`], never [`Ring::NONE`].
    pub ring: Ring,
    /// The service's address, if that is IPv6; otherwise 0.
    pub address: Address,
    /// [`crate::map::Node::seed`], a copy, so that packets need not read the node.
    pub seed: Seed,
    /// The service's number.
    pub number: u32,
    /// 0; room for later versions.
    pub reserved: [u32; 3],
}

impl Entry {
    /// The packet has to ask the index.
    pub const MISS: u64 = 0;
    /// No service has this place: a packet is for no service, unless its address is known ([`crate::known`]).
    pub const NO_SERVICE: u64 = 1;

    /// The entry of a service.
    pub const fn of(address: &Address, port_protocol: u32, ring: Ring, seed: Seed, number: u32) -> Self {
        let is_v4 = crate::is_v4(address);
        let (port, protocol) = parts(port_protocol);
        Self {
            key: if is_v4 { key_v4(address[3], port, protocol) } else { key_v6(port, protocol) },
            ring,
            address: if is_v4 { [0; 4] } else { *address },
            seed,
            number,
            reserved: [0; 3],
        }
    }

    /// Whether a service has this place.
    pub const fn is_service(&self) -> bool {
        self.key != Self::MISS && self.key != Self::NO_SERVICE
    }

    /// Whether an IPv6 entry is that of this address, given in its halves as they lie in memory.
    #[inline(always)]
    pub const fn is_at(&self, upper: u64, lower: u64) -> bool {
        // The half that varies most is compared first.
        pair::<2, 4>(&self.address) == lower && pair::<0, 4>(&self.address) == upper
    }
}

/// The key of an IPv4 service: its address and port as they are in the headers, and its protocol. No service has
/// protocol 0, so every IPv4 key is larger than every IPv6 key, and every IPv6 key is larger than the two values that
/// are not keys.
#[inline(always)]
pub const fn key_v4(address: u32, port: u16, protocol: u8) -> u64 {
    (protocol as u64) << 48 | (port as u64) << 32 | address as u64
}

/// The key of an IPv6 service without its address, which the entry holds separately.
#[inline(always)]
pub const fn key_v6(port: u16, protocol: u8) -> u64 {
    (protocol as u64) << 16 | port as u64
}

/// Port, as it is in a header, and protocol of a key part.
const fn parts(port_protocol: u32) -> (u16, u8) {
    ((port_protocol as u16).to_be(), (port_protocol >> 16) as u8)
}

/// The multiplier of the golden ratio (Knuth, TAOCP 3, 6.4). Keys come from the operator, not from packets, so the hash
/// has no secret key.
const K1: u64 = 0x9e37_79b9_7f4a_7c15;

/// The place of an IPv4 key in a table of `1 << (64 - shift)` entries: the upper bits of the product, which depend on
/// all lower ones. Keys that count upwards in one of their parts are spread more evenly than by chance.
#[inline(always)]
pub const fn place_v4(key: u64, shift: u32) -> u32 {
    ((key ^ key >> 32).wrapping_mul(K1) >> shift) as u32
}

/// The same for an IPv6 key and the two halves of the address as they lie in memory.
#[inline(always)]
pub const fn place_v6(key: u64, upper: u64, lower: u64, shift: u32) -> u32 {
    let x = key ^ upper.wrapping_mul(K0) ^ lower ^ lower >> 32;
    (x.wrapping_mul(K1) >> shift) as u32
}

/// The place of a service.
pub const fn place(address: &Address, port_protocol: u32, shift: u32) -> u32 {
    let (port, protocol) = parts(port_protocol);
    if crate::is_v4(address) {
        return place_v4(key_v4(address[3], port, protocol), shift);
    }
    let (upper, lower) = (crate::join(address[0], address[1]), crate::join(address[2], address[3]));
    place_v6(key_v6(port, protocol), upper, lower, shift)
}

/// Entries for that many services: a power of two, four places for each service, so that few services share one.
pub const fn entries_for(services: u32) -> u32 {
    let wanted = services.saturating_mul(4);
    if wanted < 16 {
        16
    } else if wanted > 1 << 31 {
        1 << 31
    } else {
        wanted.next_power_of_two()
    }
}

/// The shift of [`place`] in a table of that many entries, a power of two, at least 2.
pub const fn shift_for(entries: u32) -> u32 {
    u64::BITS - entries.trailing_zeros()
}

/// The global variable of the programs that holds [`loaded_shift`].
pub const SHIFT: &str = "FRONT_SHIFT";

/// What the programs have as the shift of their table: [`shift_for`] it; or 0 where developers want a line for each
/// packet, so that no place is in the table (but for one service in a million, by
/// chance) and packets take the slow path, which writes the lines.
pub const fn loaded_shift(entries: u32, lines: bool) -> u32 {
    if lines { 0 } else { shift_for(entries) }
}

pod!(Entry);

const _: () = assert!(size_of::<Entry>() == 64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mapped, service::port_protocol};

    fn v6(last: u32) -> Address {
        [0x2001_0db8_u32.to_be(), 0, 0, last.to_be()]
    }

    #[test]
    fn keys_differ_and_are_never_a_special_value() {
        let keys = [
            key_v4(0, 0, 1),
            key_v4(1 << 16, 0, 1),
            key_v4(u32::MAX, u16::MAX, u8::MAX),
            key_v6(0, 1),
            key_v6(u16::MAX, u8::MAX),
            Entry::MISS,
            Entry::NO_SERVICE,
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b), "{a:x}");
        }
    }

    #[test]
    fn an_entry_is_its_service_and_no_other() {
        let seed = Seed([1, 2]);
        let ring = Ring::new(7, 251);
        let entry = Entry::of(&mapped(0x0a71_00cb), port_protocol(443, 6), ring, seed, 9);
        assert_eq!(entry.key, key_v4(0x0a71_00cb, 443_u16.to_be(), 6));
        assert_eq!((entry.ring, entry.seed, entry.number, entry.is_service()), (ring, seed, 9, true));
        let entry = Entry::of(&v6(1), port_protocol(443, 6), ring, seed, 9);
        let halves = |a: &Address| (crate::join(a[0], a[1]), crate::join(a[2], a[3]));
        let is = |of: &Address, port| {
            let (upper, lower) = halves(of);
            entry.key == key_v6(u16::to_be(port), 6) && entry.is_at(upper, lower)
        };
        assert!(is(&v6(1), 443));
        assert!(!is(&v6(2), 443) && !is(&v6(1), 80) && !is(&[0, 0, 0, v6(1)[3]], 443));
        assert!(!Entry::default().is_service());
    }

    #[test]
    fn a_table_has_four_places_for_each_service() {
        assert_eq!([0, 4, 5, 1024, 1025].map(entries_for), [16, 16, 32, 4096, 8192]);
        assert_eq!(entries_for(u32::MAX), 1 << 31);
        for entries in [16u32, 4096, 1 << 31] {
            let shift = shift_for(entries);
            assert_eq!(u64::MAX >> shift, u64::from(entries) - 1);
        }
    }

    /// The number of services that find their place taken by another one of `keys`.
    fn shared(keys: impl Iterator<Item = (Address, u32)>) -> usize {
        let shift = shift_for(entries_for(1024));
        let mut load = std::vec![0usize; 4096];
        keys.for_each(|(address, key)| load[place(&address, key, shift) as usize] += 1);
        load.iter().filter(|&&n| n > 1).map(|n| n - 1).sum()
    }

    #[test]
    fn realistic_keys_spread_like_random_ones() {
        // A random function puts 118 of 1,024 keys where another one is already, on average.
        let v4 = |i: u32| mapped((0xcb00_7100 + i).to_be());
        let tcp = |port: u32| port_protocol(port as u16, 6);
        for (what, found) in [
            ("addresses", shared((0..1024).map(|i| (v4(i), tcp(443))))),
            ("networks", shared((0..1024).map(|i| (v4(i << 8), tcp(443))))),
            ("ports", shared((0..1024).map(|i| (v4(0), tcp(8000 + i))))),
            ("both", shared((0..1024).map(|i| (v4(i / 32), tcp(8000 + i % 32))))),
            (
                "two protocols",
                shared((0..1024).map(|i| (v4(i / 2), port_protocol(53, 6 + 11 * (i % 2) as u8)))),
            ),
            ("IPv6 addresses", shared((0..1024).map(|i| (v6(i), tcp(443))))),
            ("IPv6 ports", shared((0..1024).map(|i| (v6(1), tcp(8000 + i))))),
            ("IPv6 sites", shared((0..1024u32).map(|i| ([v6(0)[0], (i << 8).to_be(), 0, 1], tcp(443))))),
        ] {
            assert!(found <= 160, "{what}: {found} of 1024");
        }
    }
}
