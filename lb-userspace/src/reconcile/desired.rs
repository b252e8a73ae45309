//! What the tables must say: the input of planning. The agent makes it from the effective state and the rings.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use lb_common::{backend, hash::Seed, icmp, service, slot::Track, wire::protocol};

use super::backend::{Sources, Standing, record};
use crate::{
    config::spec::{self, Hash, Listen, Protocol},
    ring, state,
    tables::address,
};

/// The ring that a service asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingWish {
    pub listen: Listen,
    pub length: u32,
    pub hash: Hash,
}

/// Everything that the tables must say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Desired {
    /// Key of the flow hash, from `node.seed`.
    pub seed: Seed,
    /// Fingerprint of the configuration, kept next to the tables for the agent that adopts them.
    pub configuration: u64,
    /// Drop packets for the address of a service that no service takes.
    pub drop_unserved: bool,
    /// What becomes of echo requests to addresses of services.
    pub ping: icmp::Ping,
    /// Tell the senders of packets that are too big.
    pub answer_too_big: bool,
    /// Addresses of the host itself; `None` = not known, and the tables keep what they say.
    pub hosts: Option<BTreeSet<IpAddr>>,
    /// MTUs of the interfaces that packets come in on, by their numbers.
    pub ingress: BTreeMap<u32, u32>,
    /// `listen`s are unique.
    pub services: Vec<Service>,
}

/// A service. Its `listen` is its identity: flows are addressed to it. With another name it is still the same service, with
/// another `listen` it is another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// At most `lb_common::map::NameRecord::NAME` bytes.
    pub name: String,
    pub listen: Listen,
    /// What the ring's length was chosen for.
    pub max_backends: u32,
    /// Which flows are recorded.
    pub track: Track,
    /// Which part of a packet decides its slot.
    pub hash: spec::Hash,
    pub balance: spec::Balance,
    /// How long a silent flow is remembered after a change.
    pub window: Duration,
    /// The time of silence after which a flow does not count any more.
    pub idle_after: Duration,
    /// Some service at this address has a backend that is up. False where [`Desired::ping`] does not ask.
    pub answers_ping: bool,
    /// Every backend that is configured, also those that are down, draining or disabled.
    pub backends: Vec<Backend>,
    /// The owner of each slot as its place in `backends` plus 1; 0 = no backend. As long as the ring.
    pub ring: Arc<[u32]>,
}

/// A backend. Its address within its service is its identity: with another address it is another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// At most `lb_common::map::NameRecord::NAME` bytes.
    pub name: String,
    pub address: std::net::IpAddr,
    /// What packets need, made by [`super::backend::record`]. Its flags say whether established flows may go
    /// on there.
    pub record: backend::Backend,
    /// Where the backend is not alive: it may come back and find its flows, within a grace. False when it is disabled.
    pub returns: bool,
}

impl Service {
    /// A service as the effective state has it, with its ring. `effective` names the same backends in the same order
    /// as `spec`.
    pub fn new(
        spec: &spec::Service,
        effective: &state::Service,
        ring: Arc<[u32]>,
        sources: &Sources,
    ) -> Self {
        let inner_is_v6 = spec.listen.address.is_ipv6();
        let backends = effective.backends.iter().map(|backend| {
            let standing = Standing { alive: backend.alive, draining: backend.draining };
            let (kind, hop) = (spec.encapsulation.kind(), backend.hop.as_ref());
            let record = record(kind, backend.address, inner_is_v6, hop, sources, standing);
            let record = match spec.dscp {
                // Nothing is sent without an interface.
                Some(dscp) if record.interface != 0 => record.marked(dscp),
                _ => record,
            };
            // Packets of other services do not ask for weight and flag: there a new weight must change nothing but the ring.
            let record = match spec.balance {
                spec::Balance::LeastConnections => {
                    let failing = backend.state == state::State::Down;
                    let failing = if failing { backend::Backend::FAILING } else { 0 };
                    backend::Backend { weight: backend.weight, flags: record.flags | failing, ..record }
                }
                spec::Balance::Hash | spec::Balance::RoundRobin | spec::Balance::Random => record,
            };
            let returns = backend.state != state::State::Disabled;
            Backend { name: backend.name.clone(), address: backend.address, record, returns }
        });
        Self {
            name: spec.name.clone(),
            listen: spec.listen,
            max_backends: spec.max_backends.backends(),
            track: spec.track,
            hash: spec.hash,
            balance: spec.balance,
            window: spec.window,
            idle_after: spec.idle_after,
            answers_ping: false,
            backends: backends.collect(),
            ring,
        }
    }
}

impl Service {
    /// The flags of its record.
    pub(super) fn flags(&self) -> u32 {
        let ping = if self.answers_ping { service::Service::ANSWERS_PING } else { 0 };
        service::Service::flags_of(self.track, self.balance) | ping
    }

    /// The ring that the service asks for.
    pub(super) fn wish(&self) -> RingWish {
        RingWish { listen: self.listen, length: self.ring.len() as u32, hash: self.hash }
    }

    /// What [`lb_common::balance::other`] needs to know of the ring.
    pub fn longest(&self) -> u32 {
        match self.balance {
            spec::Balance::LeastConnections => ring::first_run(&self.ring),
            spec::Balance::Hash | spec::Balance::RoundRobin | spec::Balance::Random => 0,
        }
    }
}

/// The key of a service in the index.
pub fn key(listen: &Listen) -> (lb_common::Address, u32) {
    let number = match listen.protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
    };
    (address::to_wire(listen.address), service::port_protocol(listen.port, number))
}

/// The `listen` of a service record; `None` = the record is not one that we write.
pub fn listen(record: &service::Service) -> Option<Listen> {
    let protocol = match (record.port_protocol >> 16) as u8 {
        protocol::TCP => Protocol::Tcp,
        protocol::UDP => Protocol::Udp,
        _ => return None,
    };
    let port = record.port_protocol as u16;
    Some(Listen { protocol, address: address::from_wire(&record.address), port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::testing, health::Verdict, net};

    #[test]
    fn a_dscp_is_in_the_record_of_every_backend_with_a_next_hop() {
        let record = |more: &str, resolved: bool| {
            let spec = testing::spec(&testing::SMALL.replace("listen", &format!("{more}\nlisten")));
            let hop = || net::Hop {
                interface: 7,
                interface_name: "eth1".into(),
                via: "10.0.0.1".parse().unwrap(),
                mac: [2, 0, 0, 0, 0, 1],
                local_mac: [2, 0, 0, 0, 0, 2],
                mtu: 1500,
                source: "10.0.0.2".parse().unwrap(),
            };
            let observed = state::Observed {
                said: &|_, _| crate::health::Said::default(),
                health: &|_, _| Verdict::Up,
                hops: &|_| if resolved { Ok(hop()) } else { Err("no route".to_owned()) },
                before: &|_, _| None,
                doubted: &|_, _| None,
                failing: &|_, _| None,
                entered: &|_, _| None,
                now: 0,
            };
            let effective = state::effective(&spec, observed);
            let desired = Service::new(&spec.services[0], &effective[0], [1].into(), &Sources::default());
            desired.backends[0].record
        };
        let plain = record("", true);
        assert_eq!(record("dscp = 46", true), plain.marked(46));
        assert_eq!(record("dscp = \"copy\"", true), plain);
        assert_eq!(record("dscp = 46", false), record("", false));
    }

    #[test]
    fn a_listen_survives_its_way_through_a_record() {
        for (protocol, address, port) in [
            (Protocol::Tcp, "203.0.113.10", 443),
            (Protocol::Udp, "2001:db8::10", 0),
            (Protocol::Tcp, "::", 65_535),
        ] {
            let wanted = Listen { protocol, address: address.parse().unwrap(), port };
            let (address, port_protocol) = key(&wanted);
            let record = service::Service { address, port_protocol, ..Default::default() };
            assert_eq!(listen(&record), Some(wanted));
        }
        assert_eq!(listen(&service::Service::default()), None);
    }
}
