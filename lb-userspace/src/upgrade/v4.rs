//! Version 4, as its programs and agents wrote it. Do not change it: it describes maps that may still be pinned on some host.
//! The parts that are the same as in other versions are read by the code of those versions.

use lb_common::{
    backend,
    flow::{Key, Record},
    map::{self, NameRecord, Node, TrafficCounters},
    service::{self, Service},
    slot::Slot,
};

use super::{
    abi_layout::{Layout, Pinned},
    current::Current,
    v2,
    v3::V3,
};

pub(crate) struct V4;

impl Layout for V4 {
    const VERSION: u32 = 4;
    const MAPS: &'static [Pinned] = Current::MAPS;
    const COUNTERS: &'static [&'static str] = &[
        "forwarded_tx",
        "forwarded_redirect",
        "passed_not_ip",
        "passed_other_protocol",
        "passed_not_service",
        "passed_malformed",
        "passed_routing_header",
        "passed_not_ready",
        "fragment",
        "truncated",
        "bad_length",
        "extension_headers",
        "no_backend",
        "no_next_hop",
        "too_big",
        "no_headroom",
        "no_egress",
        "tracked_hit",
        "tracked_previous",
        "tracked_current",
        "flow_pending",
        "flow_inserted",
        "flow_insert_failed",
        "decapsulated",
        "passed_not_tunnel",
        "decap_malformed",
        "decap_ecn",
        "tracked_balanced",
        "merged",
        "passed_host",
        "passed_unserved",
        "unserved",
        "martian_source",
    ];
    const COUNTS_SERVICES: bool = false;
    type Node = Node;
    type Service = Service;
    type Backend = v2::Backend;
    type NameRecord = NameRecord;
    type TrafficCounters = TrafficCounters;
    type Key = Key;
    type Record = Record;

    fn node(node: &Node) -> map::Node {
        Current::node(node)
    }

    fn service(service: &Service) -> service::Service {
        Current::service(service)
    }

    fn backend(backend: &v2::Backend) -> backend::Backend {
        V3::backend(backend)
    }

    fn meta(meta: &NameRecord) -> map::NameRecord {
        Current::meta(meta)
    }

    fn tally(tally: &TrafficCounters) -> map::TrafficCounters {
        Current::tally(tally)
    }

    fn slot(word: u64) -> Slot {
        Current::slot(word)
    }

    fn key(key: &Key) -> Key {
        Current::key(key)
    }

    fn record(record: &Record) -> Record {
        Current::record(record)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::encap::{Kind, form};

    use super::*;

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
