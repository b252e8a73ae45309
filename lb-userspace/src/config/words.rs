//! The words of the file for the types of [`super::spec`], in both directions: for reading a file, writing it, and messages.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::spec::{
    Admin, AllDown, AttachMode, Balance, Encapsulation, Hash, Hold, Listen, MinHealthy, Ping, Protocol,
    Source, TooBig, Track, Unserved,
};
use crate::ring::Builder;

/// A type with a few values, each of which has one word.
pub trait Word: Sized + Copy + PartialEq + 'static {
    /// All values, in the order in which the reference lists them.
    const WORDS: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }

    fn of_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
    }
}

impl Word for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("udp", Self::Udp)];
}

impl Word for AttachMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("native", Self::Native), ("generic", Self::Generic)];
}

impl Word for Unserved {
    const WORDS: &'static [(&'static str, Self)] = &[("pass", Self::Pass), ("drop", Self::Drop)];
}

impl Word for Ping {
    const WORDS: &'static [(&'static str, Self)] =
        &[("answer", Self::Answer), ("healthy", Self::Healthy), ("host", Self::Host), ("drop", Self::Drop)];
}

impl Word for TooBig {
    const WORDS: &'static [(&'static str, Self)] = &[("answer", Self::Answer), ("drop", Self::Drop)];
}

impl Word for Encapsulation {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("ipip", Self::Ipip),
        ("ip6ip6", Self::Ip6Ip6),
        ("ip6ip", Self::Ip6Ip),
        ("ipip6", Self::IpIp6),
        ("l2", Self::L2),
        ("gue", Self::Gue),
    ];
}

impl Word for AllDown {
    const WORDS: &'static [(&'static str, Self)] = &[("keep", Self::Keep), ("drop", Self::Drop)];
}

impl Word for Track {
    const WORDS: &'static [(&'static str, Self)] =
        &[("on-change", Self::OnChange), ("always", Self::Always), ("never", Self::Never)];
}

impl Word for Balance {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("hash", Self::Hash),
        ("round-robin", Self::RoundRobin),
        ("random", Self::Random),
        ("least-connections", Self::LeastConnections),
    ];
}

impl Word for Builder {
    const WORDS: &'static [(&'static str, Self)] =
        &[("maglev", Self::Maglev), ("rendezvous", Self::Rendezvous)];
}

impl Word for Admin {
    const WORDS: &'static [(&'static str, Self)] =
        &[("enabled", Self::Enabled), ("draining", Self::Draining), ("disabled", Self::Disabled)];
}

/// `3`, or `30%`.
impl fmt::Display for MinHealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// `3s`, or `forever`.
impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(time) => f.write_str(&duration(*time)),
            Self::Forever => f.write_str("forever"),
        }
    }
}

/// `five-tuple`, or `source/24`.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FiveTuple => f.write_str("five-tuple"),
            Self::Source(bits) => write!(f, "source/{bits}"),
        }
    }
}

/// `tcp/203.0.113.10:443`, `udp/[2001:db8::10]:53`.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.word(), SocketAddr::new(self.address, self.port))
    }
}

/// `192.0.2.1`, or `192.0.2.0/24` where low bits are spread.
impl<A: Copy + Into<IpAddr>> fmt::Display for Source<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address: IpAddr = self.address.into();
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        match self.spread_bits {
            0 => write!(f, "{address}"),
            spread => write!(f, "{address}/{}", bits.saturating_sub(spread)),
        }
    }
}

/// Units of durations, in milliseconds, the largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration in the largest unit that gives a whole number: `90m`, `1500ms`.
pub fn duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, size) = UNITS
        .into_iter()
        .find(|(_, size)| milliseconds != 0 && milliseconds % size == 0)
        .unwrap_or(("s", 1_000));
    format!("{}{unit}", milliseconds / size)
}

/// A length of time in its two largest units: `3d 4h`, `12s`, `850ms`.
pub fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let two = |a: u64, large: &str, b: u64, small: &str| match b {
        0 => format!("{a}{large}"),
        b => format!("{a}{large} {b}{small}"),
    };
    match (d, h, m) {
        (0, 0, 0) if seconds == 0 => format!("{}ms", duration.subsec_millis()),
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => two(m, "m", s, "s"),
        (0, ..) => two(h, "h", m, "m"),
        _ => two(d, "d", h, "h"),
    }
}

/// `1 flow`, `2 flows`.
pub fn plural(n: u64, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// Reads `500ms`, `2m`, `1h30m`: whole numbers with units, `None` for anything else.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        // The longest unit that fits: `ms` rather than `m`.
        let (unit, size) = UNITS
            .into_iter()
            .filter(|(unit, _)| rest.starts_with(unit))
            .max_by_key(|(unit, _)| unit.len())?;
        rest = rest.get(unit.len()..)?;
        total = total.checked_add(number.checked_mul(size)?)?;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_listen_reads_as_in_the_file() {
        let v4 = Listen { protocol: Protocol::Tcp, address: "203.0.113.10".parse().unwrap(), port: 443 };
        assert_eq!(v4.to_string(), "tcp/203.0.113.10:443");
        let v6 = Listen { protocol: Protocol::Udp, address: "2001:db8::10".parse().unwrap(), port: 0 };
        assert_eq!(v6.to_string(), "udp/[2001:db8::10]:0");
    }

    #[test]
    fn a_source_reads_as_address_or_prefix() {
        let source = |spread_bits| Source { address: std::net::Ipv4Addr::new(192, 0, 2, 0), spread_bits };
        assert_eq!(source(0).to_string(), "192.0.2.0");
        assert_eq!(source(8).to_string(), "192.0.2.0/24");
    }

    #[test]
    fn durations_use_the_largest_unit_that_fits() {
        for (milliseconds, text) in
            [(0, "0s"), (1, "1ms"), (1500, "1500ms"), (2000, "2s"), (5_400_000, "90m"), (86_400_000, "24h")]
        {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn durations_need_units() {
        for text in ["", "1", "s", "1.5s", "-1s", "1 s", "1d", "99999999999999999999s", "9999999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_duration("1h30m1s5ms"), Some(Duration::from_millis(5_401_005)));
    }

    proptest! {
        #[test]
        fn durations_come_back(milliseconds in 0u64..1_000_000_000_000) {
            let value = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&duration(value)), Some(value));
        }
    }
}
