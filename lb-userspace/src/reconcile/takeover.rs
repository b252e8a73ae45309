//! A listener that takes over flows of another one: a service on one port is added next to a service on every port of the
//! same address and protocol. Until the window of the new service is over, its slots ask the ring that the flows had. Flow
//! records stay where they are: they are found by their tuple, whichever service it belongs to. The other direction cannot ask:
//! the service on every port has flows of its own in every slot.

use std::{collections::HashMap, sync::atomic::AtomicU64};

use lb_common::{
    ring::Ring,
    service::Service,
    slot::{Slot, Track},
};

use super::{
    allocate::AssignedService,
    desired::{self, Desired},
    mirror::Mirror,
    slot,
};
use crate::{
    config::spec::{Balance, Listen},
    tables::address,
};

/// The service that packets for a new service went to until now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct From {
    pub(super) number: u32,
    pub(super) ring: Ring,
}

/// The service that packets for `listen` went to until now, where no service has `listen` yet: it listens on every port,
/// and goes on.
pub(super) fn from(
    running: &HashMap<Listen, (u32, &Service)>,
    desired: &Desired,
    listen: Listen,
) -> Option<From> {
    let every = Listen { port: 0, ..listen };
    let (number, record) = running.get(&every).filter(|_| listen.port != 0)?;
    let goes_on = desired.services.iter().any(|service| service.listen == every);
    (goes_on && record.ring.length() > 0).then_some(From { number: *number, ring: record.ring })
}

/// The words of a new ring that asks another ring. A slot has nothing to ask where its slot in the other ring is not tracked
/// (no flow is elsewhere) and has the same address, or no backend.
pub(super) fn words(
    slots: &[AtomicU64],
    mirror: &Mirror,
    service: &desired::Service,
    numbers: &AssignedService,
    from: Ring,
    now: u16,
) -> Vec<(u32, u64)> {
    let balanced = service.balance != Balance::Hash;
    let ring = numbers.ring;
    let alike = !balanced && (ring.length(), ring.source_bits()) == (from.length(), from.source_bits());
    let before: Vec<Slot> = slot::words(slots, from).filter(|_| alike).map(|(_, word)| word).collect();
    let address_of = |owner: u32| {
        let backend = (owner as usize).checked_sub(1).and_then(|place| service.backends.get(place));
        backend.map(|backend| address::to_wire(backend.address))
    };
    let same = |word: &Slot, owner: u32| {
        let is = mirror.backend_metas.get(word.current() as usize).map(|meta| meta.address);
        !word.is_tracked() && (word.current() == 0 || is == address_of(owner))
    };
    slot::words(slots, ring)
        .zip(service.ring.iter())
        .enumerate()
        .filter_map(|(place, ((at, word), &owner))| {
            let number = numbers.backends[owner as usize];
            let next = if before.get(place).is_some_and(|word| same(word, owner)) {
                Slot::fresh(service.track, number)
            } else {
                Slot::after_resize(number, now)
            };
            (next != word).then_some((at, next.0))
        })
        .collect()
}

/// Whether a service that takes packets over asks for their flows.
pub(super) fn asks(service: &desired::Service) -> bool {
    service.track != Track::Never
}
