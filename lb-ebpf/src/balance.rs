//! The backend of a new flow where a service balances by something other than the hash. The rules are in
//! `lb_common::balance`.

use core::{
    arch::asm,
    ptr::{addr_of, read_volatile},
};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use lb_common::{
    balance::{self, Balance, Load},
    evidence::Decision,
    flow::Record,
    ring::Ring,
    service::Service,
    slot::Slot,
};

use crate::maps::{BACKENDS, LIVE, RING, SVC_TALLY};

/// Whether something other than the hash chooses the backends of the service's new flows.
#[inline(always)]
pub(crate) fn is_chosen(service: &Service) -> bool {
    !matches!(service.balance(), Balance::Hash)
}

/// The backend that the service's balancing chooses; 0 = the service does not balance, or no backend is there.
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
        Balance::LeastConnections => {
            // SAFETY: as above.
            let longest = unsafe { read_volatile(addr_of!(service.longest)) };
            return lighter_of_two(ring, longest);
        }
    };
    owner(place)
}

/// Compares the owner of any slot with the owner of the slot that [`balance::other`] names, and takes the one with fewer
/// live flows for its weight.
#[inline(always)]
fn lighter_of_two(ring: Ring, longest: u32) -> u32 {
    // SAFETY: no arguments, no memory.
    let (one, two) = unsafe { (bpf_get_prandom_u32(), bpf_get_prandom_u32()) };
    let Some(first) = balance::any(ring, one) else { return 0 };
    let (one, two) = (owner(Some(first)), owner(balance::other(ring, first, longest, two)));
    // A slot may have no owner while the last backend of a service leaves.
    if one == 0 || two != 0 && !load(one).is_at_most(load(two)) { two } else { one }
}

#[inline(always)]
fn load(backend: u32) -> Load {
    let (weight, full) =
        BACKENDS.get(backend).map_or((0, true), |backend| (backend.weight, backend.is_full()));
    // SAFETY: a word of the map, which others write whole at any time.
    let live = LIVE.get_ptr(backend).map_or(0, |live| unsafe { read_volatile(live) });
    Load { live, weight, full }
}

/// Keeps the numbers of live flows up to date, for a service that balances by them, when `decision` changes the record
/// `before` that a flow has in `FLOWS`.
#[inline(always)]
pub(crate) fn count_live(service: &Service, before: &Record, decision: &Decision, now: u32) {
    let (was, is) = balance::moves(before, &decision.flow_after(before), now, service.idle_after);
    if was == is {
        return;
    }
    if was != 0 {
        add_live(was, -1);
    }
    if is != 0 {
        add_live(is, 1);
    }
}

#[inline(always)]
fn add_live(backend: u32, change: i64) {
    if let Some(live) = LIVE.get_ptr_mut(backend) {
        // Rust has no atomic addition for a target without compare-and-swap. All kernels have this one, which returns
        // nothing.
        // SAFETY: a word of the map, aligned, which all CPUs change atomically.
        unsafe {
            asm!("lock *(u64 *)({live} + 0) += {change}", live = in(reg) live, change = in(reg) change);
        }
    }
}

#[inline(always)]
fn owner(place: Option<u32>) -> u32 {
    let Some(place) = place else { return 0 };
    let Some(word) = RING.get_ptr(place) else { return 0 };
    // SAFETY: the word lies in the arena; the agent writes it whole, at any time, hence volatile.
    Slot(unsafe { read_volatile(word) }).current()
}

/// The number of turns that the service has given on this CPU so far.
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
