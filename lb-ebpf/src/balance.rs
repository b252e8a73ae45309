//! The backend of a new flow where a service balances other than by the hash. The rules are `lb_common::balance`'s.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use lb_common::{
    balance::{self, Balance},
    service::Service,
    slot::Slot,
};

use crate::maps::{RING, SVC_TALLY};

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
    };
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
