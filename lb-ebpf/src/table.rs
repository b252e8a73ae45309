//! An experiment of the benchmark: a flow table of 64-byte buckets in an array map, compared with the kernel's LRU hash.
//! Both programs hash the flow as the balancer does, look it up, and record it when it is not there.
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "keys and values given to maps by value are copied on the stack, of which there are 512 bytes"
)]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, LruHashMap},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    flow::{Key, Record},
    hash::{Seed, flow_v4},
    mapped,
    wire::{Ethernet, Ipv4},
};

use crate::packet::Packet;

/// Four flows: for each one its hash and what is known of it.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Bucket {
    flows: [[u64; 2]; 4],
}

/// `BPF_F_MMAPABLE`, so that a bucket is one cache line.
const MMAPABLE: usize = 1 << 10;

/// Buckets; with four flows each, they have twice as many places as the largest row has flows.
const BUCKETS: usize = 1 << 19;

/// The table in an array: 32 MiB. Written and read by `table_buckets`.
#[btf_map]
static FLOW_BUCKETS: Array<Bucket, BUCKETS, MMAPABLE> = Array::new();

/// The kernel's table, with as many places. Written and read by `table_lru`.
#[btf_map]
static FLOW_LRU: LruHashMap<Key, Record, { BUCKETS * 4 }> = LruHashMap::new();

const IP: usize = size_of::<Ethernet>();

/// A flow of a packet that is known to be TCP over IPv4 without options.
struct Tuple {
    source: u32,
    ports: u32,
    hash: u64,
}

#[inline(always)]
fn read(ctx: &XdpContext) -> Option<Tuple> {
    let packet = Packet::of(ctx);
    let source = packet.read::<u32>(IP + core::mem::offset_of!(Ipv4, source))?;
    let destination = packet.read::<u32>(IP + core::mem::offset_of!(Ipv4, destination))?;
    let ports = packet.read::<u32>(IP + size_of::<Ipv4>())?;
    let seed = Seed([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
    Some(Tuple { source, ports, hash: flow_v4(&seed, source, destination, ports, 6) })
}

/// The hash alone: the cost of each table is what its program takes beyond this one.
#[xdp]
#[inline(always)]
fn table_none(ctx: XdpContext) -> u32 {
    match read(&ctx) {
        // Never true: it keeps the compiler from removing the hash.
        Some(tuple) if tuple.hash == 1 => xdp_action::XDP_DROP,
        Some(_) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

#[xdp]
#[inline(always)]
fn table_buckets(ctx: XdpContext) -> u32 {
    try_buckets(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn try_buckets(ctx: &XdpContext) -> Option<u32> {
    let tuple = read(ctx)?;
    let bucket = FLOW_BUCKETS.get_ptr_mut((tuple.hash >> 32) as u32 & (BUCKETS as u32 - 1))?;
    // SAFETY: a value of the map; if two CPUs write it at once, the experiment loses one flow.
    let flows = unsafe { &mut (*bucket).flows };
    for flow in flows.iter() {
        if flow[0] == tuple.hash {
            return Some(answer(flow[1]));
        }
    }
    // The first free place, otherwise a place that the hash chooses.
    let chosen = (tuple.hash & 3) as usize;
    let mut place = chosen;
    for (i, flow) in flows.iter().enumerate().rev() {
        if flow[0] == 0 {
            place = i;
        }
    }
    for (i, flow) in flows.iter_mut().enumerate() {
        if i == place {
            *flow = [tuple.hash, 1];
        }
    }
    Some(xdp_action::XDP_PASS)
}

#[xdp]
#[inline(always)]
fn table_lru(ctx: XdpContext) -> u32 {
    try_lru(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn try_lru(ctx: &XdpContext) -> Option<u32> {
    let tuple = read(ctx)?;
    let key = Key::from_parts(&mapped(tuple.source), tuple.ports, 0);
    if let Some(record) = FLOW_LRU.get_ptr_mut(&key) {
        // SAFETY: a value of the map.
        return Some(answer(unsafe { (*record).backend } as u64));
    }
    // As in the other table; the compiler must not remove the hash.
    let record = Record { backend: 1, sequence: tuple.hash as u32, ..Record::NONE };
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "by value they would be copied on the stack"
    )]
    FLOW_LRU.insert(&key, &record, 0).ok()?;
    Some(xdp_action::XDP_PASS)
}

/// Never 0: the compiler must not remove the look-up.
#[inline(always)]
fn answer(found: u64) -> u32 {
    if found == 0 { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}
