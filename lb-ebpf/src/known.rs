//! For a packet that no service takes: whose address it goes to, a service's, the host's or another one.

use core::ptr::read_volatile;

use lb_common::{Address, counter::Counter, known, map::Node};

use crate::{
    family::Family,
    maps::{HOST, KNOWN},
    service,
};

/// The owner of an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Some service listens at the address, on whatever port.
    Service,
    Host,
    Other,
}

/// Whether the address with that mark may be a service's or the host's; `false` is certain.
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
    // SAFETY: nothing reads the value.
    unsafe { HOST.get(address) }.is_some()
}

/// The counter of a packet that no service takes.
#[inline(always)]
pub(crate) fn not_service(node: &Node, whose: Whose) -> Counter {
    match whose {
        Whose::Service if node.flags & Node::DROP_UNSERVED != 0 => Counter::Unserved,
        Whose::Service => Counter::PassedUnserved,
        Whose::Host => Counter::PassedHost,
        Whose::Other => Counter::PassedNotService,
    }
}
