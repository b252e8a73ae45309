//! The clocks of [`lb_common::elsewhere`], as the agent reads and writes them: packets write the clocks of the same entry at
//! the same time, 2 bytes each. So the agent exchanges whole entries, and begins again where another clock has changed.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{elsewhere, slot::Slot};

/// What the clock of a slot says; [`elsewhere::NEVER`] for a slot that has none.
pub fn get(entries: &[AtomicU64], slot: u32) -> u16 {
    let entry = entries.get(elsewhere::entry(slot) as usize);
    entry.map_or(elsewhere::NEVER, |entry| lane(entry.load(Ordering::Acquire), slot))
}

/// Sets the clock of a slot. `false` when there is none.
pub fn set(entries: &[AtomicU64], slot: u32, clock: u16) -> bool {
    let Some(entry) = entries.get(elsewhere::entry(slot) as usize) else { return false };
    let changed = |now| (lane(now, slot) != clock).then(|| with_lane(now, slot, clock));
    // `Err` = it says so already.
    let _ = entry.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed);
    true
}

/// Whether records that agreed with a slot's word `old` may disagree with `new`, and are recorded: the slot has to wait for them
/// before it is stable.
pub const fn is_concerned(old: Slot, new: Slot) -> bool {
    old.is_tracked() && new.is_tracked() && old.current() != new.current()
}

fn lane(entry: u64, slot: u32) -> u16 {
    let (bytes, at) = (entry.to_ne_bytes(), elsewhere::byte(slot));
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn with_lane(entry: u64, slot: u32, clock: u16) -> u64 {
    let (mut bytes, at) = (entry.to_ne_bytes(), elsewhere::byte(slot));
    bytes[at..at + 2].copy_from_slice(&clock.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_set_without_its_neighbours() {
        let entries: Vec<AtomicU64> = (0..2).map(|_| AtomicU64::new(0)).collect();
        // Slots of five clocks.
        for (at, slot) in [0, 9, 23, 24, 39].into_iter().enumerate() {
            assert!(set(&entries, slot, 100 + at as u16));
        }
        let clocks = [0, 8, 16, 31, 32].map(|slot| get(&entries, slot));
        assert_eq!(clocks, [100, 101, 102, 103, 104]);
        set(&entries, 15, elsewhere::NEVER);
        assert_eq!([0, 8, 16].map(|slot| get(&entries, slot)), [100, elsewhere::NEVER, 102]);
        assert!(!set(&entries, 64, 1));
        assert_eq!(get(&entries, 64), elsewhere::NEVER);
    }
}
