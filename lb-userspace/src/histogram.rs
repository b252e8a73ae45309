//! How often something took how long: counts below fixed bounds, for the agent and for the metrics.

use std::time::Duration;

/// Upper bounds of the counts, in microseconds. Probes on a local network take a part of a millisecond, the largest changes
/// seconds.
pub const BOUNDS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// Durations that were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By the first bound that is not smaller; what is above all of them is in `count` only.
    counts: [u64; BOUNDS.len()],
    count: u64,
    microseconds: u64,
}

impl Histogram {
    pub fn note(&mut self, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS.iter().position(|bound| microseconds <= *bound);
        if let Some(count) = place.and_then(|place| self.counts.get_mut(place)) {
            *count += 1;
        }
        self.count += 1;
        self.microseconds = self.microseconds.saturating_add(microseconds);
    }

    /// How many took at most as long as each bound.
    pub fn cumulative(&self) -> Vec<u64> {
        let sum = |sum: &mut u64, count: &u64| {
            *sum += count;
            Some(*sum)
        };
        self.counts.iter().scan(0, sum).collect()
    }

    pub const fn count(&self) -> u64 {
        self.count
    }

    /// All of them together.
    pub const fn microseconds(&self) -> u64 {
        self.microseconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_below_its_bound_and_all_larger_ones() {
        let mut histogram = Histogram::default();
        for microseconds in [0, 100, 101, 5_000_000, 5_000_001] {
            histogram.note(Duration::from_micros(microseconds));
        }
        let cumulative = histogram.cumulative();
        assert_eq!((cumulative[0], cumulative[1], cumulative[12], cumulative[13]), (2, 3, 3, 4));
        assert_eq!((histogram.count(), histogram.microseconds()), (5, 10_000_202));
        histogram.note(Duration::MAX);
        assert_eq!(histogram.microseconds(), u64::MAX, "it ends there");
    }

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS.is_sorted_by(|one, next| one < next));
    }
}
