//! The backend of a new flow where a service balances other than by the hash. The rules are `lb_common::balance`'s.

use core::{
    arch::asm,
    ptr::{addr_of, read_volatile},
};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use lb_common::{
    balance::{self, Balance, Load},
    flow::Record,
    ring::Ring,
    service::Service,
    slot::Slot,
};

use crate::maps::{BACKENDS, LIVE, RING, SVC_TALLY};

/// The backend that the service's balancing chooses; 0 = the service does not balance, or nobody is there.
#[inline(always)]
pub(crate) fn choose(service: &Service, number: u32) -> u32 {
    // SAFETY: a field of a live record; the agent replaces it whole, at any time, hence volatile.
    let ring = unsafe { read_volatile(addr_of!(service.ring)) };
    let place = match service.balance() {
        Balance::Hash => return 0,
        Balance::RoundRobin => {
            // SAFETY: no arguments, no memory.
            balance::turn(ring, next_turn(number), unsafe { bpf_get_smp_processor_id() })
        }
        // SAFETY: as above.
        Balance::Random => balance::any(ring, unsafe { bpf_get_prandom_u32() }),
        Balance::LeastConnections => return lighter_of_two(ring),
    };
    owner(place)
}

/// The owner of any slot, or of another one, whichever has fewer live flows for its weight.
#[inline(always)]
fn lighter_of_two(ring: Ring) -> u32 {
    // SAFETY: no arguments, no memory.
    let (one, two) = unsafe { (bpf_get_prandom_u32(), bpf_get_prandom_u32()) };
    let (one, two) = (owner(balance::any(ring, one)), owner(balance::any(ring, two)));
    // A slot may be nobody's while the last backend of a service leaves.
    if one == 0 || two != 0 && !load(one).is_no_heavier_than(load(two)) { two } else { one }
}

#[inline(always)]
fn load(backend: u32) -> Load {
    let weight = BACKENDS.get(backend).map_or(0, |backend| backend.weight);
    // SAFETY: a word of the map, which others write whole at any time.
    let live = LIVE.get_ptr(backend).map_or(0, |live| unsafe { read_volatile(live) });
    Load { live, weight }
}

/// Counts a confirmed flow of a service that balances by live flows: `change` is 1 when it begins, -1 when it closes or
/// its record goes.
#[inline(always)]
pub(crate) fn count_live(backend: u32, change: i64) {
    if let Some(live) = LIVE.get_ptr_mut(backend) {
        // Rust has no addition for a target without compare-and-swap; this one, which returns nothing, all kernels have.
        // SAFETY: a word of the map, aligned, which everybody changes atomically.
        unsafe {
            asm!("lock *(u64 *)({live} + 0) += {change}", live = in(reg) live, change = in(reg) change);
        }
    }
}

/// The backend of a record that counts as live.
#[inline(always)]
pub(crate) fn live_backend(record: Option<*mut Record>) -> Option<u32> {
    // SAFETY: a value of the map; another CPU may write it at the same time, which tears no 4-byte field.
    let (backend, flags) = record.map(|record| unsafe { ((*record).backend, (*record).flags) })?;
    (flags & Record::CLOSING == 0).then_some(backend)
}

#[inline(always)]
fn owner(place: Option<u32>) -> u32 {
    let Some(place) = place else { return 0 };
    let Some(word) = RING.get_ptr(place) else { return 0 };
    // SAFETY: the word lies in the arena; the agent writes it whole, at any time, hence volatile.
    Slot(unsafe { read_volatile(word) }).current()
}

/// Turns that the service has given on this CPU so far.
#[inline(always)]
fn next_turn(number: u32) -> u64 {
    let Some(tally) = SVC_TALLY.get_ptr_mut(number) else { return 0 };
    // SAFETY: this CPU's own copy of the value.
    unsafe {
        let given = (*tally).turns;
        (*tally).turns = given + 1;
        given
    }
}
