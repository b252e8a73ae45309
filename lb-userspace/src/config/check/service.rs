//! `[[service]]`.

use lb_common::ring::MAX_BACKENDS;

use super::{
    Outside, backend,
    health::{self, Defaults},
};
use crate::config::{
    diagnostic::{Kind, Place},
    keys,
    reader::{Errors, Reader},
    spec::{Balance, Encapsulation, Hash, Listen, Planned, SERVICE, Service, Track},
    value,
    value_tree::Node,
};

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
    let mut service = Service::default();
    SERVICE.read(&reader, &mut service);
    let encapsulation = service.encapsulation;
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
    check_max_backends(&reader, service.max_backends, backends.len());
    check_balance(&reader, service.balance, service.track, service.hash);
    let health = health::of_service(&reader, listen, defaults, outside);
    let max_backends = service.max_backends;
    let built = build(name.clone(), listen, &backends);
    let service = built.map(|(name, listen, backends)| Service { name, listen, health, backends, ..service });
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
    use crate::config::words::Word;
    let Some((inner_v6, outer_v6)) = encapsulation.families() else { return };
    if listen.address.is_ipv6() != inner_v6 {
        let fits = |(_, other): &&(&str, Encapsulation)| other.families() == Some((!inner_v6, outer_v6));
        let other = Encapsulation::WORDS.iter().find(fits).map_or("auto", |(word, _)| *word);
        let word = encapsulation.word();
        let (takes, has) = if inner_v6 { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
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

/// The ring must have room for the backends, whether or not the file sets `max_backends`.
fn check_max_backends(reader: &Reader<'_, '_>, planned: Planned, backends: usize) {
    let too_many = |message| {
        reader.errors.push(reader.place("max_backends"), reader.object, message, Kind::Limit);
    };
    match planned.said() {
        Some(max) if backends > MAX_BACKENDS as usize => too_many(format!(
            "{backends} backends, but max_backends is {max}: {MAX_BACKENDS} are the most one service can have"
        )),
        Some(max) if backends > max as usize => {
            too_many(format!(
                "{backends} backends, but max_backends is {max}: raise it to {backends} or more, or leave it out"
            ));
        }
        None if reader.get("max_backends").is_none() && backends > MAX_BACKENDS as usize => {
            too_many(format!("{backends} backends, but one service can have {MAX_BACKENDS} at most"));
        }
        _ => {}
    }
}
