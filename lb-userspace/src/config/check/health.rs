//! `[health]` and the `health` of a service: the given keys are laid over the defaults, and a probe is made of them.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::Outside;
use crate::config::{
    diagnostic::{Kind, Place},
    keys,
    reader::Reader,
    spec::{Health, HttpProbe, Listen, Probe, Protocol, TlsProbe},
    value,
    value_tree::{Data, Node, quote},
    words::Word,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Tcp,
    Http,
    Https,
}

impl Word for Scheme {
    const WORDS: &'static [(&'static str, Self)] =
        &[("tcp", Self::Tcp), ("http", Self::Http), ("https", Self::Https)];
}

/// The keys as given; `None` = not given.
#[derive(Clone, Default)]
struct Settings {
    kind: Option<Scheme>,
    port: Option<u16>,
    path: Option<String>,
    host: Option<String>,
    expect: Option<Vec<RangeInclusive<u16>>>,
    body: Option<String>,
    interval: Option<Duration>,
    fast_interval: Option<Duration>,
    timeout: Option<Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
    verify: Option<bool>,
    ca: Option<PathBuf>,
}

/// The settings of services that have none of their own.
pub(super) enum Defaults {
    /// `health = false`.
    Off,
    On(Box<DefaultSettings>),
}

/// Settings of `[health]`, opaque to others.
pub(super) struct DefaultSettings(Settings);

impl Defaults {
    fn settings(&self) -> Settings {
        match self {
            Self::Off => Settings::default(),
            Self::On(settings) => settings.0.clone(),
        }
    }
}

/// The `health` of the file.
pub(super) fn defaults(root: &Reader<'_, '_>, outside: Outside<'_>) -> Defaults {
    let settings = match root.get("health") {
        None => Settings::default(),
        Some(node) if matches!(node.data, Data::Bool(false)) => return Defaults::Off,
        Some(node) if matches!(node.data, Data::Bool(true)) => Settings::default(),
        Some(node) => match Reader::open(node, "health", "", &keys::HEALTH, root.errors) {
            Some(reader) => {
                let settings = read(&reader);
                check_times(&reader, &settings, &settings);
                check_certificates(&reader, &settings, &settings, outside);
                settings
            }
            None => Settings::default(),
        },
    };
    Defaults::On(Box::new(DefaultSettings(settings)))
}

/// The health check of one service; `None` = none.
pub(super) fn of_service(
    service: &Reader<'_, '_>,
    listen: Option<Listen>,
    defaults: &Defaults,
    outside: Outside<'_>,
) -> Option<Health> {
    let node = service.get("health");
    let settings = match node.map(|node| &node.data) {
        None if matches!(defaults, Defaults::Off) => return None,
        Some(Data::Bool(false)) => return None,
        None | Some(Data::Bool(true)) => defaults.settings(),
        Some(_) => {
            let reader = Reader::open(node?, service.object, "health.", &keys::HEALTH, service.errors)?;
            let own = read(&reader);
            let merged = own.clone().over(defaults.settings());
            check_applies(&reader, &own, merged.kind.unwrap_or(Scheme::Tcp));
            check_times(&reader, &own, &merged);
            if merged.kind == Some(Scheme::Https) {
                check_certificates(&reader, &own, &merged, outside);
            }
            merged
        }
    };
    let own_port = listen.and_then(|listen| match listen {
        Listen { protocol: Protocol::Tcp, port: 1.., .. } => Some(listen.port),
        _ => None,
    });
    let Some(port) = settings.port.or(own_port) else {
        // By default, a service without a port to check is not checked. If the file asks for a check, report the missing port.
        if let (Some(node), Some(listen)) = (node, listen) {
            no_port(service, &node.at, listen);
        }
        return None;
    };
    Some(settings.build(port))
}

fn no_port(service: &Reader<'_, '_>, at: &Place, listen: Listen) {
    let why = match listen.protocol {
        Protocol::Udp => "UDP cannot be checked by connecting",
        Protocol::Tcp => "the service listens on every port",
    };
    let message = format!("health.port is missing, and {why}: give a TCP port to check, or health = false");
    service.errors.push(at, service.object, message, Kind::Missing);
}

fn read(reader: &Reader<'_, '_>) -> Settings {
    let times = |key: &str, from: u64, to: u64| {
        let range = Duration::from_millis(from)..=Duration::from_millis(to);
        reader.optional(key, |node| value::duration(node, range.clone()))
    };
    Settings {
        kind: reader.optional("kind", value::word),
        port: reader.optional("port", |node| value::number(node, 1..=65_535)),
        path: reader.optional("path", path),
        host: reader.optional("host", host),
        expect: expect(reader),
        body: reader.optional("body", |node| value::text(node, 1024)),
        interval: times("interval", 100, 3_600_000),
        fast_interval: times("fast_interval", 50, 3_600_000),
        timeout: times("timeout", 10, 60_000),
        rise: reader.optional("rise", |node| value::number(node, 1..=100)),
        fall: reader.optional("fall", |node| value::number(node, 1..=100)),
        verify: reader.optional("verify", value::boolean),
        ca: reader.optional("ca", value::absolute_path),
    }
}

impl Settings {
    /// The settings of `self`; where `self` has none, those of `below`.
    fn over(self, below: Self) -> Self {
        Self {
            kind: self.kind.or(below.kind),
            port: self.port.or(below.port),
            path: self.path.or(below.path),
            host: self.host.or(below.host),
            expect: self.expect.or(below.expect),
            body: self.body.or(below.body),
            interval: self.interval.or(below.interval),
            fast_interval: self.fast_interval.or(below.fast_interval),
            timeout: self.timeout.or(below.timeout),
            rise: self.rise.or(below.rise),
            fall: self.fall.or(below.fall),
            verify: self.verify.or(below.verify),
            ca: self.ca.or(below.ca),
        }
    }

    fn interval(&self) -> Duration {
        self.interval.unwrap_or(Duration::from_millis(500))
    }

    fn build(self, port: u16) -> Health {
        let interval = self.interval();
        let tls = || {
            let verify = self.verify.unwrap_or(false);
            TlsProbe { verify, ca: self.ca.clone().filter(|_| verify) }
        };
        let http = |tls| {
            Probe::Http(HttpProbe {
                tls,
                path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
                host: self.host.clone(),
                expect: self.expect.clone().unwrap_or_else(|| vec![200..=399]),
                body: self.body.clone(),
            })
        };
        Health {
            probe: match self.kind.unwrap_or(Scheme::Tcp) {
                Scheme::Tcp => Probe::Tcp,
                Scheme::Http => http(None),
                Scheme::Https => http(Some(tls())),
            },
            port,
            interval,
            fast_interval: self.fast_interval.unwrap_or(Duration::from_millis(100)).min(interval),
            timeout: self.timeout.unwrap_or(Duration::from_millis(500)),
            rise: self.rise.unwrap_or(2),
            fall: self.fall.unwrap_or(2),
        }
    }
}

/// Reports keys that the service itself sets although its kind of check does not use them. Keys from `[health]` are not
/// reported: they are for other services.
fn check_applies(reader: &Reader<'_, '_>, own: &Settings, kind: Scheme) {
    let http = [
        ("path", own.path.is_some()),
        ("host", own.host.is_some()),
        ("expect", own.expect.is_some()),
        ("body", own.body.is_some()),
    ];
    let https = [("verify", own.verify.is_some()), ("ca", own.ca.is_some())];
    let word = kind.word();
    if kind == Scheme::Tcp {
        for (key, _) in http.into_iter().filter(|(_, given)| *given) {
            let message = format!(
                "health.{key} does not apply to kind {word:?}: set health.kind to \"http\" or \"https\""
            );
            reader.wrong(reader.place(key), message);
        }
    }
    if kind != Scheme::Https {
        for (key, _) in https.into_iter().filter(|(_, given)| *given) {
            let message =
                format!("health.{key} does not apply to kind {word:?}: set health.kind to \"https\"");
            reader.wrong(reader.place(key), message);
        }
    }
}

/// A file that a check needs must have certificates in it: a check that cannot run leaves dead backends up. The error is at
/// the place of `ca`, or of `verify`.
fn check_certificates(reader: &Reader<'_, '_>, own: &Settings, merged: &Settings, outside: Outside<'_>) {
    let (Some(host), Some(ca), Some(true)) = (outside.host, &merged.ca, merged.verify) else { return };
    let key = match (&own.ca, own.verify) {
        (Some(_), _) => "ca",
        (None, Some(_)) => "verify",
        (None, None) => return,
    };
    if let Err(why) = host.certificates(ca) {
        reader.wrong(reader.place(key), format!("health.ca {why}"));
    }
}

/// An explicit fast interval must not be longer than the interval. The error is at the place of `fast_interval`, or of
/// `interval`.
fn check_times(reader: &Reader<'_, '_>, own: &Settings, merged: &Settings) {
    let Some(fast) = merged.fast_interval.filter(|&fast| fast > merged.interval()) else { return };
    let key = match (own.fast_interval, own.interval) {
        (Some(_), _) => "fast_interval",
        (None, Some(_)) => "interval",
        (None, None) => return,
    };
    let [fast, interval] = [fast, merged.interval()].map(crate::config::words::duration);
    reader.wrong(
        reader.place(key),
        format!("health.fast_interval {fast} is longer than health.interval {interval}: it must not be"),
    );
}

/// Path and query as they go into a request line: they begin with `/` and are visible ASCII.
fn path(node: &Node) -> Result<String, String> {
    let text = value::text(node, 1024)?;
    if !text.starts_with('/') {
        return Err(format!("{} must begin with /", quote(&text)));
    }
    visible(text)
}

fn host(node: &Node) -> Result<String, String> {
    value::text(node, 255).and_then(visible)
}

fn visible(text: String) -> Result<String, String> {
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(bad) => Err(format!("{} has {bad:?} in it, which a request cannot carry", quote(&text))),
        None => Ok(text),
    }
}

/// Status codes, merged into ranges that neither overlap nor touch; each wrong code has an error of its own.
fn expect(reader: &Reader<'_, '_>) -> Option<Vec<RangeInclusive<u16>>> {
    let node = reader.get("expect")?;
    let elements = node.one_or_many();
    if elements.is_empty() {
        reader.wrong(&node.at, "health.expect is empty: nothing would ever succeed".to_owned());
    }
    let mut ranges = Vec::with_capacity(elements.len());
    for element in elements {
        match codes(element) {
            Ok(range) => ranges.push(range),
            Err(why) => reader.wrong(&element.at, format!("health.expect {why}")),
        }
    }
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end() + 1 => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    Some(merged)
}

/// `200`, `"200"` or `"200-399"`.
fn codes(node: &Node) -> Result<RangeInclusive<u16>, String> {
    const CODES: RangeInclusive<u16> = 100..=599;
    let Data::Str(text) = &node.data else {
        let code = value::number(node, CODES)?;
        return Ok(code..=code);
    };
    let code = |text: &str| value::whole(text.trim()).filter(|code| CODES.contains(code));
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (code(from), code(to)) {
        (Some(from), Some(to)) if from <= to => Ok(from..=to),
        _ => Err(format!(
            "{} is not a valid status code or range: 100 to 599, for example \"200-399\"",
            quote(text)
        )),
    }
}
