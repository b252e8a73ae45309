//! The kernel's side of a capture: copies planned tables into the maps of a world, word by word, and sends packets
//! through the programs there and through the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapError, xdp::DevMapHash};
use lb_common::{
    ABI_VERSION, Address,
    hash::Seed,
    map::name,
    ring::Ring,
    service::{Bucket, buckets_for},
    service_cache::entries_for,
    slot::Slot,
};
use lb_userspace::tables::{self, Tables as _};
use nix::net::if_::if_nametoindex;

use super::{planned_tables::PlannedTables, scene};
use crate::{
    fuzz::comparison,
    model::{Model, Program},
    world::{Outcome, Sizes, World},
};

/// Sizes of the tables; a configuration that needs more is refused.
const SIZES: Sizes = Sizes { services: 32, backends: 64, slots: 16_384, flows: 8192 };

/// Bytes in front of a frame without metadata, as for the fuzzer.
const ROOM: usize = 216;

/// A world, and a copy of the content of its large tables.
pub struct KernelTables {
    world: World,
    pub(super) other: u32,
    cpu: u32,
    slots: Vec<u64>,
    index: Vec<u64>,
    model: Option<Model>,
}

impl KernelTables {
    /// Loads the object. The thread must have entered a namespace, as for the fuzzer.
    pub fn new() -> Result<Self> {
        let cpu = comparison::stay_on_one_cpu()?;
        let world = World::new(SIZES, Seed::default())?;
        let other = if_nametoindex("out").context("interface out")?;
        let (slots, index) = (vec![0; SIZES.slots as usize], vec![0; Self::sizes().buckets as usize * 8]);
        Ok(Self { world, other, cpu, slots, index, model: None })
    }

    /// The same sizes for in-memory tables.
    pub(super) fn sizes() -> tables::Sizes {
        tables::Sizes {
            // The map's entry 0 means that there is no backend.
            backends: SIZES.backends - 1,
            buckets: buckets_for(SIZES.services),
            service_cache: entries_for(SIZES.services),
            ..tables::Sizes::new(SIZES.services, SIZES.backends, SIZES.slots)
        }
    }

    /// As on a host on which no program of ours has ever run.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.model = None;
        self.world.forget_flows()?;
        for number in 0..SIZES.services {
            self.world.reset_tally(name::SVC_TALLY, number)?;
        }
        for number in 0..SIZES.backends {
            self.world.reset_tally(name::BK_TALLY, number)?;
            self.world.array::<i64>(name::LIVE)?.set(number, 0, 0)?;
        }
        Ok(())
    }

    /// Brings maps and model into the state of the planned tables; before that, flows of the backends in `purged` are forgotten.
    pub(super) fn follow(&mut self, planned: &PlannedTables, purged: &BTreeSet<u32>) -> Result<()> {
        self.world.retain_records(|_, _, record| !purged.contains(&record.backend))?;
        self.copy(planned)?;
        let mut model = Model::new(&scene::scene(planned)?, self.cpu)?;
        if let Some(before) = self.model.take() {
            model.inherit(before);
            model.records.retain(|backend| !purged.contains(&backend));
        }
        self.model = Some(model);
        Ok(())
    }

    /// Empties the flow table, as if other flows had pushed all of them out: no one is notified.
    pub(super) fn evict(&mut self) -> Result<()> {
        self.world.forget_flows()?;
        if let Some(model) = &mut self.model {
            model.records.clear();
        }
        Ok(())
    }

    /// The processor that packets come in on. Each processor begins its turns elsewhere; captures were made on the first one.
    pub fn cpu(&self) -> u32 {
        self.cpu
    }

    fn copy(&mut self, planned: &PlannedTables) -> Result<()> {
        let tables = planned.tables();
        for (number, record) in (0..).zip(tables.services()?) {
            self.world.change_service(number, |service| *service = record)?;
        }
        for (number, record) in (0..).zip(tables.backends()?) {
            self.world.set_backend(number, record)?;
        }
        for at in changed(&mut self.slots, tables.slots()) {
            self.world.write_ring(Ring::new(at as u32, 1), &[Slot(self.slots[at])])?;
        }
        let buckets: BTreeSet<usize> =
            changed(&mut self.index, tables.index()).into_iter().map(|at| at / Bucket::WORDS).collect();
        for at in buckets {
            let words: Vec<u64> = self.index[at * Bucket::WORDS..(at + 1) * Bucket::WORDS].to_vec();
            let words = words.try_into().map_err(|_| anyhow::anyhow!("a bucket has eight words"))?;
            self.world.set_bucket(at as u32, Bucket { words })?;
        }
        for (at, word) in (0..).zip(tables.known()) {
            self.world.set_known(at, word.load(Ordering::Relaxed))?;
        }
        self.copy_hosts(&tables.hosts()?)?;
        // One capture may set an MTU, and the next one may not.
        self.world.forget_ingress_mtu()?;
        for mtu in tables.ingress()?.values() {
            self.world.set_ingress_mtu(*mtu)?;
        }
        self.copy_interfaces(&planned.egress()?)?;
        self.copy_decap(planned.decap())?;
        let node = planned.node()?;
        self.world.set_node(|record| *record = node)?;
        // In tables of another ABI version no agent fills the table in front of the index.
        let counts = node.abi_version == ABI_VERSION;
        if counts { self.world.set_service_cache(&tables.service_cache()?) } else { self.world.ask_index() }
    }

    fn copy_interfaces(&mut self, wanted: &[u32]) -> Result<()> {
        let map = self.world.ebpf.map_mut(name::EGRESS).context("no egress map")?;
        let mut egress = DevMapHash::try_from(map)?;
        for interface in [crate::world::INGRESS, self.other] {
            if wanted.contains(&interface) {
                egress.insert(interface, interface, None, 0)?;
            } else {
                match egress.remove(interface) {
                    // The entry does not exist, as it should be.
                    Ok(()) | Err(MapError::KeyNotFound | MapError::SyscallError(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn copy_hosts(&mut self, wanted: &BTreeSet<Address>) -> Result<()> {
        for address in self.world.hosts()?.into_iter().filter(|address| !wanted.contains(address)) {
            self.world.set_host(address, false)?;
        }
        wanted.iter().try_for_each(|address| self.world.set_host(*address, true))
    }

    fn copy_decap(&mut self, wanted: &[IpAddr]) -> Result<()> {
        let map = self.world.ebpf.map_mut(name::DECAP).context("no decap map")?;
        let mut decap = aya::maps::HashMap::<_, Address, u32>::try_from(map)?;
        for address in decap.keys().collect::<Result<Vec<_>, MapError>>()? {
            decap.remove(&address)?;
        }
        for address in wanted {
            decap.insert(crate::world::address(*address), 1, 0)?;
        }
        Ok(())
    }

    /// Sends a packet through the program and the model.
    ///
    /// # Errors
    /// The two do not agree.
    pub(super) fn run(&mut self, program: Program, frame: &[u8], metadata: usize) -> Result<Outcome> {
        let model = self.model.as_mut().context("no configuration")?;
        let outcome = self.world.run_with_metadata(program.name(), frame, metadata)?;
        let world = &mut self.world;
        let room = ROOM.saturating_sub(metadata);
        let wanted = model.run(program, frame, room, &mut |key| comparison::witness(world, &outcome, key));
        let mut counters = wanted.events.clone();
        counters.push(wanted.verdict);
        counters.sort_by_key(|counter| *counter as u32);
        let counted: Vec<_> = outcome.counters.iter().map(|(counter, _)| *counter).collect();
        ensure!(counters == counted, "the model counts {counters:?}, the program {counted:?}");
        ensure!(outcome.action == wanted.action.number(), "the model says {:?}", wanted.action);
        if let Some(frame) = wanted.frame {
            // The first six bytes are the next hop's address, and the model has only one for each backend.
            let same = outcome.frame.len() == frame.len() && outcome.frame[6..] == frame[6..];
            ensure!(same, "the model says\n  {frame:02x?}\nthe program\n  {:02x?}", outcome.frame);
        }
        Ok(outcome)
    }

    /// Packets, bytes and new connections of each backend that had traffic.
    pub(super) fn tallies(&mut self) -> Result<BTreeMap<u32, (u64, u64, u64)>> {
        let mut all = BTreeMap::new();
        for number in 0..SIZES.backends {
            let tally = self.world.tally(name::BK_TALLY, number)?;
            if tally != (0, 0, 0) {
                all.insert(number, tally);
            }
        }
        Ok(all)
    }
}

/// Copies the current values; returns the places where they differ from the old ones.
fn changed(was: &mut [u64], now: &[AtomicU64]) -> Vec<usize> {
    let mut places = Vec::new();
    for (at, (was, now)) in was.iter_mut().zip(now).enumerate() {
        let now = now.load(Ordering::Relaxed);
        if *was != now {
            *was = now;
            places.push(at);
        }
    }
    places
}
