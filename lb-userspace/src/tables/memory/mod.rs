//! The tables in memory, and the path of a packet through them, for tests and simulations. The packet's
//! path (`packet`, `flows`) follows the kernel half step by step, with the same functions of `lb_common`.

mod flows;
mod packet;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::{
    Address,
    backend::Backend,
    counter::Counter,
    evidence::Segment,
    flow::{Key, Record},
    known,
    map::{FlowTableStats, NameRecord, Node, TrafficCounters, name},
    owner,
    service::{Bucket, Service},
    service_cache::Entry,
    slot::Slot,
    wire::protocol,
};

use super::{Fate, FlowReader, FlowTable, Jiffies, Records, Sizes, TableError, Tables, Walked};

/// The tables in memory. The flow tables have no size limit and evict nothing.
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
    pending: RefCell<HashMap<Key, Record>>,
    flows: RefCell<HashMap<Key, Record>>,
    service_tallies: Vec<TrafficCounters>,
    backend_tallies: Vec<TrafficCounters>,
    live: Vec<AtomicU64>,
    clock: Cell<Jiffies>,
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
            pending: RefCell::default(),
            flows: RefCell::default(),
            service_tallies: vec![TrafficCounters::default(); services],
            backend_tallies: vec![TrafficCounters::default(); backends],
            live: words(backends),
            clock: Cell::new(Jiffies { now: 0, hz: 250 }),
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

    /// The number of records in a flow table.
    pub fn flow_count(&self, table: FlowTable) -> usize {
        self.flow_table(table).borrow().len()
    }

    /// Writes a flow record, like a packet that has been under way for a while.
    #[cfg(test)]
    pub(crate) fn put_flow(&self, table: FlowTable, key: Key, record: Record) {
        self.flow_table(table).borrow_mut().insert(key, record);
    }

    fn flow_table(&self, table: FlowTable) -> &RefCell<HashMap<Key, Record>> {
        match table {
            FlowTable::Pending => &self.pending,
            FlowTable::Confirmed => &self.flows,
        }
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

/// A table as it was when its reader was made: the oldest records that a reader may return.
struct Snapshot(Vec<(Key, Record)>);

impl FlowReader for Snapshot {
    fn barrier(&mut self) {}

    fn next(&mut self) -> Result<Option<Records>, TableError> {
        /// Small, so that reading has many steps even for a small table.
        const PIECE: usize = 8;
        if self.0.is_empty() {
            return Ok(None);
        }
        let (keys, records) = self.0.split_off(self.0.len().saturating_sub(PIECE)).into_iter().unzip();
        Ok(Some(Records { keys, records }))
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

    fn set_slot(&mut self, at: u32, word: u64) -> Result<(), TableError> {
        self.set_owner(at, 0);
        self.write(name::RING, at, |twin| twin.slots.get_mut(at as usize), AtomicU64::new(word))?;
        // An agent may also die between writing the word and writing its owner.
        if self.fails_in != Some(0) {
            self.set_owner(at, owner::of(Slot(word)));
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

    fn walk_flows(
        &self,
        table: FlowTable,
        fate: &mut dyn FnMut(&Key, &Record) -> Fate,
    ) -> Result<Walked, TableError> {
        let mut records = self.flow_table(table).borrow_mut();
        let seen = records.len() as u64;
        records.retain(|key, record| fate(key, record) == Fate::Keep);
        Ok(Walked { seen, deleted: seen - records.len() as u64 })
    }

    fn flow_reader(&self, table: FlowTable) -> Result<Box<dyn FlowReader>, TableError> {
        // Sorted, so that a history is the same each time.
        let mut all: Vec<(Key, Record)> =
            self.flow_table(table).borrow().iter().map(|(key, record)| (*key, *record)).collect();
        all.sort_unstable_by_key(|(key, _)| (key.source, key.ports, key.service));
        Ok(Box::new(Snapshot(all)))
    }

    fn delete_flows(
        &self,
        table: FlowTable,
        keys: &[Key],
        fate: &mut dyn FnMut(&Key, &Record) -> Fate,
    ) -> Result<u64, TableError> {
        let mut records = self.flow_table(table).borrow_mut();
        let condemned: Vec<Key> = keys
            .iter()
            .filter(|key| records.get(key).is_some_and(|record| fate(key, record) == Fate::Delete))
            .copied()
            .collect();
        for key in &condemned {
            records.remove(key);
        }
        Ok(condemned.len() as u64)
    }

    fn put_flow(&mut self, table: FlowTable, key: &Key, record: &Record) -> Result<(), TableError> {
        let mut records = self.flow_table(table).borrow_mut();
        let older = |there: &Record| there.last_seen.wrapping_sub(record.last_seen).cast_signed() < 0;
        if records.get(key).is_none_or(older) {
            records.insert(*key, *record);
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), TableError> {
        Ok(())
    }

    fn jiffies(&self) -> Result<Jiffies, TableError> {
        Ok(self.clock.get())
    }

    fn counters(&self) -> Result<Vec<u64>, TableError> {
        Ok(vec![0; Counter::COUNT as usize])
    }

    fn live(&self) -> &[AtomicU64] {
        &self.live
    }

    fn add_live(&mut self, number: u32, change: i64) -> Result<(), TableError> {
        self.change_live(number, change);
        Ok(())
    }

    /// Nothing is counted, because nothing is ever evicted.
    fn turnover(&self, _: FlowTable) -> Result<FlowTableStats, TableError> {
        Ok(FlowTableStats::default())
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
