//! Counts, and turns a counter into an XDP action: each packet ends under exactly one counter that is not an event.

use aya_ebpf::bindings::xdp_action;
use lb_common::counter::{Counter, Kind};

use crate::maps::{BK_TALLY, COUNTERS};

/// Counts an event or a verdict.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own copy of the value.
        unsafe { *value += 1 };
    }
}

/// Counts a packet that is not forwarded and returns its action.
#[inline(always)]
pub(crate) fn finish(counter: Counter) -> u32 {
    count(counter);
    match counter.kind() {
        Kind::Dropped => xdp_action::XDP_DROP,
        // An answer has left its own way; see `icmp` and `too_big`.
        Kind::Forwarded | Kind::Passed | Kind::Answered | Kind::Event => xdp_action::XDP_PASS,
    }
}

/// Counts a forwarded packet of `length` bytes for its backend, and with that for the service of the backend.
#[inline(always)]
pub(crate) fn count_traffic(backend: u32, length: u16, is_syn: impl FnOnce() -> bool) {
    if let Some(tally) = BK_TALLY.get_ptr_mut(backend) {
        // SAFETY: this CPU's own copy of the value.
        unsafe {
            (*tally).packets += 1;
            (*tally).bytes += length as u64;
            if is_syn() {
                (*tally).new_connections += 1;
            }
        }
    }
}
