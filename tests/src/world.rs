//! A data path of a test's own: the real object in the kernel, unpinned and attached nowhere, with maps that the
//! test fills word by word. No part of the agent stands between a test and the tables.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::Xdp,
};
use lb_common::{
    ABI_VERSION, Address,
    backend::Backend,
    counter::Counter,
    encap,
    flow::{Key, Record},
    hash::{self, Seed},
    map::{Node, Tally, name},
    mapped,
    ring::Ring,
    service::{ANY_SERVICE, Bucket, Service, buckets_for, home, port_protocol},
    slot::Slot,
    wire,
};
use lb_userspace::object::OBJECT;

/// The interface BPF_PROG_TEST_RUN pretends to receive on: loopback.
pub const INGRESS: u32 = 1;

/// Sizes of the world's maps.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub services: u32,
    pub backends: u32,
    pub slots: u32,
    pub flows: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { services: 64, backends: 64, slots: 4096, flows: 1024 }
    }
}

/// The object, loaded.
pub struct World {
    pub ebpf: Ebpf,
    node: Node,
    next_slot: u32,
    next_service: u32,
}

/// What came of one packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The XDP action.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// Counters that went up, and by how much.
    pub counters: Vec<(Counter, u64)>,
}

/// Addresses as packets have them.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => mapped(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            std::array::from_fn(|i| {
                u32::from_ne_bytes([octets[i * 4], octets[i * 4 + 1], octets[i * 4 + 2], octets[i * 4 + 3]])
            })
        }
    }
}

impl World {
    /// Loads the object and configures the node.
    pub fn new(sizes: Sizes, seed: Seed) -> Result<Self> {
        let index = buckets_for(sizes.services);
        let ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &0u8, true)
            .map_max_entries(name::SVC_INDEX, index)
            .map_max_entries(name::SERVICES, sizes.services)
            .map_max_entries(name::SVC_META, sizes.services)
            .map_max_entries(name::SVC_TALLY, sizes.services)
            .map_max_entries(name::BACKENDS, sizes.backends)
            .map_max_entries(name::BK_META, sizes.backends)
            .map_max_entries(name::BK_TALLY, sizes.backends)
            .map_max_entries(name::RING, sizes.slots)
            .map_max_entries(name::FLOWS, sizes.flows)
            .map_max_entries(name::PENDING, sizes.flows)
            .load(OBJECT)
            .context("loading the object")?;
        let mut world = Self {
            ebpf,
            node: Node { abi_version: ABI_VERSION, index_mask: index - 1, seed, ..Node::default() },
            next_slot: 0,
            next_service: 0,
        };
        for program in ["lb_xdp", "lb_decap", "lb_clock"] {
            world.program(program)?.load().with_context(|| format!("loading {program}"))?;
        }
        world.write_node()?;
        Ok(world)
    }

    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        Ok(self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
    }

    pub fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        Ok(Array::try_from(self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
    }

    fn write_node(&mut self) -> Result<()> {
        let node = self.node;
        Ok(self.array::<Node>(name::NODE)?.set(0, node, 0)?)
    }

    /// Replaces the node record, for example by one of another version.
    pub fn set_node(&mut self, change: impl FnOnce(&mut Node)) -> Result<()> {
        change(&mut self.node);
        self.write_node()
    }

    /// Adds a service whose ring has `slots.len()` slots; its number is the answer.
    pub fn add_service(&mut self, listen: SocketAddr, protocol: u8, slots: &[Slot]) -> Result<u32> {
        let number = self.next_service;
        self.next_service += 1;
        let ring = self.add_ring(slots)?;
        let service = Service {
            address: address(listen.ip()),
            port_protocol: port_protocol(listen.port(), protocol),
            flags: Service::PRESENT,
            ring,
            ..Service::default()
        };
        self.array::<Service>(name::SERVICES)?.set(number, service, 0)?;
        self.add_word(&service.address, service.port_protocol, number)?;
        self.add_word(&service.address, ANY_SERVICE, number)?;
        if listen.port() == 0 {
            self.set_node(|node| node.flags |= Node::ANY_PORT)?;
        }
        Ok(number)
    }

    /// Lays a ring into the arena.
    pub fn add_ring(&mut self, slots: &[Slot]) -> Result<Ring> {
        let ring = Ring::new(self.next_slot, slots.len() as u32);
        self.next_slot += slots.len() as u32;
        let mut words = self.array::<u64>(name::RING)?;
        for (i, slot) in (ring.offset()..).zip(slots) {
            words.set(i, slot.0, 0)?;
        }
        Ok(ring)
    }

    /// Overwrites every slot of a service.
    pub fn set_slots(&mut self, service: u32, slot: Slot) -> Result<()> {
        let ring = self.array::<Service>(name::SERVICES)?.get(&service, 0)?.ring;
        let mut words = self.array::<u64>(name::RING)?;
        for i in 0..ring.length() {
            words.set(ring.offset() + i, slot.0, 0)?;
        }
        Ok(())
    }

    /// Writes the word that leads from a key to a service into the first free place.
    pub fn add_word(&mut self, address: &Address, key: u32, service: u32) -> Result<()> {
        let hash = lb_common::service::hash(address, key);
        let mask = self.node.index_mask;
        let mut index = self.array::<Bucket>(name::SVC_INDEX)?;
        for step in 0..2 {
            let at = home(hash, mask).wrapping_add(step) & mask;
            let mut bucket = index.get(&at, 0)?;
            if let Some(free) = bucket.words.iter_mut().find(|w| **w == Bucket::EMPTY) {
                *free = Bucket::word(hash, service);
                return Ok(index.set(at, bucket, 0)?);
            }
        }
        anyhow::bail!("both buckets of service {service} are full")
    }

    pub fn set_backend(&mut self, number: u32, backend: Backend) -> Result<()> {
        Ok(self.array::<Backend>(name::BACKENDS)?.set(number, backend, 0)?)
    }

    /// Runs one frame through a program.
    pub fn run(&mut self, program: &str, frame: &[u8]) -> Result<Outcome> {
        let before = self.counters()?;
        // Room for the outer header.
        let mut out = vec![0; frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = self.program(program)?.test_run(options).context("BPF_PROG_TEST_RUN")?;
        let length = result.data_size_out as usize;
        out.truncate(length);
        let after = self.counters()?;
        let counters = Counter::ALL
            .iter()
            .filter(|c| after[**c as usize] != before[**c as usize])
            .map(|c| (*c, after[*c as usize] - before[*c as usize]))
            .collect();
        Ok(Outcome { action: result.return_value, frame: out, counters })
    }

    /// Every counter, summed over the CPUs.
    pub fn counters(&mut self) -> Result<Vec<u64>> {
        let map: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.ebpf.map(name::COUNTERS).context("no counters")?)?;
        (0..Counter::COUNT).map(|i| Ok(map.get(&i, 0)?.iter().sum())).collect()
    }

    /// Traffic of a service (`SVC_TALLY`) or a backend (`BK_TALLY`).
    pub fn tally(&mut self, map: &str, number: u32) -> Result<(u64, u64, u64)> {
        let map: PerCpuArray<_, Tally> = PerCpuArray::try_from(self.ebpf.map(map).context("no tally")?)?;
        let values = map.get(&number, 0)?;
        Ok(values.iter().fold((0, 0, 0), |(p, b, n), t| (p + t.packets, b + t.bytes, n + t.new_connections)))
    }

    /// A flow's record in `FLOWS` or `PENDING`.
    pub fn record(&mut self, map: &str, key: &Key) -> Result<Option<Record>> {
        let map: HashMap<_, Key, Record> = HashMap::try_from(self.ebpf.map(map).context("no flow table")?)?;
        match map.get(key, 0) {
            Ok(record) => Ok(Some(record)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The flow hash of a packet, as this world's seed makes it.
    pub fn hash(&self, source: SocketAddr, destination: SocketAddr, protocol: u8) -> u64 {
        let ports = wire::ports(source.port(), destination.port());
        hash::flow(&self.node.seed, &address(source.ip()), &address(destination.ip()), ports, protocol)
    }
}

/// A backend that is up, reached through [`INGRESS`], MTU 1500, fixed outer source.
///
/// # Panics
/// If the two addresses are not of one family.
pub fn backend(source: IpAddr, destination: IpAddr, inner_is_v6: bool) -> Backend {
    let (outer, flags, ethertype) = match (address(source), destination) {
        (source, IpAddr::V4(_)) => {
            let template = encap::template_v4(source[3], address(destination)[3], inner_is_v6);
            (template, 0, [0x08, 0x00])
        }
        (source, IpAddr::V6(_)) => {
            let template = encap::template_v6(source, address(destination), inner_is_v6);
            (template, Backend::OUTER_V6, [0x86, 0xdd])
        }
    };
    assert_eq!(source.is_ipv4(), destination.is_ipv4(), "an outer header has one family");
    let mut ethernet = [0; 14];
    ethernet[..6].copy_from_slice(&[0x02, 0, 0, 0, 0, 9]);
    ethernet[6..12].copy_from_slice(&crate::frame::OUR_MAC);
    ethernet[12..].copy_from_slice(&ethertype);
    Backend {
        interface: INGRESS,
        flags: Backend::ALIVE | flags,
        source_bits: 0,
        mtu: 1500,
        reserved: 0,
        ethernet,
        outer,
    }
}
