//! Flow records of the in-memory tables, and their balancing other than by hash: does the same as `lb-ebpf/src/flow.rs` and
//! `lb-ebpf/src/balance.rs`, on one CPU.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use lb_common::{
    balance::{self, Balance, Load},
    elsewhere,
    evidence::{self, Decision, Known, Write, asks_pending},
    flow::Record,
    flow_table::{self, Bucket, Key, Memory, Role},
    hash,
    service::Service,
    slot::Slot,
};

use super::{Packet, Twin};
use crate::tables::{FlowTable, Shared, clocks};

impl Shared for Vec<AtomicU64> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

/// An empty table.
pub(super) fn empty(buckets: u32) -> FlowTable {
    let words = buckets as usize * size_of::<Bucket>() / size_of::<u64>();
    FlowTable::new(Arc::new((0..words).map(|_| AtomicU64::new(0)).collect::<Vec<_>>()))
}

/// A flow in a tracked slot.
#[derive(Clone, Copy)]
pub(super) struct Tracked {
    /// The number of its service.
    pub(super) service: u32,
    pub(super) key: Key,
    /// The slot's place in the arena, and its word.
    pub(super) place: u32,
    pub(super) slot: Slot,
}

impl Twin {
    /// The backend that the service's balancing chooses for a new flow. The count of turns, mixed, serves as random numbers.
    pub(super) fn balance(&mut self, number: u32, decision: &Decision) -> Option<u32> {
        let record = self.services[number as usize];
        if !record.tracks_always() || !decision.begins() {
            return None;
        }
        let tally = &mut self.service_tallies[number as usize];
        let place = match record.balance() {
            Balance::Hash => return None,
            Balance::RoundRobin => balance::turn(record.ring, tally.turns, 0),
            Balance::LeastConnections => {
                let draw = |factor| (tally.turns as u32).wrapping_mul(factor);
                let (one, two) = (draw(0x9e37_79b9), draw(0x85eb_ca6b));
                tally.turns += 1;
                let first = balance::any(record.ring, one)?;
                let second = balance::other(record.ring, first, record.longest, two);
                let [one, two] = [Some(first), second].map(|place| self.owner(place));
                let heavier = !self.load(one).is_at_most(self.load(two));
                let chosen = if one == 0 || two != 0 && heavier { two } else { one };
                return (chosen != 0).then_some(chosen);
            }
            Balance::Random => balance::any(record.ring, (tally.turns as u32).wrapping_mul(0x9e37_79b9)),
        };
        tally.turns += 1;
        let chosen = Slot(self.slots.get(place? as usize)?.load(Ordering::Acquire)).current();
        (chosen != 0).then_some(chosen)
    }

    fn owner(&self, place: Option<u32>) -> u32 {
        let word = place.and_then(|place| self.slots.get(place as usize));
        word.map_or(0, |word| Slot(word.load(Ordering::Acquire)).current())
    }

    fn load(&self, backend: u32) -> Load {
        let live = self.live.get(backend as usize).map_or(0, |live| live.load(Ordering::Relaxed));
        let record = self.backends.get(backend as usize).copied().unwrap_or_default();
        Load { live: live.cast_signed(), weight: record.weight, full: record.is_full() }
    }

    pub(super) fn change_live(&self, backend: u32, change: i64) {
        if let Some(live) = self.live.get(backend as usize) {
            live.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
        }
    }

    /// Updates the numbers of live flows for the coming change of a flow's record.
    fn count_live(&self, service: &Service, before: &Record, decision: &Decision) {
        let now = self.clock.get().now as u32;
        let (was, is) = balance::moves(before, &decision.flow_after(before), now, service.idle_after);
        for (backend, change) in [(was, -1), (is, 1)] {
            if was != is && backend != 0 {
                self.change_live(backend, change);
            }
        }
    }

    /// Where the records of a packet's flow may be.
    pub(crate) fn flow_key(&self, packet: &Packet) -> Key {
        let Packet { source, destination, protocol, .. } = packet;
        let hash = hash::flow(&self.node.seed, source, destination, packet.ports(), *protocol);
        Key::of(hash, self.flows.buckets())
    }

    /// The decision for a packet of a flow in a slot.
    pub(super) fn decide(
        &self,
        tracked: &Tracked,
        always: bool,
        packet: &Packet,
        (unknown, away): (u32, bool),
    ) -> Decision {
        let now = self.clock.get().now as u32;
        let sequence = packet.sequence.wrapping_sub(packet.syn.into());
        let packet = evidence::Packet { segment: packet.segment(), sequence, now };
        let (flow, dead_flow) = self.found(&tracked.key, Role::Flow);
        let known = Known { flow, pending: Record::NONE, dead_flow, dead_pending: false, away };
        let (pending, dead_pending) = if asks_pending(&packet, &known.live_flow()) {
            self.found(&tracked.key, Role::Pending)
        } else {
            (Record::NONE, false)
        };
        let known = Known { pending, dead_pending, ..known };
        evidence::decide(tracked.slot, always, &packet, &known, unknown)
    }

    /// The record, and whether its backend is dead.
    fn found(&self, key: &Key, role: Role) -> (Record, bool) {
        let found = flow_table::find(&self.flow_memory(), key, role);
        found.map_or((Record::NONE, false), |found| {
            let record = found.read(role, self.clock.get().now as u32);
            (record, !self.is_alive(record.backend))
        })
    }

    pub(super) fn flow_memory(&self) -> impl Memory {
        self.flows.with(|backend| self.backend_metas.get(backend as usize).map_or(0, |meta| meta.service))
    }

    pub(super) fn record(&self, tracked: &Tracked, decision: &Decision) {
        let (memory, now) = (self.flow_memory(), self.clock.get().now as u32);
        let service = self.services.get(tracked.service as usize);
        if let Some(service) = service.filter(|service| service.balance() == Balance::LeastConnections) {
            self.count_live(service, &self.found(&tracked.key, Role::Flow).0, decision);
        }
        if decision.is_elsewhere(tracked.slot.current(), now) {
            clocks::set(&self.elsewhere, tracked.place, elsewhere::at(now));
        }
        for (role, write, record) in [
            (Role::Flow, decision.flow(), decision.flow_record()),
            (Role::Pending, decision.pending(), decision.pending_record()),
        ] {
            let found = flow_table::find(&memory, &tracked.key, role);
            match (write, found) {
                (Write::Keep, _) | (Write::Refresh | Write::Remove, None) => {}
                (Write::Refresh, Some(found)) => found.refresh(role, &record),
                (Write::Remove, Some(found)) => found.remove(),
                (Write::Put, _) => {
                    // Where the table has no place, the flow goes on without a record, as it does in the kernel half.
                    let _ = flow_table::put(&memory, &tracked.key, role, &record, now, now);
                }
            }
        }
    }
}
