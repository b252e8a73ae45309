//! From a flow to its slot word.

use core::ptr::{addr_of, read_volatile};

use lb_common::{
    hash::Seed,
    ring::Ring,
    service::Service,
    slot::{PREVIOUS_RING, Slot},
};

use crate::{family::Family, maps::RING, parse::Flow};

/// What may decide a flow's slot; the ring says which of it does.
#[derive(Clone, Copy)]
pub(crate) struct SlotKey<'a, F: Family> {
    pub(crate) seed: &'a Seed,
    pub(crate) source: F::Address,
    /// The hash of the whole flow.
    pub(crate) hash: u64,
}

/// A packet that has come to its slot.
pub(crate) struct SlotLookup<F: Family> {
    pub(crate) flow: Flow<F>,
    /// The number of its service.
    pub(crate) number: u32,
    /// The slot's number, counted from the start of the arena.
    pub(crate) place: u32,
    pub(crate) slot: Slot,
    /// The hash of the whole flow.
    pub(crate) hash: u64,
}

/// The slot of a flow in a service's ring, and its place in the arena; `None` while the service has no ring.
#[inline(always)]
pub(crate) fn of<F: Family>(service: &Service, slot_key: SlotKey<'_, F>) -> Option<(u32, Slot)> {
    // SAFETY: a field of a live record; the agent replaces it whole, at any time, hence volatile.
    read(unsafe { read_volatile(addr_of!(service.ring)) }, slot_key)
}

/// The backend that an unknown flow of `slot` belongs to, after a look at the old ring where the word says so; 0 = no
/// backend.
#[inline(always)]
pub(crate) fn owner_of_unknown<F: Family>(service: &Service, slot: Slot, slot_key: SlotKey<'_, F>) -> u32 {
    let owner = slot.owner_of_unknown();
    if owner != PREVIOUS_RING {
        return owner;
    }
    // SAFETY: as in `of`.
    let old = read(unsafe { read_volatile(addr_of!(service.old_ring)) }, slot_key);
    let old = old.map_or(Slot::EMPTY, |(_, slot)| slot);
    // The old ring was itself learning from an older ring when it was replaced, and that older ring is gone.
    match old.owner_of_unknown() {
        PREVIOUS_RING => old.current(),
        owner => owner,
    }
}

#[inline(always)]
fn read<F: Family>(ring: Ring, slot_key: SlotKey<'_, F>) -> Option<(u32, Slot)> {
    if ring.length() == 0 {
        return None;
    }
    let hash = match ring.source_bits() {
        0 => slot_key.hash,
        bits => F::source_hash(slot_key.seed, slot_key.source, bits),
    };
    let place = ring.slot(hash);
    let word = RING.get_ptr(place)?;
    // SAFETY: the word lies in the arena; the agent writes it whole, at any time, hence volatile.
    Some((place, Slot(unsafe { read_volatile(word) })))
}
