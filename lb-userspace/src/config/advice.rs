//! Configurations that are valid and will hardly do what the operator wants: a check reports them, nothing refuses them.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    spec::{Admin, Service, Spec},
    words::plural,
};
use crate::ring::{self, Builder, Entry};

/// One sentence each. `source` says from which address this host sends to another one.
pub fn advice(spec: &Spec, source: &dyn Fn(IpAddr) -> Option<IpAddr>) -> Vec<String> {
    let mut advice = virtual_sources(spec, source);
    advice.extend(spec.limits.pending_flows.map(|_| {
        "`limits.pending_flows` has no effect: SYNs are recorded among `limits.flows`, where they never push a flow out. Delete \
         the key"
            .to_owned()
    }));
    advice.extend(spec.services.iter().flat_map(|service| without_slots(spec, service)));
    advice
}

/// Answers to packets from a virtual address come back as packets for the service, and never reach the process that sent the
/// packets.
fn virtual_sources(spec: &Spec, source: &dyn Fn(IpAddr) -> Option<IpAddr>) -> Vec<String> {
    let services = virtual_addresses(spec);
    let mut towards: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for service in &spec.services {
        for backend in service.backends.iter().filter(|backend| backend.admin != Admin::Disabled) {
            if let Some(source) = source(backend.address).filter(|source| services.contains_key(source)) {
                towards.entry(source).or_default().push(format!("{}/{}", service.name, backend.name));
            }
        }
    }
    let sentence = |(source, backends): (IpAddr, Vec<String>)| {
        let first = backends.first().map_or("", String::as_str);
        let more = match backends.len() - 1 {
            0 => String::new(),
            n => format!(" and {}", plural(n as u64, "other", "others")),
        };
        let service = services.get(&source).copied().unwrap_or_default();
        format!("backend {first}{more}: {}", from_virtual_address(source, service))
    };
    towards.into_iter().map(sentence).collect()
}

/// The virtual addresses with the name of a service that has them.
pub fn virtual_addresses(spec: &Spec) -> HashMap<IpAddr, &str> {
    spec.services.iter().map(|service| (service.listen.address, service.name.as_str())).collect()
}

/// What is wrong with packets to a backend that leave from the virtual address `source` of `service`.
pub fn from_virtual_address(source: IpAddr, service: &str) -> String {
    format!(
        "this host sends to it from {source}, the virtual address of service {service}, so that answers to its health checks \
         come back as packets for the service: take {source} off this host, or give the route another source address \
         (`ip route change … src ADDRESS`)"
    )
}

/// Backends that get no slot even when all backends are up. Only rendezvous hashing leaves a backend without a slot, and only
/// a backend with a small share.
fn without_slots(spec: &Spec, service: &Service) -> Vec<String> {
    /// With this many expected slots or more, the probability of getting none is below one in a billion (e⁻²¹).
    const SAFE: u64 = 21;
    let takes = |admin, weight| admin == Admin::Enabled && weight > 0;
    let entries: Vec<Entry<'_>> = service
        .backends
        .iter()
        .filter(|backend| takes(backend.admin, backend.weight))
        .map(|backend| Entry { name: &backend.name, weight: backend.weight })
        .collect();
    let length = service.max_backends.length();
    let total: u64 = entries.iter().map(|entry| u64::from(entry.weight)).sum();
    let small = |entry: &Entry<'_>| u64::from(entry.weight) * u64::from(length) < SAFE * total;
    if service.ring != Builder::Rendezvous || !entries.iter().any(small) {
        return Vec::new();
    }
    let owners = ring::build(service.ring, &ring::seed(&spec.node.seed), &entries, length);
    let mut owned = vec![0u32; entries.len() + 1];
    for owner in owners {
        owned[owner as usize] += 1;
    }
    let without = entries.iter().zip(&owned[1..]).filter(|(_, owned)| **owned == 0);
    without
        .map(|(entry, _)| format!("backend {}/{}: {}", service.name, entry.name, no_slot(service, length)))
        .collect()
}

/// Why a backend that is up gets nothing of a ring of `slots`, and what to do about it.
pub fn no_slot(service: &Service, slots: u32) -> String {
    let wanted = service.max_backends.length();
    let has = plural(slots.into(), "slot", "slots");
    if slots < wanted {
        return format!("it owns none of {has}: the ring waits until it may have {wanted}");
    }
    let way_out = match service.ring {
        Builder::Rendezvous => {
            "raise its weight or max_backends, or set ring = \"maglev\", which gives each a slot"
        }
        Builder::Maglev | Builder::RoundRobin | Builder::Runs => "raise its weight or max_backends",
    };
    format!("it owns none of {has}: its weight is too small compared with the others; {way_out}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{SMALL, spec};

    #[test]
    fn a_file_without_surprises_gets_no_advice() {
        assert!(advice(&spec(SMALL), &|_| Some([10, 0, 0, 1].into())).is_empty());
    }

    #[test]
    fn a_limit_without_effect_is_named() {
        let advice = advice(&spec(&format!("{SMALL}[limits]\npending_flows = 2048\n")), &|_| None);
        assert_eq!(advice.len(), 1, "{advice:?}");
        assert!(advice[0].starts_with("`limits.pending_flows` has no effect"), "{advice:?}");
    }

    #[test]
    fn a_source_that_is_a_vip_is_named_once() {
        let two = format!("{SMALL}[[service.backend]]\nname = \"web-2\"\naddress = \"10.0.0.12\"\n");
        assert_eq!(
            advice(&spec(&two), &|_| Some([192, 0, 2, 1].into())),
            [
                "backend web/web-1 and 1 other: this host sends to it from 192.0.2.1, the virtual address of service web, so that \
              answers to its health checks come back as packets for the service: take 192.0.2.1 off this host, or give the route \
              another source address (`ip route change … src ADDRESS`)"
            ]
        );
        let disabled = SMALL.replace("\"web-1\"", "\"web-1\"\nstate = \"disabled\"");
        assert!(advice(&spec(&disabled), &|_| Some([192, 0, 2, 1].into())).is_empty());
    }

    #[test]
    fn a_backend_without_a_slot_is_named() {
        let thin = |name: &str, ring: &str| {
            let text = SMALL.replace("listen", &format!("ring = \"{ring}\"\nmax_backends = 2\nlisten"));
            let text = text.replace("\"web-1\"", "\"web-1\"\nweight = 1000");
            let second =
                format!("[[service.backend]]\nname = \"{name}\"\naddress = \"10.0.0.12\"\nweight = 1\n");
            advice(&spec(&(text + &second)), &|_| None)
        };
        let unlucky = (2..100).map(|n| format!("web-{n}")).find(|name| !thin(name, "rendezvous").is_empty());
        let unlucky = unlucky.expect("three in four get no slot");
        assert_eq!(
            thin(&unlucky, "rendezvous"),
            [format!(
                "backend web/{unlucky}: it owns none of 251 slots: its weight is too small compared with the others; raise its weight \
                 or max_backends, or set ring = \"maglev\", which gives each a slot"
            )]
        );
        assert!(thin(&unlucky, "maglev").is_empty());
    }
}
