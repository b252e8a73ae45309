//! What a backend says of itself in answer to a check, apart from whether it works: that it wants no new flows, and which part of
//! its weight it can bear. What it last said holds until it says something else. Pure; who is asked, and how, is the business of
//! `probe`, and what follows of [`crate::state`].

use std::fmt;

/// Percent of a weight that a backend may ask for.
const MOST_PERCENT: u16 = 1000;

/// A weight that differs by less from the one in force is passed over. Agents that measure their load say another number each
/// time, and each change of a weight moves slots.
const STEP: u16 = 5;

/// That a backend wants no new flows, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leave {
    Drain,
    Maint,
}

impl Leave {
    const fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// What holds of what a backend has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Said {
    pub leave: Option<Leave>,
    /// Percent of the configured weight; `None` = it has said nothing of it.
    pub percent: Option<u16>,
}

impl Said {
    /// The word by which the backend wants no new flows; `None` = it takes them.
    pub fn leaves(self) -> Option<&'static str> {
        self.leave.map(Leave::word).or_else(|| (self.percent == Some(0)).then_some("0%"))
    }

    /// The weight of a backend whose configured weight is `whole`: from 1 to 1000, unless one of the two is 0.
    pub fn weight(self, whole: u16) -> u16 {
        match self.percent {
            Some(percent) if percent > 0 && whole > 0 => {
                let part = (u32::from(whole) * u32::from(percent) + 50) / 100;
                // At most 1000 after the clamp.
                part.clamp(1, 1000) as u16
            }
            Some(0) => 0,
            _ => whole,
        }
    }

    /// Whether the weight is another than the configured one.
    pub fn changes_weight(self) -> bool {
        !matches!(self.percent, None | Some(0 | 100))
    }
}

/// `75%, drain`; nothing where nothing was said.
impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.percent, self.leave) {
            (None, None) => Ok(()),
            (None, Some(leave)) => f.write_str(leave.word()),
            (Some(percent), None) => write!(f, "{percent}%"),
            (Some(percent), Some(leave)) => write!(f, "{percent}%, {}", leave.word()),
        }
    }
}

/// What one answer says. What it does not mention stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Whether the backend works, or why it does not.
    pub works: Option<Result<(), String>>,
    /// `Some(None)` = it takes new flows.
    pub leave: Option<Option<Leave>>,
    pub percent: Option<u16>,
}

/// A percentage as an answer has it: `75%`.
pub fn percent(word: &str) -> Option<u16> {
    let digits = word.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|percent| *percent <= MOST_PERCENT)
}

/// All that holds of the answers so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    said: Said,
    /// It said that it does not work, and not yet that it works again.
    down: bool,
}

impl Standing {
    pub fn new(said: Said) -> Self {
        Self { said, down: false }
    }

    pub fn said(&self) -> Said {
        self.said
    }

    /// Takes an answer in. Returns whether the backend works, by its own words.
    pub fn take(&mut self, words: Words) -> Result<(), String> {
        let Words { works, leave, percent } = words;
        self.said.leave = leave.unwrap_or(self.said.leave);
        let is_news = |percent: &u16| {
            let near = self.said.percent.is_some_and(|is| is > 0 && is.abs_diff(*percent) < STEP);
            !near || [0, 100].contains(percent)
        };
        self.said.percent = percent.filter(is_news).or(self.said.percent);
        if let Some(works) = &works {
            self.down = works.is_err();
        }
        match works {
            Some(works) => works,
            None if self.down => Err("said down before, and not up since".to_owned()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(percent: Option<u16>, leave: Option<Leave>) -> Said {
        Said { leave, percent }
    }

    #[test]
    fn a_part_of_the_configured_weight_is_between_1_and_1000() {
        for (percent, whole, weight) in [
            (None, 100, 100),
            (Some(75), 100, 75),
            (Some(75), 10, 8),
            (Some(1), 10, 1),
            (Some(0), 10, 0),
            (Some(150), 100, 150),
            (Some(1000), 500, 1000),
            (Some(75), 0, 0),
        ] {
            assert_eq!(said(percent, None).weight(whole), weight, "{percent:?} of {whole}");
        }
    }

    #[test]
    fn no_new_flows_are_wanted_by_three_words() {
        assert_eq!(said(Some(50), Some(Leave::Drain)).leaves(), Some("drain"));
        assert_eq!(said(None, Some(Leave::Maint)).leaves(), Some("maint"));
        assert_eq!(said(Some(0), None).leaves(), Some("0%"));
        assert_eq!(said(Some(1), None).leaves(), None);
        assert_eq!(said(Some(75), Some(Leave::Drain)).to_string(), "75%, drain");
        assert_eq!(Said::default().to_string(), "");
    }

    #[test]
    fn percentages_are_digits_and_a_sign() {
        assert_eq!(["0%", "75%", "1000%"].map(percent), [Some(0), Some(75), Some(1000)]);
        for wrong in ["", "%", "75", "-1%", "+1%", "7 5%", "1001%", "99999999999%", "75%%", "٣%"] {
            assert_eq!(percent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_not_mentioned_stays() {
        let mut standing = Standing::default();
        let drain = Words { leave: Some(Some(Leave::Drain)), percent: Some(50), ..Words::default() };
        assert_eq!(standing.take(drain), Ok(()));
        assert_eq!(standing.take(Words::default()), Ok(()));
        assert_eq!(standing.said(), said(Some(50), Some(Leave::Drain)));
        assert_eq!(standing.take(Words { leave: Some(None), ..Words::default() }), Ok(()));
        assert_eq!(standing.said(), said(Some(50), None));
    }

    #[test]
    fn down_holds_until_up_is_said() {
        let mut standing = Standing::default();
        let down = Words { works: Some(Err("says down".to_owned())), ..Words::default() };
        assert_eq!(standing.take(down), Err("says down".to_owned()));
        let weight = Words { percent: Some(75), ..Words::default() };
        assert_eq!(standing.take(weight), Err("said down before, and not up since".to_owned()));
        assert_eq!(standing.take(Words { works: Some(Ok(())), ..Words::default() }), Ok(()));
        assert_eq!(standing.take(Words::default()), Ok(()));
    }

    #[test]
    fn small_differences_of_the_weight_are_passed_over() {
        let mut standing = Standing::default();
        let mut weights = Vec::new();
        for percent in [75, 77, 71, 70, 74, 65, 98, 100, 97, 3, 0, 2, 1, 6] {
            standing.take(Words { percent: Some(percent), ..Words::default() }).unwrap();
            weights.push(standing.said().percent.unwrap_or_default());
        }
        assert_eq!(weights, [75, 75, 75, 70, 70, 65, 98, 100, 100, 3, 0, 2, 2, 2]);
    }

    proptest! {
        /// A weight in force is never further from the last one that was said than the step.
        #[test]
        fn the_weight_in_force_is_near_the_last_one(percents in prop::collection::vec(0u16..=1000, 1..40)) {
            let mut standing = Standing::default();
            for percent in percents {
                standing.take(Words { percent: Some(percent), ..Words::default() }).unwrap();
                let is = standing.said().percent.unwrap();
                prop_assert!(is.abs_diff(percent) < STEP && (is == 0) == (percent == 0), "{is} {percent}");
            }
        }
    }
}
