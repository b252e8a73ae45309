//! Which addresses are known: a bit for each address of a service and of the host itself, by a hash, in one array of
//! words (a Bloom filter with one hash).
//!
//! A packet that no service takes looks here first. A bit that is not set says for sure that the address is neither a
//! service's nor the host's. A bit that is set says to look in the tables that know the address exactly. The agent sets
//! bits before anything else says that an address is a service's, and clears them last.

use crate::{Address, is_v4, join, service_cache};

/// Words in the array: 8 KiB, which stay in the first-level cache. With a thousand known addresses, the look-up in the
/// exact tables is in vain for 1.5 % of all other addresses.
pub const WORDS: u32 = 1024;

/// Bits of a mark: those of the word's number and those of the bit's place in the word.
const MARK_BITS: u32 = WORDS.trailing_zeros() + 6;
const SHIFT: u32 = u64::BITS - MARK_BITS;

/// Where the bit of an IPv4 address is, counted from the lowest bit of the first word.
#[inline(always)]
pub const fn mark_v4(address: u32) -> u32 {
    service_cache::place_v4(address as u64, SHIFT)
}

/// The same for an IPv6 address, given in its halves as they lie in memory.
#[inline(always)]
pub const fn mark_v6(upper: u64, lower: u64) -> u32 {
    service_cache::place_v6(0, upper, lower, SHIFT)
}

/// The same for any address.
pub const fn mark(address: &Address) -> u32 {
    if is_v4(address) {
        return mark_v4(address[3]);
    }
    mark_v6(join(address[0], address[1]), join(address[2], address[3]))
}

/// The word that a mark is in.
#[inline(always)]
pub const fn word(mark: u32) -> u32 {
    mark >> 6
}

/// The mark's bit in that word.
#[inline(always)]
pub const fn bit(mark: u32) -> u64 {
    1 << (mark & 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped;

    #[test]
    fn every_mark_is_in_the_array() {
        for address in [mapped(0), mapped(u32::MAX), [0; 4], [u32::MAX; 4]] {
            assert!(word(mark(&address)) < WORDS);
        }
        assert_eq!(word(u32::MAX >> (32 - MARK_BITS)), WORDS - 1);
        assert_eq!((bit(64), bit(127)), (1, 1 << 63));
    }

    /// Bits that a thousand addresses set.
    fn set(addresses: impl Iterator<Item = Address>) -> u32 {
        let mut words = [0u64; WORDS as usize];
        for address in addresses {
            let mark = mark(&address);
            words[word(mark) as usize] |= bit(mark);
        }
        words.iter().map(|word| word.count_ones()).sum()
    }

    #[test]
    fn addresses_as_operators_choose_them_share_few_bits() {
        // By chance a thousand addresses set 992 of 65,536 bits.
        let v4 = set((0..1000u32).map(|i| mapped((0xcb00_7100 + i).to_be())));
        let far = set((0..1000u32).map(|i| mapped((0x0a00_0001 + (i << 8)).to_be())));
        let v6 = set((0..1000u32).map(|i| [0x2001_0db8_u32.to_be(), 0, 0, i.to_be()]));
        let nets = set((0..1000u32).map(|i| [0x2001_0db8_u32.to_be(), i.to_be(), 0, 1_u32.to_be()]));
        for bits in [v4, far, v6, nets] {
            assert!(bits > 960, "{v4} {far} {v6} {nets}");
        }
    }
}
