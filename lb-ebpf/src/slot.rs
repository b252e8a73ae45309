//! From a flow to its slot word.

use core::ptr::{addr_of, read_volatile};

use lb_common::{
    hash::Seed,
    ring::Ring,
    service::Service,
    slot::{PREVIOUS_RING, Slot},
};

use crate::{family::Family, maps::RING, parse::Flow};

/// What may say a flow's slot; the ring decides.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a, F: Family> {
    pub(crate) seed: &'a Seed,
    pub(crate) source: F::Address,
    /// Of the whole flow.
    pub(crate) hash: u64,
}

/// A packet that has come to its slot.
pub(crate) struct Found<F: Family> {
    pub(crate) flow: Flow<F>,
    /// Of its service.
    pub(crate) number: u32,
    pub(crate) slot: Slot,
    /// Of the whole flow.
    pub(crate) hash: u64,
}

/// The slot of a flow in a service's ring; `None` while the service has no ring.
#[inline(always)]
pub(crate) fn of<F: Family>(service: &Service, place: Place<'_, F>) -> Option<Slot> {
    // SAFETY: a field of a live record; the agent replaces it whole, at any time, hence volatile.
    read(unsafe { read_volatile(addr_of!(service.ring)) }, place)
}

/// Whom an unknown flow of `slot` belongs to, after asking the old ring where the word says so; 0 = nobody.
#[inline(always)]
pub(crate) fn owner_of_unknown<F: Family>(service: &Service, slot: Slot, place: Place<'_, F>) -> u32 {
    let owner = slot.owner_of_unknown();
    if owner != PREVIOUS_RING {
        return owner;
    }
    // SAFETY: as in `of`.
    let old = read(unsafe { read_volatile(addr_of!(service.old_ring)) }, place).unwrap_or(Slot::EMPTY);
    // A ring that was itself being learnt when it was replaced has no older one to ask.
    match old.owner_of_unknown() {
        PREVIOUS_RING => old.current(),
        owner => owner,
    }
}

#[inline(always)]
fn read<F: Family>(ring: Ring, place: Place<'_, F>) -> Option<Slot> {
    if ring.length() == 0 {
        return None;
    }
    let hash = match ring.source_bits() {
        0 => place.hash,
        bits => F::source_hash(place.seed, place.source, bits),
    };
    let word = RING.get_ptr(ring.slot(hash))?;
    // SAFETY: the word lies in the arena; the agent writes it whole, at any time, hence volatile.
    Some(Slot(unsafe { read_volatile(word) }))
}
