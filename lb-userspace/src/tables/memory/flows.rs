//! Flow records of the in-memory tables, and their balancing other than by hash: does the same as `lb-ebpf/src/flow.rs` and
//! `lb-ebpf/src/balance.rs`, on one CPU.

use std::sync::atomic::Ordering;

use lb_common::{
    balance::{self, Balance, Load},
    evidence::{self, Decision, Known, Write, asks_pending},
    flow::{Key, Record},
    service::Service,
    slot::Slot,
};

use super::{Packet, Twin};

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

    /// Updates the numbers of live flows for the coming change of a flow's record in `FLOWS`.
    fn count_live(&self, service: &Service, before: &Record, decision: &Decision) {
        let now = self.clock.get().now as u32;
        let (was, is) = balance::moves(before, &decision.flow_after(before), now, service.idle_after);
        for (backend, change) in [(was, -1), (is, 1)] {
            if was != is && backend != 0 {
                self.change_live(backend, change);
            }
        }
    }

    /// The decision for a packet of a flow in a slot.
    pub(super) fn decide(
        &self,
        word: Slot,
        always: bool,
        packet: &Packet,
        key: &Key,
        (unknown, away): (u32, bool),
    ) -> Decision {
        let now = self.clock.get().now as u32;
        let sequence = packet.sequence.wrapping_sub(packet.syn.into());
        let packet = evidence::Packet { segment: packet.segment(), sequence, now };
        let (flow, dead_flow) = self.found(self.flows.borrow().get(key));
        let known = Known { flow, pending: Record::NONE, dead_flow, dead_pending: false, away };
        let asks = asks_pending(&packet, &known.live_flow());
        let (pending, dead_pending) = self.found(self.pending.borrow().get(key).filter(|_| asks));
        let known = Known { pending, dead_pending, ..known };
        evidence::decide(word, always, &packet, &known, unknown)
    }

    /// The record, and whether its backend is dead.
    fn found(&self, record: Option<&Record>) -> (Record, bool) {
        record.map_or((Record::NONE, false), |record| (*record, !self.is_alive(record.backend)))
    }

    pub(super) fn record(&self, key: Key, decision: &Decision) {
        let (mut flows, mut pending) = (self.flows.borrow_mut(), self.pending.borrow_mut());
        let service = self.services.get(key.service as usize);
        if let Some(service) = service.filter(|service| service.balance() == Balance::LeastConnections) {
            let before = flows.get(&key).copied().unwrap_or(Record::NONE);
            self.count_live(service, &before, decision);
        }
        for (table, write, record) in [
            (&mut *flows, decision.flow(), decision.flow_record()),
            (&mut *pending, decision.pending(), decision.pending_record()),
        ] {
            match write {
                Write::Keep => {}
                Write::Refresh | Write::Put => {
                    table.insert(key, record);
                }
                Write::Remove => {
                    table.remove(&key);
                }
            }
        }
    }
}
