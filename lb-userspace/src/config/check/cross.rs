//! Rules between objects: no name or address twice, no routing loop, everything within `[limits]`.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    net::IpAddr,
};

use super::service::Found;
use crate::config::{
    diagnostic::{Kind, Place},
    reader::{Errors, Reader},
    spec::{Limits, MOST_SLOTS, Node},
};

/// Returns the limits. A limit that the file does not set is computed from the services.
pub(super) fn check(
    root: &Reader<'_, '_>,
    node: Option<&Node>,
    services: &[Found<'_>],
    limits: Limits,
) -> Limits {
    let errors = root.errors;
    let names = services.iter().filter_map(|found| Some((&found.object, found.name.as_ref()?)));
    unique(errors, names.map(|(object, (name, at))| (name, *at, object)), |name, first| {
        format!("the name {name} is taken by the service at {first}: names must be unique")
    });
    let listens = services.iter().filter_map(|found| Some((&found.object, found.listen.as_ref()?)));
    unique(errors, listens.map(|(object, (listen, at))| (listen, *at, object)), |listen, first| {
        format!("{listen} is already served by the service at {first}: one service for each listen")
    });
    for service in services {
        backends(errors, service);
    }
    circles(errors, services);
    if let Some(node) = node {
        sources(root, node, services);
    }
    within_limits(root, services, limits)
}

/// Reports every item whose key an earlier item has. "Earlier" is by place: so the error is about the item that a request
/// or a run-time change adds, not about the one in the file.
fn unique<'a, K: Eq + Hash>(
    errors: &Errors,
    items: impl Iterator<Item = (K, &'a Place, &'a String)>,
    message: impl Fn(&K, &Place) -> String,
) {
    let mut items: Vec<_> = items.collect();
    items.sort_by_key(|&(_, at, _)| at);
    let mut seen: HashMap<K, &Place> = HashMap::with_capacity(items.len());
    for (key, at, object) in items {
        match seen.entry(key) {
            Entry::Occupied(first) => {
                errors.push(at, object, message(first.key(), first.get()), Kind::Wrong);
            }
            Entry::Vacant(free) => {
                free.insert(at);
            }
        }
    }
}

fn backends(errors: &Errors, service: &Found<'_>) {
    let names = service.backends.iter().filter_map(|found| Some((&found.object, found.name.as_ref()?)));
    unique(errors, names.map(|(object, (name, at))| (name, *at, object)), |name, first| {
        format!("the name {name} is taken by the backend at {first}: names must be unique within a service")
    });
    let addresses = service.backends.iter().filter_map(|found| Some((&found.object, found.address?)));
    unique(errors, addresses.map(|(object, (address, at))| (address, at, object)), |address, first| {
        format!(
            "the address {address} is taken by the backend at {first}: to give it more flows, raise its weight"
        )
    });
}

/// A packet that is encapsulated to one of our own virtual addresses would come back to a node: a routing loop.
fn circles(errors: &Errors, services: &[Found<'_>]) {
    let virtual_addresses: HashMap<IpAddr, &str> =
        services.iter().filter_map(|found| Some((found.listen?.0.address, found.object.as_str()))).collect();
    for found in services.iter().flat_map(|service| &service.backends) {
        let Some((address, at)) = found.address else { continue };
        if let Some(object) = virtual_addresses.get(&address) {
            let message = format!(
                "the address {address} is the virtual address of {object}: packets would come back; give the \
                 backend's own address"
            );
            errors.push(at, &found.object, message, Kind::Wrong);
        }
    }
}

/// A backend's answer (an ICMP error, for example) to an outer header whose source is one of our own virtual addresses comes
/// back as a packet for the service.
fn sources(root: &Reader<'_, '_>, node: &Node, services: &[Found<'_>]) {
    let source_of = |address: IpAddr| match address {
        IpAddr::V4(v4) => node
            .source_v4
            .filter(|source| ((source.address.to_bits() ^ v4.to_bits()) >> source.spread_bits.min(31)) == 0)
            .map(|source| ("source", source.to_string())),
        IpAddr::V6(v6) => node
            .source_v6
            .filter(|source| ((source.address.to_bits() ^ v6.to_bits()) >> source.spread_bits.min(127)) == 0)
            .map(|source| ("source6", source.to_string())),
    };
    let mut reported = Vec::new();
    for found in services {
        let Some(address) = found.listen.as_ref().map(|(listen, _)| listen.address) else { continue };
        let Some((key, source)) = source_of(address).filter(|(key, _)| !reported.contains(key)) else {
            continue;
        };
        reported.push(key);
        let given = root.get("node").and_then(|node| node.as_table()?.get(key));
        let which = match source == address.to_string() {
            true => "is".to_owned(),
            false => format!("contains {address},"),
        };
        let message = format!(
            "{key} {source} {which} the virtual address of {}: what backends answer to it would come back as packets for the \
             service; give an address of this host",
            found.object
        );
        root.errors.push(given.map_or(root.at, |node| &node.at), "node", message, Kind::Wrong);
    }
}

/// Where `limits.slots` is not set, the limit grows with the rings: ring lengths that are computed from the number of backends
/// must not exceed a limit that the operator did not choose.
fn slots_by_default(asked: u64, default: u32) -> u32 {
    let wanted = asked.max(default.into()).next_power_of_two();
    u32::try_from(wanted).map_or(MOST_SLOTS, |slots| slots.clamp(default, MOST_SLOTS))
}

fn within_limits(root: &Reader<'_, '_>, services: &[Found<'_>], mut limits: Limits) -> Limits {
    let slots: u64 = services.iter().map(|found| u64::from(found.max_backends.length())).sum();
    let backends: u64 = services.iter().map(|found| found.backends.len() as u64).sum();
    let set = |key: &str| root.get("limits").and_then(|limits| limits.as_table()?.get(key));
    if set("slots").is_none() {
        limits.slots = slots_by_default(slots, limits.slots);
    }
    for (key, wanted, room, what) in [
        ("services", services.len() as u64, limits.services, "services"),
        ("backends", backends, limits.backends, "backends in all services together"),
        ("slots", slots, limits.slots, "slots for the rings of all services together"),
    ] {
        if wanted <= u64::from(room) {
            continue;
        }
        let given = set(key);
        let last = services.iter().map(|found| found.at).max();
        let at = given.map_or(last.unwrap_or(root.at), |node| &node.at);
        let default = if given.is_some() { "" } else { " by default" };
        let way_out = match key {
            "slots" => "raise it, or lower max_backends of services that do not need it",
            _ => "raise it",
        };
        let limit = match key {
            "backends" => limits.backends,
            _ => room,
        };
        let message =
            format!("{wanted} {what} are asked for, but limits.{key} is {limit}{default}: {way_out}");
        root.errors.push(at, "limits", message, Kind::Limit);
    }
    limits
}
