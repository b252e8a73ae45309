//! The flow tables: asked only in tracked slots. The rule is `lb_common::slot::decide`; here are its eyes and hands.
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "keys and values given to maps by value are copied on the stack, of which there are 512 bytes"
)]

use aya_ebpf::{btf_maps::LruHashMap, helpers::bpf_jiffies64};
use lb_common::{
    backend::Backend,
    balance::Balance,
    counter::Counter,
    flow::{Key, Record},
    map::Turnover,
    service::Service,
    slot::{Action, Decision, Known, Segment, Slot, decide},
    wire::protocol,
};

use crate::{
    balance,
    family::Family,
    maps::{BACKENDS, FLOWS, PENDING, TURNOVER},
    parse::Flow,
    slot::{self, Place},
    verdict,
};

/// The backend of a flow in a tracked slot; 0 = nobody.
#[inline(always)]
pub(crate) fn backend<F: Family>(
    service: &Service,
    number: u32,
    slot: Slot,
    place: Place<'_, F>,
    flow: &Flow<F>,
) -> u32 {
    let key = Key::from_parts(&F::mapped(flow.source), flow.ports, number);
    // SAFETY: no arguments, no memory; the verifier inlines it.
    let now = unsafe { bpf_jiffies64() };

    let mut unknown = slot::owner_of_unknown(service, slot, place);
    if !is_alive(unknown) {
        unknown = slot.current();
    }

    let confirmed = FLOWS.get_ptr_mut(&key);
    let pending = if confirmed.is_some() { None } else { PENDING.get_ptr_mut(&key) };
    let decision = decision(slot, service.tracks_always(), segment(flow), confirmed, pending, unknown);
    // A new flow of a service that balances other than by the hash: whom the slot names does not matter then.
    let balanced = if service.tracks_always() && decision.action.begins(slot, segment(flow)) {
        balance::choose(service, number)
    } else {
        0
    };
    let chosen = if balanced == 0 { decision.backend } else { balanced };
    let fresh = Record {
        backend: chosen,
        flags: if flow.is_closing() { Record::CLOSING } else { 0 },
        last_seen: now,
    };
    if matches!(service.balance(), Balance::LeastConnections) {
        balance::count_live(service, decision.action, confirmed, &fresh);
    }
    match decision.action {
        Action::Nothing => {}
        Action::Touch => touch(confirmed.or(pending), &fresh),
        // A record in the other table must not outlive the one that takes its place.
        Action::InsertPending => {
            if confirmed.is_some() {
                remove(&FLOWS, Turnover::FLOWS, &key);
            }
            insert(&PENDING, Turnover::PENDING, &key, &fresh, Counter::FlowPending);
        }
        Action::Insert => {
            insert(&FLOWS, Turnover::FLOWS, &key, &fresh, Counter::FlowInserted);
            if pending.is_some() {
                remove(&PENDING, Turnover::PENDING, &key);
            }
        }
        Action::Confirm => {
            insert(&FLOWS, Turnover::FLOWS, &key, &fresh, Counter::FlowInserted);
            remove(&PENDING, Turnover::PENDING, &key);
        }
        Action::Forget => {
            remove(&FLOWS, Turnover::FLOWS, &key);
            remove(&PENDING, Turnover::PENDING, &key);
        }
    }
    verdict::count(match decision.action {
        Action::Touch | Action::Confirm => Counter::TrackedHit,
        _ if balanced != 0 => Counter::TrackedBalanced,
        _ if decision.backend != slot.current() => Counter::TrackedPrevious,
        _ => Counter::TrackedCurrent,
    });
    chosen
}

/// The rule, asked with what the tables say. It is asked where each answer is found: a `Known` kept for later would
/// be moved whole, with the bytes that some of its variants leave unset, and the verifier lets nobody read those.
#[inline(always)]
fn decision(
    slot: Slot,
    always: bool,
    segment: Segment,
    confirmed: Option<*mut Record>,
    pending: Option<*mut Record>,
    unknown: u32,
) -> Decision {
    if let Some(record) = confirmed {
        // SAFETY: a value of the map; another CPU may write it at the same time, which tears no 4-byte field.
        let (number, flags) = unsafe { ((*record).backend, (*record).flags) };
        match BACKENDS.get(number) {
            Some(backend) if backend.is_alive() => {
                let leaves = backend.is_draining() || flags & Record::CLOSING != 0;
                decide(slot, always, segment, Known::Flow { backend: number, leaves }, unknown)
            }
            _ => decide(slot, always, segment, Known::Dead, unknown),
        }
    } else if let Some(record) = pending {
        // SAFETY: as above.
        let number = unsafe { (*record).backend };
        if is_alive(number) {
            decide(slot, always, segment, Known::Pending { backend: number }, unknown)
        } else {
            decide(slot, always, segment, Known::Dead, unknown)
        }
    } else {
        decide(slot, always, segment, Known::No, unknown)
    }
}

#[inline(always)]
fn segment<F: Family>(flow: &Flow<F>) -> Segment {
    if flow.protocol != protocol::TCP {
        Segment::Datagram
    } else if flow.is_syn() {
        Segment::Syn
    } else {
        Segment::Established
    }
}

#[inline(always)]
fn is_alive(number: u32) -> bool {
    BACKENDS.get(number).is_some_and(Backend::is_alive)
}

/// Notes that a flow was seen, and that its client closed it.
#[inline(always)]
fn touch(record: Option<*mut Record>, fresh: &Record) {
    let Some(record) = record else { return };
    // SAFETY: a value of the map, stays readable and writable while this program runs; fields are whole words.
    unsafe {
        if fresh.last_seen.wrapping_sub((*record).last_seen) > Record::REFRESH {
            (*record).last_seen = fresh.last_seen;
        }
        if fresh.flags & !(*record).flags != 0 {
            (*record).flags |= fresh.flags;
        }
    }
}

/// `BPF_NOEXIST`: refuse where the key has a record.
const NO_EXIST: u64 = 1;
/// The kernel's answer to that.
const EXISTS: i32 = -17;

/// Writes a record, whether or not its key has one; counts in the table's turnover only if it surely had none.
#[inline(always)]
fn insert<const N: usize>(
    map: &LruHashMap<Key, Record, N>,
    table: u32,
    key: &Key,
    record: &Record,
    counter: Counter,
) {
    let mut outcome = map.insert(key, record, NO_EXIST);
    match outcome {
        Ok(()) => turn_over(table, |turnover| turnover.made += 1),
        Err(EXISTS) => outcome = map.insert(key, record, 0),
        Err(_) => {}
    }
    verdict::count(if outcome.is_ok() { counter } else { Counter::FlowInsertFailed });
}

/// Takes a record out; there need not be one.
#[inline(always)]
fn remove<const N: usize>(map: &LruHashMap<Key, Record, N>, table: u32, key: &Key) {
    if map.remove(key).is_ok() {
        turn_over(table, |turnover| turnover.gone += 1);
    }
}

#[inline(always)]
fn turn_over(table: u32, count: impl FnOnce(&mut Turnover)) {
    if let Some(turnover) = TURNOVER.get_ptr_mut(table) {
        // SAFETY: this CPU's own copy of the value, which no other reference is to.
        count(unsafe { &mut *turnover });
    }
}
