//! Version 3, as its programs and agents wrote it. Do not change it: it describes maps that may still be pinned on some host.
//! The parts that are the same as in versions 1 and 2 are read by the code of those versions.

use lb_common::{backend, map, service, slot::Slot};

use super::{
    abi_layout::{FlowMaps, Layout, Pinned},
    v1::{self, V1},
    v2::{self, V2},
};

pub(crate) struct V3;

/// The record of version 2, with the slots of the owner that has most, and the time after which flows are idle.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub(crate) address: [u32; 4],
    pub(crate) port_protocol: u32,
    /// Bit 0 in use, 1 every flow is recorded, 8 and 9 how a new flow finds its backend.
    pub(crate) flags: u32,
    pub(crate) ring: u64,
    pub(crate) old_ring: u64,
    pub(crate) longest: u32,
    pub(crate) idle_after: u32,
    pub(crate) reserved: [u32; 4],
}

const _: () = assert!(size_of::<Service>() == 64);
// SAFETY: repr(C) over integers, without padding (the size above), so every bit pattern is a value.
unsafe impl aya::Pod for Service {}

impl Layout for V3 {
    const VERSION: u32 = 3;
    const MAPS: &'static [Pinned] = V1::MAPS;
    /// Packets count for their backend only; a service's tally is the part that the tallies of its backends do not have.
    const COUNTS_SERVICES: bool = false;
    const FLOWS: FlowMaps = V1::FLOWS;
    type Node = v1::Node;
    type Service = Service;
    type Backend = v2::Backend;
    type NameRecord = v1::NameRecord;
    type TrafficCounters = v1::TrafficCounters;

    fn node(node: &v1::Node) -> map::Node {
        // Bit 1: packets for a virtual address that no service takes are dropped.
        let drops = if node.flags & 1 << 1 != 0 { map::Node::DROP_UNSERVED } else { 0 };
        let node = V2::node(node);
        map::Node { flags: node.flags | drops, ..node }
    }

    fn service(service: &Service) -> service::Service {
        let Service { address, port_protocol, flags, ring, old_ring, longest, idle_after, reserved: _ } =
            *service;
        let older = v1::Service { address, port_protocol, flags, ring, old_ring, reserved: [0; 6] };
        service::Service { longest, idle_after, ..V2::service(&older) }
    }

    fn backend(backend: &v2::Backend) -> backend::Backend {
        // Bit 3: its health check fails.
        let fails = if backend.flags & 1 << 3 != 0 { backend::Backend::FAILING } else { 0 };
        let backend = V2::backend(backend);
        backend::Backend { flags: backend.flags | fails, ..backend }
    }

    fn meta(meta: &v1::NameRecord) -> map::NameRecord {
        // Bit 2: a backend has been down for less than the grace period, and its flows are kept until `free_after`.
        let returning = if meta.flags & 1 << 2 != 0 { map::NameRecord::RETURNING } else { 0 };
        let meta = V2::meta(meta);
        map::NameRecord { flags: meta.flags | returning, ..meta }
    }

    /// The count of balancing turns begins at 0 again.
    fn tally(tally: &v1::TrafficCounters) -> map::TrafficCounters {
        V2::tally(tally)
    }

    fn slot(word: u64) -> Slot {
        V2::slot(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_may_return_is_carried_over_as_one() {
        // Used and returning until step 9.
        let meta = |flags| v1::NameRecord {
            name: [0; 64],
            flags,
            service: 1,
            address: [0; 4],
            max_backends: 0,
            free_after: 9,
        };
        let ours = V3::meta(&meta(5));
        assert_eq!((ours.flags, ours.free_after), (map::NameRecord::USED | map::NameRecord::RETURNING, 9));
        assert_eq!(V3::meta(&meta(2)).flags, map::NameRecord::RETIRED);
    }
}
