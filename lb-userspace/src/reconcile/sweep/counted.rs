//! The flows that a walk meets, counted by backend.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{
    flow_table::{Role, Seen},
    slot::Slot,
};

use super::expiry::Judge;
use crate::reconcile::{
    mirror::Mirror,
    running::{BackendFlows, FlowCounts},
};

/// What a walk has counted.
#[derive(Debug)]
pub(super) struct Counted {
    pending: u64,
    /// By backend number: a look-up in a hash table for each record would take longer than all the rest.
    backends: Vec<Backend>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Backend {
    flows: BackendFlows,
    elsewhere: u64,
    /// Flows that count where the service balances by live flows.
    live: i64,
}

impl Counted {
    /// Nothing yet, for so many numbers of backends.
    pub(super) fn new(backends: usize) -> Self {
        Self { pending: 0, backends: vec![Backend::default(); backends] }
    }

    /// Counts a record that stays, if its flow has not ended.
    pub(super) fn meet(&mut self, seen: &Seen, judge: &Judge, slots: &[AtomicU64]) {
        let is_live = judge.is_live(seen);
        if !is_live && judge.has_ended(seen) {
            return;
        }
        if seen.role == Role::Pending {
            self.pending += 1;
            return;
        }
        let Some(backend) = self.backends.get_mut(seen.record.backend as usize) else { return };
        let idle = judge.is_idle(seen);
        *(if idle { &mut backend.flows.idle } else { &mut backend.flows.live }) += 1;
        backend.live += i64::from(is_live);
        let word = judge.slot(seen).and_then(|slot| slots.get(slot as usize));
        let owner = word.map(|word| Slot(word.load(Ordering::Relaxed)).current());
        backend.elsewhere += u64::from(owner.is_some_and(|owner| owner != seen.record.backend));
    }

    /// Live flows of a backend whose service balances by them.
    pub(super) fn live(&self, backend: u32) -> i64 {
        self.backends.get(backend as usize).map_or(0, |backend| backend.live)
    }

    /// By backends and services.
    pub(super) fn flows(self, mirror: &Mirror) -> FlowCounts {
        let mut counts = FlowCounts { pending: self.pending, ..FlowCounts::default() };
        for ((number, of), meta) in (0..).zip(&self.backends).zip(&mirror.backend_metas) {
            let all = of.flows.live + of.flows.idle;
            if all > 0 {
                counts.confirmed += all;
                counts.by_backend.insert(number, of.flows);
                let service = counts.by_service.entry(meta.service).or_default();
                service.confirmed += all;
                service.elsewhere += of.elsewhere;
            }
        }
        counts
    }
}
