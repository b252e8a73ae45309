//! A backend's permutation of the slots, walked one step at a time and never stored: Maglev's `offset` and `skip`
//! (NSDI '16, section 3.4).

use lb_common::hash::Seed;
use siphasher::sip128::SipHasher24;

/// A walk through all slots of a ring, each once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    /// The slot to try next.
    next: u32,
    /// From one slot to the one after it, modulo the length; has no divisor in common with it.
    skip: u32,
    phase: u32,
}

impl Permutation {
    /// `length` is at least 1.
    pub(super) fn new(seed: &Seed, name: &str, length: u32) -> Self {
        let hash = SipHasher24::new_with_keys(seed.0[0], seed.0[1]).hash(name.as_bytes());
        // The upper half of h1 places the start, the lower half is the phase: independent bits each.
        let next = (((hash.h1 >> 32) * u64::from(length)) >> 32) as u32;
        let mut skip = (hash.h2 % u64::from(length).saturating_sub(1).max(1)) as u32 + 1;
        // Never more than one round with a prime; with other lengths the walk would miss slots.
        while gcd(skip, length) != 1 {
            skip += 1;
        }
        Self { next, skip: if skip < length { skip } else { skip % length }, phase: hash.h1 as u32 }
    }

    /// When the backend takes its first turn, as a fraction of the time between two of its turns, times 2³².
    pub(super) fn phase(&self) -> u32 {
        self.phase
    }

    /// The next slot for which `taken` says false. There must be one.
    #[inline]
    pub(super) fn claim(&mut self, length: u32, mut taken: impl FnMut(u32) -> bool) -> u32 {
        loop {
            let slot = self.next;
            // Lengths stay below 2³¹, so the sum does not overflow.
            let after = slot + self.skip;
            self.next = if after >= length { after - length } else { after };
            if !taken(slot) {
                return slot;
            }
        }
    }
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_walk_visits_every_slot_once(a: u64, b: u64, name in "[a-z0-9.-]{1,20}", length in 1u32..3000) {
            let mut walk = Permutation::new(&Seed([a, b]), &name, length);
            let mut seen = vec![false; length as usize];
            for _ in 0..length {
                let slot = walk.claim(length, |_| false) as usize;
                prop_assert!(!seen[slot], "slot {} twice", slot);
                seen[slot] = true;
            }
        }
    }
}
