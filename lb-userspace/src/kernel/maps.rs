//! [`Tables`] on the kernel's maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    TestRun, TestRunOptions,
    maps::{MapError, xdp::XdpMapError},
    programs::Xdp,
};
use lb_common::{
    Address,
    backend::Backend,
    counter::{self, Counter},
    elsewhere,
    flow_table::Seen,
    known,
    map::{NameRecord, Node, TrafficCounters, name},
    ring::Ring,
    service::{Bucket, Service},
    service_cache::Entry,
    slot::Slot,
};

use super::{
    Kernel, hash_maps,
    map_io::{failed, metas, os_error, out_of_range, read_all, sums, written},
    traffic::{self, one},
};
use crate::{
    bpf::sys,
    fault::{self, Kind},
    tables::{FlowTable, Jiffies, Sizes, TableError, Tables},
};

impl Kernel {
    /// Writes the services of all backends where packets read them. To be called before a program of ours uses maps that
    /// another agent has written.
    pub(super) fn derive_backend_services(&self) -> Result<(), TableError> {
        for (number, meta) in (0..).zip(self.backend_metas()?) {
            self.set_backend_service(number, &meta)?;
        }
        Ok(())
    }

    fn set_backend_service(&self, number: u32, meta: &NameRecord) -> Result<(), TableError> {
        let (at, service) = (number as usize, u64::from(meta.service));
        let words = self.backend_services.words();
        if words.get(at).is_some_and(|word| word.load(Ordering::Relaxed) == service) {
            return Ok(());
        }
        let size = self.sizes.backends + 1;
        written(name::BK_SERVICE, number, size, self.backend_services.store(at, service))
    }

    /// The time on the clocks of the slots.
    fn slot_clock(&self) -> Result<u16, TableError> {
        Ok(elsewhere::at(self.jiffies()?.now as u32))
    }
}

impl Tables for Kernel {
    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn node(&self) -> Result<Node, TableError> {
        self.node.read(0).ok_or(out_of_range(name::NODE, 0, 1))
    }

    fn services(&self) -> Result<Vec<Service>, TableError> {
        read_all(name::SERVICES, &self.services, self.sizes.services)
    }

    fn service_metas(&self) -> Result<Vec<NameRecord>, TableError> {
        metas(name::SVC_META, &self.service_metas, self.sizes.services)
    }

    fn backends(&self) -> Result<Vec<Backend>, TableError> {
        read_all(name::BACKENDS, &self.backends, self.sizes.backends + 1)
    }

    fn backend_metas(&self) -> Result<Vec<NameRecord>, TableError> {
        metas(name::BK_META, &self.backend_metas, self.sizes.backends + 1)
    }

    fn egress(&self) -> Result<Vec<u32>, TableError> {
        let interfaces = self.egress.keys();
        interfaces
            .map(|key| key.map_err(os_error).map_err(failed(name::EGRESS, "reading the keys")))
            .collect()
    }

    fn slots(&self) -> &[AtomicU64] {
        self.slots.words()
    }

    fn index(&self) -> &[AtomicU64] {
        self.index.words()
    }

    fn service_cache(&self) -> Result<Vec<Entry>, TableError> {
        read_all(name::SVC_FRONT, &self.service_cache, self.sizes.service_cache)
    }

    fn known(&self) -> &[AtomicU64] {
        self.known.words()
    }

    fn hosts(&self) -> Result<BTreeSet<Address>, TableError> {
        hash_maps::keys(name::HOST, &self.hosts)
    }

    fn ingress(&self) -> Result<BTreeMap<u32, u32>, TableError> {
        hash_maps::all(name::INGRESS, &self.ingress)
    }

    fn set_node(&mut self, node: &Node) -> Result<(), TableError> {
        written(name::NODE, 0, 1, self.node.write(0, node))
    }

    fn set_service(&mut self, number: u32, record: &Service) -> Result<(), TableError> {
        written(name::SERVICES, number, self.sizes.services, self.services.write(number as usize, record))
    }

    fn set_service_meta(&mut self, number: u32, meta: &NameRecord) -> Result<(), TableError> {
        let failed = || failed(name::SVC_META, format!("writing entry {number}"));
        fault::point(Kind::Map).map_err(failed())?;
        self.service_metas.set(number, *meta, 0).map_err(os_error).map_err(failed())
    }

    fn set_backend(&mut self, number: u32, record: &Backend) -> Result<(), TableError> {
        let (entry, size) = (number as usize, self.sizes.backends + 1);
        let running: Option<Backend> = self.backends.read(entry);
        // No packet must get half of the old header and half of the new one, especially not if we are killed between two
        // words. So the backend has no interface meanwhile: its packets are dropped under a counter that says so.
        if let Some(running) = running
            && running.interface != 0
            // A new weight alone is one store, and packets can use the old or the new weight.
            && (Backend { weight: record.weight, ..running }) != *record
            && self.backends.differs_behind_first_word(entry, record)
        {
            let hidden = Backend { interface: 0, ..running };
            written(name::BACKENDS, number, size, self.backends.write(entry, &hidden))?;
        }
        written(name::BACKENDS, number, size, self.backends.write(entry, record))
    }

    fn set_backend_meta(&mut self, number: u32, meta: &NameRecord) -> Result<(), TableError> {
        self.change_owner(number, meta)?;
        self.set_backend_service(number, meta)?;
        let failed = || failed(name::BK_META, format!("writing entry {number}"));
        fault::point(Kind::Map).map_err(failed())?;
        self.backend_metas.set(number, *meta, 0).map_err(os_error).map_err(failed())?;
        self.owner_changed(number, meta);
        Ok(())
    }

    fn add_egress(&mut self, interface: u32) -> Result<(), TableError> {
        let failed = || failed(name::EGRESS, format!("adding interface number {interface}"));
        let error = |error| match error {
            XdpMapError::MapError(error) => os_error(error),
            error => io::Error::other(error.to_string()),
        };
        fault::point(Kind::Map).map_err(failed())?;
        self.egress.insert(interface, interface, None, 0).map_err(error).map_err(failed())
    }

    fn remove_egress(&mut self, interface: u32) -> Result<(), TableError> {
        let failed = || failed(name::EGRESS, format!("removing interface number {interface}"));
        fault::point(Kind::Map).map_err(failed())?;
        match self.egress.remove(interface) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => {
                let error = os_error(error);
                if error.raw_os_error() == Some(nix::libc::ENOENT) {
                    return Ok(());
                }
                Err(failed()(error))
            }
        }
    }

    fn set_slots(&mut self, words: &[(u32, u64)]) -> Result<(), TableError> {
        let clock = self.slot_clock()?;
        let mut concerned = Vec::new();
        for &(at, word) in words {
            if self.slots.set(at, word, clock)? {
                concerned.push(at);
            }
        }
        // Writing may have taken a while, for instance because this process was stopped. A record that agreed with its slot
        // until the slot's word changed must not be younger than the slot's clock.
        let later = if concerned.is_empty() { clock } else { self.slot_clock()? };
        if later != clock {
            concerned.iter().try_for_each(|at| self.slots.set_clock(*at, later))?;
        }
        Ok(())
    }

    fn note_elsewhere(&mut self, ring: Ring) -> Result<(), TableError> {
        let clock = self.slot_clock()?;
        let places = ring.offset()..ring.offset().saturating_add(ring.length());
        let word = |at: u32| self.slots().get(at as usize).map(|word| Slot(word.load(Ordering::Relaxed)));
        let tracked = places.filter(|at| word(*at).is_some_and(Slot::is_tracked));
        tracked.into_iter().try_for_each(|at| self.slots.set_clock(at, clock))
    }

    fn set_index(&mut self, at: u32, word: u64) -> Result<(), TableError> {
        let size = self.sizes.buckets.saturating_mul(Bucket::WORDS as u32);
        written(name::SVC_INDEX, at, size, self.index.store(at as usize, word))
    }

    fn set_service_cache(&mut self, at: u32, entry: &Entry) -> Result<(), TableError> {
        written(name::SVC_FRONT, at, self.sizes.service_cache, self.service_cache.write(at as usize, entry))
    }

    fn set_cache_key(&mut self, at: u32, key: u64) -> Result<(), TableError> {
        let word = at as usize * (size_of::<Entry>() / size_of::<u64>());
        written(name::SVC_FRONT, at, self.sizes.service_cache, self.service_cache.store(word, key))
    }

    fn set_known(&mut self, at: u32, word: u64) -> Result<(), TableError> {
        written(name::KNOWN, at, known::WORDS, self.known.store(at as usize, word))
    }

    fn add_host(&mut self, address: &Address) -> Result<(), TableError> {
        hash_maps::put(name::HOST, &mut self.hosts, address, 1)
    }

    fn remove_host(&mut self, address: &Address) -> Result<(), TableError> {
        hash_maps::remove(name::HOST, &mut self.hosts, address)
    }

    fn set_ingress(&mut self, interface: u32, mtu: u32) -> Result<(), TableError> {
        hash_maps::put(name::INGRESS, &mut self.ingress, &interface, mtu)
    }

    fn remove_ingress(&mut self, interface: u32) -> Result<(), TableError> {
        hash_maps::remove(name::INGRESS, &mut self.ingress, &interface)
    }

    fn reset_service_tally(&mut self, number: u32) -> Result<(), TableError> {
        // Backends of the service that had the number before may still have it as their service.
        self.put_service_total(number, &TrafficCounters::default())
    }

    fn reset_backend_tally(&mut self, number: u32) -> Result<(), TableError> {
        let size = self.sizes.backends + 1;
        written(name::LIVE, number, size, self.live.store(number as usize, 0))?;
        self.retire_traffic(number)
    }

    fn flow_table(&self) -> FlowTable {
        self.flows.clone()
    }

    fn walk_flows(
        &self,
        buckets: Range<u32>,
        now: u32,
        keep: &mut dyn FnMut(&Seen) -> bool,
    ) -> Result<u64, TableError> {
        fault::point(Kind::Map).map_err(failed(name::FLOWS, "walking the records"))?;
        Ok(self.flows.walk(buckets, now, keep))
    }

    fn elsewhere(&self) -> &[AtomicU64] {
        self.slots.elsewhere()
    }

    fn waiter(&self) -> fn() {
        sys::wait_for_programs
    }

    fn barrier(&mut self) -> Result<(), TableError> {
        sys::wait_for_programs();
        Ok(())
    }

    fn jiffies(&self) -> Result<Jiffies, TableError> {
        let failed = |what: &str| failed(name::CLOCK, format!("reading the clock ({what})"));
        let program: &Xdp = self
            .ebpf
            .program("lb_clock")
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| failed("program lb_clock")(io::Error::other("it is not there")))?;
        // A frame for the test run, long enough that the kernel accepts it.
        let frame = [0; 64];
        program
            .test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() })
            .map_err(|error| failed("running lb_clock")(io::Error::other(error.to_string())))?;
        let now = self.clock.get(&0, 0).map_err(os_error).map_err(failed("its value"))?;
        Ok(Jiffies { now, hz: self.hz })
    }

    fn counters(&self) -> Result<Vec<u64>, TableError> {
        let add = |sum: &mut u64, value: &u64| *sum = sum.wrapping_add(*value);
        let all = sums(name::COUNTERS, &self.counters, counter::ENTRIES, add)?;
        let at = |place: u32| all.get(place as usize).copied().unwrap_or(0);
        let both = |counter: &Counter| at(*counter as u32).wrapping_add(at(counter.carried()));
        Ok(Counter::ALL.iter().map(both).collect())
    }

    fn live(&self) -> &[AtomicU64] {
        self.live.words()
    }

    fn add_live(&mut self, number: u32, change: i64) -> Result<(), TableError> {
        let size = self.sizes.backends + 1;
        let live = self.live.words().get(number as usize).ok_or(out_of_range(name::LIVE, number, size))?;
        fault::point(Kind::Map).map_err(failed(name::LIVE, format!("correcting entry {number}")))?;
        live.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
        Ok(())
    }

    fn service_tallies(&self) -> Result<Vec<TrafficCounters>, TableError> {
        let mut services = sums(name::SVC_TALLY, &self.service_tallies, self.sizes.services, traffic::add)?;
        self.owners.add_up(&mut services, &self.backend_tallies()?);
        Ok(services)
    }

    fn service_packets(&self, number: u32) -> Result<u64, TableError> {
        let direct = one(name::SVC_TALLY, &self.service_tallies, number)?.packets;
        Ok(direct.wrapping_add(self.traffic_of_backends(number)?.packets))
    }

    fn backend_tallies(&self) -> Result<Vec<TrafficCounters>, TableError> {
        sums(name::BK_TALLY, &self.backend_tallies, self.sizes.backends + 1, traffic::add)
    }
}
