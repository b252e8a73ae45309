//! From a destination to its service: this searches the index as `lb_common::service` describes it.

use core::ptr::{addr_of, read_volatile};

use lb_common::{
    join,
    map::Node,
    service::{self, ANY_SERVICE, Bucket, Service, home_bucket, port_protocol},
    split,
    wire::destination_port,
};

use crate::{
    family::{Family, V6},
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
        let found = match read::<F>(word, hash, address, exact, false) {
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

/// Any of the services that listen on that address, and its number.
#[inline(always)]
pub(crate) fn of_address<F: Family>(node: &Node, address: F::Address) -> Option<(u32, &'static Service)> {
    search::<F, true>(node, address, ANY_SERVICE)
}

/// The service that a word leads to, if it is the service of that address and key (with `any_key`, only of that address).
#[inline(always)]
fn read<F: Family>(
    word: u64,
    hash: u64,
    address: F::Address,
    key: u32,
    any_key: bool,
) -> Option<(u32, &'static Service)> {
    if !Bucket::tag_matches(word, hash) {
        return None;
    }
    let number = Bucket::service(word);
    let service = SERVICES.get(number)?;
    let port_fits = any_key || service.port_protocol == key;
    (port_fits && F::is_of(address, service) && service.flags & Service::PRESENT != 0)
        .then_some((number, service))
}

/// The general search, of either family. A function of its own, whose arguments are numbers: the verifier goes through it
/// once, and not once for each search and each way that leads to it.
#[inline(always)]
fn search<F: Family, const ANY_KEY: bool>(
    node: &Node,
    address: F::Address,
    key: u32,
) -> Option<(u32, &'static Service)> {
    let address = F::mapped(address);
    let (upper, lower) = (join(address[0], address[1]), join(address[2], address[3]));
    let any_key = if ANY_KEY { IS_ANY_KEY } else { 0 };
    match lb_search(upper, lower, any_key | key as u64, node.index_mask as u64) {
        0 => None,
        found => Some((found - 1, SERVICES.get(found - 1)?)),
    }
}

/// In the key of [`lb_search`]: any service of the address will do.
const IS_ANY_KEY: u64 = 1 << 32;

/// The number of a service plus 1; 0 = none. At most two buckets, the second only where the first is full.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_search(upper: u64, lower: u64, key: u64, mask: u64) -> u32 {
    let ([a, b], [c, d]) = (split(upper), split(lower));
    let address = [a, b, c, d];
    let (any_key, key, mask) = (key & IS_ANY_KEY != 0, key as u32, mask as u32);
    let hash = service::hash(&address, key);
    let first = home_bucket(hash, mask);
    for i in 0..2 * Bucket::WORDS {
        let step = (i / Bucket::WORDS) as u32;
        let Some(bucket) = SVC_INDEX.get_ptr(first.wrapping_add(step) & mask) else { return 0 };
        // SAFETY: the place is inside the bucket; volatile as above.
        let word = unsafe { read_volatile(addr_of!((*bucket).words[i % Bucket::WORDS])) };
        if word == Bucket::EMPTY {
            return 0;
        }
        if let Some((number, _)) = read::<V6>(word, hash, address, key, any_key) {
            return number + 1;
        }
    }
    0
}
