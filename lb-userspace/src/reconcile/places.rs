//! Which ring each service gets: the one it has, or a new one where the arena has room. A running service never waits for a
//! new one, and a new service never waits for a ring that only changes its length. Pure.

use std::collections::HashMap;

use lb_common::{ring::Ring, service::Service};

use super::{
    desired::{self, RingWish},
    mirror::Mirror,
    ring::{Arena, NoRoom},
};
use crate::config::spec::{Hash, Listen};

/// What the service gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The ring that runs. A wish for another hash waits where it cannot be had now.
    Has(Ring),
    New(Ring),
    /// Nothing yet: flows of the last change of length or hash are still being learnt from the ring before this one.
    Learning(Ring),
    NoRoom(NoRoom),
}

/// The services that packets find, by what they listen on.
pub(super) fn running(mirror: &Mirror) -> HashMap<Listen, (u32, &Service)> {
    let found =
        mirror.present().filter_map(|(number, record, _)| Some((desired::listen(record)?, (number, record))));
    found.collect()
}

/// The ring of a service that packets find, and the one that it learns from.
pub(super) type Rings = (Ring, Ring);

/// What each of `wishes` gets. In the arena, services that are new come before those whose ring changes.
pub(super) fn places(
    mirror: &Mirror,
    running: &HashMap<Listen, (u32, &Service)>,
    wishes: impl Iterator<Item = RingWish> + Clone,
) -> Vec<Place> {
    let arena = Arena::new(mirror.sizes.slots, mirror.regions());
    placed(arena, |listen| Some(rings(running.get(listen)?.1)), wishes)
}

pub(super) const fn rings(record: &Service) -> Rings {
    (record.ring, record.old_ring)
}

/// The same for an arena and the rings that lie in it.
pub(super) fn placed(
    mut arena: Arena,
    running: impl Fn(&Listen) -> Option<Rings>,
    wishes: impl Iterator<Item = RingWish> + Clone,
) -> Vec<Place> {
    let new_ring = |arena: &mut Arena, length, hash: Hash| {
        arena.allocate(length).map(|ring| ring.with_source_prefix(hash.source_bits()))
    };
    let place = |ring: Result<Ring, NoRoom>| ring.map_or_else(Place::NoRoom, Place::New);
    let first = wishes.clone().map(|RingWish { listen, length, hash }| {
        let Some((ring, old)) = running(&listen) else {
            return Some(place(new_ring(&mut arena, length, hash)));
        };
        let same_hash = ring.source_bits() == u32::from(hash.source_bits());
        let learning = old != Ring::NONE;
        match ring.length() == length {
            // While flows of the last change are being learnt, another hash waits: a service can have one old ring only.
            true if same_hash || learning => Some(Place::Has(ring)),
            false if learning => Some(Place::Learning(ring)),
            _ => None,
        }
    });
    let first: Vec<_> = first.collect();
    let all = wishes.zip(first).map(|(RingWish { listen, length, hash }, first)| {
        if let Some(place) = first {
            return place;
        }
        let found = new_ring(&mut arena, length, hash);
        match (found, running(&listen)) {
            (Err(_), Some((ring, _))) if ring.length() == length => Place::Has(ring),
            (Err(no_room), Some((ring, _))) => {
                // The caller asks next with the length that runs: room that is taken then must be taken now.
                if ring.source_bits() != u32::from(hash.source_bits()) {
                    let _taken = new_ring(&mut arena, ring.length(), hash);
                }
                Place::NoRoom(no_room)
            }
            (found, _) => place(found),
        }
    });
    all.collect()
}

/// The lengths to build rings with: those of `wishes`, or the running length where another ring cannot be had now. With
/// these lengths every running service gets a ring.
pub(super) fn lengths(mirror: &Mirror, wishes: &[RingWish]) -> Vec<u32> {
    let running = running(mirror);
    let arena = Arena::new(mirror.sizes.slots, mirror.regions());
    fitting(arena, |listen| Some(rings(running.get(listen)?.1)), wishes)
}

/// The same for an arena and the rings that lie in it.
pub(super) fn fitting(
    arena: Arena,
    running: impl Fn(&Listen) -> Option<Rings>,
    wishes: &[RingWish],
) -> Vec<u32> {
    let places = placed(arena, &running, wishes.iter().copied());
    let fitting = wishes.iter().zip(places).map(|(wish, place)| match (place, running(&wish.listen)) {
        (Place::Learning(ring), _) | (Place::NoRoom(_), Some((ring, _))) => ring.length(),
        _ => wish.length,
    });
    fitting.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        config::spec::Protocol,
        tables::{Sizes, memory::Twin},
    };

    const SLOTS: u32 = 200;

    fn listen(port: u16) -> Listen {
        Listen { protocol: Protocol::Tcp, address: [203, 0, 113, 1].into(), port }
    }

    pub(in crate::reconcile) fn wish(port: u16, length: u32) -> RingWish {
        RingWish { listen: listen(port), length, hash: Hash::FiveTuple }
    }

    /// Services by port, each with a ring in the arena; some of them still learn from an old ring.
    pub(in crate::reconcile) fn mirror(services: &[(u16, u32, Option<u32>)]) -> Mirror {
        let mut mirror = Mirror::read(&Twin::new(Sizes::new(16, 16, SLOTS))).unwrap();
        let mut arena = Arena::new(SLOTS, std::iter::empty());
        for (number, (port, length, old)) in services.iter().enumerate() {
            let (address, port_protocol) = desired::key(&listen(*port));
            let Ok(ring) = arena.allocate(*length) else { continue };
            let old_ring = old.and_then(|old| arena.allocate(old).ok()).unwrap_or(Ring::NONE);
            mirror.services[number] = Service {
                address,
                port_protocol,
                ring,
                old_ring,
                flags: Service::PRESENT,
                ..Service::default()
            };
        }
        mirror
    }

    #[test]
    fn a_ring_that_has_no_room_to_grow_keeps_its_length() {
        let mirror = mirror(&[(1, 100, None), (2, 20, None)]);
        assert_eq!(lengths(&mirror, &[wish(1, 120), wish(2, 40)]), [100, 40]);
    }

    #[test]
    fn a_new_service_gets_its_ring_before_others_grow() {
        let mirror = mirror(&[(1, 50, None), (2, 50, None)]);
        assert_eq!(lengths(&mirror, &[wish(1, 60), wish(2, 50), wish(3, 90)]), [50, 50, 90]);
        assert_eq!(lengths(&mirror, &[wish(1, 60), wish(2, 50), wish(3, 30)]), [60, 50, 30]);
    }

    #[test]
    fn a_ring_that_learns_keeps_its_length_and_its_hash() {
        let mirror = mirror(&[(1, 20, Some(10))]);
        assert_eq!(lengths(&mirror, &[wish(1, 40)]), [20]);
        let other = RingWish { hash: Hash::Source(24), ..wish(1, 20) };
        let running = running(&mirror);
        assert_eq!(places(&mirror, &running, [other].into_iter()), [Place::Has(mirror.services[0].ring)]);
    }

    proptest! {
        /// For all running services and all wishes: with the returned lengths, each running service gets a ring.
        #[test]
        fn no_running_service_is_refused_its_ring(
            services in prop::collection::vec((1u32..60, prop::option::weighted(0.3, 1u32..40)), 0..8),
            wishes in prop::collection::vec((any::<bool>(), 1u32..90, any::<bool>()), 0..12),
        ) {
            let services: Vec<_> =
                (1u16..).zip(services).map(|(port, (length, old))| (port, length, old)).collect();
            let mirror = mirror(&services);
            let wishes: Vec<RingWish> = (1u16..)
                .zip(wishes)
                .filter(|(_, (is_there, ..))| *is_there)
                .map(|(port, (_, length, by_source))| RingWish {
                    hash: if by_source { Hash::Source(24) } else { Hash::FiveTuple },
                    ..wish(port, length)
                })
                .collect();
            let fitting: Vec<RingWish> = wishes
                .iter()
                .zip(lengths(&mirror, &wishes))
                .map(|(wish, length)| RingWish { length, ..*wish })
                .collect();
            let running = running(&mirror);
            let mut taken: Vec<Ring> = mirror.regions().collect();
            for (wish, place) in fitting.iter().zip(places(&mirror, &running, fitting.iter().copied())) {
                let runs = running.get(&wish.listen);
                match place {
                    Place::Has(ring) => prop_assert_eq!(Some(ring), runs.map(|(_, record)| record.ring)),
                    Place::New(ring) => {
                        prop_assert_eq!((ring.length(), ring.source_bits()), (wish.length, u32::from(wish.hash.source_bits())));
                        taken.push(ring);
                    }
                    Place::Learning(_) | Place::NoRoom(_) => prop_assert!(runs.is_none(), "{:?} {:?}", wish, place),
                }
            }
            taken.sort_unstable_by_key(|ring| ring.offset());
            for pair in taken.windows(2) {
                prop_assert!(pair[0].offset() + pair[0].length() <= pair[1].offset(), "{:?}", pair);
            }
            prop_assert!(taken.last().is_none_or(|ring| ring.offset() + ring.length() <= SLOTS));
        }
    }
}
