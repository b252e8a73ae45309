//! Services and the index that finds them: a hash table of 64-byte buckets in an array map, eight words to a bucket. The
//! agent writes it, packets only read it.
//!
//! A word is `tag << 32 | (service number + 1)`; the tag is the upper half of the key's hash. A key lives in its home
//! bucket or, when that is full, in the next one. Words are packed from the front, so the first empty word ends a
//! search: a packet for no service costs one cache line. For the same reason, a word that is removed from the middle
//! becomes [`Bucket::TOMBSTONE`], never 0.

use crate::{Address, balance::Balance, join, pair, pod, ring::Ring, slot::Track};

/// A service as packets see it: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// Virtual address, IPv4 mapped.
    pub address: Address,
    /// Port and protocol as [`port_protocol`] makes them; port 0 = every port.
    pub port_protocol: u32,
    /// [`Service::PRESENT`] and friends; 0 for a record that is not in use.
    pub flags: u32,
    /// The ring in force. The agent replaces it by one 8-byte store.
    pub ring: Ring,
    /// The ring before the last change of length. Slots whose `previous` is [`crate::slot::PREVIOUS_RING`] send packets
    /// there; [`Ring::NONE`] otherwise.
    pub old_ring: Ring,
    /// With `least-connections`: the number of slots of the owner that has most. The slots of each owner lie together,
    /// and those of this owner lie at the beginning of the ring ([`crate::balance::other`]). 0 otherwise. Since version
    /// 3.
    pub longest: u32,
    /// Jiffies of silence after which a flow no longer counts as live ([`crate::balance::is_idle`]); 0 = never. Since
    /// version 3.
    pub idle_after: u32,
    /// 0; room for later versions.
    pub reserved: [u32; 4],
}

impl Service {
    /// The record is in use.
    pub const PRESENT: u32 = 1;
    /// The packet path records every flow ([`crate::slot::Track::Always`]), and all slots are tracked. Since version 2.
    pub const ALWAYS: u32 = 1 << 1;
    /// Some service at this address has a backend that works, see [`crate::icmp::Ping::Healthy`]. Since version 5.
    pub const ANSWERS_PING: u32 = 1 << 2;
    /// Two bits that hold a [`Balance`]. Since version 2.
    const BALANCE_SHIFT: u32 = 8;

    /// The flags of a service in use.
    pub const fn flags_of(track: Track, balance: Balance) -> u32 {
        let always = if matches!(track, Track::Always) { Self::ALWAYS } else { 0 };
        Self::PRESENT | always | (balance as u32) << Self::BALANCE_SHIFT
    }

    #[inline(always)]
    pub const fn balance(&self) -> Balance {
        match self.flags >> Self::BALANCE_SHIFT & 3 {
            1 => Balance::RoundRobin,
            2 => Balance::Random,
            3 => Balance::LeastConnections,
            _ => Balance::Hash,
        }
    }

    #[inline(always)]
    pub const fn tracks_always(&self) -> bool {
        self.flags & Self::ALWAYS != 0
    }

    /// Whether this is the service of that address, port and protocol.
    #[inline(always)]
    pub const fn is(&self, address: &Address, port_protocol: u32) -> bool {
        self.port_protocol == port_protocol && self.has_address(address)
    }

    /// Whether this service listens on that address.
    #[inline(always)]
    pub const fn has_address(&self, address: &Address) -> bool {
        // The half that varies most is compared first.
        pair::<2, 4>(&self.address) == join(address[2], address[3])
            && pair::<0, 4>(&self.address) == join(address[0], address[1])
    }
}

/// Protocol in the upper half, port in host order in the lower half: the part of a key next to the address.
#[inline(always)]
pub const fn port_protocol(port: u16, protocol: u8) -> u32 {
    (protocol as u32) << 16 | port as u32
}

/// The key part under which packets find an *address*, whatever the port: answers "is this a virtual address of ours"
/// for packets whose ports cannot be read. No service has this key part, since protocol 0 is hop-by-hop.
pub const ANY_SERVICE: u32 = 0;

/// The hash of a service's key. Keys come from the operator, not from packets, so the hash has no secret key. The
/// multiplier is the golden ratio's (Knuth, TAOCP 3, 6.4), the mix murmur3's.
#[inline(always)]
pub const fn hash(address: &Address, port_protocol: u32) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let upper = (address[0] as u64) << 32 | address[1] as u64;
    let lower = (address[2] as u64 ^ port_protocol as u64) << 32 | address[3] as u64;
    let h = (upper.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ lower).wrapping_mul(K);
    (h ^ h >> 32).wrapping_mul(K)
}

/// Eight words, one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    pub words: [u64; Bucket::WORDS],
}

impl Bucket {
    pub const WORDS: usize = 8;
    /// Nothing here and nothing behind it.
    pub const EMPTY: u64 = 0;
    /// Nothing here, but look further. No other word equals it: service numbers stay below `u32::MAX`.
    pub const TOMBSTONE: u64 = u32::MAX as u64;

    /// The word that leads to a service.
    #[inline(always)]
    pub const fn word(hash: u64, service: u32) -> u64 {
        (hash & 0xffff_ffff_0000_0000) | (service as u64 + 1)
    }

    /// Whether a word may lead to the key of this hash. The service's record decides.
    #[inline(always)]
    pub const fn tag_matches(word: u64, hash: u64) -> bool {
        word >> 32 == hash >> 32
    }

    /// The service number in a word that is neither empty nor a tombstone.
    #[inline(always)]
    pub const fn service(word: u64) -> u32 {
        (word as u32).wrapping_sub(1)
    }
}

/// The home bucket of a hash, for an index of `mask + 1` buckets.
#[inline(always)]
pub const fn home_bucket(hash: u64, mask: u32) -> u32 {
    hash as u32 & mask
}

/// Buckets for an index that holds `services` services and as many addresses: a power of two with, on average, at most
/// one word in a bucket.
pub const fn buckets_for(services: u32) -> u32 {
    let wanted = services.saturating_mul(2);
    if wanted < 16 { 16 } else { wanted.next_power_of_two() }
}

pod!(Service, Bucket);

const _: () = {
    assert!(size_of::<Service>() == 64);
    assert!(size_of::<Bucket>() == 64);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped;

    #[test]
    fn words_decode_to_their_service_and_are_not_special() {
        for service in [0, 1, 1023, u32::MAX - 2] {
            for hash in [0, u64::MAX, 0x1234_5678_9abc_def0] {
                let word = Bucket::word(hash, service);
                assert_ne!(word, Bucket::EMPTY);
                assert_ne!(word, Bucket::TOMBSTONE);
                assert!(Bucket::tag_matches(word, hash));
                assert_eq!(Bucket::service(word), service);
            }
        }
    }

    #[test]
    fn flags_say_how_flows_are_recorded_and_balanced() {
        for track in [Track::Never, Track::OnChange, Track::Always] {
            for balance in [Balance::Hash, Balance::RoundRobin, Balance::Random, Balance::LeastConnections] {
                let service = Service { flags: Service::flags_of(track, balance), ..Service::default() };
                assert_eq!((service.balance(), service.tracks_always()), (balance, track == Track::Always));
                assert!(service.flags & Service::PRESENT != 0);
            }
        }
    }

    #[test]
    fn ports_of_an_address_and_addresses_spread() {
        let mask = buckets_for(2048) - 1;
        let mut load = std::vec![0u32; mask as usize + 1];
        for i in 0..1024u32 {
            let one = hash(&mapped(0xcb00_710a_u32.to_be()), port_protocol(i as u16, 6));
            let many = hash(&mapped((0xcb00_7100 + i).to_be()), port_protocol(443, 6));
            load[home_bucket(one, mask) as usize] += 1;
            load[home_bucket(many, mask) as usize] += 1;
        }
        assert!(load.iter().max().unwrap() <= &7, "{:?}", load.iter().max());
    }
}
