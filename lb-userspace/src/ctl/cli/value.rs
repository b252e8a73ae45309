//! Values as typed, checked one by one.

use std::time::Duration;

use crate::config::words::parse_duration;

/// As in the configuration: whole numbers with units, `500ms`, `10m`, `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| "a duration is a whole number with a unit, ms, s, m or h: 500ms, 10m, 1h30m".into())
}

/// How many.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number from 0"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_bounds() {
        assert!(interval("100ms").is_ok() && interval("1h").is_ok());
        assert!(interval("99ms").is_err() && interval("2h").is_err() && interval("0s").is_err());
    }
}
