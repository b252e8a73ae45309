//! Version 1, as its programs and agents wrote it. Do not change it: it describes maps that may still be pinned on some host.

use lb_common::{
    backend,
    encap::{form, ip},
    flow,
    map::{self, name},
    ring::Ring,
    service,
    slot::Slot,
};

use super::abi_layout::{ARRAY, DEVICE_HASH, FlowMaps, LRU_HASH, Layout, PER_CPU_ARRAY, Pinned, read};
use crate::bpf::map_shapes::PENDING;

pub(crate) struct V1;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) version: u32,
    /// Bit 0: some service listens on every port.
    pub(crate) flags: u32,
    pub(crate) index_mask: u32,
    pub(crate) reserved: u32,
    pub(crate) seed: [u64; 2],
    pub(crate) configuration: u64,
    pub(crate) spare: [u64; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub(crate) address: [u32; 4],
    pub(crate) port_protocol: u32,
    /// Bit 0: in use.
    pub(crate) flags: u32,
    /// Offset in the upper half, length in the lower.
    pub(crate) ring: u64,
    pub(crate) old_ring: u64,
    pub(crate) reserved: [u32; 6],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    pub(crate) interface: u32,
    /// Bit 0 alive, 1 draining, 2 outer header IPv6.
    pub(crate) flags: u8,
    pub(crate) source_bits: u8,
    pub(crate) mtu: u16,
    pub(crate) reserved: u16,
    pub(crate) ethernet: [u8; 14],
    pub(crate) outer: [u32; 10],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameRecord {
    pub(crate) name: [u8; 64],
    /// Bit 0 used, 1 retired.
    pub(crate) flags: u32,
    pub(crate) service: u32,
    pub(crate) address: [u32; 4],
    pub(crate) max_backends: u32,
    pub(crate) free_after: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrafficCounters {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) new_connections: u64,
    pub(crate) reserved: u64,
}

/// The key of a flow in both flow tables.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Key {
    pub(crate) source: [u32; 4],
    pub(crate) ports: u32,
    pub(crate) service: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    pub(crate) backend: u32,
    /// Bit 0: the client has closed.
    pub(crate) flags: u32,
    pub(crate) last_seen: u64,
}

macro_rules! records {
    ($($record:ident = $bytes:literal,)+) => {
        $(
            const _: () = assert!(size_of::<$record>() == $bytes);
            // SAFETY: repr(C) over integers, without padding (the sizes above), so every bit pattern is a value.
            unsafe impl aya::Pod for $record {}
        )+
    };
}
records!(Node = 64, Service = 64, Backend = 64, NameRecord = 96, TrafficCounters = 32, Key = 24, Record = 16,);

/// Slot words: bits 0-23 `current`, 24-47 `previous` (all ones: ask the old ring), 48-62 `since`, 63 `tracked`.
fn slot(word: u64) -> Slot {
    const MASK: u64 = (1 << 24) - 1;
    let (current, previous) = ((word & MASK) as u32, (word >> 24 & MASK) as u32);
    match (word >> 63 != 0, previous) {
        (false, _) => Slot::stable(current),
        (true, 0) => Slot::remembering(current),
        (true, _) => Slot::learning(current, previous, (word >> 48 & 0x7fff) as u16),
    }
}

/// A [`Record`] of versions 1 to 3.
pub(super) fn record(bytes: &[u8; 16]) -> flow::Record {
    let Record { backend, flags, last_seen } = read(bytes);
    // Version 1 did not record whether the client closed by FIN or by RST. FIN is assumed: after a FIN a flow is
    // half-closed and may go on.
    let closing = if flags & 1 != 0 { flow::Record::FIN } else { 0 };
    flow::Record { backend, flags: closing | flow::Record::ANY, sequence: 0, last_seen: last_seen as u32 }
}

impl Layout for V1 {
    const VERSION: u32 = 1;
    const MAPS: &'static [Pinned] = &[
        (name::NODE, ARRAY, 4, 64),
        (name::SERVICES, ARRAY, 4, 64),
        (name::RING, ARRAY, 4, 8),
        (name::BACKENDS, ARRAY, 4, 64),
        (name::FLOWS, LRU_HASH, 24, 16),
        (PENDING, LRU_HASH, 24, 16),
        (name::COUNTERS, PER_CPU_ARRAY, 4, 8),
        (name::SVC_TALLY, PER_CPU_ARRAY, 4, 32),
        (name::BK_TALLY, PER_CPU_ARRAY, 4, 32),
        // Interface and program (`struct bpf_devmap_val`).
        (name::EGRESS, DEVICE_HASH, 4, 8),
        (name::SVC_META, ARRAY, 4, 96),
        (name::BK_META, ARRAY, 4, 96),
    ];
    const COUNTS_SERVICES: bool = true;
    const FLOWS: FlowMaps = FlowMaps::Hashes(record);
    type Node = Node;
    type Service = Service;
    type Backend = Backend;
    type NameRecord = NameRecord;
    type TrafficCounters = TrafficCounters;

    fn node(node: &Node) -> map::Node {
        let flags = if node.flags & 1 != 0 { map::Node::ANY_PORT } else { 0 };
        let seed = lb_common::hash::Seed(node.seed);
        map::Node { flags, seed, configuration: node.configuration, ..map::Node::default() }
    }

    fn service(service: &Service) -> service::Service {
        service::Service {
            address: service.address,
            port_protocol: service.port_protocol,
            flags: if service.flags & 1 != 0 { service::Service::PRESENT } else { 0 },
            ring: Ring(service.ring),
            old_ring: Ring(service.old_ring),
            ..service::Service::default()
        }
    }

    fn backend(backend: &Backend) -> backend::Backend {
        const FLAGS: [(u8, u8); 2] = [(1, backend::Backend::ALIVE), (1 << 1, backend::Backend::DRAINING)];
        let set = FLAGS.iter().filter(|(bit, _)| backend.flags & bit != 0);
        // Bit 2: the outer header is IPv6. Its template was the whole header, ours begins with the addresses. That of an IPv4
        // header ends with the sum in word 5.
        let [a, b, c, d, e, f, g, h, i, j] = backend.outer;
        let (form, overhead, outer) = if backend.flags & 1 << 2 != 0 {
            (form::IPIP_V6, ip::OVERHEAD_V6, [c, d, e, f, g, h, i, j])
        } else {
            (form::IPIP_V4, ip::OVERHEAD_V4, [a, b, c, d, e, f, 0, 0])
        };
        backend::Backend {
            interface: backend.interface,
            flags: set.fold(0, |flags, (_, flag)| flags | flag),
            source_bits: backend.source_bits,
            room: backend.mtu.saturating_sub(overhead),
            ethernet: backend.ethernet,
            encap: form,
            outer,
            ..backend::Backend::default()
        }
    }

    fn meta(meta: &NameRecord) -> map::NameRecord {
        let used = if meta.flags & 1 != 0 { map::NameRecord::USED } else { 0 };
        let retired = if meta.flags & 2 != 0 { map::NameRecord::RETIRED } else { 0 };
        map::NameRecord {
            name: meta.name,
            flags: used | retired,
            service: meta.service,
            address: meta.address,
            max_backends: meta.max_backends,
            free_after: meta.free_after,
        }
    }

    fn tally(tally: &TrafficCounters) -> map::TrafficCounters {
        let TrafficCounters { packets, bytes, new_connections, reserved: _ } = *tally;
        map::TrafficCounters { packets, bytes, new_connections, ..map::TrafficCounters::default() }
    }

    fn slot(word: u64) -> Slot {
        slot(word)
    }
}
