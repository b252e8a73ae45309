//! The flow tables: asked only in tracked slots. The rule is `lb_common::slot::decide`; here are its eyes and hands.

use aya_ebpf::helpers::bpf_jiffies64;
use lb_common::{
    counter::Counter,
    flow::{Key, Record},
    service::Service,
    slot::{Action, Known, Slot, decide},
};

use crate::{
    family::Family,
    maps::{BACKENDS, FLOWS, PENDING},
    parse::Flow,
    slot, verdict,
};

/// The backend of a flow in a tracked slot; 0 = nobody.
#[inline(always)]
pub(crate) fn backend<F: Family>(
    service: &Service,
    number: u32,
    slot: Slot,
    hash: u64,
    flow: &Flow<F>,
) -> u32 {
    let key = Key::from_parts(&F::mapped(flow.source), flow.ports, number);
    // SAFETY: no arguments, no memory; the verifier inlines it.
    let now = unsafe { bpf_jiffies64() };

    let confirmed = FLOWS.get_ptr_mut(&key);
    let pending = if confirmed.is_some() { None } else { PENDING.get_ptr_mut(&key) };
    let known = known(confirmed, pending);

    let mut unknown = slot::owner_of_unknown(service, slot, hash);
    if !is_alive(unknown) {
        unknown = slot.current();
    }
    let decision = decide(slot, flow.is_syn(), known, unknown);
    let fresh = Record {
        backend: decision.backend,
        flags: if flow.is_closing() { Record::CLOSING } else { 0 },
        last_seen: now,
    };
    match decision.action {
        Action::Nothing => {}
        Action::Touch => touch(confirmed.or(pending), &fresh),
        Action::InsertPending => {
            // A closed flow of the same tuple must not catch the new one's packets.
            let _absent = FLOWS.remove(&key);
            insert(Counter::FlowPending, PENDING.insert(&key, &fresh, 0));
        }
        Action::Insert => insert(Counter::FlowInserted, FLOWS.insert(&key, &fresh, 0)),
        Action::Confirm => {
            insert(Counter::FlowInserted, FLOWS.insert(&key, &fresh, 0));
            let _absent = PENDING.remove(&key);
        }
        Action::Forget => {
            let _absent = FLOWS.remove(&key);
        }
    }
    verdict::count(match known {
        Known::Flow { .. } | Known::Pending { .. } if decision.action != Action::Forget => {
            Counter::TrackedHit
        }
        _ if decision.backend != slot.current() => Counter::TrackedPrevious,
        _ => Counter::TrackedCurrent,
    });
    decision.backend
}

/// What the tables say, as far as the recorded backend is alive.
#[inline(always)]
fn known(confirmed: Option<*mut Record>, pending: Option<*mut Record>) -> Known {
    if let Some(record) = confirmed {
        // SAFETY: a value of the map; another CPU may write it at the same time, which tears no 4-byte field.
        let (number, flags) = unsafe { ((*record).backend, (*record).flags) };
        if let Some(backend) = BACKENDS.get(number)
            && backend.is_alive()
        {
            let leaves = backend.is_draining() || flags & Record::CLOSING != 0;
            return Known::Flow { backend: number, leaves };
        }
    } else if let Some(record) = pending {
        // SAFETY: as above.
        let number = unsafe { (*record).backend };
        if is_alive(number) {
            return Known::Pending { backend: number };
        }
    }
    Known::No
}

#[inline(always)]
fn is_alive(number: u32) -> bool {
    BACKENDS.get(number).is_some_and(|backend| backend.is_alive())
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

#[inline(always)]
fn insert(counter: Counter, outcome: Result<(), i32>) {
    verdict::count(if outcome.is_ok() { counter } else { Counter::FlowInsertFailed });
}
