//! A place in the course of events, as typed: a number, how long ago, or a time. One grammar for `lbctl events --since`
//! and for `GET /v1/events?since=`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};

use crate::config::words::parse_duration;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Behind the event of this number; 0 = all there are.
    Number(u64),
    /// With what happened so long ago.
    Ago(Duration),
    /// With what happened at this time, in milliseconds since 1970.
    At(u64),
    /// With the last such time of a day, in milliseconds since midnight, UTC.
    TimeOfDay(u64),
}

impl Default for Since {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// A day in milliseconds; UTC has no other ones here.
const DAY: u64 = 86_400_000;

impl Since {
    /// Reads what was typed. Times without an offset are UTC, as in the answers.
    ///
    /// # Errors
    /// What may be typed.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).ok_or_else(|| {
            format!(
                "{text:?} is not a valid beginning: an event's number, how long ago (10m, 1h30m), or a time in UTC (14:05, \
                 2026-02-28 14:05, 2026-02-28T14:05:00+01:00)"
            )
        })
    }

    fn read(text: &str) -> Option<Self> {
        let at = |time: Timestamp| u64::try_from(time.as_millisecond()).ok().map(Self::At);
        let utc = |time: DateTime| at(time.to_zoned(TimeZone::UTC).ok()?.timestamp());
        // A time zone in brackets would be passed over.
        if text.is_empty() || text.contains('[') {
            return None;
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().ok().map(Self::Number);
        }
        if let Some(ago) = parse_duration(text) {
            return Some(Self::Ago(ago));
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return at(time);
        }
        // The forms of ISO 8601 without signs between the parts are left out: they look like numbers.
        if !text.contains('-') {
            return text.contains(':').then(|| text.parse().ok().map(time_of_day)).flatten();
        }
        match (text.parse::<DateTime>(), text.parse::<Date>()) {
            (Ok(time), _) => utc(time),
            (_, Ok(date)) => utc(date.to_datetime(Time::midnight())),
            _ => None,
        }
    }

    /// The same without what depends on when it is asked; `now` in milliseconds since 1970.
    #[must_use]
    pub fn fixed(self, now: u64) -> Self {
        match self {
            Self::Number(_) | Self::At(_) => self,
            Self::Ago(time) => Self::At(now.saturating_sub(time.as_millis().try_into().unwrap_or(u64::MAX))),
            Self::TimeOfDay(time) => {
                let today = now - now % DAY + time;
                Self::At(if today > now { today.saturating_sub(DAY) } else { today })
            }
        }
    }
}

fn time_of_day(time: Time) -> Since {
    let seconds = (u64::from(time.hour().unsigned_abs()) * 60 + u64::from(time.minute().unsigned_abs())) * 60
        + u64::from(time.second().unsigned_abs());
    Since::TimeOfDay(seconds * 1000 + u64::from(time.millisecond().unsigned_abs()))
}

/// The wall clock; 0 for a clock before 1970.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same in milliseconds.
pub fn milliseconds_since_1970() -> u64 {
    since_1970().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_durations_and_times_are_distinguished() {
        // 2024-02-29 12:00:00 UTC.
        let noon = 1_709_208_000_000;
        for (text, since) in [
            ("0", Since::Number(0)),
            ("1709208000000000", Since::Number(1_709_208_000_000_000)),
            ("10m", Since::Ago(Duration::from_secs(600))),
            ("1h30m", Since::Ago(Duration::from_secs(5400))),
            ("2024-02-29T12:00:00Z", Since::At(noon)),
            ("2024-02-29T13:00:00+01:00", Since::At(noon)),
            ("2024-02-29 12:00:00.250Z", Since::At(noon + 250)),
            ("2024-02-29 12:00", Since::At(noon)),
            ("2024-02-29T12:00:00", Since::At(noon)),
            ("2024-02-29", Since::At(noon - DAY / 2)),
            ("12:00", Since::TimeOfDay(DAY / 2)),
            ("00:00:01", Since::TimeOfDay(1000)),
        ] {
            assert_eq!(Since::parse(text), Ok(since), "{text}");
        }
    }

    #[test]
    fn what_is_none_of_them_is_refused_with_examples() {
        for text in [
            "",
            "yesterday",
            "-1",
            "10x",
            "25:00",
            "2024-02-30",
            "1969-01-01",
            "99999999999999999999",
            "2024-02-29T12:00[Europe/Paris]",
        ] {
            let message = Since::parse(text).unwrap_err();
            assert!(message.starts_with(&format!("{text:?} is not a valid beginning")), "{message}");
            assert!(message.contains("10m") && message.contains("14:05"), "{message}");
        }
    }

    #[test]
    fn a_time_of_day_is_the_last_one() {
        let noon = 1_709_208_000_000;
        assert_eq!(Since::TimeOfDay(DAY / 2).fixed(noon), Since::At(noon));
        assert_eq!(Since::TimeOfDay(DAY / 2).fixed(noon + 1), Since::At(noon));
        assert_eq!(Since::TimeOfDay(DAY / 2 + 1).fixed(noon), Since::At(noon + 1 - DAY), "yesterday");
        assert_eq!(Since::Ago(Duration::from_secs(1)).fixed(noon), Since::At(noon - 1000));
        assert_eq!(Since::Ago(Duration::MAX).fixed(noon), Since::At(0));
        assert_eq!(Since::Number(7).fixed(noon), Since::Number(7));
    }
}
