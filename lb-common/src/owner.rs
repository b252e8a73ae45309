//! Owners of stable slots, 2 bytes each, in addition to the ring's words of 8 bytes: what a packet reads before the
//! word.
//!
//! A packet of a service with 10,000 backends reads one of a million slots. The words of these slots take 8 MB, which do
//! not fit into the share of the last-level cache that a host has for them; their owners take 2 MB. An owner follows
//! from the slot's word and adds nothing to it; 0 means *read the word*. Tables that were just made (all zero) say that.
//!
//! The agent, the one writer of slots, writes 0 first, then the word, then the owner. So a packet that reads an old
//! owner behaves like a packet that came a moment earlier and read the old word: the rule of slots has no new case.

use crate::slot::Slot;

/// Owners in one entry of the table: the kernel rounds values of an array map up to 8 bytes.
pub const PER_WORD: u32 = 4;

/// Bits of an owner.
const BITS: u32 = u16::BITS;

/// Entries of the table for an arena of that many slots.
pub const fn words_for(slots: u32) -> u32 {
    slots.div_ceil(PER_WORD)
}

/// The entry that holds the owner of a slot of the arena.
#[inline(always)]
pub const fn word(slot: u32) -> u32 {
    slot / PER_WORD
}

/// The place of that owner in the entry, in bytes.
#[inline(always)]
pub const fn byte(slot: u32) -> usize {
    (slot % PER_WORD) as usize * size_of::<u16>()
}

/// The owner to write for a word: its backend's number if the slot is stable, has an owner, and the number fits into 16
/// bits; otherwise 0.
pub const fn of(slot: Slot) -> u16 {
    match slot.stable_owner() {
        Some(owner) if owner <= u16::MAX as u32 => owner as u16,
        Some(_) | None => 0,
    }
}

/// The owner of a slot in its entry. Both the agent and packets read entries as they lie in memory.
pub const fn get(entry: u64, slot: u32) -> u16 {
    (entry.to_le() >> shift(slot)) as u16
}

/// The entry with another owner for one slot.
pub const fn set(entry: u64, slot: u32, owner: u16) -> u64 {
    let cleared = entry.to_le() & !((u16::MAX as u64) << shift(slot));
    u64::from_le(cleared | (owner as u64) << shift(slot))
}

const fn shift(slot: u32) -> u32 {
    slot % PER_WORD * BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::PREVIOUS_RING;

    #[test]
    fn only_a_stable_slot_with_a_small_owner_has_one() {
        assert_eq!(of(Slot::EMPTY), 0);
        assert_eq!(of(Slot::stable(1)), 1);
        assert_eq!(of(Slot::stable(65_535)), 65_535);
        assert_eq!(of(Slot::stable(65_536)), 0);
        assert_eq!(of(Slot::remembering(7)), 0);
        assert_eq!(of(Slot::remembering(0)), 0);
        assert_eq!(of(Slot::learning(7, 8, 3)), 0);
        assert_eq!(of(Slot::learning(7, PREVIOUS_RING, 3)), 0);
        // A word that no rule makes: it is not tracked, and has more than an owner in it.
        assert_eq!(of(Slot(1 << 24 | 7)), 0);
    }

    #[test]
    fn an_owner_lies_where_packets_read_it() {
        for slot in 0..8 {
            let entry = set(0, slot, 0xabcd);
            let bytes = entry.to_ne_bytes();
            let place = byte(slot);
            // The bytes are those of a 16-bit number of the host, which is how packets read it on a little-endian host.
            if cfg!(target_endian = "little") {
                assert_eq!(u16::from_ne_bytes([bytes[place], bytes[place + 1]]), 0xabcd);
            }
            assert_eq!(get(entry, slot), 0xabcd);
        }
        assert_eq!((word(7), byte(7), word(8), byte(8)), (1, 6, 2, 0));
    }

    #[test]
    fn an_owner_is_set_without_its_neighbours() {
        let full = (0..4).fold(0, |entry, slot| set(entry, slot, 100 + slot as u16));
        for slot in 0..4 {
            let changed = set(full, slot, 0);
            for other in 0..4 {
                let wanted = if other == slot { 0 } else { 100 + other as u16 };
                assert_eq!(get(changed, other), wanted);
            }
        }
    }

    #[test]
    fn the_table_holds_every_slot_of_the_arena() {
        for slots in [1, 3, 4, 5, 4_194_304, u32::MAX] {
            assert!(word(slots - 1) < words_for(slots));
        }
    }
}
