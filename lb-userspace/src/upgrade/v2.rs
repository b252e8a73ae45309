//! Version 2, as its programs and agents wrote it. Do not change it: it describes maps that may still be pinned on some host.
//! The parts that are the same as in version 1 are read by the code of version 1.

use lb_common::{backend, map, service, slot::Slot};

use super::{
    abi_layout::{FlowMaps, Layout, Pinned},
    v1::{self, V1},
};

pub(crate) struct V2;

/// The record of version 1, with a weight.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    pub(crate) interface: u32,
    /// Bit 0 alive, 1 draining, 2 outer header IPv6.
    pub(crate) flags: u8,
    pub(crate) source_bits: u8,
    pub(crate) mtu: u16,
    pub(crate) weight: u16,
    pub(crate) ethernet: [u8; 14],
    pub(crate) outer: [u32; 10],
}

const _: () = assert!(size_of::<Backend>() == 64);
// SAFETY: repr(C) over integers, without padding (the size above), so every bit pattern is a value.
unsafe impl aya::Pod for Backend {}

impl Layout for V2 {
    const VERSION: u32 = 2;
    const MAPS: &'static [Pinned] = V1::MAPS;
    /// Packets count for their backend only; a service's tally is the part that the tallies of its backends do not have.
    const COUNTS_SERVICES: bool = false;
    const FLOWS: FlowMaps = V1::FLOWS;
    type Node = v1::Node;
    type Service = v1::Service;
    type Backend = Backend;
    type NameRecord = v1::NameRecord;
    type TrafficCounters = v1::TrafficCounters;

    fn node(node: &v1::Node) -> map::Node {
        V1::node(node)
    }

    fn service(service: &v1::Service) -> service::Service {
        // Bit 0: in use; 1: every flow is recorded; 8 and 9: how a new flow finds its backend.
        const FLAGS: u32 = 1 | 1 << 1 | 3 << 8;
        service::Service { flags: service.flags & FLAGS, ..V1::service(service) }
    }

    fn backend(backend: &Backend) -> backend::Backend {
        let Backend { interface, flags, source_bits, mtu, weight, ethernet, outer } = *backend;
        let without = v1::Backend { interface, flags, source_bits, mtu, reserved: 0, ethernet, outer };
        backend::Backend { weight, ..V1::backend(&without) }
    }

    fn meta(meta: &v1::NameRecord) -> map::NameRecord {
        V1::meta(meta)
    }

    /// The count of balancing turns begins at 0 again.
    fn tally(tally: &v1::TrafficCounters) -> map::TrafficCounters {
        V1::tally(tally)
    }

    fn slot(word: u64) -> Slot {
        V1::slot(word)
    }
}
