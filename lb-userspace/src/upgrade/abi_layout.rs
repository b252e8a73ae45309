//! What is needed to read a version of the maps: its records, and how each is converted to our record.

use aya::Pod;
use aya_obj::generated::bpf_map_type;
use lb_common::{
    backend::Backend,
    flow::{Key, Record},
    map::{NameRecord, Node, TrafficCounters},
    service::Service,
    slot::Slot,
};

pub(super) const ARRAY: u32 = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
pub(super) const PER_CPU_ARRAY: u32 = bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32;
pub(super) const LRU_HASH: u32 = bpf_map_type::BPF_MAP_TYPE_LRU_HASH as u32;
pub(super) const DEVICE_HASH: u32 = bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH as u32;

/// A pinned map of a version: name, type, bytes of a key and of a value.
pub(super) type Pinned = (&'static str, u32, u32, u32);

/// One version. Its records are exactly what its programs and agents wrote, byte for byte.
pub(super) trait Layout: 'static {
    const VERSION: u32;
    /// The maps that are read.
    const MAPS: &'static [Pinned];
    /// Names of its counters, in the order of their numbers. Counters that we do not have are not carried over.
    const COUNTERS: &'static [&'static str];
    /// Whether its programs counted packets for the service, too, and not only for the backend.
    const COUNTS_SERVICES: bool;
    type Node: Pod;
    type Service: Pod;
    type Backend: Pod;
    type NameRecord: Pod;
    type TrafficCounters: Pod;
    type Key: Pod + Default;
    type Record: Pod + Default;

    fn node(node: &Self::Node) -> Node;
    fn service(service: &Self::Service) -> Service;
    fn backend(backend: &Self::Backend) -> Backend;
    fn meta(meta: &Self::NameRecord) -> NameRecord;
    fn tally(tally: &Self::TrafficCounters) -> TrafficCounters;
    fn slot(word: u64) -> Slot;
    fn key(key: &Self::Key) -> Key;
    fn record(record: &Self::Record) -> Record;
}
