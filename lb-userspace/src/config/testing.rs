//! Fixtures that the tests of this module share: a small file, and specs of every kind.

use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::{
    parse,
    spec::{
        BACKEND, Backend, Check, HEALTH, Health, Limits, Listen, NODE, Node, Planned, Protocol, SERVICE,
        Service, Spec,
    },
    words::Word,
};

pub(crate) const SMALL: &str = r#"[node]
interface = "eth0"
seed = "s"

[[service]]
name = "web"
listen = "tcp/192.0.2.1:80"
[[service.backend]]
name = "web-1"
address = "10.0.0.11"
"#;

/// The spec of a text that must be valid.
pub(crate) fn spec(text: &str) -> Spec {
    match parse(text.as_bytes(), "lb.toml") {
        Ok(document) => document.spec,
        Err(errors) => panic!("{}", lines(&errors)),
    }
}

/// Errors in the form that people see.
pub(crate) fn lines(errors: &[super::Diagnostic]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

fn word<T: Word + std::fmt::Debug>() -> impl Strategy<Value = T> {
    prop::sample::select(T::WORDS).prop_map(|(_, value)| value)
}

fn milliseconds(from: u64, to: u64) -> impl Strategy<Value = Duration> {
    (from..=to).prop_map(Duration::from_millis)
}

/// Any specs that pass the checks: up to four services with up to five backends each.
pub(super) fn any_spec() -> impl Strategy<Value = Spec> {
    let services = prop::collection::vec(any_service(), 0..4);
    (any_node(), services, 1024u32..100_000).prop_map(|(node, mut services, flows)| {
        for (number, service) in (1u8..).zip(&mut services) {
            service.name = format!("{}{number}", service.name);
            service.listen.port = service.listen.port.saturating_add(u16::from(number));
        }
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services.dedup_by(|a, b| a.listen == b.listen);
        let mut seen = Vec::new();
        services.retain(|service| {
            let new = !seen.contains(&service.listen);
            seen.push(service.listen);
            new
        });
        let limits = Limits { services: 8, backends: 4096, slots: 20_000_000, flows, pending_flows: None };
        Spec { node, limits, services }
    })
}

fn any_node() -> impl Strategy<Value = Node> {
    let interfaces = prop::collection::hash_set("[a-z][a-z0-9.]{0,13}[a-z0-9]", 1..3);
    (NODE.any(Node::default()), interfaces, "[^\\p{Cc}]{1,40}").prop_map(|(node, interfaces, seed)| Node {
        interfaces: interfaces.into_iter().collect(),
        seed,
        ..node
    })
}

fn any_service() -> impl Strategy<Value = Service> {
    (
        SERVICE.any(Service::default()),
        "[A-Za-z0-9_][A-Za-z0-9._-]{0,50}",
        (word::<Protocol>(), any::<u8>(), 0u16..60_000),
        milliseconds(1_000, 86_400_000),
        prop::option::of(any_health()),
        prop::collection::btree_map("[a-z0-9_][a-z0-9._:-]{0,20}", BACKEND.any(Backend::default()), 0..5),
    )
        .prop_map(|(settings, name, (protocol, host, port), window, health, backends)| {
            let (inner_v6, outer_v6) = settings.encapsulation.families().unwrap_or_default();
            let said = settings.max_backends.said();
            let max_backends = said.map_or_else(|| Planned::by_default(backends.len()), Planned::For);
            let backends = (1u8..).zip(backends).map(|(number, (name, backend))| Backend {
                name,
                address: if outer_v6 { v6(number, 1) } else { v4(number, 1) },
                ..backend
            });
            Service {
                name,
                listen: Listen { protocol, address: if inner_v6 { v6(host, 2) } else { v4(host, 2) }, port },
                max_backends,
                window,
                health,
                backends: backends.collect(),
                ..settings
            }
            .by_the_rules()
        })
}

fn v4(host: u8, net: u8) -> IpAddr {
    IpAddr::from([10, 0, net, host])
}

fn v6(host: u8, net: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, net, 0, 0, 0, 0, u16::from(host)])
}

fn any_health() -> impl Strategy<Value = Health> {
    (HEALTH.any(Check::default()), 1u16..).prop_map(|(check, port)| check.by_the_rules().build(port))
}
