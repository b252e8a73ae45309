//! What is needed to read a version of the maps: its records, and how each is converted to our record.

use aya::Pod;
use aya_obj::generated::bpf_map_type;
use lb_common::{
    backend::Backend,
    flow::Record,
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

/// How the flow records of a version lie in its maps.
#[derive(Clone, Copy)]
pub(super) enum FlowMaps {
    /// In two hash tables, `FLOWS` and `PENDING`, under keys of version 1 ([`super::v1::Key`]). The function converts a record,
    /// as it lies in memory.
    Hashes(fn(&[u8; 16]) -> Record),
    /// In one array of buckets, see [`lb_common::flow_table`].
    Table,
}

/// One version. Its records are exactly what its programs and agents wrote, byte for byte.
pub(super) trait Layout: 'static {
    const VERSION: u32;
    /// The maps that are read.
    const MAPS: &'static [Pinned];
    /// Whether its programs counted packets for the service, too, and not only for the backend.
    const COUNTS_SERVICES: bool;
    const FLOWS: FlowMaps;
    type Node: Pod;
    type Service: Pod;
    type Backend: Pod;
    type NameRecord: Pod;
    type TrafficCounters: Pod;

    fn node(node: &Self::Node) -> Node;
    fn service(service: &Self::Service) -> Service;
    fn backend(backend: &Self::Backend) -> Backend;
    fn meta(meta: &Self::NameRecord) -> NameRecord;
    fn tally(tally: &Self::TrafficCounters) -> TrafficCounters;
    fn slot(word: u64) -> Slot;
}

/// A flow record of a version.
pub(super) fn read<T: Pod>(bytes: &[u8; 16]) -> T {
    const { assert!(size_of::<T>() == 16) };
    // SAFETY: as many bytes as a T has, for which every bit pattern is a value.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
