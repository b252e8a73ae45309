//! Version 4, as its programs and agents wrote it. Do not change it: it describes maps that may still be pinned on some host.
//! The parts that are the same as in versions 1 to 3 are read by the code of those versions.

use lb_common::{backend, flow, map, service, slot::Slot};

use super::{
    abi_layout::{FlowMaps, Layout, Pinned, read},
    v1::{self, V1},
    v2,
    v3::{self, V3},
};

pub(crate) struct V4;

/// The record of version 1, with the ports that UDP services listen on.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) version: u32,
    /// Bit 0: some service listens on every port; 1: packets for a virtual address that no service takes are dropped.
    pub(crate) flags: u32,
    pub(crate) index_mask: u32,
    pub(crate) reserved: u32,
    pub(crate) seed: [u64; 2],
    pub(crate) configuration: u64,
    /// Bit `port % 64` of the ports that UDP services listen on.
    pub(crate) udp_ports: u64,
    pub(crate) spare: [u64; 2],
}

/// A record of `FLOWS` or `PENDING`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    pub(crate) backend: u32,
    /// See [`FLAGS`]; the upper half is the upper half of another sequence number.
    pub(crate) flags: u32,
    pub(crate) sequence: u32,
    /// The lower half of jiffies.
    pub(crate) last_seen: u32,
}

const _: () = assert!(size_of::<Node>() == 64 && size_of::<Record>() == 16);
// SAFETY: repr(C) over integers, without padding (the size above), so every bit pattern is a value.
unsafe impl aya::Pod for Node {}
// SAFETY: as above.
unsafe impl aya::Pod for Record {}

/// The bits of a flow record's flags, and what they are now.
const FLAGS: [(u32, u32); 9] = [
    (1, flow::Record::FIN),
    (1 << 1, flow::Record::RST),
    (1 << 2, flow::Record::ONCE),
    (1 << 3, flow::Record::BEGAN),
    (1 << 4, flow::Record::ANY),
    (1 << 5, flow::Record::CANDIDATE),
    (1 << 6, flow::Record::ELDER),
    (1 << 7, flow::Record::CONTESTED),
    (1 << 8, flow::Record::TAKEN),
];

fn record(bytes: &[u8; 16]) -> flow::Record {
    let Record { backend, flags, sequence, last_seen } = read(bytes);
    let set = FLAGS.iter().filter(|(bit, _)| flags & bit != 0);
    let candidate = flags & 0xffff_0000;
    let flags = set.fold(candidate, |flags, (_, flag)| flags | flag);
    flow::Record { backend, flags, sequence, last_seen }
}

impl Layout for V4 {
    const VERSION: u32 = 4;
    const MAPS: &'static [Pinned] = V1::MAPS;
    /// Packets count for their backend only; a service's tally is the part that the tallies of its backends do not have.
    const COUNTS_SERVICES: bool = false;
    const FLOWS: FlowMaps = FlowMaps::Hashes(record);
    type Node = Node;
    type Service = v3::Service;
    type Backend = v2::Backend;
    type NameRecord = v1::NameRecord;
    type TrafficCounters = v1::TrafficCounters;

    fn node(node: &Node) -> map::Node {
        let Node { version, flags, index_mask, reserved, seed, configuration, udp_ports, spare: _ } = *node;
        let older = v1::Node { version, flags, index_mask, reserved, seed, configuration, spare: [0; 3] };
        map::Node { udp_ports, ..V3::node(&older) }
    }

    fn service(service: &v3::Service) -> service::Service {
        V3::service(service)
    }

    fn backend(backend: &v2::Backend) -> backend::Backend {
        V3::backend(backend)
    }

    fn meta(meta: &v1::NameRecord) -> map::NameRecord {
        V3::meta(meta)
    }

    /// The count of balancing turns begins at 0 again.
    fn tally(tally: &v1::TrafficCounters) -> map::TrafficCounters {
        V3::tally(tally)
    }

    fn slot(word: u64) -> Slot {
        V3::slot(word)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::encap::{Kind, form};

    use super::*;

    #[test]
    fn a_record_keeps_its_flags_and_its_candidate() {
        let mut bytes = [0; 16];
        for (at, word) in [7, 0xabcd_0000 | 1 << 3 | 1 << 5, 9, 11_u32].into_iter().enumerate() {
            bytes[4 * at..4 * at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        let flags = flow::Record::BEGAN | flow::Record::CANDIDATE | 0xabcd_0000;
        assert_eq!(record(&bytes), flow::Record { backend: 7, flags, sequence: 9, last_seen: 11 });
    }

    #[test]
    fn a_backend_gets_room_form_and_shorter_template() {
        let record = |flags, outer| {
            V4::backend(&v2::Backend {
                interface: 7,
                flags,
                source_bits: 8,
                mtu: 1500,
                weight: 3,
                ethernet: [2; 14],
                outer,
            })
        };
        let words: [u32; 10] = std::array::from_fn(|i| i as u32);
        let v4 = record(1 | 1 << 3, words);
        assert_eq!((v4.interface, v4.source_bits, v4.weight, v4.ethernet), (7, 8, 3, [2; 14]));
        assert_eq!(v4.flags, backend::Backend::ALIVE | backend::Backend::FAILING);
        assert_eq!((v4.room, v4.encap, v4.outer), (1480, form::IPIP_V4, [0, 1, 2, 3, 4, 5, 0, 0]));
        let v6 = record(1 << 1 | 1 << 2, words);
        assert_eq!(v6.flags, backend::Backend::DRAINING);
        assert_eq!((v6.room, v6.encap, v6.outer), (1460, form::IPIP_V6, [2, 3, 4, 5, 6, 7, 8, 9]));
        // As version 4 wrote 10.0.0.1 to 10.0.0.2: our template of the same way.
        let (source, destination) = (0x0a00_0001_u32.to_be(), 0x0a00_0002_u32.to_be());
        let header =
            [0x4500_0000_u32.to_be(), 0x4000_u32.to_be(), 0x4004_0000_u32.to_be(), source, destination];
        let sum = lb_common::checksum::fold(header.iter().map(|word| u64::from(*word)).sum());
        let [a, b, c, d, e] = header;
        let ours = record(1, [a, b, c, d, e, sum.into(), 0, 0, 0, 0]).outer;
        let outer = Kind::Ipip.outer(&lb_common::mapped(source), &lb_common::mapped(destination), false);
        assert_eq!(ours, outer.template);
    }
}
