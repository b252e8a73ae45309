//! Numbers and times for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

pub use crate::config::words::rough as duration;

/// Bytes with a binary unit: `1.5 MiB`.
pub fn bytes(value: u64) -> String {
    scaled(value as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], " ")
}

/// A rate per second with a decimal unit: `12.3k/s`.
pub fn rate(per_second: f64) -> String {
    scaled(per_second, 1000.0, &["", "k", "M", "G", "T", "P", "E"], "") + "/s"
}

/// Bits per second of a rate of bytes: `1.2 Gbit/s`.
pub fn bit_rate(bytes_per_second: f64) -> String {
    scaled(bytes_per_second * 8.0, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s"], " ")
}

fn scaled(mut value: f64, step: f64, units: &[&str], gap: &str) -> String {
    let mut unit = 0;
    // 999.95 would be written as 1000.0.
    while value >= step - 0.05 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let name = units.get(unit).copied().unwrap_or_default();
    if unit == 0 && value.fract() == 0.0 {
        format!("{value:.0}{gap}{name}")
    } else {
        format!("{value:.1}{gap}{name}")
    }
}

/// A length of time given in microseconds, in milliseconds to three digits: `0.29ms`, `3.10ms`, `512ms`.
pub fn short(microseconds: u64) -> String {
    let milliseconds = microseconds as f64 / 1000.0;
    match microseconds {
        0..9_995 => format!("{milliseconds:.2}ms"),
        9_995..99_950 => format!("{milliseconds:.1}ms"),
        _ => format!("{milliseconds:.0}ms"),
    }
}

/// When something was counted that is not counted whenever it is asked for; `None` = a moment ago.
pub fn counted(age_ms: Option<u64>) -> Option<String> {
    let age = Duration::from_millis(age_ms.unwrap_or(0));
    (age.as_secs() > 0).then(|| format!("{} ago", duration(age)))
}

/// A moment given in milliseconds since 1970, in UTC (RFC 3339 with a blank): `2024-02-29 12:00:00.000Z`.
pub fn moment(milliseconds: u64) -> String {
    // What lies behind the year 9999 comes from a broken clock; the last moment there is shows that.
    let moment = i64::try_from(milliseconds).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    moment.unwrap_or(Timestamp::MAX).strftime("%Y-%m-%d %H:%M:%S.%3fZ").to_string()
}

/// Seconds since 1970, now.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_have_one_decimal_and_a_unit() {
        for (value, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (u64::MAX, "16.0 EiB")] {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(rate(0.0), "0/s");
        assert_eq!(rate(12.34), "12.3/s");
        assert_eq!(rate(999.96), "1.0k/s");
        assert_eq!(rate(14_880_952.0), "14.9M/s");
        assert_eq!(bit_rate(1_250_000_000.0), "10.0 Gbit/s");
    }

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, text) in [
            (0, "0ms"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m 1s"),
            (3600, "1h"),
            (90_061, "1d 1h"),
            (86_400, "1d"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(duration(Duration::from_millis(850)), "850ms");
    }

    #[test]
    fn a_short_time_keeps_what_is_below_a_millisecond() {
        let shown = [0, 85, 291, 3_100, 9_994, 9_995, 31_240, 99_949, 99_950, 512_400].map(short);
        assert_eq!(
            shown,
            [
                "0.00ms", "0.09ms", "0.29ms", "3.10ms", "9.99ms", "10.0ms", "31.2ms", "99.9ms", "100ms",
                "512ms"
            ]
        );
    }

    #[test]
    fn moments_are_dates_also_on_leap_days() {
        assert_eq!(moment(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00.000Z");
        assert_eq!(moment(1_709_251_199_999), "2024-02-29 23:59:59.999Z");
        assert_eq!(moment(4_107_542_400_000), "2100-03-01 00:00:00.000Z");
        assert_eq!(moment(u64::MAX), "9999-12-30 22:00:00.999Z");
    }
}
