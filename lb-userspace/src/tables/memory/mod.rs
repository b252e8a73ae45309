//! The tables in memory, and the path of a packet through them, for tests and simulations. The packet's
//! path (`packet`, `flows`) follows the kernel half step by step, with the same functions of `lb_common`.

mod flows;
mod packet;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::{
    Address,
    backend::Backend,
    counter::Counter,
    elsewhere,
    evidence::Segment,
    flow_table::{Role, Seen, buckets_for},
    known,
    map::{NameRecord, Node, TrafficCounters, name},
    owner,
    ring::Ring,
    service::{Bucket, Service},
    service_cache::Entry,
    slot::Slot,
    wire::protocol,
};

use super::{FlowTable, Jiffies, Sizes, TableError, Tables, clocks};

/// The tables in memory.
#[derive(Debug)]
pub struct Twin {
    sizes: Sizes,
    node: Node,
    services: Vec<Service>,
    service_metas: Vec<NameRecord>,
    backends: Vec<Backend>,
    backend_metas: Vec<NameRecord>,
    egress: BTreeSet<u32>,
    slots: Vec<AtomicU64>,
    owners: Vec<u64>,
    index: Vec<AtomicU64>,
    service_cache: Vec<Entry>,
    known: Vec<AtomicU64>,
    hosts: BTreeSet<Address>,
    ingress: BTreeMap<u32, u32>,
    flows: FlowTable,
    elsewhere: Vec<AtomicU64>,
    service_tallies: Vec<TrafficCounters>,
    backend_tallies: Vec<TrafficCounters>,
    live: Vec<AtomicU64>,
    clock: Cell<Jiffies>,
    /// Records that the flow table has lost, as packets count them.
    pub lost_records: u64,
    writes: u64,
    fails_in: Option<u64>,
}

/// A packet to a service: the fields that the balancer reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    /// SYN without ACK.
    pub syn: bool,
    /// FIN.
    pub closes: bool,
    /// The sequence number of the first byte. A SYN has the number before it on the wire, so here a SYN and the segment that
    /// follows it have the same number.
    pub sequence: u32,
}

impl Packet {
    fn ports(&self) -> u32 {
        lb_common::wire::ports(self.source_port, self.destination_port)
    }

    fn segment(&self) -> Segment {
        match (self.protocol, self.syn) {
            // No client sends SYN and FIN together.
            (protocol::TCP, true) if self.closes => Segment::Stray,
            (protocol::TCP, true) => Segment::Syn,
            (protocol::TCP, false) => Segment::Ordinary { fin: self.closes },
            _ => Segment::Datagram,
        }
    }
}

/// What happens to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// To a backend of a service, by number.
    Forwarded {
        service: u32,
        backend: u32,
    },
    Passed(Counter),
    Dropped(Counter),
}

impl Twin {
    /// Empty tables, like new maps.
    pub fn new(sizes: Sizes) -> Self {
        let words = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        let (services, backends) = (sizes.services as usize, sizes.backends as usize + 1);
        Self {
            sizes,
            node: Node::default(),
            services: vec![Service::default(); services],
            service_metas: vec![NameRecord::FREE; services],
            backends: vec![Backend::default(); backends],
            backend_metas: vec![NameRecord::FREE; backends],
            egress: BTreeSet::new(),
            slots: words(sizes.slots as usize),
            owners: vec![0; owner::words_for(sizes.slots) as usize],
            index: words(sizes.buckets as usize * Bucket::WORDS),
            service_cache: vec![Entry::default(); sizes.service_cache as usize],
            known: words(known::WORDS as usize),
            hosts: BTreeSet::new(),
            ingress: BTreeMap::new(),
            flows: flows::empty(buckets_for(sizes.flows)),
            elsewhere: words(elsewhere::entries_for(sizes.slots) as usize),
            service_tallies: vec![TrafficCounters::default(); services],
            backend_tallies: vec![TrafficCounters::default(); backends],
            live: words(backends),
            clock: Cell::new(Jiffies { now: 0, hz: 250 }),
            lost_records: 0,
            writes: 0,
            fails_in: None,
        }
    }

    /// The number of entries written since these tables were made.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Makes every write after the next `writes` ones fail, as if the agent died; `None` = no write fails.
    pub fn fail_after(&mut self, writes: Option<u64>) {
        self.fails_in = writes;
    }

    /// Sets the flow records' clock, in seconds.
    pub fn set_seconds(&self, seconds: u64) {
        let hz = self.clock.get().hz;
        self.clock.set(Jiffies { now: seconds * hz, hz });
    }

    /// Takes an interface out of the device map, as the kernel does when it vanishes.
    pub fn interface_vanishes(&mut self, interface: u32) {
        self.egress.remove(&interface);
    }

    fn set_owner(&mut self, slot: u32, owner: u16) {
        if let Some(entry) = self.owners.get_mut(owner::word(slot) as usize) {
            *entry = owner::set(*entry, slot, owner);
        }
    }

    /// Computes every owner from its slot's word, like an agent that takes running tables over.
    pub fn derive_owners(&mut self) {
        for slot in 0..self.sizes.slots {
            let word = Slot(self.slots[slot as usize].load(Ordering::Relaxed));
            self.set_owner(slot, owner::of(word));
        }
    }

    /// Slots with a wrong owner in front: an owner must be 0 or the one that the slot's word gives.
    pub fn wrong_owners(&self) -> Vec<u32> {
        let wrong = |slot: &u32| {
            let owner = owner::get(self.owners[owner::word(*slot) as usize], *slot);
            owner != 0 && owner != owner::of(Slot(self.slots[*slot as usize].load(Ordering::Relaxed)))
        };
        (0..self.sizes.slots).filter(wrong).collect()
    }

    /// The number of flow records of a role.
    pub fn flow_count(&self, role: Role) -> usize {
        let mut count = 0;
        self.flows.walk(0..u32::MAX, self.clock.get().now as u32, |seen| {
            count += usize::from(seen.role == role);
            true
        });
        count
    }

    fn set_slot(&mut self, at: u32, word: u64) -> Result<(), TableError> {
        let old = self.slots.get(at as usize).map_or(0, |word| word.load(Ordering::Relaxed));
        if clocks::is_concerned(Slot(old), Slot(word)) {
            clocks::set(&self.elsewhere, at, elsewhere::at(self.clock.get().now as u32));
        }
        self.set_owner(at, 0);
        self.write(name::RING, at, |twin| twin.slots.get_mut(at as usize), AtomicU64::new(word))?;
        // An agent may also die between writing the word and writing its owner.
        if self.fails_in != Some(0) {
            self.set_owner(at, owner::of(Slot(word)));
        }
        Ok(())
    }

    fn write<T>(
        &mut self,
        map: &'static str,
        entry: u32,
        place: impl FnOnce(&mut Self) -> Option<&mut T>,
        value: T,
    ) -> Result<(), TableError> {
        self.count(map)?;
        let size = match map {
            name::SERVICES | name::SVC_META | name::SVC_TALLY => self.sizes.services,
            name::RING => self.sizes.slots,
            name::SVC_INDEX => self.sizes.buckets * Bucket::WORDS as u32,
            name::SVC_FRONT => self.sizes.service_cache,
            name::KNOWN => known::WORDS,
            _ => self.sizes.backends + 1,
        };
        let out_of_range = TableError::OutOfRange { map, entry: entry.into(), size: size.into() };
        *place(self).ok_or(out_of_range)? = value;
        Ok(())
    }

    fn count(&mut self, map: &'static str) -> Result<(), TableError> {
        if let Some(left) = &mut self.fails_in {
            let Some(less) = left.checked_sub(1) else {
                let source = std::io::Error::other("the twin fails here on request");
                return Err(TableError::Map { map, action: "write".into(), source });
            };
            *left = less;
        }
        self.writes += 1;
        Ok(())
    }
}

impl Tables for Twin {
    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn node(&self) -> Result<Node, TableError> {
        Ok(self.node)
    }

    fn services(&self) -> Result<Vec<Service>, TableError> {
        Ok(self.services.clone())
    }

    fn service_metas(&self) -> Result<Vec<NameRecord>, TableError> {
        Ok(self.service_metas.clone())
    }

    fn backends(&self) -> Result<Vec<Backend>, TableError> {
        Ok(self.backends.clone())
    }

    fn backend_metas(&self) -> Result<Vec<NameRecord>, TableError> {
        Ok(self.backend_metas.clone())
    }

    fn egress(&self) -> Result<Vec<u32>, TableError> {
        Ok(self.egress.iter().copied().collect())
    }

    fn slots(&self) -> &[AtomicU64] {
        &self.slots
    }

    fn index(&self) -> &[AtomicU64] {
        &self.index
    }

    fn service_cache(&self) -> Result<Vec<Entry>, TableError> {
        Ok(self.service_cache.clone())
    }

    fn known(&self) -> &[AtomicU64] {
        &self.known
    }

    fn hosts(&self) -> Result<BTreeSet<Address>, TableError> {
        Ok(self.hosts.clone())
    }

    fn ingress(&self) -> Result<BTreeMap<u32, u32>, TableError> {
        Ok(self.ingress.clone())
    }

    fn set_node(&mut self, node: &Node) -> Result<(), TableError> {
        self.write(name::NODE, 0, |twin| Some(&mut twin.node), *node)
    }

    fn set_service(&mut self, number: u32, record: &Service) -> Result<(), TableError> {
        self.write(name::SERVICES, number, |twin| twin.services.get_mut(number as usize), *record)
    }

    fn set_service_meta(&mut self, number: u32, meta: &NameRecord) -> Result<(), TableError> {
        self.write(name::SVC_META, number, |twin| twin.service_metas.get_mut(number as usize), *meta)
    }

    fn set_backend(&mut self, number: u32, record: &Backend) -> Result<(), TableError> {
        self.write(name::BACKENDS, number, |twin| twin.backends.get_mut(number as usize), *record)
    }

    fn set_backend_meta(&mut self, number: u32, meta: &NameRecord) -> Result<(), TableError> {
        self.write(name::BK_META, number, |twin| twin.backend_metas.get_mut(number as usize), *meta)
    }

    fn add_egress(&mut self, interface: u32) -> Result<(), TableError> {
        self.count(name::EGRESS)?;
        self.egress.insert(interface);
        Ok(())
    }

    fn remove_egress(&mut self, interface: u32) -> Result<(), TableError> {
        self.count(name::EGRESS)?;
        self.egress.remove(&interface);
        Ok(())
    }

    fn set_slots(&mut self, words: &[(u32, u64)]) -> Result<(), TableError> {
        words.iter().try_for_each(|(at, word)| self.set_slot(*at, *word))
    }

    fn note_elsewhere(&mut self, ring: Ring) -> Result<(), TableError> {
        let clock = elsewhere::at(self.clock.get().now as u32);
        for (at, word) in (0..).zip(&self.slots).skip(ring.offset() as usize).take(ring.length() as usize) {
            if Slot(word.load(Ordering::Relaxed)).is_tracked() {
                clocks::set(&self.elsewhere, at, clock);
            }
        }
        Ok(())
    }

    fn set_index(&mut self, at: u32, word: u64) -> Result<(), TableError> {
        self.write(name::SVC_INDEX, at, |twin| twin.index.get_mut(at as usize), AtomicU64::new(word))
    }

    fn set_service_cache(&mut self, at: u32, entry: &Entry) -> Result<(), TableError> {
        self.write(name::SVC_FRONT, at, |twin| twin.service_cache.get_mut(at as usize), *entry)
    }

    fn set_cache_key(&mut self, at: u32, key: u64) -> Result<(), TableError> {
        self.write(
            name::SVC_FRONT,
            at,
            |twin| twin.service_cache.get_mut(at as usize).map(|e| &mut e.key),
            key,
        )
    }

    fn set_known(&mut self, at: u32, word: u64) -> Result<(), TableError> {
        self.write(name::KNOWN, at, |twin| twin.known.get_mut(at as usize), AtomicU64::new(word))
    }

    fn add_host(&mut self, address: &Address) -> Result<(), TableError> {
        self.count(name::HOST)?;
        self.hosts.insert(*address);
        Ok(())
    }

    fn remove_host(&mut self, address: &Address) -> Result<(), TableError> {
        self.count(name::HOST)?;
        self.hosts.remove(address);
        Ok(())
    }

    fn set_ingress(&mut self, interface: u32, mtu: u32) -> Result<(), TableError> {
        self.count(name::INGRESS)?;
        self.ingress.insert(interface, mtu);
        Ok(())
    }

    fn remove_ingress(&mut self, interface: u32) -> Result<(), TableError> {
        self.count(name::INGRESS)?;
        self.ingress.remove(&interface);
        Ok(())
    }

    fn reset_service_tally(&mut self, number: u32) -> Result<(), TableError> {
        self.write(
            name::SVC_TALLY,
            number,
            |twin| twin.service_tallies.get_mut(number as usize),
            TrafficCounters::default(),
        )
    }

    fn reset_backend_tally(&mut self, number: u32) -> Result<(), TableError> {
        if let Some(live) = self.live.get(number as usize) {
            live.store(0, Ordering::Relaxed);
        }
        self.write(
            name::BK_TALLY,
            number,
            |twin| twin.backend_tallies.get_mut(number as usize),
            TrafficCounters::default(),
        )
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
        Ok(self.flows.walk(buckets, now, keep))
    }

    fn elsewhere(&self) -> &[AtomicU64] {
        &self.elsewhere
    }

    fn waiter(&self) -> fn() {
        || {}
    }

    fn barrier(&mut self) -> Result<(), TableError> {
        Ok(())
    }

    fn jiffies(&self) -> Result<Jiffies, TableError> {
        Ok(self.clock.get())
    }

    fn counters(&self) -> Result<Vec<u64>, TableError> {
        let mut counters = vec![0; Counter::COUNT as usize];
        counters[Counter::FlowEvictedUnproven as usize] = self.lost_records;
        Ok(counters)
    }

    fn live(&self) -> &[AtomicU64] {
        &self.live
    }

    fn add_live(&mut self, number: u32, change: i64) -> Result<(), TableError> {
        self.change_live(number, change);
        Ok(())
    }

    fn service_tallies(&self) -> Result<Vec<TrafficCounters>, TableError> {
        Ok(self.service_tallies.clone())
    }

    fn service_packets(&self, number: u32) -> Result<u64, TableError> {
        let size = self.sizes.services;
        let out_of_range =
            TableError::OutOfRange { map: name::SVC_TALLY, entry: number.into(), size: size.into() };
        self.service_tallies.get(number as usize).map(|tally| tally.packets).ok_or(out_of_range)
    }

    fn backend_tallies(&self) -> Result<Vec<TrafficCounters>, TableError> {
        Ok(self.backend_tallies.clone())
    }
}
