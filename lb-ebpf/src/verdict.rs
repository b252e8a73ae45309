//! Counts, and turns a counter into an XDP action: each packet ends under exactly one that is no event.

use aya_ebpf::bindings::xdp_action;
use lb_common::{
    counter::{Counter, Kind},
    map::Tally,
};

use crate::{
    family::Family,
    maps::{BK_TALLY, COUNTERS, SVC_TALLY},
    parse::Flow,
};

/// Counts an event or a verdict.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own copy of the value.
        unsafe { *value += 1 };
    }
}

/// Counts a packet that is not forwarded and says what becomes of it.
#[inline(always)]
pub(crate) fn conclude(counter: Counter) -> u32 {
    count(counter);
    match counter.kind() {
        Kind::Dropped => xdp_action::XDP_DROP,
        Kind::Forwarded | Kind::Passed | Kind::Event => xdp_action::XDP_PASS,
    }
}

/// Counts a forwarded packet for its service and its backend.
#[inline(always)]
pub(crate) fn tally<F: Family>(service: u32, backend: u32, flow: &Flow<F>) {
    add(SVC_TALLY.get_ptr_mut(service), flow);
    add(BK_TALLY.get_ptr_mut(backend), flow);
}

#[inline(always)]
fn add<F: Family>(tally: Option<*mut Tally>, flow: &Flow<F>) {
    if let Some(tally) = tally {
        // SAFETY: this CPU's own copy of the value.
        unsafe {
            (*tally).packets += 1;
            (*tally).bytes += flow.length as u64;
            if flow.is_syn() {
                (*tally).new_connections += 1;
            }
        }
    }
}
