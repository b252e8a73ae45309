//! When a record last sent a packet elsewhere than to its slot's owner: what a slot has to wait for until it is stable
//! again. A record does not say which slot its flow falls into.
//!
//! [`SLOTS`] slots share a clock of 2 bytes, and four clocks an entry. A packet sets the clock when it writes a record
//! that names another backend than its slot's owner. The agent sets it when it gives a tracked slot another word, since
//! records that agreed with the owner before may name another backend now. Records expire after the service's window.
//! So when the clock is older than that, no record of the slot names another backend.

/// Slots that share a clock.
pub const SLOTS: u32 = 8;
/// Clocks in an entry of the table: the kernel rounds values of an array map up to 8 bytes.
pub const CLOCKS: u32 = 4;

/// No record has sent a packet elsewhere.
pub const NEVER: u16 = 0;

/// Jiffies in one step of a clock: 8 s with 1,000 jiffies in a second, 82 s with 100. A clock wraps after 2¹⁶ steps, 149
/// hours, longer than any window.
const STEP_SHIFT: u32 = 13;

/// Entries of the table for an arena of that many slots.
pub const fn entries_for(slots: u32) -> u32 {
    slots.div_ceil(SLOTS * CLOCKS)
}

/// The clock of a slot of the arena, counted from the first clock of the table.
#[inline(always)]
pub const fn clock_of(slot: u32) -> u32 {
    slot / SLOTS
}

/// The entry that holds the clock of a slot of the arena.
#[inline(always)]
pub const fn entry(slot: u32) -> u32 {
    clock_of(slot) / CLOCKS
}

/// The place of that clock in the entry, in bytes.
#[inline(always)]
pub const fn byte(slot: u32) -> usize {
    (clock_of(slot) % CLOCKS) as usize * size_of::<u16>()
}

/// What a clock says that is set at `now`, the lower half of the kernel's jiffies; never [`NEVER`].
#[inline(always)]
pub const fn at(now: u32) -> u16 {
    let step = (now >> STEP_SHIFT) as u16;
    if step == NEVER { 1 } else { step }
}

/// Steps that a clock may be ahead of `now`: packets set clocks while a sweep goes on, whose time is that of its beginning.
const AHEAD: u16 = 1024;

/// Whether a clock was last set more than `window` jiffies before `now`, or never. It says so up to three steps late.
pub const fn is_over(clock: u16, now: u32, window: u64) -> bool {
    let age = at(now).wrapping_sub(clock).wrapping_add(AHEAD) as u64;
    // A step that has begun, one that was rounded up from 0, and one for a record that was written a moment later.
    clock == NEVER || age > (window >> STEP_SHIFT) + 2 + AHEAD as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u32 = 1 << STEP_SHIFT;

    #[test]
    fn the_slots_of_an_entry_are_neighbours() {
        assert_eq!((entries_for(0), entries_for(1), entries_for(32), entries_for(33)), (0, 1, 1, 2));
        for slot in 0..1000 {
            assert!(entry(slot) < entries_for(slot + 1), "{slot}");
            let place = entry(slot) * 8 + byte(slot) as u32;
            assert_eq!(place, clock_of(slot) * 2, "{slot}");
        }
        assert_eq!((clock_of(7), clock_of(8)), (0, 1));
    }

    #[test]
    fn a_clock_is_over_after_the_window_and_not_before() {
        for set in [0, STEP - 1, STEP, 12_345_678, u32::MAX - 3 * STEP, u32::MAX] {
            for window in [0, 1, u64::from(STEP), 30_000, 8_100_000, 86_400_000] {
                let now = |after: u64| set.wrapping_add(after as u32);
                let is_over = |after: u64| is_over(at(set), now(after), window);
                assert!(!is_over(0) && !is_over(window), "set at {set}, window {window}");
                assert!(is_over(window + 4 * u64::from(STEP)), "set at {set}, window {window}");
                let before = set.wrapping_sub(100 * STEP);
                assert!(!super::is_over(at(set), before, window), "set at {set}, after a sweep began");
            }
        }
        assert!(is_over(NEVER, 0, u64::MAX));
    }

    #[test]
    fn a_clock_that_is_set_does_not_say_never() {
        assert!((0..=u16::MAX).all(|step| at(u32::from(step) << STEP_SHIFT) != NEVER));
    }
}
