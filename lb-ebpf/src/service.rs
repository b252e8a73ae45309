//! From a destination to its service: this searches the index as `lb_common::service` describes it.

use core::ptr::{addr_of, read_volatile};

use lb_common::{
    map::Node,
    service::{ANY_SERVICE, Bucket, Service, home_bucket, port_protocol},
    wire::destination_port,
};

use crate::{
    family::Family,
    known,
    maps::{SERVICES, SVC_INDEX},
    parse::Flow,
};

/// The service of a flow and its number.
#[inline(always)]
pub(crate) fn find<F: Family>(node: &Node, flow: &Flow<F>) -> Option<(u32, &'static Service)> {
    at::<F>(node, flow.destination, destination_port(flow.ports), flow.protocol)
}

/// The service at an address and port, and its number.
#[inline(always)]
pub(crate) fn at<F: Family>(
    node: &Node,
    address: F::Address,
    port: u16,
    protocol: u8,
) -> Option<(u32, &'static Service)> {
    let exact = port_protocol(port, protocol);
    let hash = F::service_hash(address, exact);
    let first = home_bucket(hash, node.index_mask);
    // The first word of the home bucket is enough for nearly every packet, ours or not; the rest is the general search.
    // SAFETY: word 0 of a bucket; the agent writes words whole, at any time, hence volatile.
    let word = unsafe { read_volatile(addr_of!((*SVC_INDEX.get_ptr(first)?).words[0])) };
    if word != Bucket::EMPTY {
        let found = match read::<F, false>(word, hash, address, exact) {
            None => search::<F, false>(node, address, exact),
            found => found,
        };
        if found.is_some() {
            return found;
        }
    }
    if node.flags & Node::ANY_PORT == 0 || !known::may_be_known(F::mark(address)) {
        return None;
    }
    search::<F, false>(node, address, port_protocol(0, protocol))
}

/// Whether any service listens on that address.
#[inline(always)]
pub(crate) fn is_ours<F: Family>(node: &Node, address: F::Address) -> bool {
    search::<F, true>(node, address, ANY_SERVICE).is_some()
}

/// The service that a word leads to, if it is the service of that address and key (only of that address, for `ANY_KEY`).
#[inline(always)]
fn read<F: Family, const ANY_KEY: bool>(
    word: u64,
    hash: u64,
    address: F::Address,
    key: u32,
) -> Option<(u32, &'static Service)> {
    if !Bucket::tag_matches(word, hash) {
        return None;
    }
    let number = Bucket::service(word);
    let service = SERVICES.get(number)?;
    let port_fits = ANY_KEY || service.port_protocol == key;
    (port_fits && F::is_of(address, service) && service.flags & Service::PRESENT != 0)
        .then_some((number, service))
}

/// The general search: at most two buckets, the second only where the first is full.
#[inline(always)]
fn search<F: Family, const ANY_KEY: bool>(
    node: &Node,
    address: F::Address,
    key: u32,
) -> Option<(u32, &'static Service)> {
    let hash = F::service_hash(address, key);
    let first = home_bucket(hash, node.index_mask);
    for i in 0..2 * Bucket::WORDS {
        let step = (i / Bucket::WORDS) as u32;
        let bucket = SVC_INDEX.get_ptr(first.wrapping_add(step) & node.index_mask)?;
        // SAFETY: the place is inside the bucket; volatile as above.
        let word = unsafe { read_volatile(addr_of!((*bucket).words[i % Bucket::WORDS])) };
        if word == Bucket::EMPTY {
            return None;
        }
        let found = read::<F, ANY_KEY>(word, hash, address, key);
        if found.is_some() {
            return found;
        }
    }
    None
}
