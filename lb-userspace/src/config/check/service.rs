//! `[[service]]`.

use std::{ops::RangeInclusive, time::Duration};

use lb_common::ring::MAX_BACKENDS;

use super::{
    Outside, backend,
    health::{self, Defaults},
    hold,
};
use crate::config::{
    diagnostic::{Kind, Place},
    keys,
    reader::{Errors, Reader},
    spec::{AllDown, Balance, Encapsulation, Hash, Listen, Planned, Protocol, Service, Track},
    value,
    value_tree::Node,
};
use crate::ring::Builder;

/// Linux sends the first keepalive of a silent connection after two hours (`tcp_keepalive_time`), and nine of them 75 s apart:
/// 131.25 minutes until it gives the connection up.
const DEFAULT_TRACK_WINDOW: Duration = Duration::from_secs(135 * 60);
const DEFAULT_UDP_IDLE: Duration = Duration::from_secs(120);
const DEFAULT_IDLE_AFTER: Duration = Duration::from_secs(300);
/// The clock in the slot words wraps after three times this time ([`lb_common::slot::SINCE_STEP`]).
const LONGEST_WINDOW: Duration = Duration::from_secs(24 * 3600);

const DEFAULT_HANDOVER: Duration = Duration::from_secs(30);
const LONGEST_HANDOVER: Duration = Duration::from_secs(3600);

/// Below 1 s the five steps of a slow start are no different from one jump; above an hour the setting was probably forgotten.
const SLOW_START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// The parts of a service that could be read: enough to compare it with the other services even where a part is wrong.
pub(super) struct Found<'a> {
    /// `service web`, or `service #2` where it has no proper name.
    pub(super) object: String,
    pub(super) at: &'a Place,
    pub(super) name: Option<(String, &'a Place)>,
    pub(super) listen: Option<(Listen, &'a Place)>,
    pub(super) max_backends: Planned,
    pub(super) backends: Vec<backend::Found<'a>>,
    /// `None` if a required value is missing or wrong.
    pub(super) service: Option<Service>,
}

pub(super) fn read<'a>(
    node: &'a Node,
    index: usize,
    defaults: &Defaults,
    outside: Outside<'_>,
    errors: &'a Errors,
) -> Found<'a> {
    let named = node.as_table().and_then(|table| table.get("name")).filter(|name| service_name(name).is_ok());
    let label = named.and_then(Node::as_str).map_or_else(|| format!("#{}", index + 1), str::to_owned);
    let object = format!("service {label}");
    let Some(reader) = Reader::open(node, &object, "", &keys::SERVICE, errors) else {
        return Found {
            object: object.clone(),
            at: &node.at,
            name: None,
            listen: None,
            max_backends: Planned::by_default(0),
            backends: Vec::new(),
            service: None,
        };
    };
    let name = reader.required("name", "\"web\"", service_name);
    let listen = reader.required("listen", "\"tcp/203.0.113.10:443\"", value::listen);
    let encapsulation = reader.or("encapsulation", value::word, Encapsulation::Auto);
    if let Some(listen) = listen {
        check_family(&reader, listen, encapsulation);
        if let Some(Err(why)) = outside.host.map(|host| host.listen(listen.address)) {
            reader.wrong(reader.place("listen"), format!("listen {why}"));
        }
    }
    let backends: Vec<backend::Found<'a>> = reader
        .tables("backend")
        .iter()
        .enumerate()
        .map(|(index, node)| backend::read(node, &label, index, encapsulation, errors))
        .collect();
    let max_backends = max_backends(&reader, backends.len());
    let track = reader.or("track", value::word, Track::OnChange);
    let longest = if listen.is_some_and(|listen| listen.address.is_ipv4()) { 32 } else { 128 };
    let hash = reader.or("hash", |node| value::hash(node, longest), Hash::FiveTuple);
    let balance = reader.or("balance", value::word, Balance::Hash);
    check_balance(&reader, balance, track, hash);
    let ring = reader.or("ring", value::word, Builder::Maglev);
    let slow_start = reader.optional("slow_start", |node| value::duration(node, SLOW_START));
    let min_healthy = reader.optional("min_healthy", value::min_healthy);
    let window = window(&reader, listen.map(|listen| listen.protocol));
    let hold = hold::of_service(&reader, listen.map(|listen| listen.protocol), window);
    let all_down = reader.or("all_down", value::word, AllDown::Keep);
    let handover = reader.or(
        "handover",
        |node| value::duration(node, Duration::ZERO..=LONGEST_HANDOVER),
        DEFAULT_HANDOVER,
    );
    let idle_after = reader.or(
        "idle_after",
        |node| value::duration(node, Duration::from_secs(1)..=LONGEST_WINDOW),
        DEFAULT_IDLE_AFTER,
    );
    let health = health::of_service(&reader, listen, defaults, outside);
    let service = build(name.clone(), listen, &backends).map(|(name, listen, backends)| Service {
        name,
        listen,
        encapsulation,
        max_backends,
        hold,
        all_down,
        handover,
        track,
        hash,
        balance,
        ring,
        slow_start,
        min_healthy,
        window,
        idle_after,
        health,
        backends,
    });
    Found {
        at: reader.at,
        name: name.map(|name| (name, reader.place("name"))),
        listen: listen.map(|listen| (listen, reader.place("listen"))),
        max_backends,
        backends,
        service,
        object: object.clone(),
    }
}

pub(in crate::config) fn service_name(node: &Node) -> Result<String, String> {
    value::name(node, "")
}

type Built = (String, Listen, Vec<crate::config::spec::Backend>);

fn build(name: Option<String>, listen: Option<Listen>, backends: &[backend::Found<'_>]) -> Option<Built> {
    let mut all: Vec<_> = backends.iter().map(|found| found.backend.clone()).collect::<Option<_>>()?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Some((name?, listen?, all))
}

/// The encapsulation's inner address family must be that of `listen`.
fn check_family(reader: &Reader<'_, '_>, listen: Listen, encapsulation: Encapsulation) {
    let (inner_v4, other) = match encapsulation {
        Encapsulation::Auto => return,
        Encapsulation::Ipip => (true, "ip6ip"),
        Encapsulation::IpIp6 => (true, "ip6ip6"),
        Encapsulation::Ip6Ip6 => (false, "ipip6"),
        Encapsulation::Ip6Ip => (false, "ipip"),
    };
    if listen.address.is_ipv4() != inner_v4 {
        use crate::config::words::Word;
        let word = encapsulation.word();
        let (takes, has) = if inner_v4 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        reader.wrong(
            reader.place("encapsulation"),
            format!(
                "encapsulation {word} carries {takes}, but listen {listen} is {has}: \
                 use \"auto\" or \"{other}\""
            ),
        );
    }
}

/// With any balancing but `hash`, only the flow's record says where the flow is: its hash does not lead to its backend.
fn check_balance(reader: &Reader<'_, '_>, balance: Balance, track: Track, hash: Hash) {
    use crate::config::words::Word;
    if balance == Balance::Hash {
        return;
    }
    let word = balance.word();
    if track != Track::Always {
        let message = format!(
            "balance {word:?} finds flows again by their records only, but track is {:?}: set track = \"always\", or \
             balance = \"hash\"",
            track.word()
        );
        reader.wrong(reader.place("balance"), message);
    }
    if hash != Hash::FiveTuple {
        let message = format!(
            "hash \"{hash}\" and balance {word:?} contradict each other: leave one of both out, flows go by a hash or they \
             do not"
        );
        reader.wrong(reader.place("hash"), message);
    }
}

fn max_backends(reader: &Reader<'_, '_>, backends: usize) -> Planned {
    let given = reader.get("max_backends").is_some();
    let max = reader.optional("max_backends", |node| value::number(node, 1..=MAX_BACKENDS));
    let too_many = |message| {
        reader.errors.push(reader.place("max_backends"), reader.object, message, Kind::Limit);
    };
    match max {
        Some(max) if backends > MAX_BACKENDS as usize => too_many(format!(
            "{backends} backends, but max_backends is {max}: {MAX_BACKENDS} are the most one service can have"
        )),
        Some(max) if backends > max as usize => {
            too_many(format!(
                "{backends} backends, but max_backends is {max}: raise it to {backends} or more, or leave it out"
            ));
        }
        None if !given && backends > MAX_BACKENDS as usize => {
            too_many(format!("{backends} backends, but one service can have {MAX_BACKENDS} at most"));
        }
        _ => {}
    }
    max.map_or_else(|| Planned::by_default(backends), Planned::For)
}

/// `track_window` or `udp_idle`, whichever the protocol has.
fn window(reader: &Reader<'_, '_>, protocol: Option<Protocol>) -> Duration {
    let parse = |node: &Node| value::duration(node, Duration::from_secs(1)..=LONGEST_WINDOW);
    let track_window = reader.or("track_window", parse, DEFAULT_TRACK_WINDOW);
    let udp_idle = reader.or("udp_idle", parse, DEFAULT_UDP_IDLE);
    let (window, other, instead) = match protocol {
        Some(Protocol::Tcp) => (track_window, "udp_idle", "TCP services have track_window"),
        Some(Protocol::Udp) => (udp_idle, "track_window", "UDP services have udp_idle"),
        None => return track_window,
    };
    if let Some(node) = reader.get(other) {
        reader.wrong(&node.at, format!("{other} does not apply here: {instead}"));
    }
    window
}
