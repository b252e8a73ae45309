//! The steps that a plan is made of. Each step is idempotent, and packets find a valid way between any two writes of a step.

use std::collections::BTreeSet;

use lb_common::{
    Address,
    backend::Backend,
    map::{NameRecord, Node},
    ring::Ring,
    service::Service,
    service_cache::Entry,
};

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Deletes the flow records that name these backends.
    PurgeFlows(BTreeSet<u32>),
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
    /// The number's traffic counts from 0. `takes_over`: packets that went to another service until now are the service's,
    /// so it has flows from its beginning.
    ResetService {
        number: u32,
        takes_over: bool,
    },
    ResetBackend(u32),
    /// Slot words of one service, by place in the arena.
    Slots {
        service: u32,
        words: Vec<(u32, u64)>,
    },
    /// Any record may disagree with its slot in this ring, whose words say nothing of that.
    NoteElsewhere(Ring),
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
    /// Map entries that the step writes. Flow records and clocks are not counted: they are the packets' entries.
    pub fn entries(&self) -> u64 {
        match self {
            Self::PurgeFlows(_) | Self::NoteElsewhere(_) | Self::Barrier => 0,
            Self::Slots { words, .. } => words.len() as u64,
            Self::ServiceCacheKeys(keys) => keys.len() as u64,
            _ => 1,
        }
    }
}
