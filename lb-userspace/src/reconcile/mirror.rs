//! The agent's copy of what the tables say, read from the kernel when the agent starts and updated with every
//! write. Slots and index words are not copied: they are mapped, and read where packets read them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use lb_common::{
    Address,
    backend::Backend,
    map::{NameRecord, Node},
    ring::Ring,
    service::Service,
    service_cache::Entry,
};

use super::{lost::Lost, operation::Operation, write_log::WriteLog};
use crate::tables::{Sizes, TableError, Tables};

/// What the tables say.
#[derive(Clone, Debug)]
pub struct Mirror {
    pub sizes: Sizes,
    pub node: Node,
    /// Jiffies in a second.
    pub hz: u64,
    /// By service number, like `service_metas`.
    pub services: Vec<Service>,
    pub service_metas: Vec<NameRecord>,
    /// By backend number, like `backend_metas`; entry 0 is no backend.
    pub backends: Vec<Backend>,
    pub backend_metas: Vec<NameRecord>,
    pub egress: BTreeSet<u32>,
    /// The entries in front of the index, by place.
    pub service_cache: Vec<Entry>,
    /// Addresses of the host.
    pub hosts: BTreeSet<Address>,
    /// MTUs of interfaces that packets come in on, by their numbers.
    pub ingress: BTreeMap<u32, u32>,
    /// How long flows of a service are remembered, by service number. Not in the tables: empty until the first
    /// plan was applied.
    pub windows: HashMap<u32, Duration>,
    /// Backends that are not alive and that flow records may still name, also those whose flows are kept for their return. Once
    /// the flows are given up, these records must be gone before the backend is alive again.
    pub stale_flow_owners: BTreeSet<u32>,
    /// Services that have no tracked slot, as the last sweep saw them. The next sweep does not read their rings.
    pub stable: BTreeSet<u32>,
    /// Services that this agent made and that were not seen to have forwarded a packet since.
    pub unused: BTreeSet<u32>,
    /// Records that the flow table lost because it was full.
    pub lost: Lost,
    /// Flow records that the last walk met.
    pub flows_met: u64,
    /// Whether the last walk over the flow table left records, or none was made yet.
    pub flows_left: bool,
    /// Changes with everything that says which flow records are of use.
    pub generation: u64,
    /// What was written since the sweep under way began; `None` = no sweep is under way.
    pub changed: Option<WriteLog>,
}

impl Mirror {
    /// Reads all tables.
    pub fn read(tables: &impl Tables) -> Result<Self, TableError> {
        let backends = tables.backends()?;
        let backend_metas = tables.backend_metas()?;
        let stale_flow_owners = numbers(&backend_metas, NameRecord::USED)
            .filter(|&number| backends.get(number as usize).is_some_and(|record| !record.is_alive()))
            .collect();
        Ok(Self {
            sizes: tables.sizes(),
            node: tables.node()?,
            hz: tables.jiffies()?.hz,
            services: tables.services()?,
            service_metas: tables.service_metas()?,
            backends,
            backend_metas,
            egress: tables.egress()?.into_iter().collect(),
            service_cache: tables.service_cache()?,
            hosts: tables.hosts()?,
            ingress: tables.ingress()?,
            windows: HashMap::new(),
            stale_flow_owners,
            stable: BTreeSet::new(),
            // Services that an agent before us made count as used: their traffic may not have been counted throughout.
            unused: BTreeSet::new(),
            lost: Lost::default(),
            flows_met: 0,
            flows_left: true,
            generation: 0,
            changed: None,
        })
    }

    /// Numbers, records and names of the services that packets find.
    pub fn present(&self) -> impl Iterator<Item = (u32, &Service, &NameRecord)> {
        (0u32..).zip(&self.services).zip(&self.service_metas).filter_map(|((number, record), meta)| {
            (record.flags & Service::PRESENT != 0).then_some((number, record, meta))
        })
    }

    /// Numbers of the services that have a name, whether or not packets find them yet.
    pub fn named_services(&self) -> impl Iterator<Item = u32> {
        numbers(&self.service_metas, NameRecord::USED)
    }

    /// Numbers of the backends in use, of all services.
    pub fn used_backends(&self) -> impl Iterator<Item = u32> {
        numbers(&self.backend_metas, NameRecord::USED)
    }

    /// Whether the flows of a backend that is down are kept for its return.
    pub fn may_return(&self, number: u32) -> bool {
        let flags = self.backend_metas.get(number as usize).map_or(0, |meta| meta.flags);
        flags & (NameRecord::USED | NameRecord::RETURNING) == NameRecord::USED | NameRecord::RETURNING
    }

    /// Whether flows of a backend may be found there, now or when it comes back.
    pub fn keeps_flows(&self, number: u32) -> bool {
        self.backends.get(number as usize).is_some_and(Backend::is_alive) || self.may_return(number)
    }

    /// Numbers that belong to no service any more and that slots or flows may still name.
    pub fn retired_services(&self) -> impl Iterator<Item = u32> {
        numbers(&self.service_metas, NameRecord::RETIRED)
    }

    /// The same for backends.
    pub fn retired_backends(&self) -> impl Iterator<Item = u32> {
        numbers(&self.backend_metas, NameRecord::RETIRED)
    }

    /// Every region of the arena that packets may look into.
    pub fn regions(&self) -> impl Iterator<Item = Ring> {
        self.present()
            .flat_map(|(_, record, _)| [record.ring, record.old_ring])
            .filter(|ring| *ring != Ring::NONE)
    }

    /// Sets how long flows are remembered, by service number.
    pub fn set_windows(&mut self, windows: &HashMap<u32, Duration>) {
        self.generation += 1;
        self.windows.clone_from(windows);
    }

    /// Updates the mirror after an operation that was carried out.
    pub fn note(&mut self, operation: &Operation) {
        self.generation += 1;
        match operation {
            Operation::AddEgress(interface) => {
                self.egress.insert(*interface);
            }
            Operation::RemoveEgress(interface) => {
                self.egress.remove(interface);
            }
            Operation::ServiceMeta { number, meta } => put(&mut self.service_metas, *number, *meta),
            Operation::Service { number, record } => {
                self.stable.remove(number);
                if let Some(changed) = &mut self.changed {
                    changed.services.insert(*number);
                }
                if record.flags & Service::PRESENT == 0 {
                    self.unused.remove(number);
                }
                put(&mut self.services, *number, *record);
            }
            Operation::BackendMeta { number, meta } => put(&mut self.backend_metas, *number, *meta),
            Operation::Backend { number, record } => {
                let before = self.backends.get(*number as usize).is_some_and(Backend::is_alive);
                if before && !record.is_alive() {
                    self.stale_flow_owners.insert(*number);
                    if let Some(changed) = &mut self.changed {
                        changed.died.insert(*number);
                    }
                }
                put(&mut self.backends, *number, *record);
            }
            Operation::PurgeFlows(backends) => {
                self.stale_flow_owners.retain(|number| !backends.contains(number));
            }
            Operation::Node(node) => self.node = *node,
            Operation::Slots { service, words } => {
                self.stable.remove(service);
                self.flows_left = true;
                if let Some(changed) = &mut self.changed {
                    words.iter().for_each(|(at, _)| changed.slots.insert(*at));
                }
            }
            Operation::ResetService { number, takes_over: false } => {
                self.unused.insert(*number);
            }
            // The packets that the service takes over are older than the service.
            Operation::ResetService { number, takes_over: true } => {
                self.unused.remove(number);
            }
            Operation::ServiceCache { at, entry } => put(&mut self.service_cache, *at, *entry),
            Operation::ServiceCacheKeys(keys) => {
                for (at, key) in keys {
                    if let Some(entry) = self.service_cache.get_mut(*at as usize) {
                        entry.key = *key;
                    }
                }
            }
            Operation::AddHost(address) => {
                self.hosts.insert(*address);
            }
            Operation::RemoveHost(address) => {
                self.hosts.remove(address);
            }
            Operation::Ingress { interface, mtu } => {
                self.ingress.insert(*interface, *mtu);
            }
            Operation::RemoveIngress(interface) => {
                self.ingress.remove(interface);
            }
            Operation::NoteElsewhere(_)
            | Operation::Known { .. }
            | Operation::Index { .. }
            | Operation::ResetBackend(_)
            | Operation::Barrier => {}
        }
    }
}

/// The name in a meta record.
pub fn name(meta: &NameRecord) -> String {
    let end = meta.name.iter().position(|&b| b == 0).unwrap_or(NameRecord::NAME);
    String::from_utf8_lossy(&meta.name[..end]).into_owned()
}

/// The form of a name in a meta record. A name that does not fit does not come here: its plan is refused before.
pub fn name_bytes(name: &str) -> [u8; NameRecord::NAME] {
    let mut bytes = [0; NameRecord::NAME];
    for (place, byte) in bytes.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    bytes
}

fn numbers(metas: &[NameRecord], flag: u32) -> impl Iterator<Item = u32> {
    (0u32..).zip(metas).filter_map(move |(number, meta)| (meta.flags & flag != 0).then_some(number))
}

fn put<T>(all: &mut [T], number: u32, value: T) {
    if let Some(place) = all.get_mut(number as usize) {
        *place = value;
    }
}
