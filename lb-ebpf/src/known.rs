//! Whose address a packet goes to that no service takes: a service's, the host's, or somebody else's.

use core::ptr::read_volatile;

use lb_common::{Address, counter::Counter, known, map::Node};

use crate::{
    family::Family,
    maps::{HOST, KNOWN},
    service,
};

/// Whose an address is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Some service listens there, on whatever port.
    Service,
    Host,
    Other,
}

/// Whether the address with that mark may be a service's or the host's; `false` is for sure.
#[inline(always)]
pub(crate) fn may_be(mark: u32) -> bool {
    let Some(word) = KNOWN.get_ptr(known::word(mark)) else { return true };
    // SAFETY: a word of the array; the agent writes words whole, at any time, hence volatile.
    unsafe { read_volatile(word) & known::bit(mark) != 0 }
}

#[inline(always)]
pub(crate) fn whose<F: Family>(node: &Node, address: F::Address) -> Whose {
    if !may_be(F::mark(address)) {
        Whose::Other
    } else if service::is_ours::<F>(node, address) {
        Whose::Service
    } else if is_host(F::mapped(address)) {
        Whose::Host
    } else {
        Whose::Other
    }
}

#[inline(always)]
fn is_host(address: Address) -> bool {
    // SAFETY: the value is not looked at.
    unsafe { HOST.get(address) }.is_some()
}

/// What a packet counts as that no service takes.
#[inline(always)]
pub(crate) fn not_service(node: &Node, whose: Whose) -> Counter {
    match whose {
        Whose::Service if node.flags & Node::DROP_UNSERVED != 0 => Counter::Unserved,
        Whose::Service => Counter::PassedUnserved,
        Whose::Host => Counter::PassedHost,
        Whose::Other => Counter::PassedNotService,
    }
}
