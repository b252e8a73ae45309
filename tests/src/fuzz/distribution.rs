//! Judges many random choices together: whether the outcomes came as often as the model says.

use std::fmt;

use crate::model::Chance;

/// A deviation that is not an accident, in standard deviations: chance alone goes as far in one run of 500 million.
const TOO_FAR: f64 = 6.0;

/// Choices; each has one outcome whose likelihood was known before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distribution {
    choices: u64,
    came: u64,
    expected: f64,
    variance: f64,
}

impl Distribution {
    pub fn add(&mut self, chance: Chance) {
        let Chance { balance: _, likelihood, came } = chance;
        self.choices += 1;
        self.came += u64::from(came);
        self.expected += likelihood;
        self.variance += (likelihood * (1.0 - likelihood)).max(0.0);
    }

    /// The distance between actual and expected number, in standard deviations. A choice may depend on choices before it:
    /// the likelihood of each was known when it was made (a martingale).
    pub fn deviation(&self) -> f64 {
        let off = self.came as f64 - self.expected;
        if self.variance > 0.0 { off / self.variance.sqrt() } else { 0.0 }
    }

    /// Whether the deviation is too large for an accident.
    pub fn is_unfair(&self) -> bool {
        self.deviation().abs() > TOO_FAR
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} choices, the heaviest backend taken {} times, {:.0} expected ({:+.1} standard deviations)",
            self.choices,
            self.came,
            self.expected,
            self.deviation()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fuzz::Random, model::scene::Balance};

    /// Ten thousand choices whose stated likelihood is `said` percent, and whose real likelihood is `is` percent.
    fn distribution(said: usize, is: usize) -> Distribution {
        let random = Random::new(1);
        let mut distribution = Distribution::default();
        for _ in 0..10_000 {
            let likelihood = said as f64 / 100.0;
            distribution.add(Chance { balance: Balance::Random, likelihood, came: random.percent(is) });
        }
        distribution
    }

    #[test]
    fn what_comes_as_often_as_it_should_is_fair() {
        assert!(!distribution(25, 25).is_unfair(), "{}", distribution(25, 25));
        assert!(!Distribution::default().is_unfair());
    }

    #[test]
    fn what_comes_too_often_or_too_rarely_is_not() {
        assert!(distribution(25, 30).is_unfair() && distribution(25, 20).is_unfair());
    }
}
