//! What does not fit yet, and whether it fits later. A number is given to the next object only when no packet can name it any
//! more. So where all numbers are taken, a backend that takes the place of another one has to wait. A new service has to wait
//! where the arena is full of rings that go, or get shorter. This module decides nothing and writes nothing.

use std::{collections::HashSet, sync::atomic::AtomicU64};

use lb_common::{map::NameRecord, ring::Ring, service::Service};

pub use super::allocate::Lack;
use super::{
    allocate::{self, learning_left, matched},
    desired::{self, Desired, RingWish},
    mirror::Mirror,
    places,
    settle::{self, Settled},
};

/// New services and backends that there is no number or no ring for, in ascending order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lacking {
    /// Each of them waits with all its backends, which are not named in `backends`.
    pub services: Vec<LackingService>,
    pub backends: Vec<LackingBackend>,
}

/// A service that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LackingService {
    /// Its place in [`Desired`].
    pub place: usize,
    pub lack: Lack,
    /// Seconds until the service gets what it lacks, about; `None` = it would not get it, however long it waits.
    pub within: Option<u64>,
}

/// A backend that waits for a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LackingBackend {
    /// Places of the service and of the backend.
    pub service: usize,
    pub backend: usize,
    /// The backend gets a number when what is removed has given up its own.
    pub will_fit: bool,
}

/// What to leave out of `desired` for now so that the rest fits. `None` = everything fits already, or to leave new things
/// out does not help. `wishes` = the rings that the services ask for, also where they do not get these rings now.
pub(super) fn lacking(
    mirror: &Mirror,
    slots: &[AtomicU64],
    desired: &Desired,
    wishes: &[RingWish],
    now: u16,
) -> Option<Lacking> {
    if !allocate::check(mirror, desired).is_empty() {
        return None;
    }
    let is = allocate::distribute(mirror, slots, desired, now);
    if is.others || (is.services.is_empty() && is.backends.is_empty()) {
        return None;
    }
    let numbers = allocate::numbers(&without_the_rest(mirror, desired), desired);
    let settled = settle::settle(mirror, wishes);
    let times = times(mirror, slots, desired, &settled, now);
    let services = is.services.iter().map(|&(place, lack)| {
        let has_numbers =
            numbers.services[place].is_some() && numbers.backends[place].iter().all(Option::is_some);
        let round = settled.rounds[place].filter(|_| has_numbers);
        LackingService { place, lack, within: round.map(|round| times[..round].iter().sum()) }
    });
    let backends = is.backends.iter().map(|&(service, backend)| {
        let will_fit = numbers.backends[service].get(backend).is_some_and(Option::is_some);
        LackingBackend { service, backend, will_fit }
    });
    Some(Lacking { services: services.collect(), backends: backends.collect() })
}

/// How long each round lasts, in seconds. The first one is over at once. Each other round lasts until the slowest of the
/// services that learn in it has learnt.
fn times(mirror: &Mirror, slots: &[AtomicU64], desired: &Desired, settled: &Settled, now: u16) -> Vec<u64> {
    let running = places::running(mirror);
    let left = desired.services.iter().filter_map(|service| {
        let (_, record) = running.get(&service.listen)?;
        let learns = record.old_ring != Ring::NONE;
        learns.then(|| learning_left(slots, record.ring, service.window, now))
    });
    let left = left.max().unwrap_or(0);
    let whole = |changed: &[usize]| {
        let windows = changed.iter().map(|place| desired.services[*place].window);
        windows.max().map_or(0, allocate::whole_learning)
    };
    let mut times: Vec<u64> = settled.changed.iter().map(|changed| whole(changed)).collect();
    if let [first, second, ..] = times.as_mut_slice() {
        *second = left.max(*first).max(*second);
        *first = 0;
    }
    times
}

/// The tables at the time when everything that is not in `desired` is gone, and no packet can name it any more.
fn without_the_rest(mirror: &Mirror, desired: &Desired) -> Mirror {
    let mut later = mirror.clone();
    let (mut services, mut backends) = (HashSet::new(), HashSet::new());
    let wanted = |record| {
        let listen = desired::listen(record)?;
        desired.services.iter().find(|service| service.listen == listen)
    };
    for (number, record, _) in mirror.present() {
        let Some(service) = wanted(record) else { continue };
        services.insert(number);
        let own: Vec<u32> = mirror
            .used_backends()
            .filter(|backend| mirror.backend_metas[*backend as usize].service == number)
            .collect();
        backends.extend(matched(mirror, &own, &service.backends).into_iter().flatten());
    }
    for (number, meta) in (0u32..).zip(&mut later.service_metas) {
        if !services.contains(&number) {
            *meta = NameRecord::FREE;
            later.services[number as usize] = Service::default();
        }
    }
    for (number, meta) in (0u32..).zip(&mut later.backend_metas).skip(1) {
        if !backends.contains(&number) {
            *meta = NameRecord::FREE;
        }
    }
    later
}
