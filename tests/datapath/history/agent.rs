//! The agent's part of a history, without the agent: it changes a ring by a rule, lets backends come and go, and sweeps
//! the flow tables.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use lb_common::{
    backend::Backend,
    counter::{Counter, Kind},
    elsewhere::{self, NEVER},
    ring::Ring,
    slot::{PREVIOUS_RING, Slot},
    wire::protocol::TCP,
};
use lb_tests::{
    frame::{self, Segment},
    world::{Sizes, World, flows::tag, snapshot::Snapshot},
};

use super::client::{Clients, FLOWS};
use crate::{
    icmp,
    scene::{PORT, SEED, V4, add_backend, backend_of, client, vip},
};

/// Backends have the numbers from 1 to this one.
pub(super) const BACKENDS: u32 = 5;

/// Lengths that the ring may have.
pub(super) const LENGTHS: [usize; 4] = [5, 7, 13, LONGEST];
pub(super) const LONGEST: usize = 31;

/// How a slot changes that goes to another owner: [`Slot::change`], or a rule that is wrong on purpose.
pub(super) type Rule = fn(Slot, u32, &dyn Fn(u32) -> bool, u16) -> Slot;

/// The time of all changes; the end of the learning is a step of the history.
const NOW: u16 = 1;

pub(super) struct Agent {
    world: World,
    protocol: u8,
    rule: Rule,
    service: u32,
    /// Two places in the arena, which the ring and the old ring take in turns.
    places: [Ring; 2],
    /// The ring as it is in the arena.
    ring: Ring,
    slots: Vec<Slot>,
    /// Whether each backend is alive and takes new flows.
    backends: [State; BACKENDS as usize],
    /// Whether a backend that fails keeps its flows for its return.
    grace: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Up,
    Draining,
    /// Its checks fail; its flows are kept for its return.
    Failing,
    Dead,
}

impl Agent {
    pub(super) fn new(protocol: u8, rule: Rule) -> Result<Self> {
        let mut world = World::new(Sizes::default(), SEED)?;
        for number in 1..=BACKENDS {
            add_backend(&mut world, number, V4, V4)?;
        }
        let service = world.add_service(vip(V4, PORT), protocol, &[Slot::EMPTY; LONGEST])?;
        let places = [world.service(service)?.ring, world.add_ring(&[Slot::EMPTY; LONGEST])?];
        let [ring, _] = places;
        let backends = [State::Up; BACKENDS as usize];
        Ok(Self { world, protocol, rule, service, places, ring, slots: Vec::new(), backends, grace: true })
    }

    /// An agent that gives the flows of a backend away for good when the checks of the backend fail.
    pub(super) fn without_grace(self) -> Self {
        Self { grace: false, ..self }
    }

    /// Forgets everything: all backends are up, the first owns every slot, and none is tracked.
    pub(super) fn begin_again(&mut self) -> Result<()> {
        self.world.forget_flows()?;
        for number in 1..=BACKENDS {
            self.set(number, State::Up)?;
        }
        self.slots = vec![Slot::stable(1); LENGTHS[1]];
        self.ring = Ring::new(self.places[0].offset(), LENGTHS[1] as u32);
        let ring = self.ring;
        self.write_slots()?;
        self.world.change_service(self.service, |service| {
            service.ring = ring;
            service.old_ring = Ring::NONE;
        })
    }

    /// Sends a packet of the flow from client port `flow`. Returns the backend that it reached; 0 = dropped as `no_backend`.
    pub(super) fn packet(&mut self, flow: u16, segment: Segment) -> Result<u32> {
        let (from, to) = (client(V4, flow), vip(V4, PORT));
        let packet = if self.protocol == TCP {
            frame::tcp(from, to, segment, 0, 0)
        } else {
            frame::udp(from, to, 0, 0)
        };
        let outcome = self.world.run("lb_xdp", &packet)?;
        match outcome.verdict() {
            Counter::ForwardedTx => Ok(backend_of(&outcome)),
            verdict => {
                ensure!(
                    verdict == Counter::NoBackend && verdict.kind() == Kind::Dropped,
                    "{}",
                    verdict.name()
                );
                Ok(0)
            }
        }
    }

    /// Sends an ICMP error for that flow. Returns the backend that it reached; 0 = dropped as `no_backend`.
    pub(super) fn error(&mut self, flow: u16) -> Result<u32> {
        let outcome =
            self.world.run("lb_xdp", &icmp::error(V4, (3, 4), &icmp::quote(V4, self.protocol, flow, 8)))?;
        match outcome.verdict() {
            Counter::ForwardedTx => {
                ensure!(outcome.events() == [Counter::IcmpSteered], "{:?}", outcome.events());
                Ok(backend_of(&outcome))
            }
            Counter::NoBackend => Ok(0),
            verdict => bail!("{}", verdict.name()),
        }
    }

    /// All that the data path remembers of flows.
    pub(super) fn memory(&mut self) -> Result<(Vec<u64>, Vec<u16>)> {
        let slots = self.ring.offset()..self.ring.offset() + self.ring.length();
        let clocks = slots.map(|slot| self.world.clock_of(slot)).collect::<Result<_>>()?;
        Ok((self.world.flow_words(), clocks))
    }

    /// All maps.
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        self.world.snapshot()
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    pub(super) fn is_alive(&self, backend: u32) -> bool {
        matches!(self.state(backend), State::Up | State::Draining)
    }

    /// Whether flows of this backend may be found there, now or when the backend comes back.
    fn keeps(&self, backend: u32) -> bool {
        self.is_alive(backend) || self.grace && self.state(backend) == State::Failing
    }

    fn state(&self, backend: u32) -> State {
        self.backends[backend as usize - 1]
    }

    fn set(&mut self, backend: u32, state: State) -> Result<()> {
        self.backends[backend as usize - 1] = state;
        self.world.change_backend(backend, |record| {
            record.flags = match state {
                State::Up => Backend::ALIVE,
                State::Draining => Backend::ALIVE | Backend::DRAINING,
                State::Failing | State::Dead => 0,
            }
        })
    }

    /// Gives slots to new owners, and gives all slots of backends that take no new flows to other backends.
    pub(super) fn change(&mut self, owners: &[(usize, usize)]) -> Result<()> {
        let up: Vec<u32> = (1..=BACKENDS).filter(|backend| self.state(*backend) == State::Up).collect();
        let choose = |which: usize| if up.is_empty() { 0 } else { up[which % up.len()] };
        let length = self.slots.len();
        let mut wanted: Vec<u32> = self.slots.iter().map(|slot| slot.current()).collect();
        for (slot, which) in owners {
            wanted[slot % length] = choose(*which);
        }
        let keeps = |backend: u32| self.keeps(backend);
        let mut slots = Vec::with_capacity(length);
        for (place, (slot, mut owner)) in self.slots.iter().zip(wanted).enumerate() {
            if !up.contains(&owner) {
                owner = choose(place);
            }
            slots.push((self.rule)(*slot, owner, &keeps, NOW));
        }
        self.slots = slots;
        self.write_slots()
    }

    pub(super) fn kill(&mut self, backend: u32) -> Result<()> {
        self.set(backend, State::Dead)?;
        self.change(&[])
    }

    pub(super) fn fail(&mut self, backend: u32) -> Result<()> {
        if self.is_alive(backend) {
            self.set(backend, State::Failing)?;
            self.change(&[])?;
        }
        Ok(())
    }

    pub(super) fn revive(&mut self, backend: u32) -> Result<()> {
        if self.state(backend) == State::Dead {
            // The agent lets a backend whose flows were given up return only after a sweep has found all of its records.
            self.world.retain_records(|_, _, record| record.backend != backend)?;
        }
        if !self.is_alive(backend) {
            self.set(backend, State::Up)?;
            self.change(&[])?;
        }
        Ok(())
    }

    pub(super) fn drain(&mut self, backend: u32) -> Result<()> {
        if self.state(backend) == State::Up {
            self.set(backend, State::Draining)?;
            self.change(&[])?;
        }
        Ok(())
    }

    pub(super) fn undrain(&mut self, backend: u32) -> Result<()> {
        if self.state(backend) == State::Draining {
            self.set(backend, State::Up)?;
            self.change(&[])?;
        }
        Ok(())
    }

    /// A ring of another length replaces this one, unless this ring still asks an older one.
    pub(super) fn resize(&mut self, length: usize) -> Result<()> {
        let length = LENGTHS[length];
        if length == self.slots.len() || self.slots.iter().any(|slot| slot.previous() == PREVIOUS_RING) {
            return Ok(());
        }
        let owners: Vec<u32> = self.slots.iter().map(|slot| slot.current()).collect();
        self.slots = (0..length).map(|i| Slot::after_resize(owners[i % owners.len()], NOW)).collect();
        let old = self.ring;
        let place = if old.offset() == self.places[0].offset() { self.places[1] } else { self.places[0] };
        let new = Ring::new(place.offset(), length as u32);
        self.ring = new;
        self.write_slots()?;
        // What was in the places of the new ring before does not say what its slots have recorded.
        let now = elsewhere::at(self.world.clock()? as u32);
        for place in new.offset()..new.offset() + new.length() {
            self.world.set_clock(place, now)?;
        }
        // The old ring first: a packet that finds the new ring must find an old ring to ask.
        self.world.change_service(self.service, |service| service.old_ring = old)?;
        self.world.change_service(self.service, |service| service.ring = new)
    }

    pub(super) fn end_window(&mut self) -> Result<()> {
        for slot in self.slots.iter_mut().filter(|slot| slot.is_learning()) {
            *slot = slot.end_learning();
        }
        self.write_slots()
    }

    /// Drops the records of flows that have ended or whose backend is gone. Then settles the slots in which no record disagrees
    /// with the owner, and whose clock is not needed any more. A clock must say so wherever a record disagrees.
    pub(super) fn sweep(&mut self, clients: &Clients) -> Result<()> {
        let hash = |flow| self.world.hash(client(V4, flow), vip(V4, PORT), self.protocol);
        let open: BTreeMap<u64, u64> = (0..FLOWS)
            .filter(|flow| clients.is_open(*flow))
            .map(hash)
            .map(|hash| (tag(hash), hash))
            .collect();
        let keeps: Vec<u32> = (1..=BACKENDS).filter(|backend| self.keeps(*backend)).collect();
        let (ring, slots) = (self.ring, &self.slots);
        let mut disagrees = vec![false; slots.len()];
        self.world.retain_records(|tag, _, record| {
            let Some(hash) = open.get(&tag).filter(|_| keeps.contains(&record.backend)) else { return false };
            let slot = (ring.slot(*hash) - ring.offset()) as usize;
            disagrees[slot] |= record.backend != slots[slot].current();
            true
        })?;
        let place = |slot: usize| ring.offset() + slot as u32;
        let mut needed = BTreeSet::new();
        for slot in (0..disagrees.len()).filter(|slot| disagrees[*slot]) {
            let is_set = self.world.clock_of(place(slot))? != NEVER;
            ensure!(is_set || self.slots[slot].is_learning(), "a record of slot {slot} disagrees unseen");
            needed.insert(elsewhere::clock_of(place(slot)));
        }
        for (slot, disagrees) in disagrees.into_iter().enumerate() {
            if !disagrees {
                self.slots[slot] = self.slots[slot].settle();
            }
            // The clocks of the others may be set back here, where the agent waits for the window.
            if !needed.contains(&elsewhere::clock_of(place(slot))) {
                self.world.set_clock(place(slot), NEVER)?;
            }
        }
        self.write_slots()
    }

    /// Writes the ring, and sets the clocks of the slots that were or are tracked and get another word.
    fn write_slots(&mut self) -> Result<()> {
        let before = self.world.read_ring(self.ring)?;
        self.world.write_ring(self.ring, &self.slots)?;
        let now = elsewhere::at(self.world.clock()? as u32);
        for (place, (before, after)) in (self.ring.offset()..).zip(before.iter().zip(&self.slots)) {
            if before != after
                && (before.is_tracked() || after.is_tracked())
                && before.current() != after.current()
            {
                self.world.set_clock(place, now)?;
            }
        }
        Ok(())
    }
}
