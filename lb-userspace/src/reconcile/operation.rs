//! The steps that a plan is made of. Each step is idempotent, and packets find a valid way between any two writes of a step.

use std::collections::BTreeSet;

use lb_common::{
    Address,
    backend::Backend,
    map::{NameRecord, Node},
    service::Service,
    service_cache::Entry,
};

/// Flows of a port that go over from one service to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Takeover {
    pub from: u32,
    pub to: u32,
    pub port: u16,
    /// No packet finds the service in `from` for this port any more: its records are moved, not copied.
    pub last: bool,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Deletes the flow records that name these backends.
    PurgeFlows(BTreeSet<u32>),
    /// Takes the flow records of a port over from another service.
    TakeFlows(Takeover),
    AddEgress(u32),
    RemoveEgress(u32),
    ServiceMeta {
        number: u32,
        meta: NameRecord,
    },
    Service {
        number: u32,
        record: Service,
    },
    BackendMeta {
        number: u32,
        meta: NameRecord,
    },
    Backend {
        number: u32,
        record: Backend,
    },
    /// The number's traffic counts from 0.
    ResetService(u32),
    ResetBackend(u32),
    /// Slot words of one service, by place in the arena.
    Slots {
        service: u32,
        words: Vec<(u32, u64)>,
    },
    /// A word of the service index.
    Index {
        at: u32,
        word: u64,
    },
    /// An entry of the table in front of the index.
    ServiceCache {
        at: u32,
        entry: Entry,
    },
    /// Keys of such entries, by place; the rest of each entry stays.
    ServiceCacheKeys(Vec<(u32, u64)>),
    /// A word of the bits of known addresses.
    Known {
        at: u32,
        word: u64,
    },
    /// An address of the host.
    AddHost(Address),
    RemoveHost(Address),
    /// The MTU of an interface that packets come in on.
    Ingress {
        interface: u32,
        mtu: u32,
    },
    RemoveIngress(u32),
    Node(Node),
    /// Waits for packets that are under way. What the steps before it took out of use may be used again after it.
    Barrier,
}

impl Operation {
    /// Map entries that the step writes. Flow records are not counted: they are the packets' entries.
    pub fn entries(&self) -> u64 {
        match self {
            Self::PurgeFlows(_) | Self::TakeFlows(_) | Self::Barrier => 0,
            Self::Slots { words, .. } => words.len() as u64,
            Self::ServiceCacheKeys(keys) => keys.len() as u64,
            _ => 1,
        }
    }
}
