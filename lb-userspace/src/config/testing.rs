//! Fixtures that the tests of this module share: a small file, and specs of every kind.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use proptest::prelude::*;

use super::{
    parse,
    spec::{
        Admin, AllDown, AttachMode, Backend, Balance, Encapsulation, Hash, Health, Hold, HttpProbe, Limits,
        Listen, MinHealthy, Node, Planned, Probe, Protocol, Service, Source, Spec, TlsProbe, Track, Unserved,
    },
    words::Word,
};
use crate::ring::Builder;

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
    let source = prop::option::of((any::<u32>(), 0u8..=24).prop_map(|(bits, spread_bits)| {
        let address = Ipv4Addr::from_bits((11 << 24 | bits & 0x00ff_ffff) & (u32::MAX << spread_bits));
        Source { address, spread_bits }
    }));
    let source6 = prop::option::of((0u8..=32).prop_map(|spread_bits| Source {
        address: Ipv6Addr::from_bits((0x2001_0db9 << 96) | (1 << 40)),
        spread_bits,
    }));
    (
        prop::collection::hash_set("[a-z][a-z0-9.]{0,13}[a-z0-9]", 1..3),
        "[^\\p{Cc}]{1,40}",
        (word::<AttachMode>(), word::<Unserved>()),
        (source, source6),
        (1usize..=65_536, prop::option::of("[a-z]{1,8}")),
        ("/[a-z/ \"]{0,20}", any::<Option<u16>>()),
    )
        .prop_map(
            |(
                interfaces,
                seed,
                (mode, unserved),
                (source_v4, source_v6),
                (health_concurrency, group),
                (path, port),
            )| {
                Node {
                    interfaces: interfaces.into_iter().collect(),
                    seed,
                    mode,
                    unserved,
                    source_v4,
                    source_v6,
                    health_concurrency,
                    socket_group: group,
                    state_directory: PathBuf::from(path),
                    metrics: port.map(|port| (Ipv6Addr::LOCALHOST, port).into()),
                }
            },
        )
}

fn any_service() -> impl Strategy<Value = Service> {
    let encapsulation = word::<Encapsulation>();
    (
        "[A-Za-z0-9_][A-Za-z0-9._-]{0,50}",
        (word::<Protocol>(), any::<u8>(), 0u16..60_000),
        encapsulation,
        prop::option::of(5u32..=40_000),
        (any_hold(), word::<Track>(), (word::<Builder>(), any::<u8>(), word::<Balance>()), any_start()),
        (milliseconds(1_000, 86_400_000), milliseconds(1_000, 86_400_000)),
        prop::option::of(any_health()),
        prop::collection::btree_map("[a-z0-9_][a-z0-9._:-]{0,20}", any_backend(), 0..5),
    )
        .prop_map(
            |(
                name,
                (protocol, host, port),
                encapsulation,
                max_backends,
                ((hold, all_down, handover), track, (ring, bits, balance), (slow_start, min_healthy)),
                (window, idle_after),
                health,
                backends,
            )| {
                let inner_v6 = matches!(encapsulation, Encapsulation::Ip6Ip | Encapsulation::Ip6Ip6);
                let outer_v6 = matches!(encapsulation, Encapsulation::Ip6Ip6 | Encapsulation::IpIp6);
                let max_backends =
                    max_backends.map_or_else(|| Planned::by_default(backends.len()), Planned::For);
                let backends = (1u8..).zip(backends).map(|(number, (name, backend))| Backend {
                    name,
                    address: if outer_v6 { v6(number, 1) } else { v4(number, 1) },
                    ..backend
                });
                Service {
                    name,
                    listen: Listen {
                        protocol,
                        address: if inner_v6 { v6(host, 2) } else { v4(host, 2) },
                        port,
                    },
                    encapsulation,
                    max_backends,
                    hold: match hold {
                        Hold::For(time) => Hold::For(time.min(window)),
                        Hold::Forever => Hold::Forever,
                    },
                    all_down,
                    handover,
                    track: if balance == Balance::Hash { track } else { Track::Always },
                    hash: match balance {
                        Balance::Hash => {
                            Hash::of_source_bits(u32::from(bits) % if inner_v6 { 129 } else { 33 })
                        }
                        Balance::RoundRobin | Balance::Random | Balance::LeastConnections => Hash::FiveTuple,
                    },
                    balance,
                    ring,
                    slow_start,
                    min_healthy,
                    window,
                    idle_after,
                    health,
                    backends: backends.collect(),
                }
            },
        )
}

fn any_hold() -> impl Strategy<Value = (Hold, AllDown, Duration)> {
    let hold = prop_oneof![milliseconds(0, 86_400_000).prop_map(Hold::For), Just(Hold::Forever)];
    (hold, word::<AllDown>(), milliseconds(0, 3_600_000))
}

fn any_start() -> impl Strategy<Value = (Option<Duration>, Option<MinHealthy>)> {
    let least =
        prop_oneof![(1u32..=40_000).prop_map(MinHealthy::Count), (1u8..=100).prop_map(MinHealthy::Percent)];
    (prop::option::of(milliseconds(1_000, 3_600_000)), prop::option::of(least))
}

fn v4(host: u8, net: u8) -> IpAddr {
    IpAddr::from([10, 0, net, host])
}

fn v6(host: u8, net: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, net, 0, 0, 0, 0, u16::from(host)])
}

fn any_backend() -> impl Strategy<Value = Backend> {
    (0u16..=1000, word::<Admin>()).prop_map(|(weight, admin)| Backend {
        name: String::new(),
        address: v4(0, 0),
        weight,
        admin,
    })
}

fn any_health() -> impl Strategy<Value = Health> {
    let codes = (100u16..=400, 0u16..=150).prop_map(|(from, more)| vec![from..=from + more]);
    let codes = prop_oneof![codes, Just(vec![200..=200, 204..=299, 404..=404])];
    let tls = prop::option::of(
        (any::<bool>(), prop::option::of("/[a-z/]{1,20}"))
            .prop_map(|(verify, ca)| TlsProbe { verify, ca: ca.filter(|_| verify).map(PathBuf::from) }),
    );
    let host = prop::option::of("[a-z.]{1,20}");
    let http = (tls, "/[!-~]{0,20}", host, codes, prop::option::of("[^\\p{Cc}]{1,20}"))
        .prop_map(|(tls, path, host, expect, body)| Probe::Http(HttpProbe { tls, path, host, expect, body }));
    (
        prop_oneof![Just(Probe::Tcp), http],
        1u16..,
        milliseconds(100, 3_600_000),
        milliseconds(50, 3_600_000),
        milliseconds(10, 60_000),
        1u32..=100,
        1u32..=100,
    )
        .prop_map(|(probe, port, interval, fast_interval, timeout, rise, fall)| Health {
            probe,
            port,
            interval,
            fast_interval: fast_interval.min(interval),
            timeout,
            rise,
            fall,
        })
}
