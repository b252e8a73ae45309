//! Fills the slots: one turn, one slot.

use super::permutation::Permutation;

/// The number of the owner of each slot. As many turns as slots.
pub(super) fn populate(
    walks: &mut [Permutation],
    turns: impl ExactSizeIterator<Item = u32>,
    length: u32,
) -> Vec<u32> {
    let mut slots = vec![0; length as usize];
    // One bit to a slot: of a million slots this is 125 KB and stays in the second-level cache, where most of the
    // tries end; `slots` itself is touched once for each slot.
    let mut taken = vec![0u64; (length as usize).div_ceil(64)];
    for number in turns {
        let slot = walks[number as usize]
            .claim(length, |slot| (taken[(slot / 64) as usize] >> (slot % 64)) & 1 != 0);
        taken[(slot / 64) as usize] |= 1 << (slot % 64);
        slots[slot as usize] = number;
    }
    slots
}
