//! An experiment of the benchmark: the table of flows in an array map ([`lb_common::flow_table`]), compared with the
//! kernel's LRU hash. All programs hash the flow as the balancer does, look it up, and record it when it is not there.
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "keys and values given to maps by value are copied on the stack, of which there are 512 bytes"
)]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, LruHashMap},
    helpers::{bpf_get_prandom_u32, bpf_jiffies64},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    Address,
    flow::Record,
    flow_table::{self, Bucket, Memory, Put, Role, buckets_for},
    hash::{Seed, flow_v4},
    mapped,
    wire::{Ethernet, Ipv4},
};

use crate::{arithmetic::Hidden, packet::Packet};

/// `BPF_F_MMAPABLE`, so that a bucket is one cache line.
const MMAPABLE: usize = 1 << 10;

/// Records that the large tables have room for: twice the flows of the largest row.
const ROOM: u32 = 1 << 21;
/// Records that the small tables have room for, into which more flows are put than that.
const SMALL_ROOM: u32 = 1 << 16;

const BUCKETS: u32 = buckets_for(ROOM);
const SMALL_BUCKETS: u32 = buckets_for(SMALL_ROOM);

/// The table in an array: 40 MiB. Written and read by `table_buckets`.
#[btf_map]
static FLOW_BUCKETS: Array<Bucket, { BUCKETS as usize }, MMAPABLE> = Array::new();

/// A flow as a key of the kernel's table, aligned to whole words as the verifier wants it.
#[repr(C, align(8))]
struct Key {
    source: Address,
    ports: u32,
    /// 0; keeps the key free of padding.
    reserved: u32,
}

/// A record there, 16 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Value {
    backend: u32,
    flags: u32,
    sequence: u32,
    last_seen: u32,
}

/// The kernel's table for as many flows. Written and read by `table_lru`.
#[btf_map]
static FLOW_LRU: LruHashMap<Key, Value, { ROOM as usize }> = LruHashMap::new();

/// A table that a flood is larger than. Written and read by `table_buckets_full`.
#[btf_map]
static SMALL_FLOW_BUCKETS: Array<Bucket, { SMALL_BUCKETS as usize }, MMAPABLE> = Array::new();

/// The same in the kernel's table. Written and read by `table_lru_full`.
#[btf_map]
static SMALL_FLOW_LRU: LruHashMap<Key, Value, { SMALL_ROOM as usize }> = LruHashMap::new();

/// A table in an array of so many buckets.
struct Buckets<const N: usize>(&'static Array<Bucket, N, MMAPABLE>);

// SAFETY: the kernel's pointers to values of an array are valid as long as the map, which the program holds.
unsafe impl<const N: usize> Memory for Buckets<N> {
    type Arithmetic = Hidden;

    #[inline(always)]
    fn buckets(&self) -> u32 {
        N as u32
    }

    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<*mut Bucket> {
        self.0.get_ptr_mut(number)
    }

    #[inline(always)]
    fn service(&self, backend: u32) -> u32 {
        service(backend)
    }
}

/// The services of backends. All have the same one, as in a flood of one service.
#[btf_map]
static SERVICE_OF: Array<u64, 16> = Array::new();

#[inline(always)]
fn service(backend: u32) -> u32 {
    let Some(service) = SERVICE_OF.get_ptr(backend) else { return 0 };
    // SAFETY: a word of the map.
    unsafe { service.read_volatile() as u32 }
}

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
    buckets(&ctx, &Buckets(&FLOW_BUCKETS)).unwrap_or(xdp_action::XDP_ABORTED)
}

#[xdp]
#[inline(always)]
fn table_buckets_full(ctx: XdpContext) -> u32 {
    buckets(&ctx, &Buckets(&SMALL_FLOW_BUCKETS)).unwrap_or(xdp_action::XDP_ABORTED)
}

#[xdp]
#[inline(always)]
fn table_lru(ctx: XdpContext) -> u32 {
    lru(&ctx, &FLOW_LRU).unwrap_or(xdp_action::XDP_ABORTED)
}

#[xdp]
#[inline(always)]
fn table_lru_full(ctx: XdpContext) -> u32 {
    lru(&ctx, &SMALL_FLOW_LRU).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn buckets<M: Memory>(ctx: &XdpContext, memory: &M) -> Option<u32> {
    let tuple = read(ctx)?;
    let key = flow_table::Key::of(tuple.hash, memory.buckets());
    // SAFETY: no arguments, no memory; the verifier inlines it.
    let now = unsafe { bpf_jiffies64() } as u32;
    if let Some(found) = flow_table::find(memory, &key, Role::Flow) {
        return Some(answer(found.read(Role::Flow, now)));
    }
    let record = Record { last_seen: now, ..record(&tuple) };
    // SAFETY: no arguments, no memory.
    let random = unsafe { bpf_get_prandom_u32() };
    match flow_table::put(memory, &key, Role::Flow, &record, now, random) {
        Put::Refused => None,
        Put::Made | Put::Replaced | Put::Evicted(_) => Some(xdp_action::XDP_PASS),
    }
}

#[inline(always)]
fn lru<const N: usize>(ctx: &XdpContext, map: &LruHashMap<Key, Value, N>) -> Option<u32> {
    let tuple = read(ctx)?;
    let key = Key { source: mapped(tuple.source), ports: tuple.ports, reserved: 0 };
    if let Some(value) = map.get_ptr_mut(&key) {
        // SAFETY: a value of the map.
        let Value { backend, flags, sequence, last_seen } = unsafe { *value };
        return Some(answer(Record { backend, flags, sequence, last_seen }));
    }
    let Record { backend, flags, sequence, last_seen } = record(&tuple);
    map.insert(&key, &Value { backend, flags, sequence, last_seen }, 0).ok()?;
    Some(xdp_action::XDP_PASS)
}

/// As in a service that tracks every flow.
#[inline(always)]
fn record(tuple: &Tuple) -> Record {
    Record { backend: 1, flags: Record::BEGAN, sequence: tuple.hash as u32, ..Record::NONE }
}

/// Never [`xdp_action::XDP_DROP`]: the compiler must not remove the look-up.
#[inline(always)]
fn answer(record: Record) -> u32 {
    if record.backend == 0 || record.has(Record::RST) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}
