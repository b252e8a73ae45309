//! From a flow hash to a slot word.

use core::ptr::{addr_of, read_volatile};

use lb_common::{
    ring::Ring,
    service::Service,
    slot::{PREVIOUS_RING, Slot},
};

use crate::maps::RING;

/// The slot of a hash in a service's ring; `None` while the service has no ring.
#[inline(always)]
pub(crate) fn of(service: &Service, hash: u64) -> Option<Slot> {
    // SAFETY: a field of a live record; the agent replaces it whole, at any time, hence volatile.
    read(unsafe { read_volatile(addr_of!(service.ring)) }, hash)
}

/// Whom an unknown flow of `slot` belongs to, after asking the old ring where the word says so; 0 = nobody.
#[inline(always)]
pub(crate) fn owner_of_unknown(service: &Service, slot: Slot, hash: u64) -> u32 {
    let owner = slot.owner_of_unknown();
    if owner != PREVIOUS_RING {
        return owner;
    }
    // SAFETY: as in `of`.
    let old = read(unsafe { read_volatile(addr_of!(service.old_ring)) }, hash).unwrap_or(Slot::EMPTY);
    // A ring that was itself being learnt when it was replaced has no older one to ask.
    match old.owner_of_unknown() {
        PREVIOUS_RING => old.current(),
        owner => owner,
    }
}

#[inline(always)]
fn read(ring: Ring, hash: u64) -> Option<Slot> {
    if ring.length() == 0 {
        return None;
    }
    let word = RING.get_ptr(ring.slot(hash))?;
    // SAFETY: the word lies in the arena; the agent writes it whole, at any time, hence volatile.
    Some(Slot(unsafe { read_volatile(word) }))
}
