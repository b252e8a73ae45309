//! From a destination to its service: the index is searched as `lb_common::service` describes it.

use core::ptr::{addr_of, read_volatile};

use lb_common::{
    Address,
    map::Node,
    service::{ANY_SERVICE, Bucket, Service, hash, home, port_protocol},
    wire::destination_port,
};

use crate::{
    maps::{SERVICES, SVC_INDEX},
    parse::Flow,
};

/// The service of a flow and its number.
#[inline(always)]
pub(crate) fn find(node: &Node, flow: &Flow) -> Option<(u32, &'static Service)> {
    let exact = port_protocol(destination_port(flow.ports), flow.protocol);
    let found = search(node, &flow.destination, exact);
    if found.is_none() && node.flags & Node::ANY_PORT != 0 {
        return search(node, &flow.destination, port_protocol(0, flow.protocol));
    }
    found
}

/// Whether any service listens on that address.
#[inline(always)]
pub(crate) fn is_ours(node: &Node, address: &Address) -> bool {
    search(node, address, ANY_SERVICE).is_some()
}

#[inline(always)]
fn search(node: &Node, address: &Address, key: u32) -> Option<(u32, &'static Service)> {
    let hash = hash(address, key);
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
            let matches =
                if key == ANY_SERVICE { service.has_address(address) } else { service.is(address, key) };
            if matches && service.flags & Service::PRESENT != 0 {
                return Some((number, service));
            }
        }
    }
    None
}
