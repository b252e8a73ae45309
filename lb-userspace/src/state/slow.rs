//! Slow start: the weight of a backend that came, or came back, grows in a few steps. All backends of a service take
//! their steps at the same moments, so that the ring changes a few times in the whole time however many there are.

use std::time::Duration;

/// The steps in which a weight grows to its whole.
const STEPS: u64 = 5;

/// A weight that is growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Of [`STEPS`]; less than all.
    step: u64,
    /// When the weight grows again, in milliseconds of the monotonic clock.
    pub next: u64,
    /// When it is whole.
    pub ends: u64,
}

impl Slow {
    /// How far a backend that entered the ring at `since` has got at `now`, both in milliseconds of the monotonic
    /// clock; `None` = its weight is whole. The time may come out shorter than `whole` by up to two steps.
    pub fn of(since: u64, now: u64, whole: Duration) -> Option<Self> {
        let pause = (u64::try_from(whole.as_millis()).unwrap_or(u64::MAX) / STEPS).max(1);
        let (first, present) = (since / pause, now / pause);
        let step = 1 + present.saturating_sub(first);
        (step < STEPS).then(|| Self {
            step,
            next: (present + 1).saturating_mul(pause),
            ends: (first + STEPS - 1).saturating_mul(pause),
        })
    }

    /// The part of a whole weight; at least 1.
    pub fn weight(self, whole: u16) -> u16 {
        // A part of a u16 is one.
        ((u64::from(whole) * self.step / STEPS) as u16).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Duration = Duration::from_secs(30);

    #[test]
    fn a_weight_grows_by_a_fifth_at_each_step_until_it_is_whole() {
        let at = |now| Slow::of(60_000, now, WHOLE);
        let weights: Vec<_> =
            (0..5).map(|step| at(60_000 + step * 6_000).map(|slow| slow.weight(100))).collect();
        assert_eq!(weights, [Some(20), Some(40), Some(60), Some(80), None]);
        let slow = at(67_000).unwrap();
        assert_eq!((slow.next, slow.ends, slow.weight(1)), (72_000, 84_000, 1));
    }

    #[test]
    fn whoever_comes_between_two_steps_takes_them_with_the_others() {
        let (early, late) = (Slow::of(60_001, 65_000, WHOLE), Slow::of(64_999, 65_000, WHOLE));
        assert_eq!(early, late);
        assert_eq!(early.unwrap().next, 66_000);
    }

    #[test]
    fn clocks_and_times_at_the_ends_of_their_range_are_no_trouble() {
        assert_eq!(Slow::of(10, 5, Duration::from_millis(1)).map(|slow| slow.step), Some(1));
        assert!(Slow::of(u64::MAX, u64::MAX, Duration::MAX).is_some());
    }
}
