//! Rings, rebuilt only when one of their inputs has changed: most changes are about one service.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use lb_common::hash::Seed;

use crate::{
    config::spec::Hash,
    ring::{self, Builder},
    state,
};

/// A ring and its inputs.
#[derive(Default)]
pub(super) struct Built {
    builder: Builder,
    pub(super) hash: Hash,
    seed: Seed,
    length: u32,
    /// Names, weights and addresses, in the order that `owners` refers to.
    pub(super) entries: Vec<(String, u16, IpAddr)>,
    /// For each slot, the place of its owner plus 1; 0 = no backend.
    pub(super) owners: Arc<[u32]>,
    fingerprint: u64,
}

impl Built {
    pub(super) fn slots(&self) -> u32 {
        self.owners.len() as u32
    }
}

/// The rings in force, or those of a proposal, by service. A copy is cheap.
#[derive(Clone, Default)]
pub struct Rings {
    built: HashMap<String, Arc<Built>>,
}

impl Rings {
    /// The ring of a service: for each slot, the place of its owner in `service.backends` plus 1; 0 = no backend.
    pub fn of(
        &mut self,
        (builder, hash): (Builder, Hash),
        seed: &Seed,
        service: &state::Service,
        length: u32,
    ) -> Arc<[u32]> {
        let entries = |backend: &state::Backend| (backend.name.clone(), backend.weight, backend.address);
        let same = |built: &Built| {
            built.builder == builder
                && built.hash == hash
                && built.seed == *seed
                && built.length == length
                && built.entries.len() == service.backends.len()
                && built.entries.iter().zip(&service.backends).all(|((name, weight, address), backend)| {
                    *name == backend.name && *weight == backend.weight && *address == backend.address
                })
        };
        if let Some(built) = self.built.get(&service.name).filter(|built| same(built)) {
            return built.owners.clone();
        }
        let owners: Arc<[u32]> = ring::build(builder, seed, &service.entries(), length).into();
        let named: Vec<_> =
            service.backends.iter().map(|backend| (backend.name.as_str(), backend.address)).collect();
        let built = Built {
            builder,
            hash,
            seed: *seed,
            length,
            entries: service.backends.iter().map(entries).collect(),
            fingerprint: fingerprint(hash, ring::fingerprint(&service.name, &named, &owners)),
            owners: owners.clone(),
        };
        self.built.insert(service.name.clone(), Arc::new(built));
        owners
    }

    /// The ring of a service, if it has one.
    pub(super) fn built(&self, service: &str) -> Option<&Built> {
        self.built.get(service).map(AsRef::as_ref)
    }

    /// Forgets rings of services that are gone.
    pub fn keep(&mut self, services: &[state::Service]) {
        self.built.retain(|name, _| services.iter().any(|service| service.name == *name));
    }

    /// One number for all rings: equal on nodes that send every flow to the same backend.
    pub fn fingerprint(&self) -> u64 {
        ring::combine(self.built.values().map(|built| built.fingerprint))
    }
}

/// With another hash, equal rings do not send every flow to the same backend, so the hash is part of the fingerprint.
fn fingerprint(hash: Hash, ring: u64) -> u64 {
    match hash {
        Hash::FiveTuple => ring,
        Hash::Source(bits) => ring::combine([ring, u64::from(bits)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Backend, Service, State};

    const MAGLEV: (Builder, Hash) = (Builder::Maglev, Hash::FiveTuple);

    fn service(weights: &[(&str, u16)]) -> Service {
        let backends = weights
            .iter()
            .map(|&(name, weight)| Backend {
                name: name.to_owned(),
                address: IpAddr::from([10, 0, 0, 1]),
                state: State::Up,
                health: None,
                reason: None,
                in_ring: weight > 0,
                weight,
                slow: None,
                alive: true,
                draining: false,
                held_until: None,
                untried: false,
                said: crate::health::Said::default(),
                hop: None,
            })
            .collect();
        Service::testing(backends)
    }

    #[test]
    fn a_ring_is_rebuilt_only_when_its_input_changed() {
        let mut rings = Rings::default();
        let seed = Seed([1, 2]);
        let first = rings.of(MAGLEV, &seed, &service(&[("a", 1), ("b", 1)]), 251);
        assert!(Arc::ptr_eq(&first, &rings.of(MAGLEV, &seed, &service(&[("a", 1), ("b", 1)]), 251)));
        for (seed, weights, length) in [
            (Seed([1, 3]), [("a", 1), ("b", 1)], 251),
            (seed, [("a", 1), ("b", 2)], 251),
            (seed, [("a", 1), ("c", 1)], 251),
            (seed, [("a", 1), ("b", 1)], 509),
        ] {
            assert!(!Arc::ptr_eq(&first, &rings.of(MAGLEV, &seed, &service(&weights), length)));
        }
        let first = rings.of(MAGLEV, &seed, &service(&[("a", 1), ("b", 1)]), 251);
        let other =
            rings.of((Builder::Rendezvous, Hash::FiveTuple), &seed, &service(&[("a", 1), ("b", 1)]), 251);
        assert_ne!(first, other);
    }

    #[test]
    fn the_fingerprint_covers_the_present_rings_only() {
        let mut rings = Rings::default();
        let empty = rings.fingerprint();
        rings.of(MAGLEV, &Seed([1, 2]), &service(&[("a", 1), ("b", 1)]), 251);
        let two = rings.fingerprint();
        assert_ne!(two, empty);
        rings.of(MAGLEV, &Seed([1, 2]), &service(&[("a", 1), ("b", 0)]), 251);
        assert_ne!(rings.fingerprint(), two);
        let by_source = |rings: &mut Rings, bits| {
            let by = (Builder::Maglev, Hash::Source(bits));
            rings.of(by, &Seed([1, 2]), &service(&[("a", 1), ("b", 1)]), 251);
            rings.fingerprint()
        };
        let (whole, network) = (by_source(&mut rings, 32), by_source(&mut rings, 24));
        assert!(whole != two && network != two && whole != network, "flows find other slots");
        rings.keep(&[]);
        assert_eq!(rings.fingerprint(), empty);
    }
}
