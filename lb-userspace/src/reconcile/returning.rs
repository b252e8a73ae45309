//! Backends that are down and whose flows are kept for their return, for a grace. The end of the grace is in the backend's
//! [`NameRecord`], so that an agent that takes over goes on from there. The sweep ends the grace.

use lb_common::{map::NameRecord, slot::SINCE_STEP};

use super::{
    RETURN_GRACE,
    allocate::Assigned,
    desired::{Backend, Desired, Service},
    mirror::{self, Mirror},
};
use crate::tables::address;

/// By backend number: its flows may be found there, now or when it comes back. A backend that is not wanted any more keeps
/// none.
pub(super) fn keeps(mirror: &Mirror, desired: &Desired, assigned: &Assigned, now: u16) -> Vec<bool> {
    let mut keeps = vec![false; mirror.backends.len()];
    for (service, numbers) in desired.services.iter().zip(&assigned.services) {
        for (backend, &number) in service.backends.iter().zip(&numbers.backends[1..]) {
            keeps[number as usize] =
                backend.record.is_alive() || given_up_at(mirror, service, (backend, number), now).is_some();
        }
    }
    keeps
}

/// The meta record of a backend with its number, in a service with its own number.
pub(super) fn meta(
    mirror: &Mirror,
    (service, of): (&Service, u32),
    (backend, number): (&Backend, u32),
    now: u16,
) -> NameRecord {
    let given_up_at = given_up_at(mirror, service, (backend, number), now);
    let returning = if given_up_at.is_some() { NameRecord::RETURNING } else { 0 };
    NameRecord {
        name: mirror::name_bytes(&backend.name),
        flags: NameRecord::USED | returning,
        service: of,
        address: address::to_wire(backend.address),
        free_after: given_up_at.unwrap_or(0),
        ..NameRecord::FREE
    }
}

/// When the flows of a backend that is down are given up; `None` = it is alive, new or disabled, or they are given up already.
fn given_up_at(
    mirror: &Mirror,
    service: &Service,
    (backend, number): (&Backend, u32),
    now: u16,
) -> Option<u32> {
    let (meta, was) = (&mirror.backend_metas[number as usize], &mirror.backends[number as usize]);
    if meta.flags & NameRecord::USED == 0 || backend.record.is_alive() || !backend.returns {
        return None;
    }
    if was.is_alive() {
        // Rounded up, never down. The step that has begun does not count as a whole one, hence 1 more.
        let grace = service.window.min(RETURN_GRACE).as_secs().div_ceil(SINCE_STEP) as u16 + 1;
        return Some(u32::from(now.wrapping_add(grace) & 0x7fff));
    }
    mirror.may_return(number).then_some(meta.free_after)
}
