//! What the twin does with flow records, and its balancing other than by the hash: what `lb-ebpf/src/flow.rs` and
//! `lb-ebpf/src/balance.rs` do, on one CPU.

use std::sync::atomic::Ordering;

use lb_common::{
    balance::{self, Balance, Load},
    flow::{Key, Record},
    hash,
    service::Service,
    slot::{Action, Decision, Known, Slot},
};

use super::{Packet, Twin};

impl Twin {
    /// The backend that the service's balancing chooses for a new flow. Random numbers are the count of turns, mixed.
    pub(super) fn balance(&mut self, packet: &Packet, number: u32, decision: Decision) -> Option<u32> {
        let record = self.services[number as usize];
        let Packet { source, destination, protocol, .. } = packet;
        let hash =
            hash::placing(&self.node.seed, record.ring, source, destination, packet.ports(), *protocol);
        let word = Slot(self.slots.get(record.ring.slot(hash) as usize)?.load(Ordering::Acquire));
        if !record.tracks_always() || !decision.action.begins(word, packet.segment()) {
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
                let heavier = !self.load(one).is_no_heavier_than(self.load(two));
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

    /// Keeps the numbers of live flows, by what is about to be done with the record that a flow has in `FLOWS`.
    fn count_live(&self, service: &Service, action: Action, confirmed: Option<&Record>, fresh: &Record) {
        let known = confirmed.copied().unwrap_or_default();
        let (was, is) = balance::moves(action, &known, fresh, service.idle_after);
        for (backend, change) in [(was, -1), (is, 1)] {
            if was != is && backend != 0 {
                self.change_live(backend, change);
            }
        }
    }

    pub(super) fn known(&self, key: &Key) -> Known {
        if let Some(record) = self.flows.borrow().get(key) {
            if !self.is_alive(record.backend) {
                return Known::Dead;
            }
            let draining = self.backends[record.backend as usize].is_draining();
            let leaves = draining || record.flags & Record::CLOSING != 0;
            return Known::Flow { backend: record.backend, leaves };
        }
        match self.pending.borrow().get(key) {
            Some(record) if self.is_alive(record.backend) => Known::Pending { backend: record.backend },
            Some(_) => Known::Dead,
            None => Known::No,
        }
    }

    pub(super) fn record(&self, packet: &Packet, key: Key, decision: Decision) {
        let now = self.clock.get().now;
        let flags = if packet.closes { Record::CLOSING } else { 0 };
        let fresh = Record { backend: decision.backend, flags, last_seen: now };
        let (mut flows, mut pending) = (self.flows.borrow_mut(), self.pending.borrow_mut());
        let service = self.services.get(key.service as usize);
        if let Some(service) = service.filter(|service| service.balance() == Balance::LeastConnections) {
            self.count_live(service, decision.action, flows.get(&key), &fresh);
        }
        match decision.action {
            Action::Nothing => {}
            Action::Touch => {
                let found = match flows.get_mut(&key) {
                    Some(found) => Some(found),
                    None => pending.get_mut(&key),
                };
                if let Some(found) = found {
                    found.last_seen = now;
                    found.flags |= flags;
                }
            }
            Action::InsertPending => {
                flows.remove(&key);
                pending.insert(key, fresh);
            }
            Action::Insert | Action::Confirm => {
                flows.insert(key, fresh);
                pending.remove(&key);
            }
            Action::Forget => {
                flows.remove(&key);
                pending.remove(&key);
            }
        }
    }
}
