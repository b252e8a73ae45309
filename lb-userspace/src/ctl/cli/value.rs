//! Values as typed, checked one by one.

use std::time::Duration;

use crate::config::{spec::MOST_WEIGHT, words::parse_duration};

/// As in the configuration: whole numbers with units, `500ms`, `10m`, `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| "a duration is a whole number with a unit, ms, s, m or h: 500ms, 10m, 1h30m".into())
}

/// How many.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number from 0"))
}

/// How many, and at least one.
pub fn some(text: &str) -> Result<usize, String> {
    count(text)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("{text:?} is not a whole number from 1"))
}

/// Time between two looks: not so short that looking becomes work.
pub fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(3600));
    if interval < least || interval > most {
        return Err("an interval is 100ms to 1h".into());
    }
    Ok(interval)
}

/// A weight as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weight {
    Whole(u16),
    /// In percent of the one in the file, with its sign: the agent knows the file.
    Share(String),
}

pub fn weight(text: &str) -> Result<Weight, String> {
    let share = text.strip_suffix('%').filter(|digits| is_whole(digits));
    if share.is_some() {
        return Ok(Weight::Share(text.to_owned()));
    }
    whole_weight(text)
        .map(Weight::Whole)
        .map_err(|why| format!("{why}, or a share of the weight in the file, as in 50%"))
}

/// A weight that has to be a number.
pub fn whole_weight(text: &str) -> Result<u16, String> {
    let number = is_whole(text).then(|| text.parse().ok()).flatten();
    number
        .filter(|number| *number <= MOST_WEIGHT)
        .ok_or_else(|| format!("a weight is a whole number from 0 to {MOST_WEIGHT}"))
}

fn is_whole(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_number_or_a_share() {
        assert_eq!(weight("50"), Ok(Weight::Whole(50)));
        assert_eq!(weight("50%"), Ok(Weight::Share("50%".to_owned())));
        for bad in ["", "%", "-1", "+1", "1001", "0.5", "5 %", "half"] {
            let why = weight(bad).unwrap_err();
            assert_eq!(
                why,
                "a weight is a whole number from 0 to 1000, or a share of the weight in the file, as in 50%",
                "{bad}"
            );
        }
        assert_eq!(whole_weight("50%"), Err("a weight is a whole number from 0 to 1000".to_owned()));
    }

    #[test]
    fn an_interval_has_bounds() {
        assert!(interval("100ms").is_ok() && interval("1h").is_ok());
        assert!(interval("99ms").is_err() && interval("2h").is_err() && interval("0s").is_err());
    }
}
