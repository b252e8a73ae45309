//! The maps. All of them are made and filled by the agent; a packet writes only flow records and counters.
//! Sizes given here are the defaults; the agent overrides them from `[limits]` when it makes the maps.
//!
//! Records that are one cache line long lie in mappable arrays: only those begin at a page, so that no record
//! straddles two lines.

use aya_ebpf::{
    btf_maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    Address,
    backend::Backend,
    counter::Counter,
    flow::{Key, Record},
    front::{self, Entry},
    known,
    loss::Loss,
    map::{Meta, Node, Tally, Turnover, size},
    owner,
    service::{Bucket, Service, buckets_for},
};

/// `BPF_F_MMAPABLE` (since kernel 5.5): the agent writes words by plain stores.
const MMAPABLE: usize = 1 << 10;
/// `BPF_F_NO_PREALLOC`: entries are allocated when they are made.
const NO_PREALLOC: usize = 1;

/// One [`Node`]. Written by the agent, last of all when it makes the maps; read by every packet.
#[btf_map]
pub(crate) static NODE: Array<Node, 1, MMAPABLE> = Array::new();

/// Place → all that a plain packet in a stable slot needs of the service that stands there. Written by the agent, kept in
/// step with the records; read first by every plain packet. A power of two of entries, four for each service.
#[btf_map]
pub(crate) static SVC_FRONT: Array<Entry, { front::entries_for(size::SERVICES) as usize }, MMAPABLE> =
    Array::new();

/// Bucket number → eight words that lead to services. Written by the agent word by word; read by every TCP or
/// UDP packet. A power of two of buckets, about one word in each; a full one overflows into its neighbour.
#[btf_map]
pub(crate) static SVC_INDEX: Array<Bucket, { buckets_for(size::SERVICES) as usize }, MMAPABLE> = Array::new();

/// Service number → service. Written by the agent; `limits.services` entries, more are refused at plan time.
#[btf_map]
pub(crate) static SERVICES: Array<Service, { size::SERVICES as usize }, MMAPABLE> = Array::new();

/// All rings, one after the other: slot words. Written by the agent, 8 bytes at a time; `limits.slots` entries,
/// rings that do not fit are refused at plan time.
#[btf_map]
pub(crate) static RING: Array<u64, { size::SLOTS as usize }, MMAPABLE> = Array::new();

/// Slot / 4 → the owners of four slots, see [`owner`]. Written by the agent, kept in step with [`RING`]; read before it by
/// every plain packet for a service. A quarter as many entries.
#[btf_map]
pub(crate) static SLOT_OWNERS: Array<u64, { owner::words_for(size::SLOTS) as usize }, MMAPABLE> =
    Array::new();

/// Backend number → how to send a packet there. Entry 0 stays empty. Written by the agent; `limits.backends`
/// entries, more are refused at plan time.
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { size::BACKENDS as usize }, MMAPABLE> = Array::new();

/// Confirmed flows of tracked slots. Written by packets in tracked slots, swept by the agent; when it is full
/// the kernel evicts those longest unseen. `limits.flows` entries.
#[btf_map]
pub(crate) static FLOWS: LruHashMap<Key, Record, { size::FLOWS as usize }> = LruHashMap::new();

/// Flows of which only a SYN was seen: apart, so that a SYN flood can push out nothing but other handshakes.
/// Written and swept like [`FLOWS`]. `limits.pending_flows` entries.
#[btf_map]
pub(crate) static PENDING: LruHashMap<Key, Record, { size::PENDING as usize }> = LruHashMap::new();

/// [`Counter`] → how often. Written by packets, read by the agent.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Service number → turns given, written by packets of services with `round-robin`; and the traffic that the service's
/// backends do not count themselves any more, which the agent writes.
#[btf_map]
pub(crate) static SVC_TALLY: PerCpuArray<Tally, { size::SERVICES as usize }> = PerCpuArray::new();

/// Backend number → traffic. Written by packets, read by the agent.
#[btf_map]
pub(crate) static BK_TALLY: PerCpuArray<Tally, { size::BACKENDS as usize }> = PerCpuArray::new();

/// Which flow table ([`Turnover::FLOWS`] and its neighbour) → what packets did to it. Written by packets that make or take
/// out a record, read by the agent, which tells evictions from it.
#[btf_map]
pub(crate) static TURNOVER: PerCpuArray<Turnover, { Turnover::COUNT as usize }> = PerCpuArray::new();

/// Backend number → its confirmed flows that are not closed, for services that balance by them only. Packets add and
/// subtract, the agent corrects it by what it meets in [`FLOWS`]: evicted and expired flows subtract nothing.
#[btf_map]
pub(crate) static LIVE: Array<i64, { size::BACKENDS as usize }, MMAPABLE> = Array::new();

/// Bits by a hash of an address → whether it may be a service's or the host's, see `lb_common::known`. Written by the
/// agent, a word at a time; read by packets that no service takes. Never full: with many addresses more is asked for in vain.
#[btf_map]
pub(crate) static KNOWN: Array<u64, { known::WORDS as usize }, MMAPABLE> = Array::new();

/// Addresses of the host itself. Written by the agent; read by packets that no service takes and [`KNOWN`] may know.
/// When it is full, further addresses count as nobody's.
#[btf_map]
pub(crate) static HOST: HashMap<Address, u32, { size::HOST as usize }, NO_PREALLOC> = HashMap::new();

/// Interface number → MTU, of the interfaces that packets come in on. Written by the agent; read by packets that are too
/// big for their backend. An interface that is not there, or has no place, merges nothing.
#[btf_map]
pub(crate) static INGRESS: HashMap<u32, u32, { size::INGRESS as usize }, NO_PREALLOC> = HashMap::new();

/// Interface number → the interface itself: where packets may be redirected. Written by the agent.
#[btf_map]
pub(crate) static EGRESS: DevMapHash<{ size::EGRESS as usize }> = DevMapHash::new();

/// Service number → what the agent needs to adopt it. Written and read by the agent only.
#[btf_map]
pub(crate) static SVC_META: Array<Meta, { size::SERVICES as usize }> = Array::new();

/// Backend number → what the agent needs to adopt it. Written and read by the agent only.
#[btf_map]
pub(crate) static BK_META: Array<Meta, { size::BACKENDS as usize }> = Array::new();

/// One word: the kernel's jiffies when `lb_clock` ran last. Written by it, read by the agent.
#[btf_map]
pub(crate) static CLOCK: Array<u64, 1> = Array::new();

/// Addresses at which `lb_decap` takes outer headers off. Written by the agent on a backend; when it is full a
/// further address is refused there.
#[btf_map]
pub(crate) static DECAP: HashMap<Address, u32, { size::DECAP as usize }, NO_PREALLOC> = HashMap::new();

/// Interface and error → frames that were lost there after `lb_xdp` had sent them. Written by the programs at the kernel's
/// tracepoints, read by the agent. When it is full, further interfaces and errors are not counted.
#[btf_map]
pub(crate) static LOSSES: HashMap<Loss, u64, { size::LOSSES as usize }> = HashMap::new();

/// Number of a program → 1: whose losses count. Written by the agent, which puts the number of its `lb_xdp` there before it
/// attaches it; read when a frame is lost, by any program of the host.
#[btf_map]
pub(crate) static LOSS_PROGRAMS: HashMap<u32, u32, { size::LOSS_PROGRAMS as usize }> = HashMap::new();
