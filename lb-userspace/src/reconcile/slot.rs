//! The slot words of one service: what the rule of `lb_common::slot` makes of the words that are there.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use lb_common::{
    ring::Ring,
    slot::{PREVIOUS_RING, SINCE_STEP, Slot, Track},
};

/// The words of a ring, as packets see them. The words end where the arena ends, also if the ring does not.
pub fn words(slots: &[AtomicU64], ring: Ring) -> impl Iterator<Item = (u32, Slot)> {
    let from = (ring.offset() as usize).min(slots.len());
    let to = (from + ring.length() as usize).min(slots.len());
    (ring.offset()..).zip(slots[from..to].iter().map(|word| Slot(word.load(Ordering::Relaxed))))
}

/// The words that must be written so that each slot gets the owner in `owners`, by the rule.
pub fn change(
    slots: &[AtomicU64],
    ring: Ring,
    track: Track,
    owners: impl Iterator<Item = u32>,
    keeps: impl Fn(u32) -> bool,
    now: u16,
) -> Vec<(u32, u64)> {
    differing(slots, ring, owners, |word, owner| word.next(track, owner, &keeps, now))
}

/// The same for a service that balances other than by the hash; `before` = its running record says so already.
pub fn change_balanced(
    slots: &[AtomicU64],
    ring: Ring,
    before: bool,
    owners: impl Iterator<Item = u32>,
    keeps: impl Fn(u32) -> bool,
    now: u16,
) -> Vec<(u32, u64)> {
    differing(slots, ring, owners, |word, owner| word.next_balanced(before, owner, &keeps, now))
}

/// Whether a slot of a ring learns.
pub fn learns(slots: &[AtomicU64], ring: Ring) -> bool {
    words(slots, ring).any(|(_, word)| word.is_learning())
}

/// The words of a ring that no packet has used yet.
pub fn fresh(
    slots: &[AtomicU64],
    ring: Ring,
    track: Track,
    owners: impl Iterator<Item = u32>,
) -> Vec<(u32, u64)> {
    differing(slots, ring, owners, |_, owner| Slot::fresh(track, owner))
}

/// The words of a ring that takes the place of `old`, which has another length or another hash.
pub fn resized(
    slots: &[AtomicU64],
    ring: Ring,
    old: Ring,
    track: Track,
    owners: impl Iterator<Item = u32>,
    now: u16,
) -> Vec<(u32, u64)> {
    let recorded = words(slots, old).any(|(_, word)| word.is_tracked());
    differing(slots, ring, owners, |_, owner| match track {
        Track::OnChange | Track::Always => Slot::after_resize(owner, now),
        // A service that never tracks asks no old ring. It asks the flow table, while flows are recorded there.
        Track::Never if recorded => Slot::remembering(owner),
        Track::Never => Slot::stable(owner),
    })
}

fn differing(
    slots: &[AtomicU64],
    ring: Ring,
    owners: impl Iterator<Item = u32>,
    next: impl Fn(Slot, u32) -> Slot,
) -> Vec<(u32, u64)> {
    words(slots, ring)
        .zip(owners)
        .filter_map(|((at, word), owner)| {
            let next = next(word, owner);
            (next != word).then_some((at, next.0))
        })
        .collect()
}

/// How many slots of a ring are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct States {
    pub stable: u32,
    pub learning: u32,
    pub remembering: u32,
    /// No backend owns them.
    pub empty: u32,
    /// Steps of the `since` clock that the youngest learning slot has been learning; `None` = none learns.
    pub youngest: Option<u16>,
    /// Slots that ask the old ring.
    pub asks_old_ring: u32,
}

impl States {
    pub fn tracked(&self) -> u32 {
        self.learning + self.remembering
    }

    /// The states of a ring's slots at `now`.
    pub fn of(slots: &[AtomicU64], ring: Ring, now: u16) -> Self {
        let mut states = Self::default();
        for (_, word) in words(slots, ring) {
            if word.is_learning() {
                states.learning += 1;
                let age = now.wrapping_sub(word.since()) & 0x7fff;
                states.youngest = Some(states.youngest.map_or(age, |youngest| youngest.min(age)));
                states.asks_old_ring += u32::from(word.previous() == PREVIOUS_RING);
            } else if word.is_tracked() {
                states.remembering += 1;
            } else if word.current() == 0 {
                states.empty += 1;
            } else {
                states.stable += 1;
            }
        }
        states
    }
}

/// Slots of one ring that began to learn at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learning {
    /// When they began, on the clock of the words.
    pub since: u16,
    /// Off by less than [`SINCE_STEP`] in either direction: `since` and now are both rounded down to a step.
    pub seconds_ago: u64,
    pub slots: u32,
}

impl Learning {
    /// The learning slots of a ring at `now`, youngest first.
    pub fn of(slots: &[AtomicU64], ring: Ring, now: u16) -> Vec<Self> {
        let mut ages: BTreeMap<u16, u32> = BTreeMap::new();
        for (_, word) in words(slots, ring).filter(|(_, word)| word.is_learning()) {
            *ages.entry(now.wrapping_sub(word.since()) & 0x7fff).or_default() += 1;
        }
        let group = |(age, slots)| Self {
            since: now.wrapping_sub(age) & 0x7fff,
            seconds_ago: u64::from(age) * SINCE_STEP,
            slots,
        };
        ages.into_iter().map(group).collect()
    }

    /// Seconds until these slots stop learning, at most.
    pub fn ends_in(&self, window: Duration) -> u64 {
        (window.as_secs() + 2 * SINCE_STEP).saturating_sub(self.seconds_ago)
    }
}

/// What the slots of a ring say of each backend: slots that it owns, and learning slots whose unknown flows belong to
/// it. Calls `visit(current, previous or 0)` for each slot.
pub fn owners(slots: &[AtomicU64], ring: Ring, mut visit: impl FnMut(u32, u32)) {
    for (_, word) in words(slots, ring) {
        let previous = if word.is_learning() { word.previous() } else { 0 };
        visit(word.current(), previous);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(words: &[Slot]) -> Vec<AtomicU64> {
        words.iter().map(|word| AtomicU64::new(word.0)).collect()
    }

    #[test]
    fn only_words_that_differ_are_written() {
        let slots = arena(&[Slot::stable(9), Slot::stable(1), Slot::stable(2), Slot::stable(1)]);
        let changed = change(&slots, Ring::new(1, 3), Track::OnChange, [1, 1, 1].into_iter(), |_| true, 5);
        assert_eq!(changed, [(2, Slot::learning(1, 2, 5).0)]);
        assert!(fresh(&slots, Ring::new(1, 3), Track::OnChange, [1, 2, 1].into_iter()).is_empty());
    }

    #[test]
    fn a_ring_that_reaches_beyond_the_arena_is_cut_short() {
        let slots = arena(&[Slot::stable(1); 4]);
        assert_eq!(words(&slots, Ring::new(2, 10)).count(), 2);
        assert_eq!(words(&slots, Ring::new(9, 10)).count(), 0);
    }

    #[test]
    fn states_are_counted_and_the_youngest_learner_found() {
        let slots = arena(&[
            Slot::EMPTY,
            Slot::stable(1),
            Slot::remembering(1),
            Slot::learning(1, 2, 0x7fff),
            Slot::learning(1, PREVIOUS_RING, 3),
        ]);
        let states = States::of(&slots, Ring::new(0, 5), 5);
        let wanted =
            States { stable: 1, learning: 2, remembering: 1, empty: 1, youngest: Some(2), asks_old_ring: 1 };
        assert_eq!(states, wanted);
        assert_eq!(states.tracked(), 3);
    }

    #[test]
    fn learning_slots_are_grouped_by_start_across_the_wrap() {
        let slots = arena(&[
            Slot::stable(1),
            Slot::learning(1, 2, 0x7fff),
            Slot::learning(1, 3, 0x7fff),
            Slot::learning(1, PREVIOUS_RING, 3),
            Slot::remembering(1),
        ]);
        let groups = Learning::of(&slots, Ring::new(0, 5), 5);
        let ages: Vec<_> = groups.iter().map(|group| (group.since, group.seconds_ago, group.slots)).collect();
        assert_eq!(ages, [(3, 16, 1), (0x7fff, 48, 2)]);
        assert_eq!(groups[1].ends_in(Duration::from_secs(60)), 28);
        assert_eq!(groups[1].ends_in(Duration::from_secs(10)), 0);
    }
}
