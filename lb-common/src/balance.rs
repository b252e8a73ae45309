//! How a new flow finds its backend where every flow is written down: other than by its hash. Here are the rules; random
//! numbers and counts come from whoever asks.

use crate::ring::Ring;

/// How a service chooses. All but [`Balance::Hash`] need [`crate::slot::Track::Always`]: nothing but its record says
/// where a flow is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum Balance {
    /// The owner of the flow's slot.
    #[default]
    Hash = 0,
    /// The owner of the next slot. The ring lies in the order of the turns.
    RoundRobin = 1,
    /// The owner of any slot.
    Random = 2,
    /// The owner of the one of any two slots that has fewer live flows for its weight.
    LeastConnections = 3,
}

/// The slot of a turn, counted from the start of the arena; `None` without a ring. `given`: turns that this CPU has
/// given. Each CPU counts for itself and begins at a place of its own, so that none waits for another, and few flows on
/// many CPUs do not all meet the same backend.
#[inline(always)]
pub const fn turn(ring: Ring, given: u64, cpu: u32) -> Option<u32> {
    match ring.length() {
        0 => None,
        length => Some(ring.offset() + (given as u32).wrapping_add(cpu) % length),
    }
}

/// The slot that a random number names, counted from the start of the arena; `None` without a ring.
#[inline(always)]
pub const fn any(ring: Ring, random: u32) -> Option<u32> {
    match ring.length() {
        0 => None,
        _ => Some(ring.slot((random as u64) << 32)),
    }
}

/// What speaks for and against one of two backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Confirmed flows that are not closed. May be wrong for a moment, also below 0.
    pub live: i64,
    /// 0 counts as 1.
    pub weight: u16,
}

impl Load {
    /// Whether one flow more weighs no more here than there.
    #[inline(always)]
    pub const fn is_no_heavier_than(self, other: Self) -> bool {
        self.with_one_more() * other.share() <= other.with_one_more() * self.share()
    }

    #[inline(always)]
    const fn with_one_more(self) -> u64 {
        let live = if self.live < 0 { 0 } else { self.live as u64 };
        // So that no product overflows, whatever the map says.
        if live < u32::MAX as u64 { live + 1 } else { u32::MAX as u64 }
    }

    #[inline(always)]
    const fn share(self) -> u64 {
        if self.weight == 0 { 1 } else { self.weight as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lighter_of_two_is_the_one_with_fewer_flows_for_its_weight() {
        let load = |live, weight| Load { live, weight };
        assert!(load(0, 100).is_no_heavier_than(load(1, 100)));
        assert!(!load(2, 100).is_no_heavier_than(load(1, 100)));
        assert!(
            load(5, 300).is_no_heavier_than(load(1, 100)),
            "a flow more makes two for each hundred here and there"
        );
        assert!(!load(6, 300).is_no_heavier_than(load(1, 100)));
        assert!(load(-3, 1).is_no_heavier_than(load(0, 1)), "below 0 is none");
        assert!(load(0, 1).is_no_heavier_than(load(i64::MAX, 1000)));
        assert!(!load(i64::MAX, u16::MAX).is_no_heavier_than(load(0, u16::MAX)));
        assert!(load(0, 0).is_no_heavier_than(load(0, 1)));
    }

    #[test]
    fn turns_go_round_and_each_cpu_begins_at_a_place_of_its_own() {
        let ring = Ring::new(10, 3);
        let turns = |cpu| [0, 1, 2, 3, 4].map(|given| turn(ring, given, cpu).unwrap());
        assert_eq!(turns(0), [10, 11, 12, 10, 11]);
        assert_eq!(turns(1), [11, 12, 10, 11, 12]);
        assert!(turn(ring, u64::MAX, u32::MAX).unwrap() < 13);
        assert_eq!(turn(Ring::NONE, 4, 0), None);
    }

    #[test]
    fn every_random_number_names_a_slot_of_the_ring() {
        let ring = Ring::new(10, 4);
        let slots = [0, 0x3fff_ffff, 0x4000_0000, 0xc000_0000, u32::MAX].map(|n| any(ring, n).unwrap());
        assert_eq!(slots, [10, 10, 11, 13, 13]);
        assert_eq!(any(Ring::NONE, 7), None);
    }
}
