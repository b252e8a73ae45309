//! From a destination to its service: the index is searched as `lb_common::service` describes it.

use core::ptr::{addr_of, read_volatile};

use lb_common::{
    map::Node,
    service::{ANY_SERVICE, Bucket, Service, home, port_protocol},
    wire::destination_port,
};

use crate::{
    family::Family,
    maps::{SERVICES, SVC_INDEX},
    parse::Flow,
};

/// The service of a flow and its number.
#[inline(always)]
pub(crate) fn find<F: Family>(node: &Node, flow: &Flow<F>) -> Option<(u32, &'static Service)> {
    let exact = port_protocol(destination_port(flow.ports), flow.protocol);
    let found = search::<F>(node, flow.destination, exact);
    if found.is_none() && node.flags & Node::ANY_PORT != 0 {
        return search::<F>(node, flow.destination, port_protocol(0, flow.protocol));
    }
    found
}

/// Whether any service listens on that address.
#[inline(always)]
pub(crate) fn is_ours<F: Family>(node: &Node, address: F::Address) -> bool {
    search::<F>(node, address, ANY_SERVICE).is_some()
}

#[inline(always)]
fn search<F: Family>(node: &Node, address: F::Address, key: u32) -> Option<(u32, &'static Service)> {
    let hash = F::service_hash(address, key);
    let first = home(hash, node.index_mask);
    // Two buckets at the most; the second only where the first is full.
    for step in 0..2 {
        let bucket = SVC_INDEX.get_ptr(first.wrapping_add(step) & node.index_mask)?;
        for i in 0..Bucket::WORDS {
            // SAFETY: `i` is inside the bucket; the agent writes words whole, at any time, hence volatile.
            let word = unsafe { read_volatile(addr_of!((*bucket).words[i])) };
            if word == Bucket::EMPTY {
                return None;
            }
            if !Bucket::may_be(word, hash) {
                continue;
            }
            let number = Bucket::service(word);
            let Some(service) = SERVICES.get(number) else { continue };
            let port_fits = key == ANY_SERVICE || service.port_protocol == key;
            if port_fits && F::is_of(address, service) && service.flags & Service::PRESENT != 0 {
                return Some((number, service));
            }
        }
    }
    None
}
