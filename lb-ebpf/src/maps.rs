//! The maps. The agent makes and fills all of them; a packet writes only flow records and counters. The sizes here are
//! the defaults; the agent overrides them from `[limits]` when it makes the maps.
//!
//! Records that are one cache line long lie in mappable arrays: only such arrays begin at a page, so that no record
//! straddles two lines.

use aya_ebpf::{
    btf_maps::{Array, DevMapHash, HashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    Address,
    backend::Backend,
    counter, elsewhere,
    flow_table::{self, buckets_for as buckets_for_flows},
    known,
    loss::Loss,
    map::{NameRecord, Node, TrafficCounters, size},
    owner,
    service::{Bucket, Service, buckets_for},
    service_cache::{self, Entry},
};

use crate::flow::Left;

/// `BPF_F_MMAPABLE` (since kernel 5.5): the agent writes words by plain stores.
const MMAPABLE: usize = 1 << 10;
/// `BPF_F_NO_PREALLOC`: the kernel allocates entries when they are made.
const NO_PREALLOC: usize = 1;

/// One [`Node`]. The agent writes it, last of all when it makes the maps; every packet on the slow path reads it.
#[btf_map]
pub(crate) static NODE: Array<Node, 1, MMAPABLE> = Array::new();

/// Place → all that the fast path needs of the service that has this place. The agent writes it and keeps it in step
/// with the records; every plain packet reads it first. A power of two of entries, four for each service.
#[btf_map]
pub(crate) static SVC_FRONT: Array<Entry, { service_cache::entries_for(size::SERVICES) as usize }, MMAPABLE> =
    Array::new();

/// Bucket number → eight words that lead to services. The agent writes it word by word; every TCP or UDP packet that the
/// fast path does not handle reads it. A power of two of buckets, about one word in each; a full bucket overflows into
/// its neighbour.
#[btf_map]
pub(crate) static SVC_INDEX: Array<Bucket, { buckets_for(size::SERVICES) as usize }, MMAPABLE> = Array::new();

/// Service number → service. The agent writes it; `limits.services` entries, the agent refuses more at plan time.
#[btf_map]
pub(crate) static SERVICES: Array<Service, { size::SERVICES as usize }, MMAPABLE> = Array::new();

/// All rings, one after the other: slot words. The agent writes it, 8 bytes at a time; `limits.slots` entries, the agent
/// refuses rings that do not fit at plan time.
#[btf_map]
pub(crate) static RING: Array<u64, { size::SLOTS as usize }, MMAPABLE> = Array::new();

/// Slot / 4 → the owners of four slots, see [`owner`]. The agent writes it and keeps it in step with [`RING`]; every
/// plain packet for a service reads it before [`RING`]. A quarter as many entries as [`RING`].
#[btf_map]
pub(crate) static SLOT_OWNERS: Array<u64, { owner::words_for(size::SLOTS) as usize }, MMAPABLE> =
    Array::new();

/// Backend number → how to send a packet there. Entry 0 stays empty. The agent writes it; `limits.backends` entries, the
/// agent refuses more at plan time.
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { size::BACKENDS as usize }, MMAPABLE> = Array::new();

/// Bucket number → four records of flows, see [`lb_common::flow_table`]. Packets in tracked slots write it; the agent
/// sweeps it in its own memory. Where a bucket is full, what proves least gives its place away. `limits.flows` entries at
/// 80 %, rounded up.
#[btf_map]
pub(crate) static FLOWS: Array<flow_table::Bucket, { buckets_for_flows(size::FLOWS) as usize }, MMAPABLE> =
    Array::new();

/// Slot / 32 → four clocks of eight slots each, see [`elsewhere`]. Packets write a clock when a record sends them
/// elsewhere than to their slot's owner, the agent when it gives a tracked slot another word. A 32nd of the entries of
/// [`RING`].
#[btf_map]
pub(crate) static SLOT_ELSEWHERE: Array<u64, { elsewhere::entries_for(size::SLOTS) as usize }, MMAPABLE> =
    Array::new();

/// What a packet in a tracked slot has to write, on the way from one function of the program to another. Only the program
/// reads and writes it.
#[btf_map]
pub(crate) static DECISION: PerCpuArray<Left, 1> = PerCpuArray::new();

/// When this CPU may send the next *packet too big*, see [`lb_common::icmp::take_turn`]. Only the program reads and writes
/// it.
#[btf_map]
pub(crate) static NEXT_ANSWER: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Backend number → the number of its service. The agent writes it; packets read it where the flow table is full.
#[btf_map]
pub(crate) static BK_SERVICE: Array<u64, { size::BACKENDS as usize }, MMAPABLE> = Array::new();

/// [`counter::Counter`] → how often; [`counter::ROOM`] entries further, what an earlier map had counted. Packets write the first
/// part, the agent the second one; the agent reads both.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { counter::ENTRIES as usize }> = PerCpuArray::new();

/// Service number → turns given, which packets of services with `round-robin` write; and the traffic that the service's
/// backends no longer count themselves, which the agent writes.
#[btf_map]
pub(crate) static SVC_TALLY: PerCpuArray<TrafficCounters, { size::SERVICES as usize }> = PerCpuArray::new();

/// Backend number → traffic. Packets write it, the agent reads it.
#[btf_map]
pub(crate) static BK_TALLY: PerCpuArray<TrafficCounters, { size::BACKENDS as usize }> = PerCpuArray::new();

/// Backend number → its confirmed flows that are not closed, only for services that balance by them. Packets add and
/// subtract; the agent corrects the number by what it finds in [`FLOWS`], since evicted and expired flows subtract
/// nothing.
#[btf_map]
pub(crate) static LIVE: Array<i64, { size::BACKENDS as usize }, MMAPABLE> = Array::new();

/// Bits by a hash of an address → whether it may be a service's or the host's, see `lb_common::known`. The agent writes
/// it, a word at a time; packets that no service takes read it. Never full: with many addresses, more look-ups in the
/// exact tables are in vain.
#[btf_map]
pub(crate) static KNOWN: Array<u64, { known::WORDS as usize }, MMAPABLE> = Array::new();

/// Addresses of the host itself. The agent writes it; packets that no service takes and that [`KNOWN`] may know read it.
/// When it is full, packets for further addresses count as if these were not addresses of the host.
#[btf_map]
pub(crate) static HOST: HashMap<Address, u32, { size::HOST as usize }, NO_PREALLOC> = HashMap::new();

/// Interface number → MTU, of the interfaces that packets come in on. The agent writes it; packets that are too big for
/// their backend read it. Packets of an interface that is not in the map, or has no place in it, never count as merged.
#[btf_map]
pub(crate) static INGRESS: HashMap<u32, u32, { size::INGRESS as usize }, NO_PREALLOC> = HashMap::new();

/// Interface number → the interface itself: where packets may be redirected. The agent writes it.
#[btf_map]
pub(crate) static EGRESS: DevMapHash<{ size::EGRESS as usize }> = DevMapHash::new();

/// Service number → what the agent needs to adopt it. Only the agent writes and reads it.
#[btf_map]
pub(crate) static SVC_META: Array<NameRecord, { size::SERVICES as usize }> = Array::new();

/// Backend number → what the agent needs to adopt it. Only the agent writes and reads it.
#[btf_map]
pub(crate) static BK_META: Array<NameRecord, { size::BACKENDS as usize }> = Array::new();

/// One word: the kernel's jiffies when `lb_clock` ran last. `lb_clock` writes it, the agent reads it.
#[btf_map]
pub(crate) static CLOCK: Array<u64, 1> = Array::new();

/// Addresses at which `lb_decap` takes outer headers off → bits of the kinds that it takes off. The agent on a backend writes it; when it is full, the agent
/// refuses a further address.
#[btf_map]
pub(crate) static DECAP: HashMap<Address, u32, { size::DECAP as usize }, NO_PREALLOC> = HashMap::new();

/// Interface and error → frames that were lost there after `lb_xdp` had sent them. The programs at the kernel's
/// tracepoints write it, the agent reads it. When it is full, losses of further interfaces and errors are not counted.
#[btf_map]
pub(crate) static LOSSES: HashMap<Loss, u64, { size::LOSSES as usize }> = HashMap::new();

/// Number of a program → 1: the programs whose losses count. The agent puts the number of its `lb_xdp` there before it
/// attaches the program; the programs at the tracepoints read it when any program of the host loses a frame.
#[btf_map]
pub(crate) static LOSS_PROGRAMS: HashMap<u32, u32, { size::LOSS_PROGRAMS as usize }> = HashMap::new();
