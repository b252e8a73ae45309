//! The effect of a packet in a tracked slot: the table of lb-common/doc/slots.md, "What a packet in a tracked slot does",
//! row by row, with a memory of its own, which is in `known`.

mod known;

use std::collections::HashMap;

use lb_common::counter::Counter;

use self::known::ahead;
pub use self::known::{Key, Known, Pending, Proof, Records};
use super::{
    Model,
    choice::{self, Chance, Witness},
    ip::{Flow, Says},
    scene::{Balance, Scene, Service, Slot, State},
};

/// The slot of a hash: the upper half of the hash times the ring's length, shifted down.
pub(super) fn slot(ring: &[Slot], hash: u64) -> Option<Slot> {
    let place = ((hash >> 32) * ring.len() as u64) >> 32;
    ring.get(place as usize).copied()
}

fn state(scene: &Scene, backend: u32) -> Option<State> {
    scene.backends.get((backend as usize).wrapping_sub(1)).map(|backend| backend.state)
}

/// Whether established flows may continue at this backend.
fn lives(scene: &Scene, backend: u32) -> bool {
    state(scene, backend).is_some_and(|state| state != State::Down)
}

/// The backend of a flow that has no record (0 = none); `old_place` finds the flow's slot in the ring before.
fn owner_of_unknown(service: &Service, slot: Slot, old_place: u64) -> u32 {
    match slot {
        Slot::Stable(current) | Slot::Remembering(current) => current,
        Slot::Learning(_, previous) => previous,
        Slot::LearningFromRing(_) => match self::slot(&service.old_slots, old_place) {
            None => 0,
            Some(Slot::Learning(_, previous)) => previous,
            // The old ring was itself asking an older one, which is gone.
            Some(Slot::Stable(current) | Slot::Remembering(current) | Slot::LearningFromRing(current)) => {
                current
            }
        },
    }
}

/// The result for a packet in a tracked slot.
pub(super) struct Choice {
    /// 0 = none.
    pub(super) backend: u32,
    /// Events that are counted on the way.
    pub(super) events: Vec<Counter>,
    pub(super) chance: Option<Chance>,
}

/// Replaces the record of a flow (`None` = no record), and counts live flows if the service balances by them.
fn write(model: &mut Model, place: &Place, known: Option<Known>) {
    let key = place.key;
    let was_idle = model.idle.remove(&key);
    let before = match known {
        Some(known) => model.records.flows.insert(key, known.coarse()),
        None => model.records.flows.remove(&key),
    };
    if model.scene.services[place.service as usize].balance != Balance::LeastConnections {
        return;
    }
    // An idle flow is off the count already; it comes back to the count as soon as it sends something.
    let before = before.filter(|_| !was_idle);
    for (known, change) in [(before, -1), (known, 1)] {
        if let Some(known) = known.filter(Known::is_live) {
            *model.counts.live.entry(known.backend).or_default() += change;
        }
    }
}

/// What a packet finds in a tracked slot.
struct Place {
    key: Key,
    service: u32,
    current: u32,
    learning: bool,
    always: bool,
    /// The backend of unknown flows: their owner, or the slot's owner if their owner is down.
    unknown: u32,
    /// `unknown` is the slot's owner because the owner of unknown flows is down.
    away: bool,
}

/// The decision of the rule: the backend that gets the packet, and whether a record named that backend.
struct Ruled {
    backend: u32,
    hit: bool,
    /// The service's balancing chose the backend.
    balanced: bool,
    chance: Option<Chance>,
    events: Vec<Counter>,
}

fn goes(backend: u32, hit: bool) -> Ruled {
    Ruled { backend, hit, balanced: false, chance: None, events: Vec::new() }
}

/// A flow begins; without balancing it goes to `owner`. A turn or a random choice may find a slot that has no owner.
fn begins(model: &mut Model, place: &Place, owner: u32, witness: Witness<'_>) -> Ruled {
    if !place.always {
        return goes(owner, false);
    }
    let (balanced, chance) =
        choice::choose(&model.scene, &mut model.counts, (place.service, model.cpu), &place.key, witness);
    let backend = if balanced == 0 { owner } else { balanced };
    Ruled { balanced: balanced != 0, chance, ..goes(backend, false) }
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
    let current = slot.owner();
    let home = owner_of_unknown(service, slot, old_place);
    let is_home = lives(scene, home);
    let place = Place {
        key: Key::of(flow),
        service: number,
        current,
        learning: matches!(slot, Slot::Learning(..) | Slot::LearningFromRing(_)),
        always: service.always,
        unknown: if is_home { home } else { current },
        away: home != 0 && !is_home,
    };
    let known = model.records.flows.get(&place.key).copied();
    // The record next to a flow is asked for if the packet does not belong clearly to the flow.
    let asked = flow.says != Says::Datagram
        && known.filter(|known| lives(scene, known.backend)).is_none_or(|known| match flow.says {
            Says::Datagram | Says::Nothing => false,
            Says::Syn => true,
            Says::Ordinary { .. } | Says::Reset => {
                !known.is_live() || known.contested || !known.is_near(flow)
            }
        });
    let pending = model.records.pending.get(&place.key).copied().filter(|_| asked);
    let before = (model.records.pending.get(&place.key).copied(), model.idle.contains(&place.key));
    let live = model.counts.live.clone();
    let mut ruled = rule(model, &place, flow, (known, pending), witness);
    // A segment of a flow whose backend is down goes where unknown flows go, and changes nothing.
    if ruled.hit && !lives(&model.scene, ruled.backend) {
        ruled = goes(place.unknown, false);
        restore(&mut model.records.flows, place.key, known);
        restore(&mut model.records.pending, place.key, before.0);
        if before.1 {
            model.idle.insert(place.key);
        }
        model.counts.live = live;
    }
    let Ruled { backend, hit, balanced, chance, mut events } = ruled;
    events.push(match backend {
        _ if hit => Counter::TrackedHit,
        _ if balanced => Counter::TrackedBalanced,
        0 => Counter::TrackedCurrent,
        backend if backend == current => Counter::TrackedCurrent,
        _ => Counter::TrackedPrevious,
    });
    Choice { backend, events, chance }
}

/// The backend of an ICMP error in a tracked slot, and whether a record named it. It reads, and nothing else:
/// lb-ebpf/doc/packet-path.md, "Control messages".
pub(super) fn whose(model: &Model, number: u32, slot: Slot, old_place: u64, flow: &Flow) -> (u32, bool) {
    let scene = &model.scene;
    let key = Key::of(flow);
    let recorded = model.records.flows.get(&key).map(|known| known.backend);
    let elder = model.records.pending.get(&key).filter(|pending| is_elder(**pending)).map(Pending::backend);
    if let Some(backend) = [recorded, elder].into_iter().flatten().find(|one| lives(scene, *one)) {
        return (backend, true);
    }
    let home = owner_of_unknown(&scene.services[number as usize], slot, old_place);
    (if lives(scene, home) { home } else { slot.owner() }, false)
}

fn restore<T>(records: &mut HashMap<Key, T>, key: Key, before: Option<T>) {
    match before {
        Some(before) => records.insert(key, before),
        None => records.remove(&key),
    };
}

fn rule(
    model: &mut Model,
    place: &Place,
    flow: &Flow,
    (known, pending): (Option<Known>, Option<Pending>),
    witness: Witness<'_>,
) -> Ruled {
    match flow.says {
        Says::Syn => syn(model, place, flow, (known, pending), witness),
        Says::Ordinary { .. } => ordinary(model, place, flow, known, pending),
        Says::Reset => match (known, pending) {
            (_, Some(asked @ Pending::Asked { .. })) if continues(known, &asked, flow) => {
                goes(asked.backend(), true)
            }
            (_, Some(Pending::Elder { known: elder, .. }))
                if lives(&model.scene, elder.backend) && is_elders(known, elder, flow) =>
            {
                goes(elder.backend, true)
            }
            (Some(known), _) if known.fits(flow.sequence) => {
                // If the flow was reset before, nothing changes.
                if !known.rst && known.is_near(flow) {
                    write(model, place, Some(Known { rst: true, ..known }));
                }
                goes(known.backend, true)
            }
            (Some(known), _) => goes(known.backend, true),
            _ => goes(place.unknown, false),
        },
        Says::Nothing => match (known, pending) {
            (Some(Known { backend, .. }), _)
            | (_, Some(Pending::Elder { known: Known { backend, .. }, .. })) => goes(backend, true),
            _ => goes(place.unknown, false),
        },
        Says::Datagram => match known {
            Some(known) if lives(&model.scene, known.backend) => seen(model, place, flow, known),
            _ if place.always && !place.learning && place.unknown != 0 => {
                let mut ruled = begins(model, place, place.unknown, witness);
                write(model, place, Some(Known::new(ruled.backend, Proof::Once, flow)));
                ruled.events.push(Counter::FlowInserted);
                ruled
            }
            _ => {
                // The record of a backend that is down ends when a datagram of the flow goes to another backend.
                if known.is_some() && place.unknown != 0 {
                    write(model, place, None);
                }
                unknown(model, place, flow)
            }
        },
    }
}

/// Whether a segment continues the SYN that waits. Where the flow's own numbers are only the next one does.
fn continues(known: Option<Known>, pending: &Pending, flow: &Flow) -> bool {
    let Pending::Asked { sequence, .. } = pending else { return false };
    let first = if known.is_some_and(|known| known.is_near(flow)) { 1 } else { 1 << 16 };
    (1..=first).contains(&ahead(flow.sequence, *sequence))
}

/// Whether a segment is the elder's: the nearer one has it, and a live elder has what neither fits.
fn is_elders(known: Option<Known>, elder: Known, flow: &Flow) -> bool {
    match known {
        Some(known) if known.is_near(flow) => false,
        _ if elder.is_near(flow) => true,
        Some(known) if known.fits(flow.sequence) => false,
        _ => elder.fits(flow.sequence) || !elder.is_closed(),
    }
}

fn syn(
    model: &mut Model,
    place: &Place,
    flow: &Flow,
    (known, pending): (Option<Known>, Option<Pending>),
    witness: Witness<'_>,
) -> Ruled {
    // If the backend is down, the handshake begins again.
    let begins_again = match pending {
        Some(Pending::Asked { backend, .. }) if !lives(&model.scene, backend) => true,
        Some(Pending::Asked { backend, sequence }) if sequence == flow.sequence => {
            return goes(backend, true);
        }
        _ => false,
    };
    let alive = known.filter(|known| lives(&model.scene, known.backend));
    if let Some(Pending::Elder { known: elder, .. }) = pending
        && !elder.is_closed()
        && !known.is_some_and(|known| alive.is_none() && known.fits(flow.sequence))
    {
        // Both flows are live. The SYN goes to the flow whose numbers it fits, and changes nothing.
        match alive {
            Some(known) if !is_elders(Some(known), elder, flow) || !lives(&model.scene, elder.backend) => {
                return goes(known.backend, true);
            }
            _ if lives(&model.scene, elder.backend) => return goes(elder.backend, true),
            _ => {}
        }
    }
    if let Some(known) = alive.filter(|known| !known.is_closed()) {
        if let Some(Pending::Elder { known: elder, .. }) = pending {
            if is_elders(Some(known), elder, flow) && lives(&model.scene, elder.backend) {
                return goes(elder.backend, true);
            }
            note_candidate(model, place, flow);
            return goes(known.backend, true);
        }
        let asked = Pending::Asked { backend: known.backend, sequence: flow.sequence };
        model.records.pending.insert(place.key, asked);
        return Ruled { events: vec![Counter::FlowPending], ..goes(known.backend, true) };
    }
    let records =
        place.learning || place.always || known.is_some() || pending.is_some_and(is_elder) || begins_again;
    if !records || place.current == 0 {
        return goes(place.current, false);
    }
    let mut ruled = begins(model, place, place.current, witness);
    if let Some(known) =
        model.records.flows.get_mut(&place.key).filter(|known| !lives(&model.scene, known.backend))
    {
        known.contested = true;
    }
    let asked = Pending::Asked { backend: ruled.backend, sequence: flow.sequence };
    model.records.pending.insert(place.key, asked);
    ruled.events.push(Counter::FlowPending);
    ruled
}

fn is_elder(pending: Pending) -> bool {
    matches!(pending, Pending::Elder { .. })
}

fn note_candidate(model: &mut Model, place: &Place, flow: &Flow) {
    if let Some(known) = model.records.flows.get_mut(&place.key) {
        *known = known.with_candidate(flow.sequence);
    }
}

/// A packet that fits its flow.
fn seen(model: &mut Model, place: &Place, flow: &Flow, known: Known) -> Ruled {
    // Numbers that continue after a FIN cancel the FIN; nothing else moves the number of a flow with a FIN.
    let goes_on = known.fin && ahead(flow.sequence, known.sequence) > 1 << 16;
    let fin = !goes_on && known.with_fin(flow);
    let ends = matches!(flow.says, Says::Ordinary { fin: true }) && known.is_near(flow);
    let stays = known.fin && !goes_on && !ends;
    let proof = if known.proof == Proof::Once { Proof::Confirmed } else { known.proof };
    let mut now = Known { fin, rst: false, proof, contested: false, candidate: None, ..known };
    let is_far = !known.is_near(flow);
    if now != known || is_far && !stays || model.idle.contains(&place.key) {
        if !stays {
            now.sequence = known.towards(flow.sequence);
        }
        write(model, place, Some(now));
    }
    goes(known.backend, true)
}

fn ordinary(
    model: &mut Model,
    place: &Place,
    flow: &Flow,
    known: Option<Known>,
    pending: Option<Pending>,
) -> Ruled {
    let number = flow.sequence;
    if let Some(asked @ Pending::Asked { backend, .. }) = pending
        && continues(known, &asked, flow)
    {
        if known.is_some_and(|known| known.backend == backend && !known.is_closed()) {
            write(model, place, Some(Known::with_numbers_of(backend, flow)));
            model.records.pending.remove(&place.key);
            return goes(backend, true);
        }
        let late = model.idle.contains(&place.key);
        write(model, place, Some(Known::new(backend, Proof::Began, flow)));
        let events = vec![Counter::FlowInserted];
        match known {
            Some(known) => {
                let known = Known { candidate: None, contested: false, ..known };
                put_elder(model, place, known, late);
            }
            None => {
                model.records.pending.remove(&place.key);
            }
        }
        return Ruled { events, ..goes(backend, true) };
    }
    let Some(known) = known else {
        return match pending {
            Some(Pending::Elder { known: elder, .. }) if elder.fits(number) => {
                write(model, place, Some(elder.shown_by(flow)));
                model.records.pending.remove(&place.key);
                Ruled { events: vec![Counter::FlowInserted], ..goes(elder.backend, true) }
            }
            Some(Pending::Elder { known: elder, late })
                if !elder.is_closed() && lives(&model.scene, elder.backend) =>
            {
                may_be_elders(model, place, flow, elder, late)
            }
            _ if place.away => goes(place.unknown, false),
            _ => unknown(model, place, flow),
        };
    };
    let elder = pending.and_then(|pending| match pending {
        Pending::Elder { known, late } => Some((known, late)),
        Pending::Asked { .. } => None,
    });
    let elders = elder.filter(|(elder, _)| is_elders(Some(known), *elder, flow));
    if elders.is_none() && known.fits(number) {
        return seen(model, place, flow, known);
    }
    if let Some((elder, late)) = elders.filter(|(elder, _)| elder.fits(number)) {
        if !lives(&model.scene, elder.backend) {
            return goes(known.backend, true);
        }
        if late || elder.proof == Proof::Once {
            put_elder(model, place, elder.shown_by(flow), false);
        }
        return goes(elder.backend, true);
    }
    if let Some((elder, late)) = elders {
        if !lives(&model.scene, elder.backend) {
            return goes(known.backend, true);
        }
        return may_be_elders(model, place, flow, elder, late);
    }
    if known.proof == Proof::Once {
        // The record says the new number, and not that it was seen now.
        let is_idle = model.idle.contains(&place.key);
        write(model, place, Some(Known::new(known.backend, Proof::Once, flow)));
        if is_idle {
            model.idle.insert(place.key);
        }
    } else if known.fits_candidate(number) {
        // Next to an elder the flow keeps its own numbers.
        let both = known.with_candidate(number);
        let taken = Known::with_numbers_of(known.backend, flow);
        write(model, place, Some(if elder.is_some() { both } else { taken }));
    } else if known.proof == Proof::Began
        && (place.learning || !place.always)
        && place.unknown != known.backend
        && place.unknown != 0
    {
        let is_free = pending.is_none() || elder.is_some_and(|(elder, _)| elder.is_closed());
        if is_free && !place.away {
            put_elder(model, place, Known::new(place.unknown, Proof::Once, flow), false);
        }
        return goes(place.unknown, false);
    } else {
        note_candidate(model, place, flow);
    }
    goes(known.backend, true)
}

/// Records an elder next to the flow; `late`: the time at which it was last seen must be written again.
fn put_elder(model: &mut Model, place: &Place, known: Known, late: bool) {
    model.records.pending.insert(place.key, Pending::Elder { known: known.coarse(), late });
}

/// A segment that fits neither the flow nor its elder, while the elder lives.
fn may_be_elders(model: &mut Model, place: &Place, flow: &Flow, elder: Known, late: bool) -> Ruled {
    if elder.fits_candidate(flow.sequence) {
        put_elder(model, place, Known::with_numbers_of(elder.backend, flow), false);
    } else {
        put_elder(model, place, elder.with_candidate(flow.sequence), late);
    }
    goes(elder.backend, true)
}

/// A packet of a flow that has no record.
fn unknown(model: &mut Model, place: &Place, flow: &Flow) -> Ruled {
    let mut ruled = goes(place.unknown, false);
    if place.unknown != 0 && (place.learning || place.always) {
        write(model, place, Some(Known::new(place.unknown, Proof::Once, flow)));
        ruled.events.push(Counter::FlowInserted);
    }
    ruled
}
