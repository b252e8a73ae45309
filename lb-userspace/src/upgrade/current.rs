//! Our own version, for maps of which only the sizes change.

use lb_common::{
    ABI_VERSION,
    backend::Backend,
    flow_table::Bucket,
    map::{NameRecord, Node, TrafficCounters, name},
    service::Service,
    slot::Slot,
};

use super::abi_layout::{ARRAY, DEVICE_HASH, FlowMaps, Layout, PER_CPU_ARRAY, Pinned};

pub(super) struct Current;

const fn bytes<T>() -> u32 {
    size_of::<T>() as u32
}

impl Layout for Current {
    const VERSION: u32 = ABI_VERSION;
    const MAPS: &'static [Pinned] = &[
        (name::NODE, ARRAY, 4, bytes::<Node>()),
        (name::SERVICES, ARRAY, 4, bytes::<Service>()),
        (name::RING, ARRAY, 4, 8),
        (name::BACKENDS, ARRAY, 4, bytes::<Backend>()),
        (name::FLOWS, ARRAY, 4, bytes::<Bucket>()),
        (name::COUNTERS, PER_CPU_ARRAY, 4, 8),
        (name::SVC_TALLY, PER_CPU_ARRAY, 4, bytes::<TrafficCounters>()),
        (name::BK_TALLY, PER_CPU_ARRAY, 4, bytes::<TrafficCounters>()),
        // Interface and program (`struct bpf_devmap_val`).
        (name::EGRESS, DEVICE_HASH, 4, 8),
        (name::SVC_META, ARRAY, 4, bytes::<NameRecord>()),
        (name::BK_META, ARRAY, 4, bytes::<NameRecord>()),
    ];
    const COUNTS_SERVICES: bool = false;
    const FLOWS: FlowMaps = FlowMaps::Table;
    type Node = Node;
    type Service = Service;
    type Backend = Backend;
    type NameRecord = NameRecord;
    type TrafficCounters = TrafficCounters;

    fn node(node: &Node) -> Node {
        *node
    }

    fn service(service: &Service) -> Service {
        *service
    }

    fn backend(backend: &Backend) -> Backend {
        *backend
    }

    fn meta(meta: &NameRecord) -> NameRecord {
        *meta
    }

    fn tally(tally: &TrafficCounters) -> TrafficCounters {
        *tally
    }

    fn slot(word: u64) -> Slot {
        Slot(word)
    }
}
