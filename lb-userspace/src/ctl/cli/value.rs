//! Values as typed, checked one by one.

use std::time::Duration;

use crate::config::words::parse_duration;

/// A name that is safe in a path: it becomes part of one.
pub fn instance(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 63 || text.starts_with('.') || !text.bytes().all(plain) {
        return Err("an instance name has 1 to 63 of the characters A-Z a-z 0-9 . _ - and no . first".into());
    }
    Ok(text.into())
}

/// As in the configuration: whole numbers with units, `500ms`, `10m`, `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| "a duration is a whole number with a unit, ms, s, m or h: 500ms, 10m, 1h30m".into())
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

    #[test]
    fn an_instance_cannot_leave_its_directory() {
        assert_eq!(instance("edge-1"), Ok("edge-1".into()));
        for wrong in ["", "../main", "a/b", ".hidden", "a b", "ü"] {
            assert!(instance(wrong).is_err(), "{wrong}");
        }
    }
}
