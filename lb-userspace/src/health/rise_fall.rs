//! Rise and fall: from the results of probes to a verdict, and from both to the time of the next probe. Pure; time,
//! sockets and the list of targets live in the scheduler.

use std::time::Duration;

use super::Verdict;

/// The state of one backend's health.
///
/// From [`Verdict::Checking`] one success is enough for up (an agent that starts wants its backends soon, and a
/// backend that answers works), while down takes `fall` failures as ever. Afterwards a verdict changes when `rise`
/// or `fall` results in a row contradict it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    verdict: Verdict,
    streak: u32,
    rise: u32,
    fall: u32,
}

impl Machine {
    /// `rise` and `fall` of 0 count as 1. `initial` is what is known from before, for example from an agent that ran
    /// earlier.
    pub fn new(initial: Verdict, rise: u32, fall: u32) -> Self {
        Self { verdict: initial, streak: 0, rise: rise.max(1), fall: fall.max(1) }
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Results in a row that contradict the verdict; while checking, failures in a row.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// Takes in the result of one probe. Returns the verdict it changed from, if it did.
    pub fn record(&mut self, works: bool) -> Option<Verdict> {
        let (contradicts, needed, next) = match self.verdict {
            Verdict::Checking if works => (true, 1, Verdict::Up),
            Verdict::Checking | Verdict::Up => (!works, self.fall, Verdict::Down),
            Verdict::Down => (works, self.rise, Verdict::Up),
        };
        if !contradicts {
            self.streak = 0;
            return None;
        }
        self.streak = self.streak.saturating_add(1);
        if self.streak < needed {
            return None;
        }
        self.streak = 0;
        Some(std::mem::replace(&mut self.verdict, next))
    }

    /// From the start of one probe to the start of the next: `fast` while a verdict is in the making, else `interval`.
    pub fn delay(&self, interval: Duration, fast: Duration) -> Duration {
        if self.verdict == Verdict::Checking || self.streak > 0 { fast.min(interval) } else { interval }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);
    const FAST: Duration = Duration::from_millis(200);

    fn after(initial: Verdict, rise: u32, fall: u32, results: &[bool]) -> Machine {
        let mut machine = Machine::new(initial, rise, fall);
        for &works in results {
            machine.record(works);
        }
        machine
    }

    #[test]
    fn the_first_success_makes_a_new_backend_up() {
        let mut machine = Machine::new(Verdict::Checking, 5, 3);
        assert_eq!(machine.record(true), Some(Verdict::Checking));
        assert_eq!(machine.verdict(), Verdict::Up);
    }

    #[test]
    fn a_new_backend_is_down_after_fall_failures_and_not_before() {
        assert_eq!(after(Verdict::Checking, 1, 3, &[false, false]).verdict(), Verdict::Checking);
        assert_eq!(after(Verdict::Checking, 1, 3, &[false, false, false]).verdict(), Verdict::Down);
    }

    #[test]
    fn success_in_between_resets_the_count_of_failures() {
        let machine = after(Verdict::Up, 2, 2, &[false, true, false]);
        assert_eq!((machine.verdict(), machine.streak()), (Verdict::Up, 1));
    }

    #[test]
    fn a_backend_that_is_down_rises_after_rise_successes() {
        assert_eq!(after(Verdict::Down, 2, 2, &[true]).verdict(), Verdict::Down);
        assert_eq!(after(Verdict::Down, 2, 2, &[true, true]).verdict(), Verdict::Up);
    }

    #[test]
    fn probes_are_fast_only_while_a_verdict_is_in_the_making() {
        let delay = |machine: Machine| machine.delay(INTERVAL, FAST);
        assert_eq!(delay(after(Verdict::Checking, 2, 2, &[])), FAST);
        assert_eq!(delay(after(Verdict::Up, 2, 2, &[true])), INTERVAL);
        assert_eq!(delay(after(Verdict::Up, 2, 2, &[false])), FAST);
        assert_eq!(delay(after(Verdict::Up, 2, 2, &[false, false])), INTERVAL, "down and sure of it");
        assert_eq!(delay(after(Verdict::Down, 2, 2, &[true])), FAST);
    }

    #[test]
    fn a_fast_interval_above_the_interval_slows_nothing_down() {
        assert_eq!(after(Verdict::Up, 2, 2, &[false]).delay(FAST, INTERVAL), FAST);
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![Just(Verdict::Checking), Just(Verdict::Up), Just(Verdict::Down)]
    }

    proptest! {
        /// Said without a counter: the verdict is down if the last `fall` results were failures, up if the last
        /// `rise` were successes, else what it was (with the one exception of the very first success).
        #[test]
        fn the_verdict_is_what_the_last_results_say(
            initial in verdict(),
            rise in 1_u32..5,
            fall in 1_u32..5,
            results in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut machine = Machine::new(initial, rise, fall);
            let mut expected = initial;
            for end in 1..=results.len() {
                let seen = &results[..end];
                let ends_with = |works: bool, n: u32| {
                    seen.len() >= n as usize && seen.iter().rev().take(n as usize).all(|&r| r == works)
                };
                let before = expected;
                if ends_with(false, fall) {
                    expected = Verdict::Down;
                } else if ends_with(true, rise) || (before == Verdict::Checking && seen[end - 1]) {
                    expected = Verdict::Up;
                }
                let changed = machine.record(seen[end - 1]);
                prop_assert_eq!(machine.verdict(), expected);
                prop_assert_eq!(changed, (before != expected).then_some(before));
            }
        }

        /// A streak never reaches the number that would have changed the verdict.
        #[test]
        fn a_streak_stays_below_its_threshold(
            initial in verdict(),
            rise in 0_u32..5,
            fall in 0_u32..5,
            results in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut machine = Machine::new(initial, rise, fall);
            for works in results {
                machine.record(works);
                let needed = if machine.verdict() == Verdict::Down { rise } else { fall };
                prop_assert!(machine.streak() < needed.max(1));
            }
        }
    }
}
