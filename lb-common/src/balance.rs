//! How a new flow finds its backend in a service that records every flow and balances by something other than the hash.
//! Here are the rules; the caller supplies random numbers and counts.

use crate::{
    flow::{Record, age},
    ring::Ring,
};

/// How a service chooses. All but [`Balance::Hash`] need [`crate::slot::Track::Always`]: only the record of a flow says
/// where the flow is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum Balance {
    /// The owner of the flow's slot.
    #[default]
    Hash = 0,
    /// The owner of the next slot. The agent builds the ring in the order of the turns.
    RoundRobin = 1,
    /// The owner of any slot.
    Random = 2,
    /// Two owners are drawn by weight; the one with fewer live flows for its weight gets the flow.
    LeastConnections = 3,
}

/// The slot of a turn, counted from the start of the arena; `None` without a ring. `given`: turns that this CPU has
/// given. Each CPU counts for itself, so that no CPU waits for another. Each CPU begins at a place of its own, so that
/// few flows on many CPUs do not all meet the same backend.
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

/// The slot of a second candidate, counted from the start of the arena, where the first candidate is at `first`; `None`
/// without a ring.
///
/// The slots of each owner lie together. The slots of the owner that has most come first, and `longest` is their number.
/// Then the second candidate has another owner than the first, unless the ring has one owner only:
///
/// - The first candidate is in the longest run: the second one is any slot behind that run.
/// - No owner has more than half of the slots: no slot that is at least `longest` slots away in both directions has the
///   same owner, so the second candidate is any of these.
/// - Otherwise the second candidate is any slot of the longest run.
///
/// The first candidate is drawn by weight, so no set of backends is picked more often than its weight says, whatever the
/// second candidate is: both candidates are in a set only if the first one is. Where `longest` is 0, nothing is known of
/// the ring, and the second candidate is any slot.
#[inline(always)]
pub const fn other(ring: Ring, first: u32, longest: u32, random: u32) -> Option<u32> {
    let length = ring.length();
    if longest == 0 || longest >= length {
        return any(ring, random);
    }
    let first = first.wrapping_sub(ring.offset());
    let place = if first < longest {
        longest + scaled(random, length - longest)
    } else if longest <= length / 2 {
        let place = first.wrapping_add(longest + scaled(random, length - 2 * longest + 1));
        if place < length { place } else { place.wrapping_sub(length) }
    } else {
        scaled(random, longest)
    };
    Some(ring.offset().wrapping_add(place))
}

/// A number below `bound`; all are equally likely.
#[inline(always)]
const fn scaled(random: u32, bound: u32) -> u32 {
    ((random as u64 * bound as u64) >> 32) as u32
}

/// Whether a flow has sent nothing for so long that it no longer counts as live. The packet path routes it as before,
/// and it counts again with its next packet. All three arguments are jiffies; the first two are lower halves. `after` 0
/// = no flow is ever idle.
#[inline(always)]
pub const fn is_idle(last_seen: u32, now: u32, after: u32) -> bool {
    after != 0 && age(last_seen, now) > after
}

/// Whether the record of a flow counts as a live flow: packets and agent ask the same question.
#[inline(always)]
pub const fn is_live(record: &Record, now: u32, idle_after: u32) -> bool {
    record.is_there()
        && !record.has(Record::CLOSING | Record::ONCE)
        && !is_idle(record.last_seen, now, idle_after)
}

/// The backend that loses a live flow and the backend that gets it, when `after` replaces `before` as the record of a
/// flow; 0 = none, the same backend twice = nothing changes.
#[inline(always)]
pub const fn moves(before: &Record, after: &Record, now: u32, idle_after: u32) -> (u32, u32) {
    let was = if is_live(before, now, idle_after) { before.backend } else { 0 };
    let is = if is_live(after, now, idle_after) { after.backend } else { 0 };
    (was, is)
}

/// What speaks for and against one of two candidates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Confirmed flows that are neither closed nor idle. May be wrong for a moment, also below 0.
    pub live: i64,
    /// 0 counts as 1.
    pub weight: u16,
    /// As far as is known the backend does not work, or it is leaving: it counts as heavier than any backend that is not
    /// full.
    pub full: bool,
}

impl Load {
    /// Whether one more flow makes this backend no heavier than one more flow would make `other`.
    #[inline(always)]
    pub const fn is_at_most(self, other: Self) -> bool {
        if self.full != other.full {
            return other.full;
        }
        self.with_one_more() * other.share() <= other.with_one_more() * self.share()
    }

    #[inline(always)]
    const fn with_one_more(self) -> u64 {
        let live = if self.live < 0 { 0 } else { self.live as u64 };
        // A limit, so that no product overflows, whatever the map says.
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
    fn fewer_flows_for_its_weight_is_lighter() {
        let load = |live, weight| Load { live, weight, full: false };
        assert!(load(0, 100).is_at_most(load(1, 100)));
        assert!(!load(2, 100).is_at_most(load(1, 100)));
        assert!(
            load(5, 300).is_at_most(load(1, 100)),
            "a flow more makes two for each hundred here and there"
        );
        assert!(!load(6, 300).is_at_most(load(1, 100)));
        assert!(load(-3, 1).is_at_most(load(0, 1)), "below 0 is none");
        assert!(load(0, 1).is_at_most(load(i64::MAX, 1000)));
        assert!(!load(i64::MAX, u16::MAX).is_at_most(load(0, u16::MAX)));
        assert!(load(0, 0).is_at_most(load(0, 1)));
    }

    #[test]
    fn a_full_backend_is_heavier_than_any_that_is_not() {
        let (full, free) =
            (Load { live: 0, weight: 1000, full: true }, Load { live: 900, weight: 1, full: false });
        assert!(free.is_at_most(full) && !full.is_at_most(free));
        let other = Load { live: 5, ..full };
        assert!(full.is_at_most(other) && !other.is_at_most(full), "of two full ones the lighter");
    }

    /// Every place of a ring as the first candidate, with the smallest, the largest and many evenly spaced random
    /// numbers between them.
    fn pairs(lengths: &[u32]) -> impl Iterator<Item = (u32, u32)> {
        let ring = Ring::new(1000, lengths.iter().sum());
        let owner = |slot: u32| {
            let mut left = slot - ring.offset();
            let run = lengths.iter().position(|length| {
                let inside = left < *length;
                left = left.wrapping_sub(*length);
                inside
            });
            run.expect("a slot of the ring") as u32
        };
        let numbers = (0..=1000u64).map(|part| (part * u64::from(u32::MAX) / 1000) as u32);
        let pairs: std::vec::Vec<_> = (0..ring.length())
            .flat_map(|place| numbers.clone().map(move |random| (ring.offset() + place, random)))
            .map(|(first, random)| (owner(first), owner(other(ring, first, lengths[0], random).unwrap())))
            .collect();
        pairs.into_iter()
    }

    #[test]
    fn two_candidates_have_two_owners_whatever_the_shares() {
        for lengths in [
            &[126, 125][..],
            &[250, 1],
            &[84, 84, 83],
            &[125, 63, 63],
            &[126, 124, 1],
            &[200, 30, 20, 1],
            &[26, 25, 25, 25, 25, 25, 25, 25, 25, 25],
            &[1, 1, 1, 1, 1, 1, 1],
        ] {
            let mut met = std::vec![std::vec![0u32; lengths.len()]; lengths.len()];
            for (one, two) in pairs(lengths) {
                assert_ne!(one, two, "{lengths:?}");
                met[one as usize][two as usize] += 1;
            }
            // The owner of the longest run meets every other owner, so that a backend that is stuck does not push all
            // its flows onto its neighbour.
            for others in met.iter().take(1) {
                let others = others.iter().filter(|met| **met > 0).count();
                assert_eq!(others, lengths.len() - 1, "{lengths:?}");
            }
        }
    }

    #[test]
    fn without_another_owner_any_slot_is_the_other() {
        let ring = Ring::new(10, 7);
        for longest in [0, 7, 8, u32::MAX] {
            let slots = [0, u32::MAX].map(|random| other(ring, 10, longest, random).unwrap());
            assert_eq!(slots, [10, 16], "{longest}");
        }
        assert_eq!(other(Ring::NONE, 0, 3, 5), None);
        // A first slot of another ring, as in the moment in which the agent replaces the ring.
        for first in [0, 9, 17, u32::MAX] {
            let slot = other(ring, first, 3, u32::MAX).unwrap();
            assert!(slot >= 10, "{first}: {slot}");
        }
    }

    #[test]
    fn a_live_flow_is_not_idle_closed_or_unconfirmed() {
        assert!(!is_idle(100, 400, 300) && is_idle(100, 401, 300));
        assert!(!is_idle(500, 400, 300), "seen on another CPU in this moment");
        assert!(!is_idle(0, u32::MAX / 2, 0), "none is ever idle");
        assert!(is_idle(u32::MAX - 99, 301, 300), "the clock wraps");
        let record = Record { backend: 1, last_seen: 100, ..Record::NONE };
        assert!(is_live(&record, 400, 300) && !is_live(&record, 401, 300));
        for flags in [Record::FIN, Record::RST, Record::ONCE] {
            assert!(!is_live(&Record { flags, ..record }, 100, 300));
        }
        assert!(is_live(&Record { flags: Record::BEGAN | Record::CANDIDATE, ..record }, 100, 300));
    }

    #[test]
    fn a_flow_counts_exactly_while_it_is_live() {
        const IDLE: u32 = 300;
        let fresh = Record { backend: 2, last_seen: 1000, ..Record::NONE };
        let live = Record { backend: 1, last_seen: 900, ..Record::NONE };
        let (idle, closed) = (Record { last_seen: 699, ..live }, Record { flags: Record::FIN, ..live });
        let moves = |before: &Record, after: &Record| super::moves(before, after, 1000, IDLE);
        assert_eq!(moves(&Record::NONE, &fresh), (0, 2));
        assert_eq!(moves(&Record::NONE, &Record { flags: Record::ONCE, ..fresh }), (0, 0), "a first segment");
        assert_eq!(moves(&live, &fresh), (1, 2));
        assert_eq!(moves(&idle, &fresh), (0, 2), "taken off already");
        assert_eq!(moves(&live, &Record::NONE), (1, 0));
        assert_eq!(moves(&idle, &Record { last_seen: 1000, ..idle }), (0, 1), "it speaks again");
        assert_eq!(moves(&live, &closed), (1, 0));
        assert_eq!(moves(&closed, &live), (0, 1), "taken back");
        assert_eq!(moves(&live, &live), (1, 1));
        assert_eq!(moves(&idle, &idle), (0, 0));
    }

    #[test]
    fn turns_wrap_and_each_cpu_begins_elsewhere() {
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
