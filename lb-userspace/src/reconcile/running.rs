//! What the tables say, in the words of an operator: for the control socket, and for an agent that has just adopted
//! running tables and must know what it found.

use std::{collections::HashMap, net::IpAddr};

use lb_common::{backend::Backend, map::NameRecord, ring::Ring};

use super::{
    Reconciler,
    allocate::learning_left,
    desired,
    mirror::{self, Mirror},
    slot::{self, Learning, States},
};
use crate::{
    config::spec::Listen,
    tables::{Tables, address},
};

/// A service that packets find.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunningService {
    pub number: u32,
    pub name: String,
    pub listen: Listen,
    pub max_backends: u32,
    pub ring: Ring,
    /// Slots still ask the old ring, so that neither length nor hash can change again.
    pub learns_from_old_ring: bool,
    pub states: States,
    /// Seconds until the last learning slot stops learning; `None` = none learns, or the window is not known because
    /// nothing was applied yet.
    pub learning_ends_in: Option<u64>,
    /// Learning slots, grouped by when they began to learn, youngest first.
    pub learning: Vec<Learning>,
    /// Sorted by name.
    pub backends: Vec<RunningBackend>,
}

/// A backend with a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunningBackend {
    pub number: u32,
    pub name: String,
    pub address: IpAddr,
    pub record: Backend,
    /// Slots that it owns.
    pub slots: u32,
    /// Learning slots whose unknown flows belong to it.
    pub learning_slots: u32,
}

/// How full the maps are, in entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Retired ones included, as for backends.
    pub services: u64,
    /// Retired ones included: they take an entry until no packet can name them.
    pub backends: u64,
    pub slots: u64,
}

/// Live flows that are recorded. Flows of stable slots are not recorded: their slot says where they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowCounts {
    pub pending: u64,
    pub confirmed: u64,
    /// Confirmed flows by backend number.
    pub by_backend: HashMap<u32, BackendFlows>,
    /// By service number.
    pub by_service: HashMap<u32, ServiceFlows>,
}

/// Recorded flows of one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendFlows {
    /// Flows that count.
    pub live: u64,
    /// Flows that have sent nothing for so long that they do not count.
    pub idle: u64,
}

/// Recorded live flows of one service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceFlows {
    pub confirmed: u64,
    /// Confirmed flows whose backend is not their slot's owner. 0 where the ring hashes sources: the records do not say which
    /// slots their flows fall into.
    pub elsewhere: u64,
}

impl<T: Tables> Reconciler<T> {
    /// All services, sorted by name.
    pub fn running(&self, now: u16) -> Vec<RunningService> {
        let mirror = self.mirror();
        let mut backends: HashMap<u32, Vec<u32>> = HashMap::new();
        for number in mirror.used_backends() {
            backends.entry(mirror.backend_metas[number as usize].service).or_default().push(number);
        }
        let mut services: Vec<_> = mirror
            .present()
            .filter_map(|(number, record, meta)| {
                let listen = desired::listen(record)?;
                let slots = self.tables().slots();
                let states = States::of(slots, record.ring, now);
                let window = mirror.windows.get(&number).filter(|_| states.learning > 0);
                let own = backends.get(&number).map_or(&[][..], Vec::as_slice);
                Some(RunningService {
                    number,
                    name: mirror::name(meta),
                    listen,
                    max_backends: meta.max_backends,
                    ring: record.ring,
                    learns_from_old_ring: record.old_ring != Ring::NONE,
                    states,
                    learning: if states.learning > 0 {
                        Learning::of(slots, record.ring, now)
                    } else {
                        Vec::new()
                    },
                    learning_ends_in: window.map(|w| learning_left(slots, record.ring, *w, now)),
                    backends: self.running_backends(own, record.ring),
                })
            })
            .collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services
    }

    fn running_backends(&self, numbers: &[u32], ring: Ring) -> Vec<RunningBackend> {
        let mirror = self.mirror();
        // Indexed by number: this counts a million slots in milliseconds, and the loop waits for it.
        let mut counts = vec![(0u32, 0u32); mirror.backends.len()];
        slot::owners(self.tables().slots(), ring, |current, previous| {
            if let Some(count) = counts.get_mut(current as usize) {
                count.0 += 1;
            }
            if let Some(count) = counts.get_mut(previous as usize).filter(|_| previous != 0) {
                count.1 += 1;
            }
        });
        let mut backends: Vec<_> = numbers
            .iter()
            .map(|&number| {
                let meta = &mirror.backend_metas[number as usize];
                let (slots, learning_slots) = counts.get(number as usize).copied().unwrap_or_default();
                RunningBackend {
                    number,
                    name: mirror::name(meta),
                    address: address::from_wire(&meta.address),
                    record: mirror.backends[number as usize],
                    slots,
                    learning_slots,
                }
            })
            .collect();
        backends.sort_by(|a, b| a.name.cmp(&b.name));
        backends
    }

    /// Whether packets find any service: false for tables that were just made.
    pub fn is_configured(&self) -> bool {
        self.mirror().node.abi_version != 0 && self.mirror().present().next().is_some()
    }

    /// Whether there are services that this agent made and that may not have forwarded a packet yet. Where they have nothing to
    /// learn, a sweep ends their learning at once.
    pub fn has_unused(&self) -> bool {
        !self.mirror().unused.is_empty()
    }

    /// Whether flow records may still name a backend of a service as it was before its flows were given up.
    pub fn is_unpurged(&self, backend: IpAddr, service: &str) -> bool {
        let mirror = self.mirror();
        mirror.stale_flow_owners.iter().filter(|number| !mirror.may_return(**number)).any(|&number| {
            mirror.backend_metas.get(number as usize).is_some_and(|meta| {
                let service_meta = mirror.service_metas.get(meta.service as usize);
                meta.flags & NameRecord::USED != 0
                    && address::from_wire(&meta.address) == backend
                    && service_meta.is_some_and(|meta| mirror::name(meta) == service)
            })
        })
    }

    pub fn usage(&self) -> Usage {
        let mirror: &Mirror = self.mirror();
        let taken = |metas: &[NameRecord]| metas.iter().filter(|meta| meta.flags != 0).count() as u64;
        Usage {
            services: taken(&mirror.service_metas),
            backends: taken(&mirror.backend_metas),
            slots: mirror.regions().map(|ring| u64::from(ring.length())).sum(),
        }
    }
}
