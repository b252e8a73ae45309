//! What a slot that is tracked does with a packet: the table of ARCHITECTURE.md, "What a packet in a tracked slot
//! does", row by row, with a memory of its own.

use std::{collections::HashMap, net::IpAddr};

use lb_common::counter::Counter;

use super::{
    Model,
    choice::{self, Chance, Witness},
    ip::{self, Flow},
    scene::{Balance, Scene, Service, Slot, State},
};

/// A flow within its service.
pub type Key = (u32, IpAddr, u16, u16);

/// What is written down of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Only a SYN was seen.
    Unconfirmed { backend: u32 },
    /// `closed`: the client has sent FIN or RST.
    Confirmed { backend: u32, closed: bool },
}

/// All that is written down.
pub type Records = HashMap<Key, Record>;

/// The slot that a hash falls into: the upper half of the hash times the ring's length, shifted down.
pub(super) fn slot(ring: &[Slot], hash: u64) -> Option<Slot> {
    let place = ((hash >> 32) * ring.len() as u64) >> 32;
    ring.get(place as usize).copied()
}

fn state(scene: &Scene, backend: u32) -> Option<State> {
    scene.backends.get((backend as usize).wrapping_sub(1)).map(|backend| backend.state)
}

/// Established flows may go on there.
fn lives(scene: &Scene, backend: u32) -> bool {
    state(scene, backend).is_some_and(|state| state != State::Down)
}

/// Whom a flow belongs to of which nothing is written down; `old_place` finds its slot in the ring before.
fn owner_of_unknown(scene: &Scene, service: &Service, current: u32, slot: Slot, old_place: u64) -> u32 {
    let previous = match slot {
        Slot::Stable(_) | Slot::Remembering(_) => return current,
        Slot::Learning(_, previous) => previous,
        Slot::LearningFromRing(_) => match self::slot(&service.old_slots, old_place) {
            None => 0,
            Some(Slot::Learning(_, previous)) => previous,
            // The old ring was itself asking an older one, which is gone.
            Some(Slot::Stable(current) | Slot::Remembering(current) | Slot::LearningFromRing(current)) => {
                current
            }
        },
    };
    if lives(scene, previous) { previous } else { current }
}

/// What becomes of a packet in a tracked slot.
pub(super) struct Choice {
    /// 0 = nobody.
    pub(super) backend: u32,
    /// Counted on the way.
    pub(super) events: Vec<Counter>,
    pub(super) chance: Option<Chance>,
}

/// Replaces what is written down of a flow (`None` = nothing), and counts live flows where its service goes by them.
fn write(model: &mut Model, key: Key, record: Option<Record>) {
    let was_idle = model.idle.remove(&key);
    let before = match record {
        Some(record) => model.records.insert(key, record),
        None => model.records.remove(&key),
    };
    if model.scene.services[key.0 as usize].balance != Balance::LeastConnections {
        return;
    }
    // A flow that was idle has been taken off the count, and is on it again as soon as it sends something.
    let before = before.filter(|_| !was_idle);
    for (record, change) in [(before, -1), (record, 1)] {
        if let Some(Record::Confirmed { backend, closed: false }) = record {
            *model.counts.live.entry(backend).or_default() += change;
        }
    }
}

/// The backend for a packet in a tracked slot.
pub(super) fn choose(
    model: &mut Model,
    number: u32,
    slot: Slot,
    old_place: u64,
    flow: &Flow,
    witness: Witness<'_>,
) -> Choice {
    let scene = &model.scene;
    let service = &scene.services[number as usize];
    let key = (number, flow.source, flow.source_port, flow.destination_port);
    let current = slot.owner();
    let learning = matches!(slot, Slot::Learning(..) | Slot::LearningFromRing(_));
    let known_to = |backend, events| Choice { backend, events, chance: None };

    // A record whose backend is not alive counts as none.
    let known = model.records.get(&key).copied().filter(|record| match record {
        Record::Unconfirmed { backend } | Record::Confirmed { backend, .. } => lives(scene, *backend),
    });
    match known {
        Some(Record::Confirmed { backend, closed }) => {
            let stays = !closed && state(scene, backend) != Some(State::Draining);
            if stays || !flow.opens {
                let record = Record::Confirmed { backend, closed: closed || flow.closes };
                write(model, key, Some(record));
                return known_to(backend, vec![Counter::TrackedHit]);
            }
        }
        Some(Record::Unconfirmed { backend }) if flow.opens => {
            return known_to(backend, vec![Counter::TrackedHit]);
        }
        Some(Record::Unconfirmed { backend }) => {
            write(model, key, Some(Record::Confirmed { backend, closed: flow.closes }));
            return known_to(backend, vec![Counter::FlowInserted, Counter::TrackedHit]);
        }
        None => {}
    }

    let (owner, always) = if learning && !flow.opens {
        (owner_of_unknown(scene, service, current, slot, old_place), service.always)
    } else {
        (current, service.always)
    };
    // Where nobody gets the packet, the tables stay as they are.
    if owner == 0 {
        return known_to(0, vec![Counter::TrackedCurrent]);
    }
    if !learning && !always {
        write(model, key, None);
        return known_to(owner, vec![Counter::TrackedCurrent]);
    }
    // New is a SYN, and a datagram where no flow is unknown that began before.
    let new = flow.opens || flow.protocol == ip::UDP && !learning;
    let (balanced, chance) = if new {
        choice::choose(&model.scene, &mut model.counts, model.cpu, &key, witness)
    } else {
        (0, None)
    };
    // A turn, or chance, may come upon a slot that is nobody's.
    let backend = if balanced == 0 { owner } else { balanced };
    let (record, written) = if flow.opens {
        (Record::Unconfirmed { backend }, Counter::FlowPending)
    } else {
        (Record::Confirmed { backend, closed: flow.closes }, Counter::FlowInserted)
    };
    write(model, key, Some(record));
    let origin = match backend {
        _ if balanced != 0 => Counter::TrackedBalanced,
        backend if backend == current => Counter::TrackedCurrent,
        _ => Counter::TrackedPrevious,
    };
    Choice { backend, events: vec![written, origin], chance }
}
