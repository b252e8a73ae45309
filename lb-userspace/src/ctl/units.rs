//! Numbers and times for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    let (seconds, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.{milliseconds:03}Z")
}

/// The date of a day since 1970-01-01, counted in years that begin in March, so that the leap day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    // 719,468 days before 1970-01-01 was 0000-03-01; 146,097 days make 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
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
    }
}
