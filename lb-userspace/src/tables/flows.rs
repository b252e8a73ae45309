//! The table of flows, in memory that packets write at the same time. The memory is shared, so that a walk may go on on
//! another thread than the agent's loop.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, atomic::AtomicU64},
};

use lb_common::flow_table::{self, Memory as _, Seen, Words};

/// Memory that holds the table: a mapped array, or words of the program's own.
pub trait Shared: Send + Sync {
    /// Eight words for each bucket.
    fn words(&self) -> &[AtomicU64];
}

/// The table. A clone is the same table.
#[derive(Clone)]
pub struct FlowTable(Arc<dyn Shared>);

impl fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowTable").field("buckets", &self.buckets()).finish_non_exhaustive()
    }
}

impl FlowTable {
    pub fn new(memory: Arc<dyn Shared>) -> Self {
        Self(memory)
    }

    /// All words, as packets see them.
    pub fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }

    pub fn buckets(&self) -> u32 {
        self.with(|_| 0).buckets()
    }

    /// The table for reading and writing single records; `service` says the service of a backend.
    pub fn with<S: Fn(u32) -> u32>(&self, service: S) -> Words<'_, S> {
        Words::new(self.words(), service)
    }

    /// Shows the records of some buckets to `keep`, each one once, and takes out those for which it says `false`. Returns how
    /// many. A record that a packet refreshes in this moment stays. `now`: the lower half of the kernel's jiffies.
    pub fn walk(&self, buckets: Range<u32>, now: u32, mut keep: impl FnMut(&Seen) -> bool) -> u64 {
        flow_table::sweep(self.words(), buckets, now, &mut keep).into()
    }
}
