//! From what should be in force to what the tables shall say: rings and records for every service. Pure but for the
//! cache of rings.

use crate::{
    config::spec::{Balance, Listen, Spec, Unserved},
    reconcile::{
        backend::Sources,
        desired::{Desired, Service},
    },
    ring::{self, Builder},
    state,
};

use super::rings::Rings;

/// What the tables shall say for `spec`, given `effective`, which was made from it. `length` decides the length of a
/// service's ring from the one its `max_backends` asks for.
pub fn desired(
    spec: &Spec,
    effective: &[state::Service],
    rings: &mut Rings,
    configuration: u64,
    length: impl Fn(&Listen, u32) -> u32,
) -> Desired {
    let seed = ring::seed(&spec.node.seed);
    let sources = Sources { v4: spec.node.source_v4, v6: spec.node.source_v6 };
    rings.keep(effective);
    let services = spec
        .services
        .iter()
        .zip(effective)
        .map(|(service, state)| {
            // The configuration's check keeps `max_backends` within what rings can be planned for.
            let longest = lb_common::ring::LENGTHS[lb_common::ring::LENGTHS.len() - 1];
            let wanted = lb_common::ring::length_for(service.max_backends).unwrap_or(longest);
            let builder = match service.balance {
                Balance::RoundRobin => Builder::Turns,
                Balance::LeastConnections => Builder::Runs,
                Balance::Hash | Balance::Random => service.ring,
            };
            let ring = rings.of((builder, service.hash), &seed, state, length(&service.listen, wanted));
            Service::new(service, state, ring, &sources)
        })
        .collect();
    let drop_unserved = spec.node.unserved == Unserved::Drop;
    Desired { seed, configuration, drop_unserved, services, ..Desired::default() }
}
