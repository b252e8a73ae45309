//! A service as the agent and the kernel half keep it, with the rules of this crate and nothing else: no addresses, no
//! packets, no kernel, and every change is atomic.

use std::{collections::BTreeMap, vec, vec::Vec};

use super::{
    super::{PREVIOUS_RING, Slot, Track, since},
    WINDOW,
    step::Change,
};
use crate::{
    evidence::{Decision, Known, Packet, Segment, Write, asks_pending, decide},
    flow::Record,
    icmp,
};

/// Backends are numbered from 1 to this.
pub(super) const BACKENDS: u32 = 5;

/// The lengths that the ring may have.
const LENGTHS: [usize; 3] = [5, 7, 13];

/// Jiffies in a second.
const HZ: u32 = 100;

/// Seconds for which the sweep keeps the record of a flow that sent a SYN and no more.
const UNCONFIRMED: u64 = 120;

/// Seconds for which the flows of a backend that is down are kept for its return.
pub(super) const GRACE: u64 = 90;

/// [`decide`], or a wrong rule in its place.
pub(super) type Evidence = fn(Slot, bool, &Packet, &Known, u32) -> Decision;

/// From a word, the service's setting, the owner to be, the backends that keep their flows and the time to another word.
type Word = fn(Slot, Track, u32, &dyn Fn(u32) -> bool, u16) -> Slot;

/// The rules, or wrong ones in their place.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// [`Slot::next`].
    pub(super) change: Word,
    pub(super) evidence: Evidence,
    /// The backend of an ICMP error: [`icmp::backend_of`].
    pub(super) error: fn(&Known, u32) -> u32,
    /// For how many seconds slots learn.
    pub(super) window: u64,
    /// Whether the sweep ignores records when it settles slots.
    pub(super) settles_with_records: bool,
    /// For how many seconds the flows of a backend that is down are kept.
    pub(super) grace: u64,
}

impl Rules {
    pub(super) const OURS: Self = Self {
        change: |slot, track, new, keeps, now| slot.next(track, new, keeps, now),
        evidence: |slot, always, packet, known, unknown| decide(slot, always, packet, known, unknown),
        error: |known, unknown| icmp::backend_of(known, unknown).0,
        window: WINDOW,
        settles_with_records: false,
        grace: GRACE,
    };
}

#[derive(Clone, Copy)]
struct Backend {
    there: bool,
    up: bool,
    draining: bool,
    weight: u8,
    /// Since when the backend's established flows go elsewhere; `None` = they do not.
    down: Option<u64>,
}

fn write(table: &mut BTreeMap<u16, Record>, flow: u16, write: Write, record: Record) {
    match write {
        Write::Keep => {}
        Write::Refresh | Write::Put => {
            table.insert(flow, record);
        }
        Write::Remove => {
            table.remove(&flow);
        }
    }
}

pub(super) struct Service {
    rules: Rules,
    now: u64,
    backends: [Backend; BACKENDS as usize],
    hold: bool,
    track: Track,
    balances: bool,
    ring: Vec<Slot>,
    old_ring: Vec<Slot>,
    flows: BTreeMap<u16, Record>,
    pending: BTreeMap<u16, Record>,
    turns: usize,
    remembered: u32,
    gave_away: bool,
}

impl Service {
    /// Three backends are up and nothing is tracked.
    pub(super) fn new(rules: Rules) -> Self {
        let up = Backend { there: true, up: true, draining: false, weight: 2, down: None };
        let gone = Backend { there: false, ..up };
        let mut service = Self {
            rules,
            now: 1000,
            backends: [up, up, up, gone, gone],
            hold: false,
            track: Track::OnChange,
            balances: false,
            ring: vec![Slot::EMPTY; LENGTHS[1]],
            old_ring: Vec::new(),
            flows: BTreeMap::new(),
            pending: BTreeMap::new(),
            turns: 0,
            remembered: 0,
            gave_away: false,
        };
        service.apply(false);
        service
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now += seconds;
    }

    /// Whether established flows may go on there.
    pub(super) fn is_alive(&self, number: u32) -> bool {
        let Some(backend) = number.checked_sub(1).and_then(|place| self.backends.get(place as usize)) else {
            return false;
        };
        backend.there && (backend.up || self.hold)
    }

    /// Whether a backend is configured.
    pub(super) fn is_there(&self, number: u32) -> bool {
        number
            .checked_sub(1)
            .is_some_and(|place| self.backends.get(place as usize).is_some_and(|backend| backend.there))
    }

    /// Whether the backend's flows may be found there, now or when it comes back.
    fn keeps(&self, number: u32) -> bool {
        let backend = number.checked_sub(1).and_then(|place| self.backends.get(place as usize));
        let returns = |backend: &Backend| {
            let down = backend.down.map(|since| self.now - since);
            backend.there && down.is_some_and(|seconds| seconds < self.rules.grace)
        };
        self.is_alive(number) || backend.is_some_and(returns)
    }

    /// Whether the last change gave flows away that were not recorded, as `track = "never"` says.
    pub(super) fn promises_nothing(&self) -> bool {
        self.gave_away
    }

    /// Packets that found a record of their flow.
    pub(super) fn remembered(&self) -> u32 {
        self.remembered
    }

    pub(super) fn change(&mut self, change: &Change) {
        let balanced = self.balances;
        let backend = |number: u32| number as usize - 1;
        match *change {
            // A number is free when no slot and no record names it any longer.
            Change::Add(number) if !self.backends[backend(number)].there && !self.names(number) => {
                self.backends[backend(number)] =
                    Backend { there: true, up: true, draining: false, weight: 2, down: None };
            }
            Change::Add(_) => {}
            Change::Remove(number) => self.backends[backend(number)].there = false,
            Change::Drain(number, draining) => self.backends[backend(number)].draining = draining,
            Change::Health(number, up) => self.backends[backend(number)].up = up,
            Change::Recover => self.backends.iter_mut().for_each(|backend| backend.up = true),
            Change::Weight(number, weight) => self.backends[backend(number)].weight = weight,
            Change::Hold(hold) => self.hold = hold,
            Change::Track(track) => {
                self.track = track;
                self.balances &= track == Track::Always;
            }
            Change::Balance(balances) => {
                self.balances = balances;
                if balances {
                    self.track = Track::Always;
                }
            }
            Change::Resize(length) => self.resize(LENGTHS[length]),
        }
        self.apply(balanced);
    }

    /// Sets owners by weight for every slot; `balanced` is whether the service balanced before.
    fn apply(&mut self, balanced: bool) {
        for number in 1..=BACKENDS {
            let alive = self.is_alive(number);
            let backend = &mut self.backends[number as usize - 1];
            backend.down = if alive { None } else { backend.down.or(Some(self.now)) };
        }
        let mut shares = Vec::new();
        for (number, backend) in (1..).zip(self.backends) {
            if backend.there && backend.up && !backend.draining {
                shares.extend(std::iter::repeat_n(number, usize::from(backend.weight)));
            }
        }
        let now = since(self.now);
        let keeps = |number: u32| self.keeps(number);
        let mut slots = Vec::with_capacity(self.ring.len());
        let mut moved = false;
        for (place, slot) in self.ring.iter().enumerate() {
            let owner = if shares.is_empty() { 0 } else { shares[place * 31 % shares.len()] };
            moved |= owner != slot.current();
            slots.push(if self.balances {
                slot.next_balanced(balanced, owner, keeps, now)
            } else {
                (self.rules.change)(*slot, self.track, owner, &keeps, now)
            });
        }
        self.gave_away = moved && self.track == Track::Never;
        self.ring = slots;
    }

    /// A ring of another length replaces this one, unless this ring is itself still asking an older one.
    fn resize(&mut self, length: usize) {
        if length == self.ring.len() || self.ring.iter().any(|slot| slot.previous() == PREVIOUS_RING) {
            return;
        }
        let now = since(self.now);
        let owner = |place: usize| self.ring[place % self.ring.len()].current();
        let new = (0..length).map(|place| Slot::after_resize(owner(place), now)).collect();
        self.old_ring = std::mem::replace(&mut self.ring, new);
    }

    fn names(&self, number: u32) -> bool {
        let slots = self.ring.iter().chain(&self.old_ring);
        let records = self.flows.values().chain(self.pending.values());
        slots.copied().any(|slot| slot.current() == number || slot.previous() == number)
            || records.into_iter().any(|record| record.backend == number)
    }

    fn place(ring: &[Slot], flow: u16) -> usize {
        (u64::from(flow) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) as usize % ring.len()
    }

    /// The backend of unknown flows of a slot, and whether it is the slot's owner because their owner is down.
    fn unknown(&self, slot: Slot, flow: u16) -> (u32, bool) {
        let owner = match slot.owner_of_unknown() {
            PREVIOUS_RING => {
                let old = self.old_ring[Self::place(&self.old_ring, flow)];
                if old.previous() == PREVIOUS_RING { old.current() } else { old.owner_of_unknown() }
            }
            owner => owner,
        };
        let away = owner != 0 && !self.is_alive(owner);
        (if self.is_alive(owner) { owner } else { slot.current() }, away)
    }

    /// The backend that an ICMP error about the flow reaches; 0 = none. It changes nothing.
    pub(super) fn error(&self, flow: u16) -> u32 {
        let slot = self.ring[Self::place(&self.ring, flow)];
        if !slot.is_tracked() {
            return slot.current();
        }
        let (unknown, away) = self.unknown(slot, flow);
        let (flow_record, dead_flow) = self.found(self.flows.get(&flow));
        let (pending, dead_pending) = self.found(self.pending.get(&flow));
        (self.rules.error)(&Known { flow: flow_record, pending, dead_flow, dead_pending, away }, unknown)
    }

    /// The backend that a packet reaches; 0 = none.
    pub(super) fn packet(&mut self, flow: u16, segment: Segment, sequence: u32) -> u32 {
        let slot = self.ring[Self::place(&self.ring, flow)];
        if !slot.is_tracked() {
            return slot.current();
        }
        let (unknown, away) = self.unknown(slot, flow);
        let packet = Packet { segment, sequence, now: self.now as u32 * HZ };
        let (record, dead_flow) = self.found(self.flows.get(&flow));
        let known = Known { flow: record, pending: Record::NONE, dead_flow, dead_pending: false, away };
        let asks = asks_pending(&packet, &known.live_flow());
        let (pending, dead_pending) = self.found(self.pending.get(&flow).filter(|_| asks));
        let known = Known { pending, dead_pending, ..known };
        let mut decision = (self.rules.evidence)(slot, self.track == Track::Always, &packet, &known, unknown);
        if self.balances && decision.begins() {
            decision = decision.balanced(self.turn());
        }
        self.remembered += u32::from(decision.is_hit());
        write(&mut self.flows, flow, decision.flow(), decision.flow_record());
        write(&mut self.pending, flow, decision.pending(), decision.pending_record());
        decision.backend()
    }

    /// The record, and whether its backend is not alive.
    fn found(&self, record: Option<&Record>) -> (Record, bool) {
        record.map_or((Record::NONE, false), |record| (*record, !self.is_alive(record.backend)))
    }

    fn turn(&mut self) -> u32 {
        self.turns += 1;
        self.ring[self.turns % self.ring.len()].current()
    }

    /// What the agent does at regular intervals.
    pub(super) fn sweep(&mut self) {
        let now = since(self.now);
        let mut ring = std::mem::take(&mut self.ring);
        for slot in &mut ring {
            let given_up =
                slot.is_learning() && slot.previous() != PREVIOUS_RING && !self.keeps(slot.previous());
            if given_up || slot.window_over(now, self.rules.window) {
                *slot = slot.end_learning();
            }
        }
        self.ring = ring;
        let mut flows = std::mem::take(&mut self.flows);
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain(|flow, record| {
            // The record of a handshake is also of use at the slot's owner: the tuple may have a record of another flow.
            if !record.has(Record::ELDER) {
                return self.is_asked(*flow)
                    && self.keeps(record.backend)
                    && self.age(*record) <= UNCONFIRMED;
            }
            self.is_needed(*flow, *record)
        });
        flows.retain(|flow, record| {
            // Without the flow's record, its elder would claim its packets.
            let divided = pending.get(flow).is_some_and(|pending| pending.has(Record::ELDER));
            let stays = divided && self.keeps(record.backend) && self.age(*record) <= WINDOW;
            self.is_needed(*flow, *record) || stays
        });
        let mut named = vec![false; self.ring.len()];
        for flow in flows.keys().chain(pending.keys()) {
            named[Self::place(&self.ring, *flow)] = !self.rules.settles_with_records;
        }
        (self.flows, self.pending) = (flows, pending);
        for (slot, named) in self.ring.iter_mut().zip(named) {
            if !named && self.track != Track::Always {
                *slot = slot.settle();
            }
        }
        if self.ring.iter().all(|slot| slot.previous() != PREVIOUS_RING) {
            self.old_ring.clear();
        }
    }

    /// Seconds since the record's flow was seen.
    fn age(&self, record: Record) -> u64 {
        self.now - u64::from(record.last_seen / HZ)
    }

    fn is_asked(&self, flow: u16) -> bool {
        self.ring[Self::place(&self.ring, flow)].is_tracked()
    }

    fn is_needed(&self, flow: u16, record: Record) -> bool {
        let slot = self.ring[Self::place(&self.ring, flow)];
        let says_something = slot.is_learning()
            || slot.is_tracked() && (self.track == Track::Always || record.backend != slot.current());
        says_something && self.keeps(record.backend) && self.age(record) <= WINDOW
    }
}
