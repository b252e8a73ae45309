//! `[health]` and the `health` of a service: the given keys are laid over the defaults, and a check is made of them.

use super::Outside;
use crate::config::{
    diagnostic::{Kind, Place},
    keys,
    reader::Reader,
    spec::{self, Check, HEALTH, Health, Listen, Protocol, Scheme},
    value_tree::{Data, Node},
    words::Word as _,
};

/// The settings of services that have none of their own.
pub(super) enum Defaults {
    /// `health = false`.
    Off,
    On(Box<Check>),
}

impl Defaults {
    fn check(&self) -> Check {
        match self {
            Self::Off => Check::default(),
            Self::On(check) => (**check).clone(),
        }
    }
}

/// The `health` of the file.
pub(super) fn defaults(root: &Reader<'_, '_>, outside: Outside<'_>) -> Defaults {
    let mut check = Check::default();
    match root.get("health") {
        None | Some(Node { data: Data::Bool(true), .. }) => {}
        Some(Node { data: Data::Bool(false), .. }) => return Defaults::Off,
        Some(node) => {
            if let Some(reader) = Reader::open(node, "health", "", &keys::HEALTH, root.errors) {
                HEALTH.read(&reader, &mut check);
                check_times(&reader, &check);
                check_certificates(&reader, &check, outside);
            }
        }
    }
    Defaults::On(Box::new(check))
}

/// The health check of one service; `None` = none.
pub(super) fn of_service(
    service: &Reader<'_, '_>,
    listen: Option<Listen>,
    defaults: &Defaults,
    outside: Outside<'_>,
) -> Option<Health> {
    let node = service.get("health");
    let check = match node.map(|node| &node.data) {
        None if matches!(defaults, Defaults::Off) => return None,
        Some(Data::Bool(false)) => return None,
        None | Some(Data::Bool(true)) => defaults.check(),
        Some(_) => {
            let reader = Reader::open(node?, service.object, "health.", &keys::HEALTH, service.errors)?;
            let mut check = defaults.check();
            HEALTH.read(&reader, &mut check);
            check_applies(&reader, check.kind);
            check_times(&reader, &check);
            check_answer(&reader, &check);
            if check.kind == Scheme::Https {
                check_certificates(&reader, &check, outside);
            }
            check
        }
    };
    let own_port = listen.and_then(|listen| match listen {
        Listen { protocol: Protocol::Tcp, port: 1.., .. } => Some(listen.port),
        Listen { protocol: Protocol::Udp, port: 1.., .. } if check.kind == Scheme::Dns => Some(listen.port),
        _ => None,
    });
    if !spec::takes(check.kind, "port") {
        return Some(check.build(0));
    }
    let Some(port) = check.port.or(own_port) else {
        // By default, a service without a port to check is not checked. If the file asks for a check, report the missing port.
        if let (Some(node), Some(listen)) = (node, listen) {
            no_port(service, &node.at, listen);
        }
        return None;
    };
    Some(check.build(port))
}

fn no_port(service: &Reader<'_, '_>, at: &Place, listen: Listen) {
    let why = match listen.protocol {
        Protocol::Udp => "UDP cannot be checked by connecting",
        Protocol::Tcp => "the service listens on every port",
    };
    let message = format!("health.port is missing, and {why}: give a TCP port to check, or health = false");
    service.errors.push(at, service.object, message, Kind::Missing);
}

/// Reports keys that the service itself sets although its kind of check does not use them. Keys from `[health]` are not
/// reported: they are for other services.
fn check_applies(reader: &Reader<'_, '_>, kind: Scheme) {
    for key in keys::HEALTH.names() {
        let Some(kinds) = spec::kinds(key).filter(|kinds| !kinds.contains(&kind)) else { continue };
        if let Some(node) = reader.get(key) {
            let words: Vec<String> = kinds.iter().map(|kind| format!("{:?}", kind.word())).collect();
            let (word, words) = (kind.word(), words.join(" or "));
            let message = format!("health.{key} does not apply to kind {word:?}: set health.kind to {words}");
            reader.wrong(&node.at, message);
        }
    }
}

/// Only an answer without an error has records.
fn check_answer(reader: &Reader<'_, '_>, check: &Check) {
    if check.code.has_records() || check.answer.is_none() {
        return;
    }
    let Some(at) = ["answer", "code"].into_iter().find_map(|key| reader.get(key)) else { return };
    let code = check.code.word();
    let message = format!(
        "health.answer is set, and an answer with the code {code:?} has no records: leave one of them out"
    );
    reader.wrong(&at.at, message);
}

/// A file that a check needs must have certificates in it: a check that cannot run leaves dead backends up. The error is at
/// the place of `ca`, or of `verify`.
fn check_certificates(reader: &Reader<'_, '_>, check: &Check, outside: Outside<'_>) {
    let (Some(host), Some(ca), true) = (outside.host, &check.ca, check.verify) else { return };
    let Some(at) = ["ca", "verify"].into_iter().find_map(|key| reader.get(key)) else { return };
    if let Err(why) = host.certificates(ca) {
        reader.wrong(&at.at, format!("health.ca {why}"));
    }
}

/// An explicit fast interval must not be longer than the interval. The error is at the place of `fast_interval`, or of
/// `interval`.
fn check_times(reader: &Reader<'_, '_>, check: &Check) {
    let Some(fast) = check.fast_interval.filter(|&fast| fast > check.interval) else { return };
    let Some(at) = ["fast_interval", "interval"].into_iter().find_map(|key| reader.get(key)) else { return };
    let [fast, interval] = [fast, check.interval].map(crate::config::words::duration);
    reader.wrong(
        &at.at,
        format!("health.fast_interval {fast} is longer than health.interval {interval}: it must not be"),
    );
}
