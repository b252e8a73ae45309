//! From what should be in force to what the tables must say: rings and records for every service. Pure except for the
//! cache of rings.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::icmp;

use crate::{
    config::spec::{self, Balance, Spec, TooBig, Unserved},
    reconcile::{
        RingWish,
        backend::Sources,
        desired::{Desired, Service},
    },
    ring::{self, Builder},
    state,
};

use super::rings::Rings;

/// What the tables must say for `spec`, given `effective`, which was made from `spec`. `lengths` decides the lengths of
/// the rings from what the services ask for.
pub fn desired(
    spec: &Spec,
    effective: &[state::Service],
    rings: &mut Rings,
    configuration: u64,
    lengths: impl FnOnce(&[RingWish]) -> Vec<u32>,
) -> Desired {
    let seed = ring::seed(&spec.node.seed);
    let sources = Sources { v4: spec.node.source_v4, v6: spec.node.source_v6 };
    rings.keep(effective);
    let wishes = wishes(spec);
    let services = spec
        .services
        .iter()
        .zip(effective)
        .zip(lengths(&wishes))
        .map(|((service, state), length)| {
            let builder = match service.balance {
                Balance::RoundRobin => Builder::RoundRobin,
                Balance::LeastConnections => Builder::Runs,
                Balance::Hash | Balance::Random => service.ring,
            };
            let ring = rings.of((builder, service.hash), &seed, state, length);
            Service::new(service, state, ring, &sources)
        })
        .collect();
    let mut desired = Desired {
        seed,
        configuration,
        drop_unserved: spec.node.unserved == Unserved::Drop,
        ping: ping(spec.node.ping),
        answer_too_big: spec.node.too_big == TooBig::Answer,
        services,
        ..Desired::default()
    };
    if spec.node.ping == spec::Ping::Healthy {
        note_healthy(&mut desired.services, effective);
    }
    desired
}

const fn ping(ping: spec::Ping) -> icmp::Ping {
    match ping {
        spec::Ping::Answer => icmp::Ping::Answer,
        spec::Ping::Healthy => icmp::Ping::Healthy,
        spec::Ping::Host => icmp::Ping::Host,
        spec::Ping::Drop => icmp::Ping::Drop,
    }
}

/// Notes in the services of each address whether any of them has a backend that is up: packets find one of them.
fn note_healthy(services: &mut [Service], effective: &[state::Service]) {
    let is_up = |service: &state::Service| service.backends.iter().any(|b| b.state == state::State::Up);
    let healthy: BTreeSet<IpAddr> = services
        .iter()
        .zip(effective)
        .filter(|(_, state)| is_up(state))
        .map(|(service, _)| service.listen.address)
        .collect();
    for service in services {
        service.answers_ping = healthy.contains(&service.listen.address);
    }
}

/// The rings that the services ask for, in the order of the services.
pub fn wishes(spec: &Spec) -> Vec<RingWish> {
    let wish = |service: &spec::Service| RingWish {
        listen: service.listen,
        length: service.max_backends.length(),
        hash: service.hash,
    };
    spec.services.iter().map(wish).collect()
}
