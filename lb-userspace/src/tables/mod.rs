//! The maps as the rest of the agent sees them: [`Tables`], a trait. `kernel` implements it on the kernel's maps; `memory`
//! has the same tables in memory, for tests and simulations. This module decides nothing: `reconcile` decides what to write.

pub mod address;
pub mod clocks;
mod flows;
#[cfg(any(test, feature = "test-support"))]
pub mod memory;

pub use self::flows::{FlowTable, Shared};
use crate::config::words::plural;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::atomic::AtomicU64,
};

use lb_common::{
    Address,
    backend::Backend,
    flow,
    flow_table::Seen,
    map::{NameRecord, Node, TrafficCounters},
    ring::Ring,
    service::{self, Service},
    service_cache::{self, Entry},
};

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("map {map}: {action} failed: {source}")]
    Map {
        /// Name in `lb_common::map::name`.
        map: &'static str,
        /// The failed action, for example `writing entry 7`.
        action: String,
        source: std::io::Error,
    },
    #[error("map {map}: entry {entry} is beyond its {}", plural(*.size, "entry", "entries"))]
    OutOfRange { map: &'static str, entry: u64, size: u64 },
}

/// Sizes of the running maps, in entries. They may differ from `[limits]`, which apply only when maps are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    pub services: u32,
    /// Backends have the numbers 1 to this one; the maps have one entry more, since number 0 means no backend.
    pub backends: u32,
    pub slots: u32,
    /// Records that the flow table holds while it is full to 80 %.
    pub flows: u32,
    pub egress: u32,
    /// Buckets of the service index, a power of two.
    pub buckets: u32,
    /// Entries in front of the service index, a power of two.
    pub service_cache: u32,
}

impl Sizes {
    /// The sizes for the three limits that an operator plans with; the other sizes have their defaults.
    pub fn new(services: u32, backends: u32, slots: u32) -> Self {
        Self {
            services,
            backends,
            slots,
            flows: lb_common::map::size::FLOWS,
            egress: lb_common::map::size::EGRESS,
            buckets: service::buckets_for(services),
            service_cache: service_cache::entries_for(services),
        }
    }
}

/// The clock of the flow records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Jiffies {
    /// The kernel's 64-bit jiffies; flow records have the lower half.
    pub now: u64,
    /// Jiffies in a second.
    pub hz: u64,
}

impl Jiffies {
    /// Whole seconds since `seen`, a lower half; 0 when `seen` is later than `now` (a packet came in between).
    pub fn age(self, seen: u32) -> u64 {
        u64::from(flow::age(seen, self.now as u32)) / self.hz.max(1)
    }
}

/// The operations on the maps that reconciling needs. There is one writer, the agent's loop; packets read at any moment and
/// write flow records and counters only.
///
/// Every `set_…` writes one entry. A record of several words is not written atomically; slot words and index
/// words are. For this reason `reconcile::plan` decides the order of the writes.
pub trait Tables {
    fn sizes(&self) -> Sizes;

    fn node(&self) -> Result<Node, TableError>;
    /// All entries, by service number.
    fn services(&self) -> Result<Vec<Service>, TableError>;
    fn service_metas(&self) -> Result<Vec<NameRecord>, TableError>;
    /// All entries, by backend number.
    fn backends(&self) -> Result<Vec<Backend>, TableError>;
    fn backend_metas(&self) -> Result<Vec<NameRecord>, TableError>;
    /// Interfaces that packets may be redirected to. The kernel removes an interface that vanishes.
    fn egress(&self) -> Result<Vec<u32>, TableError>;
    /// The arena of all rings, as packets see it.
    fn slots(&self) -> &[AtomicU64];
    /// The words of the service index, bucket after bucket, as packets see them.
    fn index(&self) -> &[AtomicU64];
    /// The entries in front of the index, by place; their number is a power of two.
    fn service_cache(&self) -> Result<Vec<Entry>, TableError>;

    /// The words of known addresses, as packets see them.
    fn known(&self) -> &[AtomicU64];
    /// Addresses of the host.
    fn hosts(&self) -> Result<BTreeSet<Address>, TableError>;
    /// MTUs of the interfaces that packets come in on, by interface number.
    fn ingress(&self) -> Result<BTreeMap<u32, u32>, TableError>;

    fn set_node(&mut self, node: &Node) -> Result<(), TableError>;
    fn set_service(&mut self, number: u32, record: &Service) -> Result<(), TableError>;
    fn set_service_meta(&mut self, number: u32, meta: &NameRecord) -> Result<(), TableError>;
    fn set_backend(&mut self, number: u32, record: &Backend) -> Result<(), TableError>;
    fn set_backend_meta(&mut self, number: u32, meta: &NameRecord) -> Result<(), TableError>;
    fn add_egress(&mut self, interface: u32) -> Result<(), TableError>;
    /// Not an error when it is gone already.
    fn remove_egress(&mut self, interface: u32) -> Result<(), TableError>;
    /// Gives slots new words, in this order and one after the other. Each word changes in one atomic store; the owner in front
    /// of the slot follows (see `slots`). Where a tracked slot gets another owner, records that agreed with the old one may
    /// disagree with the new one, so the slot's clock is set ([`lb_common::elsewhere`]). Places count from the start of the
    /// arena.
    fn set_slots(&mut self, words: &[(u32, u64)]) -> Result<(), TableError>;
    /// Sets the clocks of the tracked slots of a ring: any record may disagree with its slot. Clocks are the packets' entries
    /// and do not count as writes.
    fn note_elsewhere(&mut self, ring: Ring) -> Result<(), TableError>;
    /// One atomic store. `at` counts words from the start of the index.
    fn set_index(&mut self, at: u32, word: u64) -> Result<(), TableError>;
    /// Writes an entry in front of the index that packets do not use yet: its key comes last, in one store.
    fn set_service_cache(&mut self, at: u32, entry: &Entry) -> Result<(), TableError>;
    /// Replaces the key of an entry in front of the index, in one store.
    fn set_cache_key(&mut self, at: u32, key: u64) -> Result<(), TableError>;
    /// One atomic store. `at` counts from the start of the array.
    fn set_known(&mut self, at: u32, word: u64) -> Result<(), TableError>;
    fn add_host(&mut self, address: &Address) -> Result<(), TableError>;
    /// Not an error when it is gone already.
    fn remove_host(&mut self, address: &Address) -> Result<(), TableError>;
    fn set_ingress(&mut self, interface: u32, mtu: u32) -> Result<(), TableError>;
    /// Not an error when it is gone already.
    fn remove_ingress(&mut self, interface: u32) -> Result<(), TableError>;
    /// A number goes to a new owner: its traffic counts from 0. Traffic that a backend has counted stays with its service.
    fn reset_service_tally(&mut self, number: u32) -> Result<(), TableError>;
    fn reset_backend_tally(&mut self, number: u32) -> Result<(), TableError>;

    /// The table of flows, which another thread may walk over.
    fn flow_table(&self) -> FlowTable;

    /// [`FlowTable::walk`].
    fn walk_flows(
        &self,
        buckets: Range<u32>,
        now: u32,
        keep: &mut dyn FnMut(&Seen) -> bool,
    ) -> Result<u64, TableError>;

    /// When records last sent packets elsewhere, as packets write it: see [`clocks`].
    fn elsewhere(&self) -> &[AtomicU64];

    /// Something that returns when no packet is under way any more that began before it was called. Another thread may call it.
    fn waiter(&self) -> fn();

    /// Returns when no packet is under way any more that began before the call.
    fn barrier(&mut self) -> Result<(), TableError>;
    fn jiffies(&self) -> Result<Jiffies, TableError>;

    /// By `lb_common::counter::Counter`, summed over CPUs.
    fn counters(&self) -> Result<Vec<u64>, TableError>;
    /// Live flows of each backend, by number, in two's complement. Counted only for services that balance by live flows.
    fn live(&self) -> &[AtomicU64];
    /// Corrects a backend's number of live flows, in one atomic addition. It does not count as a write of the one writer:
    /// packets do the same.
    fn add_live(&mut self, number: u32, change: i64) -> Result<(), TableError>;
    /// By service number, summed over CPUs.
    fn service_tallies(&self) -> Result<Vec<TrafficCounters>, TableError>;
    /// Packets of one service that were forwarded since the service got its number, summed over CPUs.
    fn service_packets(&self, number: u32) -> Result<u64, TableError>;
    /// By backend number, summed over CPUs.
    fn backend_tallies(&self) -> Result<Vec<TrafficCounters>, TableError>;
}
