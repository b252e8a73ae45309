//! Which object gets which number and which ring: everything keeps what it has, new things get what is free, and what does
//! not fit is refused.

use std::{collections::HashMap, sync::atomic::AtomicU64, time::Duration};

use lb_common::{Address, map::NameRecord, ring::Ring, service::Service, slot};

use super::{
    desired::{self, Desired},
    mirror::{self, Mirror},
    places::{self, Place},
    refusal::Refusal,
    ring::NoRoom,
    slot as words, takeover,
};
use crate::tables::address;

/// What is wrong with the desired state itself.
pub(super) fn check(mirror: &Mirror, desired: &Desired) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let too_long = |name: &str| name.len() > NameRecord::NAME;
    let mut listens = HashMap::new();
    for service in &desired.services {
        let name = || service.name.clone();
        if let Some(other) = listens.insert(service.listen, &service.name) {
            refusals.push(Refusal::Listen { service: name(), other: other.clone() });
        }
        if too_long(&service.name) {
            refusals.push(Refusal::Name { object: format!("service {}", name()), bytes: service.name.len() });
        }
        for backend in service.backends.iter().filter(|b| too_long(&b.name)) {
            let object = format!("backend {}/{}", name(), backend.name);
            refusals.push(Refusal::Name { object, bytes: backend.name.len() });
        }
        let (length, backends) = (service.ring.len(), service.backends.len());
        let owner = service.ring.iter().copied().max().unwrap_or(0);
        if length == 0 || u32::try_from(length).is_err() || owner as usize > backends {
            refusals.push(Refusal::Ring { service: name(), length, owner, backends });
        }
        if service.window > super::MAX_WINDOW {
            refusals.push(Refusal::Window { service: name(), seconds: service.window.as_secs() });
        }
    }
    if mirror.node.abi_version != 0 && mirror.node.seed != desired.seed && mirror.present().next().is_some() {
        refusals.push(Refusal::Seed);
    }
    refusals
}

/// Numbers and rings, by place in `desired.services`.
pub(super) struct Assigned {
    pub(super) services: Vec<AssignedService>,
}

pub(super) struct AssignedService {
    pub(super) number: u32,
    /// Packets find it already.
    pub(super) running: bool,
    /// By place in the service's `backends`, counted from 1, as the ring's entries are. Entry 0 is 0: no backend.
    pub(super) backends: Vec<u32>,
    pub(super) ring: Ring,
    /// The running ring, where `ring` replaces it with another length or hash.
    pub(super) replaces: Option<Ring>,
    /// The service that packets for this new one went to until now, where this one asks its ring.
    pub(super) takes_from: Option<takeover::From>,
}

/// Gives each service and backend the number it has, or a free one, and each ring a place.
pub(super) fn allocate(
    mirror: &Mirror,
    slots: &[AtomicU64],
    desired: &Desired,
    now: u16,
) -> Result<Assigned, Vec<Refusal>> {
    let Distribution { assigned, refusals, .. } = distribute(mirror, slots, desired, now);
    if refusals.is_empty() { Ok(assigned) } else { Err(refusals) }
}

/// What there is for everything that is desired, and the things that there is nothing for.
pub(super) struct Distribution {
    /// Complete where nothing is refused.
    assigned: Assigned,
    pub(super) refusals: Vec<Refusal>,
    /// New services that get nothing, as places in [`Desired`], in ascending order.
    pub(super) services: Vec<(usize, Lack)>,
    /// New backends of the other services that get no number: service and backend, in ascending order.
    pub(super) backends: Vec<(usize, usize)>,
    /// Something is refused that is not new: to leave new things out does not help.
    pub(super) others: bool,
}

/// What a new service does not get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lack {
    Number,
    /// A ring.
    Room,
}

/// The number that each object has, or gets; `None` where no number is free.
pub(super) struct Numbers {
    /// By place in [`Desired`].
    pub(super) services: Vec<Option<u32>>,
    /// By place of the service and of the backend; empty where the service has no number.
    pub(super) backends: Vec<Vec<Option<u32>>>,
}

/// Gives out numbers: everything keeps what it has, new things get what is free.
pub(super) fn numbers(mirror: &Mirror, desired: &Desired) -> Numbers {
    let running = places::running(mirror);
    let mut has: HashMap<u32, Vec<u32>> = HashMap::new();
    for number in mirror.used_backends() {
        has.entry(mirror.backend_metas[number as usize].service).or_default().push(number);
    }
    let mut free_services = free(&mirror.service_metas, 0)
        .filter(|number| mirror.services[*number as usize].flags & Service::PRESENT == 0);
    let mut free_backends = free(&mirror.backend_metas, 1);
    let (mut services, mut backends) = (Vec::new(), Vec::new());
    for service in &desired.services {
        let found = running.get(&service.listen).map(|(number, _)| *number);
        let number = found.or_else(|| free_services.next());
        let own = found.and_then(|number| has.get(&number)).map_or(&[][..], Vec::as_slice);
        let known = number.map_or(Vec::new(), |_| matched(mirror, own, &service.backends));
        services.push(number);
        backends.push(known.into_iter().map(|known| known.or_else(|| free_backends.next())).collect());
    }
    Numbers { services, backends }
}

pub(super) fn distribute(mirror: &Mirror, slots: &[AtomicU64], desired: &Desired, now: u16) -> Distribution {
    let (mut refusals, mut others) = (Vec::new(), false);
    let (mut lacking, mut without_number) = (Vec::new(), Vec::new());
    let running = places::running(mirror);
    let numbers = numbers(mirror, desired);
    let numbered = |place: &usize| numbers.services[*place].is_some();
    let wishes = (0..desired.services.len()).filter(numbered).map(|place| desired.services[place].wish());
    let mut rings = places::places(mirror, &running, wishes).into_iter();
    let mut services = Vec::with_capacity(desired.services.len());
    let (mut no_service, mut no_backend) = (0, 0);
    for (place, service) in desired.services.iter().enumerate() {
        let Some((number, ring)) = numbers.services[place].and_then(|number| Some((number, rings.next()?)))
        else {
            no_service += 1;
            lacking.push((place, Lack::Number));
            continue;
        };
        let found = running.get(&service.listen);
        let own = &numbers.backends[place];
        let without: Vec<_> = (0..own.len()).filter(|backend| own[*backend].is_none()).collect();
        no_backend += without.len();
        let ring = match ring {
            Place::Has(ring) | Place::New(ring) => Ok(ring),
            Place::Learning(ring) => {
                let seconds = learning_left(slots, ring, service.window, now);
                refusals.push(Refusal::ResizeRunning { service: service.name.clone(), seconds });
                others = true;
                continue;
            }
            Place::NoRoom(no_room) => Err(no_room),
        };
        match &ring {
            Err(_) if found.is_none() => lacking.push((place, Lack::Room)),
            ring => {
                others |= ring.is_err();
                without_number.extend(without.into_iter().map(|backend| (place, backend)));
            }
        }
        match ring {
            Ok(ring) => {
                let replaces = found.map(|(_, record)| record.ring).filter(|old| *old != ring);
                let takes_from = match found {
                    None if takeover::asks(service) => takeover::from(&running, desired, service.listen),
                    _ => None,
                };
                let backends = [0].into_iter().chain(own.iter().copied().flatten()).collect();
                let running = found.is_some();
                services.push(AssignedService { number, running, backends, ring, replaces, takes_from });
            }
            Err(NoRoom { free, largest }) => refusals.push(Refusal::Slots {
                service: service.name.clone(),
                need: service.ring.len() as u32,
                largest,
                free,
                size: mirror.sizes.slots,
            }),
        }
    }
    if no_service > 0 {
        refusals.push(Refusal::Services {
            wanted: desired.services.len() as u64,
            kept: mirror.retired_services().count() as u64,
            size: mirror.sizes.services,
        });
    }
    if no_backend > 0 {
        refusals.push(Refusal::Backends {
            wanted: desired.services.iter().map(|service| service.backends.len() as u64).sum(),
            kept: mirror.retired_backends().count() as u64,
            size: mirror.sizes.backends,
        });
    }
    let assigned = Assigned { services };
    Distribution { assigned, refusals, services: lacking, backends: without_number, others }
}

/// Seconds until the last slot of a ring stops learning.
pub(super) fn learning_left(slots: &[AtomicU64], ring: Ring, window: Duration, now: u16) -> u64 {
    let youngest = words::States::of(slots, ring, now).youngest.unwrap_or(0);
    whole_learning(window).saturating_sub(u64::from(youngest) * slot::SINCE_STEP)
}

/// Seconds that a ring learns.
pub(super) const fn whole_learning(window: Duration) -> u64 {
    window.as_secs() + 2 * slot::SINCE_STEP
}

/// Free numbers from `first` on, lowest first.
fn free(metas: &[NameRecord], first: u32) -> impl Iterator<Item = u32> {
    (0u32..).zip(metas).skip(first as usize).filter_map(|(number, meta)| {
        (meta.flags & (NameRecord::USED | NameRecord::RETIRED) == 0).then_some(number)
    })
}

/// The number that each wanted backend has already, if any: same name and address first, then same address.
pub(super) fn matched(mirror: &Mirror, own: &[u32], wanted: &[desired::Backend]) -> Vec<Option<u32>> {
    let mut at: HashMap<Address, Vec<u32>> = HashMap::with_capacity(own.len());
    for &number in own {
        at.entry(mirror.backend_metas[number as usize].address).or_default().push(number);
    }
    let mut take = |backend: &desired::Backend, name: Option<[u8; NameRecord::NAME]>| {
        let numbers = at.get_mut(&address::to_wire(backend.address))?;
        let fits = |number: &u32| name.is_none_or(|name| mirror.backend_metas[*number as usize].name == name);
        let place = numbers.iter().position(fits)?;
        Some(numbers.swap_remove(place))
    };
    let mut numbers: Vec<_> =
        wanted.iter().map(|backend| take(backend, Some(mirror::name_bytes(&backend.name)))).collect();
    for (number, backend) in numbers.iter_mut().zip(wanted) {
        *number = number.or_else(|| take(backend, None));
    }
    numbers
}
