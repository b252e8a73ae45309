//! Slow start: the weight of a backend that came, or came back, grows in a few steps. All backends of a service take their
//! steps at the moments of one grid. So the number of ring changes is bounded, however many backends there are.

use std::time::Duration;

/// The weights on the way: a fifth at once, another fifth after each quarter of the time, the whole weight at its end.
const LEVELS: u64 = 5;

/// Moments of the grid in a quarter of the time.
const MOMENTS: u64 = 16;

/// A weight that is growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// How many of [`LEVELS`] the weight has; less than all.
    level: u64,
    /// When the weight grows again, in milliseconds of the monotonic clock.
    pub next: u64,
    /// When the weight is whole.
    pub ends: u64,
}

impl Slow {
    /// How far a backend that entered the ring at `since` has got at `now`, both in milliseconds of the monotonic clock;
    /// `None` = its weight is whole. The weight is whole after `whole` at the earliest. It is whole at most one moment of the
    /// grid and 64 ms later: the first step waits for the grid, and each of 64 moments is rounded up to whole milliseconds.
    pub fn of(since: u64, now: u64, whole: Duration) -> Option<Self> {
        let whole = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
        let moment = whole.div_ceil((LEVELS - 1) * MOMENTS).max(1);
        let quarter = moment.saturating_mul(MOMENTS);
        let first = since.div_ceil(moment).saturating_mul(moment);
        let quarters = now.saturating_sub(first) / quarter;
        let level = 1 + quarters;
        (level < LEVELS).then(|| Self {
            level,
            next: first.saturating_add(quarter.saturating_mul(level)),
            ends: first.saturating_add(quarter.saturating_mul(LEVELS - 1)),
        })
    }

    /// The part of `whole` that the backend has now; at least 1.
    pub fn weight(self, whole: u16) -> u16 {
        // A part of a u16 fits a u16.
        ((u64::from(whole) * self.level / LEVELS) as u16).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Duration = Duration::from_secs(32);

    #[test]
    fn a_weight_grows_from_a_fifth_to_the_whole() {
        let at = |now| Slow::of(60_000, now, WHOLE);
        let weights: Vec<_> =
            (0..5).map(|step| at(60_000 + step * 8_000).map(|slow| slow.weight(100))).collect();
        assert_eq!(weights, [Some(20), Some(40), Some(60), Some(80), None]);
        assert_eq!(at(60_000 + 31_999).map(|slow| slow.weight(100)), Some(80), "not before the end");
        let slow = at(69_000).unwrap();
        assert_eq!((slow.next, slow.ends, slow.weight(1)), (76_000, 92_000, 1));
    }

    /// The steps of one backend: when its weight changes, and to what.
    fn way(since: u64, whole: Duration) -> Vec<(u64, u16)> {
        let mut now = since;
        let mut way = Vec::new();
        while let Some(slow) = Slow::of(since, now, whole) {
            way.push((now, slow.weight(100)));
            assert!(slow.next > now, "{slow:?} at {now}");
            now = slow.next;
        }
        way.push((now, 100));
        way
    }

    #[test]
    fn steps_are_even_and_end_with_the_time() {
        for whole in [1_000, 1_001, 5_000, 30_000, 45_678, 3_600_000] {
            for since in [0, 1, 17, 999, 60_000, 123_456_789] {
                let way = way(since, Duration::from_millis(whole));
                let weights: Vec<u16> = way.iter().map(|(_, weight)| *weight).collect();
                assert_eq!(weights, [20, 40, 60, 80, 100], "{whole} from {since}");
                let took = way[4].0 - since;
                let late = (took as f64 - whole as f64) / whole as f64;
                assert!((0.0..=0.05).contains(&late), "{took} instead of {whole} from {since}");
                let steps: Vec<u64> = way.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
                // The backend waits for the grid in the first step only.
                assert!(steps[1] == steps[2] && steps[2] == steps[3], "{steps:?}");
                assert!(steps[0] >= steps[1] && steps[0] - steps[1] <= steps[1] / 10, "{steps:?}");
            }
        }
    }

    #[test]
    fn many_arrivals_change_the_ring_a_bounded_number_of_times() {
        let whole = Duration::from_secs(30);
        // Each backend takes its first step when it comes, so the first steps are skipped.
        let steps = (0..1000).flat_map(|number| way(number * 7, whole).into_iter().skip(1));
        let moments: std::collections::BTreeSet<u64> = steps.map(|(now, _)| now).collect();
        assert!(moments.len() <= 70, "{} changes behind the thousand that come", moments.len());
    }

    #[test]
    fn extreme_clocks_and_times_are_handled() {
        assert_eq!(Slow::of(10, 5, Duration::from_millis(1)).map(|slow| slow.level), Some(1));
        assert!(Slow::of(u64::MAX, u64::MAX, Duration::MAX).is_some());
    }
}
