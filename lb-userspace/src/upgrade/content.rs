//! The content of running maps in the records of our version, and whether it fits into maps of other sizes.

use std::collections::BTreeMap;

use lb_common::{
    backend::Backend,
    flow_table::{PER_BUCKET, buckets_for},
    map::{NameRecord, Node, size},
    ring::Ring,
    service::Service,
};

use crate::{
    config::{spec::Limits, words::plural},
    reconcile::{mirror, service_cache::CachedService, service_index::Entry},
};

/// All content except slots, flow records and traffic, which are copied one by one.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(super) node: Node,
    /// The numbers in use or retired, each with its record and name.
    pub(super) services: Vec<(u32, Service, NameRecord)>,
    pub(super) backends: Vec<(u32, Backend, NameRecord)>,
    pub(super) egress: Vec<u32>,
    /// The number of slots of the arena.
    pub(super) arena: u32,
    /// The number of flow records.
    pub(super) flows: u64,
}

impl Content {
    /// Rings that packets may look into: the old place of each, and its new place when all rings are packed together.
    pub(super) fn rings(&self) -> BTreeMap<u64, Ring> {
        let present = self.services.iter().filter(|(_, record, _)| record.flags & Service::PRESENT != 0);
        let rings = present.flat_map(|(_, record, _)| [record.ring, record.old_ring]);
        let mut places: BTreeMap<u64, Ring> =
            rings.filter(|ring| ring.length() > 0).map(|ring| (ring.0, ring)).collect();
        let mut next = 0u32;
        for ring in places.values_mut() {
            *ring = ring.at_offset(next);
            next = next.saturating_add(ring.length());
        }
        places
    }

    /// The same where all rings stay in their places.
    pub(super) fn rings_in_place(&self) -> BTreeMap<u64, Ring> {
        self.rings().into_keys().map(|ring| (ring, Ring(ring))).collect()
    }

    /// The first ring that reaches beyond the end of its arena.
    pub(super) fn ring_beyond_arena(&self) -> Option<Ring> {
        let beyond =
            |ring: &Ring| u64::from(ring.offset()) + u64::from(ring.length()) > u64::from(self.arena);
        self.rings().into_keys().map(Ring).find(beyond)
    }

    /// A service's record with the new places of its rings.
    pub(super) fn placed(record: &Service, places: &BTreeMap<u64, Ring>) -> Service {
        let place = |ring: Ring| places.get(&ring.0).copied().unwrap_or(Ring::NONE);
        Service { ring: place(record.ring), old_ring: place(record.old_ring), ..*record }
    }

    fn present(&self) -> impl Iterator<Item = (u32, &Service)> {
        let present = self.services.iter().filter(|(_, record, _)| record.flags & Service::PRESENT != 0);
        present.map(|(number, record, _)| (*number, record))
    }

    /// The entries in front of the index, with the new places of the rings.
    pub(super) fn cached_services(&self, places: &BTreeMap<u64, Ring>) -> Vec<CachedService> {
        self.present()
            .map(|(number, Service { address, port_protocol, ring, .. })| CachedService {
                number,
                address: *address,
                port_protocol: *port_protocol,
                ring: places.get(&ring.0).copied().unwrap_or(Ring::NONE),
            })
            .collect()
    }

    /// The services that packets must find in the index.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.present()
            .map(|(number, Service { address, port_protocol, .. })| Entry {
                number,
                address: *address,
                port_protocol: *port_protocol,
            })
            .collect()
    }

    /// Whether maps of these sizes can hold the content; if not, which of them is too small. Numbers of services and backends
    /// must not change, because slots and flow records refer to them.
    pub(super) fn fits(&self, limits: &Limits) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        let name = |meta: &NameRecord| mirror::name(meta);
        let service = self.services.iter().max_by_key(|(number, ..)| *number);
        if let Some((number, _, meta)) = service.filter(|(number, ..)| *number >= limits.services) {
            reasons.push(format!(
                "limits.services = {}, but number {number} is in use (service {})",
                limits.services,
                name(meta)
            ));
        }
        let backend = self.backends.iter().max_by_key(|(number, ..)| *number);
        if let Some((number, _, meta)) = backend.filter(|(number, ..)| *number > limits.backends) {
            reasons.push(format!(
                "limits.backends = {}, but number {number} is in use (backend {})",
                limits.backends,
                name(meta)
            ));
        }
        let slots: u64 = self.rings().values().map(|ring| u64::from(ring.length())).sum();
        if slots > u64::from(limits.slots) {
            reasons.push(format!("limits.slots = {}, but {slots} slots are in use", limits.slots));
        }
        // Two buckets a flow: a table that is much fuller than this has no place for some of them.
        let room = u64::from(buckets_for(limits.flows)) * PER_BUCKET as u64 * 7 / 8;
        if self.flows > room {
            reasons.push(format!(
                "limits.flows = {}, but {} are recorded, and {} could be lost",
                limits.flows,
                self.flows,
                plural(self.flows - room, "connection", "connections")
            ));
        }
        if self.egress.len() > size::EGRESS as usize {
            reasons.push(format!("{} egress interfaces are in use", self.egress.len()));
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { services: 4, backends: 4, slots: 600, flows: 32, pending_flows: None };

    fn content() -> Content {
        let service = |offset, old| Service {
            flags: Service::PRESENT,
            ring: Ring::new(offset, 251),
            old_ring: old,
            ..Service::default()
        };
        Content {
            node: Node::default(),
            services: vec![
                (0, service(700, Ring::NONE), NameRecord::FREE),
                (3, service(100, Ring::new(100, 251)), NameRecord::FREE),
            ],
            backends: vec![(4, Backend::default(), NameRecord::FREE)],
            egress: vec![1],
            arena: 1000,
            flows: 35,
        }
    }

    #[test]
    fn rings_are_packed_and_a_shared_ring_moves_once() {
        let content = content();
        let places = content.rings();
        assert_eq!(places.values().copied().collect::<Vec<_>>(), [Ring::new(0, 251), Ring::new(251, 251)]);
        let placed = Content::placed(&content.services[1].1, &places);
        assert_eq!((placed.ring, placed.old_ring), (Ring::new(0, 251), Ring::new(0, 251)));
        assert_eq!(Content::placed(&content.services[0].1, &places).old_ring, Ring::NONE);
        assert_eq!(content.ring_beyond_arena(), None);
        assert_eq!(Content { arena: 900, ..content }.ring_beyond_arena(), Some(Ring::new(700, 251)));
    }

    #[test]
    fn everything_that_is_too_small_is_named() {
        content().fits(&LIMITS).unwrap();
        let small = Limits { services: 3, backends: 3, slots: 501, flows: 16, pending_flows: None };
        let reasons = content().fits(&small).unwrap_err();
        assert_eq!(reasons.len(), 4, "{reasons:?}");
        let limits =
            ["limits.services = 3", "limits.backends = 3", "limits.slots", "limits.flows = 16, but 35"];
        for (reason, limit) in reasons.iter().zip(limits) {
            assert!(reason.starts_with(limit), "{reason}");
        }
    }
}
