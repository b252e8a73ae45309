//! What a slot that is tracked does with a packet: the table of ARCHITECTURE.md, "What a packet in a tracked slot
//! does", row by row, with a memory of its own.

use std::{collections::HashMap, net::IpAddr};

use lb_common::counter::Counter;

use super::{
    ip::Flow,
    scene::{Scene, Service, Slot, State},
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

/// The backend for a packet in a tracked slot (0 = nobody), with what is counted on the way.
pub(super) fn choose(
    scene: &Scene,
    records: &mut Records,
    number: u32,
    slot: Slot,
    old_place: u64,
    flow: &Flow,
) -> (u32, Vec<Counter>) {
    let service = &scene.services[number as usize];
    let key = (number, flow.source, flow.source_port, flow.destination_port);
    let (Slot::Stable(current)
    | Slot::Remembering(current)
    | Slot::Learning(current, _)
    | Slot::LearningFromRing(current)) = slot;
    let learning = matches!(slot, Slot::Learning(..) | Slot::LearningFromRing(_));

    // A record whose backend is not alive counts as none.
    let known = records.get(&key).copied().filter(|record| match record {
        Record::Unconfirmed { backend } | Record::Confirmed { backend, .. } => lives(scene, *backend),
    });
    match known {
        Some(Record::Confirmed { backend, closed }) => {
            let stays = !closed && state(scene, backend) != Some(State::Draining);
            if stays || !flow.opens {
                let record = Record::Confirmed { backend, closed: closed || flow.closes };
                records.insert(key, record);
                return (backend, vec![Counter::TrackedHit]);
            }
        }
        Some(Record::Unconfirmed { backend }) if flow.opens => {
            return (backend, vec![Counter::TrackedHit]);
        }
        Some(Record::Unconfirmed { backend }) => {
            records.insert(key, Record::Confirmed { backend, closed: flow.closes });
            return (backend, vec![Counter::FlowInserted, Counter::TrackedHit]);
        }
        None => {}
    }

    let backend = if learning && !flow.opens {
        owner_of_unknown(scene, service, current, slot, old_place)
    } else {
        current
    };
    let mut events = Vec::new();
    // Where nobody gets the packet, the tables stay as they are.
    if backend != 0 {
        if !learning && !service.always {
            records.remove(&key);
        } else if flow.opens {
            records.insert(key, Record::Unconfirmed { backend });
            events.push(Counter::FlowPending);
        } else {
            records.insert(key, Record::Confirmed { backend, closed: flow.closes });
            events.push(Counter::FlowInserted);
        }
    }
    events.push(if backend == current { Counter::TrackedCurrent } else { Counter::TrackedPrevious });
    (backend, events)
}
