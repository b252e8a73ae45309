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
pub(crate) enum AddressOwner {
    /// Some service listens at the address, on whatever port.
    Service,
    Host,
    Other,
}

/// Whether the address with that mark may be a service's or the host's; `false` is certain.
#[inline(always)]
pub(crate) fn may_be_known(mark: u32) -> bool {
    let Some(word) = KNOWN.get_ptr(known::word(mark)) else { return true };
    // SAFETY: a word of the array; the agent writes words whole, at any time, hence volatile.
    unsafe { read_volatile(word) & known::bit(mark) != 0 }
}

#[inline(always)]
pub(crate) fn owner_of<F: Family>(node: &Node, address: F::Address) -> AddressOwner {
    if !may_be_known(F::mark(address)) {
        AddressOwner::Other
    } else if service::of_address::<F>(node, address).is_some() {
        AddressOwner::Service
    } else if is_host(F::mapped(address)) {
        AddressOwner::Host
    } else {
        AddressOwner::Other
    }
}

#[inline(always)]
fn is_host(address: Address) -> bool {
    // SAFETY: nothing reads the value.
    unsafe { HOST.get(address) }.is_some()
}

/// The counter of a packet that no service takes.
#[inline(always)]
pub(crate) fn not_service(node: &Node, owner: AddressOwner) -> Counter {
    match owner {
        AddressOwner::Service if node.flags & Node::DROP_UNSERVED != 0 => Counter::Unserved,
        AddressOwner::Service => Counter::PassedUnserved,
        AddressOwner::Host => Counter::PassedHost,
        AddressOwner::Other => Counter::PassedNotService,
    }
}
