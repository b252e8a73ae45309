//! Maps of an older version, made from the maps of a running agent.

use std::fs;

use aya::{
    Pod,
    maps::{Array, DevMapHash, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use lb_common::{
    flow::Record,
    flow_table::{self, Key, Memory as _, Role},
    hash,
    map::name,
    service::Service,
};

use super::{migrate::pins, *};
use crate::{
    bpf::map_shapes::PENDING,
    tables::{Tables, memory::Packet},
    upgrade::{v1, v2, v3, v4},
};

/// Writes the content of an image into new maps of an older version and pins them.
pub(super) struct Past<'a> {
    pub(super) world: &'a World,
}

/// Records of flows, under the keys that they have in versions before 5.
type Flows = Vec<(v1::Key, Record)>;

impl Past<'_> {
    fn make(&self, name: &'static str, kind: u32, key: u32, value: u32, entries: u32, flags: u32) -> Map {
        let path = pins(self.world).map(name);
        let _none_yet = fs::remove_file(&path);
        let map = aya_obj::Map::new_from_params(kind, key, value, entries, flags);
        let map = MapData::create(map, name, None).unwrap();
        map.pin(&path).unwrap();
        match kind {
            2 => Map::Array(map),
            6 => Map::PerCpuArray(map),
            9 => Map::LruHashMap(map),
            25 => Map::DevMapHash(map),
            other => panic!("type {other}"),
        }
    }

    pub(super) fn array<T: Pod>(&self, name: &'static str, values: &[T]) {
        const MAPPABLE: u32 = 1 << 10;
        let flags = if [name::SVC_META, name::BK_META, name::CLOCK].contains(&name) { 0 } else { MAPPABLE };
        let entries = values.len() as u32;
        let map = self.make(name, 2, 4, size_of::<T>() as u32, entries, flags);
        let mut array = Array::<_, T>::try_from(map).unwrap();
        for (number, value) in (0..).zip(values) {
            array.set(number, value, 0).unwrap();
        }
    }

    pub(super) fn per_cpu<T: Pod>(&self, name: &'static str, values: &[T]) {
        let map = self.make(name, 6, 4, size_of::<T>() as u32, values.len() as u32, 0);
        let mut array = PerCpuArray::<_, T>::try_from(map).unwrap();
        for (number, value) in (0..).zip(values) {
            let value = PerCpuValues::try_from(vec![*value; nr_cpus().unwrap()]).unwrap();
            array.set(number, value, 0).unwrap();
        }
    }

    /// A flow table of version 1, 2 or 3, or of version 4.
    fn flows(&self, name: &'static str, flows: &Flows, version: u32) {
        let map = self.make(name, 9, 24, 16, 1024, 0);
        if version == 4 {
            let mut table = HashMap::<_, v1::Key, v4::Record>::try_from(map).unwrap();
            for (key, Record { backend, flags, sequence, last_seen }) in flows {
                let (backend, flags, sequence, last_seen) = (*backend, *flags, *sequence, *last_seen);
                table.insert(key, v4::Record { backend, flags, sequence, last_seen }, 0).unwrap();
            }
            return;
        }
        let mut table = HashMap::<_, v1::Key, v1::Record>::try_from(map).unwrap();
        for (key, record) in flows {
            let flags = u32::from(record.flags & Record::CLOSING != 0);
            let record = v1::Record { backend: record.backend, flags, last_seen: record.last_seen.into() };
            table.insert(key, record, 0).unwrap();
        }
    }

    /// The records of these flows in a running table.
    fn recorded(kernel: &Kernel, flows: &[Packet], role: Role) -> Flows {
        let (services, table) = (kernel.services().unwrap(), kernel.flow_table());
        let (memory, node) = (table.with(|_| 0), kernel.node().unwrap());
        let now = kernel.jiffies().unwrap().now as u32;
        let record = |packet: &Packet| {
            let Packet { source, destination, destination_port, protocol, .. } = packet;
            let ports = lb_common::wire::ports(packet.source_port, *destination_port);
            let hash = hash::flow(&node.seed, source, destination, ports, *protocol);
            let found = flow_table::find(&memory, &Key::of(hash, memory.buckets()), role)?;
            let listens = |port| lb_common::service::port_protocol(port, *protocol);
            let is = |service: &Service, port| service.is(destination, listens(port));
            let own = services.iter().position(|service| is(service, *destination_port));
            let service = own.or_else(|| services.iter().position(|service| is(service, 0)))? as u32;
            Some((v1::Key { source: *source, ports, service }, found.read(role, now)))
        };
        flows.iter().filter_map(record).collect()
    }

    /// The maps of a running agent as version 1, 2, 3 or 4 would have them. Flow records are those of `flows`.
    pub(super) fn of(world: &World, kernel: &Kernel, version: u32, flows: &[Packet]) {
        let past = Past { world };
        for map in [name::SLOT_ELSEWHERE, name::BK_SERVICE] {
            fs::remove_file(pins(world).map(map)).unwrap();
        }
        if version < 4 {
            for map in [name::KNOWN, name::HOST, name::INGRESS] {
                fs::remove_file(pins(world).map(map)).unwrap();
            }
        }
        let [pending, confirmed] =
            [Role::Pending, Role::Flow].map(|role| Self::recorded(kernel, flows, role));
        let node = kernel.node().unwrap();
        past.array(
            name::NODE,
            &[v4::Node {
                version,
                flags: 1,
                index_mask: node.index_mask,
                reserved: 0,
                seed: node.seed.0,
                configuration: 77,
                udp_ports: if version < 4 { 0 } else { node.udp_ports },
                spare: [0; 2],
            }],
        );
        let services: Vec<_> = kernel
            .services()
            .unwrap()
            .iter()
            .map(|s| v1::Service {
                address: s.address,
                port_protocol: s.port_protocol,
                flags: if version == 1 { s.flags & 1 } else { s.flags },
                ring: s.ring.0,
                old_ring: s.old_ring.0,
                reserved: [0; 6],
            })
            .collect();
        if version >= 3 {
            let of = |s: &lb_common::service::Service| v3::Service {
                address: s.address,
                port_protocol: s.port_protocol,
                flags: s.flags,
                ring: s.ring.0,
                old_ring: s.old_ring.0,
                longest: s.longest,
                idle_after: s.idle_after,
                reserved: [0; 4],
            };
            past.array(name::SERVICES, &kernel.services().unwrap().iter().map(of).collect::<Vec<_>>());
        } else {
            past.array(name::SERVICES, &services);
        }
        let backends: Vec<_> = kernel
            .backends()
            .unwrap()
            .iter()
            .map(|b| {
                // All outer headers here are IPv4. Bit 3 of the flags came with version 3.
                let mut outer = [0; 10];
                outer[..8].copy_from_slice(&b.outer);
                v2::Backend {
                    interface: b.interface,
                    flags: if version >= 3 { b.flags } else { b.flags & 7 },
                    source_bits: b.source_bits,
                    mtu: if b.room == 0 { 0 } else { b.room + 20 },
                    weight: if version == 1 { 0 } else { b.weight },
                    ethernet: b.ethernet,
                    outer,
                }
            })
            .collect();
        past.array(name::BACKENDS, &backends);
        let metas = |metas: Vec<lb_common::map::NameRecord>| -> Vec<_> {
            metas
                .iter()
                .map(|m| v1::NameRecord {
                    name: m.name,
                    flags: if version >= 3 { m.flags } else { m.flags & 3 },
                    service: m.service,
                    address: m.address,
                    max_backends: m.max_backends,
                    free_after: m.free_after,
                })
                .collect()
        };
        past.array(name::SVC_META, &metas(kernel.service_metas().unwrap()));
        past.array(name::BK_META, &metas(kernel.backend_metas().unwrap()));
        let words = |words: &[std::sync::atomic::AtomicU64]| -> Vec<u64> {
            words.iter().map(|word| word.load(std::sync::atomic::Ordering::Relaxed)).collect()
        };
        past.array(name::RING, &words(kernel.slots()));
        past.array(name::SVC_INDEX, &[[0u64; 8]; 16]);
        past.array(name::CLOCK, &[0u64]);
        past.flows(PENDING, &pending, version);
        past.flows(name::FLOWS, &confirmed, version);
        let counters = [27, 28, 32, 33][version as usize - 1];
        past.per_cpu(name::COUNTERS, &(0..counters).collect::<Vec<u64>>());
        let tally =
            |n: u64| v1::TrafficCounters { packets: n, bytes: 10 * n, new_connections: 100 * n, reserved: 0 };
        past.per_cpu(name::SVC_TALLY, &(0..services.len() as u64).map(tally).collect::<Vec<_>>());
        past.per_cpu(name::BK_TALLY, &(0..backends.len() as u64).map(tally).collect::<Vec<_>>());
        let egress = past.make(name::EGRESS, 25, 4, 8, 64, 0);
        DevMapHash::try_from(egress).unwrap().insert(1, 1, None, 0).unwrap();
    }
}
