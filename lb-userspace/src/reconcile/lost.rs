//! Records that the flow table lost because it was full. A flow that began before a change shows itself by one packet in a
//! window. Where the record of that packet is lost, the flow is unknown again; so slots learn longer.

use lb_common::{
    counter::Counter,
    slot::{SINCE_STEP, Slot},
};

/// When records were last lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Records that packets had counted as lost at the last look; `None` = this agent has not looked yet.
    counted: Option<u64>,
    /// The time of the last look that found more, from `lb_common::slot::since`.
    at: Option<u16>,
}

impl Lost {
    /// Looks at the counters at `now`. The first look finds nothing: how long ago these records were lost is not known.
    pub fn look(&mut self, counters: &[u64], now: u16) {
        let lost = [Counter::FlowEvicted, Counter::FlowEvictedUnproven, Counter::FlowInsertFailed];
        let lost = lost.iter().filter_map(|counter| counters.get(*counter as usize)).sum();
        let before = self.counted.replace(lost);
        if before.is_some_and(|before| lost > before) {
            self.at = Some(now);
        } else if self.at.is_some_and(|at| steps_since(at, now) > LONGEST) {
            self.at = None;
        }
    }

    /// Whether a slot goes on learning although its window of `window` seconds is over: until no record was lost for as long
    /// as the window, and for two windows at most.
    pub const fn prolongs(&self, slot: Slot, now: u16, window: u64) -> bool {
        match self.at {
            Some(at) => {
                steps_since(at, now) <= window.div_ceil(SINCE_STEP) && !slot.window_over(now, 2 * window)
            }
            None => false,
        }
    }
}

/// The longest window that a configuration allows, in steps: 24 hours.
const LONGEST: u64 = 24 * 3600 / SINCE_STEP;

const fn steps_since(at: u16, now: u16) -> u64 {
    (now.wrapping_sub(at) & 0x7fff) as u64
}

#[cfg(test)]
mod tests {
    use lb_common::slot::since;

    use super::*;

    const WINDOW: u64 = 600;

    fn counters(unproven: u64, refused: u64) -> Vec<u64> {
        let mut counters = vec![0; Counter::COUNT as usize];
        counters[Counter::FlowEvictedUnproven as usize] = unproven;
        counters[Counter::FlowInsertFailed as usize] = refused;
        counters
    }

    #[test]
    fn a_slot_learns_for_a_window_after_the_last_loss_and_for_two_at_most() {
        let slot = Slot::learning(1, 2, since(0));
        let mut lost = Lost::default();
        let prolongs = |lost: &Lost, seconds| lost.prolongs(slot, since(seconds), WINDOW);
        lost.look(&counters(7, 0), since(0));
        assert!(!prolongs(&lost, 610), "lost before this agent looked");
        lost.look(&counters(8, 0), since(100));
        assert!(prolongs(&lost, 610) && !prolongs(&lost, 710));
        lost.look(&counters(8, 1), since(700));
        assert!(prolongs(&lost, 1190) && !prolongs(&lost, 1220), "the second window is over");
        lost.look(&counters(8, 1), since(800));
        assert!(prolongs(&lost, 1190), "a look that finds nothing changes nothing");
    }

    #[test]
    fn a_loss_of_long_ago_does_not_come_back_when_the_clock_wraps() {
        let mut lost = Lost::default();
        lost.look(&counters(0, 0), 0);
        lost.look(&counters(1, 0), 0);
        lost.look(&counters(1, 0), 0x4000);
        assert!(!lost.prolongs(Slot::learning(1, 2, 0), 0, WINDOW));
    }
}
