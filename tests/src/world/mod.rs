//! A data path of a test's own: the real object in the kernel, unpinned and attached nowhere, with maps that the
//! test fills word by word. No part of the agent is between a test and the tables.
//!
//! Here: loading, the node's record, backends. `services` fills the index and the rings, `service_cache` the table in front of the
//! index, `known` the addresses of services and of the host, `fill` writes a whole scene, `flows` reads the flow table, `run`
//! sends packets through, `invariants` checks every packet, `snapshot` reads all maps to compare them.

mod counters;
pub mod fill;
pub mod flows;
mod invariants;
mod known;
#[cfg(test)]
mod object;
mod run;
mod service_cache;
mod services;
pub mod snapshot;

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, MapData, xdp::DevMapHash},
    programs::Xdp,
};
use lb_common::{
    ABI_VERSION, Address,
    backend::Backend,
    elsewhere,
    encap::Kind,
    flow_table,
    hash::Seed,
    known as bits,
    map::{Node, name},
    mapped, owner,
    service::buckets_for,
    service_cache as layout,
};
use lb_userspace::bpf::object::OBJECT;

use flows::FlowWords;
pub use run::Outcome;
use service_cache::ServiceCache;

use crate::model::Action;

/// The interface on which BPF_PROG_TEST_RUN pretends to receive: loopback.
pub const INGRESS: u32 = 1;

/// What a backend of [`backend`] takes, outer header included.
pub const MTU: u16 = 1500;

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
        // The flow table is much larger than a test needs, so that no record gives its place to another one.
        Self { services: 64, backends: 64, slots: 4096, flows: 8192 }
    }
}

/// The object, loaded. A program is loaded when a test first asks for it.
pub struct World {
    pub ebpf: Ebpf,
    sizes: Sizes,
    node: Node,
    next_slot: u32,
    next_service: u32,
    service_cache: ServiceCache,
    /// The bits of known addresses.
    known: Vec<u64>,
    flows: FlowWords,
    /// The program's limit for *packet too big* is in force, see [`World::limit_answers`].
    limits_answers: bool,
}

/// An address in the form of packets.
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
    /// Makes the maps and configures the node; the programs' log is off.
    pub fn new(sizes: Sizes, seed: Seed) -> Result<Self> {
        Self::with_log_level(sizes, seed, 0)
    }

    /// The same with a level for the programs' log, 0 = off, else a number of [`aya_log::Level`].
    pub fn with_log_level(sizes: Sizes, seed: Seed, level: u8) -> Result<Self> {
        Self::of_object(OBJECT, sizes, seed, level)
    }

    /// The same for another build of the object, which must have the layout of this one.
    pub fn of_object(object: &[u8], sizes: Sizes, seed: Seed, level: u8) -> Result<Self> {
        let index = buckets_for(sizes.services);
        let service_cache = layout::entries_for(sizes.services);
        let buckets = flow_table::buckets_for(sizes.flows);
        let lines = level >= aya_log::Level::Debug as u8;
        let ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &level, true)
            .override_global(layout::SHIFT, &layout::loaded_shift(service_cache, lines), true)
            .override_global(flow_table::BUCKETS, &buckets, true)
            .map_max_entries(name::SVC_FRONT, service_cache)
            .map_max_entries(name::SVC_INDEX, index)
            .map_max_entries(name::SERVICES, sizes.services)
            .map_max_entries(name::SVC_META, sizes.services)
            .map_max_entries(name::SVC_TALLY, sizes.services)
            .map_max_entries(name::BACKENDS, sizes.backends)
            .map_max_entries(name::BK_META, sizes.backends)
            .map_max_entries(name::BK_TALLY, sizes.backends)
            .map_max_entries(name::LIVE, sizes.backends)
            .map_max_entries(name::RING, sizes.slots)
            .map_max_entries(name::SLOT_OWNERS, owner::words_for(sizes.slots))
            .map_max_entries(name::SLOT_ELSEWHERE, elsewhere::entries_for(sizes.slots))
            .map_max_entries(name::BK_SERVICE, sizes.backends)
            .map_max_entries(name::FLOWS, buckets)
            .load(object)
            .context("loading the object")?;
        let flows = ebpf.map(name::FLOWS).context("no flow table")?;
        let aya::maps::Map::Array(flows) = flows else { bail!("the flow table is no array") };
        let flows = FlowWords::new(flows, buckets)?;
        let node = Node { abi_version: ABI_VERSION, index_mask: index - 1, seed, ..Node::default() };
        let mut world = Self {
            ebpf,
            sizes,
            node,
            next_slot: 0,
            next_service: 0,
            service_cache: ServiceCache::new(service_cache),
            known: vec![0; bits::WORDS as usize],
            flows,
            limits_answers: false,
        };
        world.write_node()?;
        Ok(world)
    }

    /// A program, in the kernel.
    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program: &mut Xdp =
            self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(program)
    }

    /// The kernel's jiffies, as `lb_clock` reports them.
    ///
    /// # Errors
    /// The kernel does not run the program, or the program does not pass.
    pub fn clock(&mut self) -> Result<u64> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&[0; 64]);
        let verdict = self.program("lb_clock")?.test_run(options)?.return_value;
        ensure!(verdict == Action::Pass.number(), "lb_clock says {verdict}");
        Ok(self.array::<u64>(name::CLOCK)?.get(&0, 0)?)
    }

    pub fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        Ok(Array::try_from(self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
    }

    fn write_node(&mut self) -> Result<()> {
        let node = self.node;
        self.array::<Node>(name::NODE)?.set(0, node, 0)?;
        self.keep_service_cache()
    }

    /// The node's record.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Replaces the node's record, for example by one of another version.
    pub fn set_node(&mut self, change: impl FnOnce(&mut Node)) -> Result<()> {
        change(&mut self.node);
        self.write_node()
    }

    pub fn set_backend(&mut self, number: u32, backend: Backend) -> Result<()> {
        Ok(self.array::<Backend>(name::BACKENDS)?.set(number, backend, 0)?)
    }

    /// Changes a backend's record.
    pub fn change_backend(&mut self, number: u32, change: impl FnOnce(&mut Backend)) -> Result<()> {
        let mut backends = self.array::<Backend>(name::BACKENDS)?;
        let mut backend = backends.get(&number, 0)?;
        change(&mut backend);
        Ok(backends.set(number, backend, 0)?)
    }

    /// Lets packets be redirected to `interface`, which must exist in this thread's network namespace.
    pub fn add_egress(&mut self, interface: u32) -> Result<()> {
        let mut egress = DevMapHash::try_from(self.ebpf.map_mut(name::EGRESS).context("no egress map")?)?;
        Ok(egress.insert(interface, interface, None, 0)?)
    }

    /// Lets `lb_decap` take outer headers of IP in IP off at an address.
    pub fn add_decap(&mut self, ip: IpAddr) -> Result<()> {
        self.add_decap_of(ip, &[Kind::Ipip])
    }

    /// The same for other kinds.
    pub fn add_decap_of(&mut self, ip: IpAddr, kinds: &[Kind]) -> Result<()> {
        let bits = kinds.iter().fold(0, |bits, kind| bits | kind.decap_bit());
        let map = self.ebpf.map_mut(name::DECAP).context("no decap map")?;
        let mut decap = aya::maps::HashMap::<_, Address, u32>::try_from(map)?;
        Ok(decap.insert(address(ip), bits, 0)?)
    }
}

/// A backend that is up, reached through [`INGRESS`], [`MTU`], fixed outer source.
///
/// # Panics
/// If the two addresses are not of one family.
pub fn backend(source: IpAddr, destination: IpAddr, inner_is_v6: bool) -> Backend {
    backend_by(Kind::Ipip, source, destination, inner_is_v6)
}

/// The same with another kind of encapsulation.
///
/// # Panics
/// If the two addresses are not of one family.
pub fn backend_by(kind: Kind, source: IpAddr, destination: IpAddr, inner_is_v6: bool) -> Backend {
    assert_eq!(source.is_ipv4(), destination.is_ipv4(), "an outer header has one family");
    let outer = kind.outer(&address(source), &address(destination), inner_is_v6);
    let mut ethernet = [0; 14];
    ethernet[..6].copy_from_slice(&crate::frame::NEXT_HOP_MAC);
    ethernet[6..12].copy_from_slice(&crate::frame::OUR_MAC);
    ethernet[12..].copy_from_slice(&outer.ethertype.to_ne_bytes());
    Backend {
        interface: INGRESS,
        flags: Backend::ALIVE,
        room: MTU - outer.overhead,
        ethernet,
        encap: outer.form,
        sum: outer.sum,
        outer: outer.template,
        ..Backend::default()
    }
}
