//! The flow tables: packets read them only in tracked slots. The rule is `lb_common::evidence::decide`; this file reads
//! what the rule needs and writes what it decides.
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "keys and values given to maps by value are copied on the stack, of which there are 512 bytes"
)]

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::{btf_maps::LruHashMap, helpers::bpf_jiffies64};
use lb_common::{
    backend::Backend,
    balance::Balance,
    counter::Counter,
    evidence::{self, Known, Packet, Segment, Write},
    flow::{Key, Record},
    map::FlowTableStats,
    service::Service,
    slot::Slot,
    wire::protocol,
};

use crate::{
    balance,
    family::Family,
    maps::{BACKENDS, FLOWS, PENDING, TURNOVER},
    parse::Flow,
    slot::{self, SlotKey},
    verdict,
};

/// The backend of a flow in a tracked slot; 0 = none.
#[inline(always)]
pub(crate) fn select_backend<F: Family>(
    service: &Service,
    number: u32,
    slot: Slot,
    slot_key: SlotKey<'_, F>,
    flow: &Flow<F>,
) -> u32 {
    let key = Key::from_parts(&F::mapped(flow.source), flow.ports, number);
    // SAFETY: no arguments, no memory; the verifier inlines it.
    let now = unsafe { bpf_jiffies64() } as u32;
    let segment =
        if flow.protocol == protocol::TCP { Segment::of_tcp(flow.flags) } else { Segment::Datagram };
    let packet = Packet { segment, sequence: flow.sequence, now };

    let home = slot::owner_of_unknown(service, slot, slot_key);
    let is_home = is_alive(home);
    let unknown = if is_home { home } else { slot.current() };

    let confirmed = FLOWS.get_ptr_mut(&key);
    let before = read(confirmed);
    let mut known = Known {
        flow: before,
        pending: Record::NONE,
        dead_flow: is_dead(&before),
        dead_pending: false,
        away: home != 0 && !is_home,
    };
    let pending =
        if evidence::asks_pending(&packet, &known.live_flow()) { PENDING.get_ptr_mut(&key) } else { None };
    known.pending = read(pending);
    known.dead_pending = is_dead(&known.pending);
    let mut decision = evidence::decide(slot, service.tracks_always(), &packet, &known, unknown);
    let mut balanced = 0;
    if decision.begins() && service.tracks_always() {
        // The backend that the slot names does not matter then: a flow begins, and the balancing chooses.
        balanced = balance::choose(service, number);
        if balanced != 0 {
            decision = decision.balanced(balanced);
        }
    }
    if matches!(service.balance(), Balance::LeastConnections) {
        balance::count_live(service, &before, &decision, now);
    }
    match decision.flow() {
        Write::Keep => {}
        Write::Refresh => refresh(confirmed, &decision.flow_record()),
        Write::Put => {
            if insert(&FLOWS, FlowTableStats::FLOWS, &key, &decision.flow_record()) {
                verdict::count(Counter::FlowInserted);
            }
        }
        Write::Remove => remove(&FLOWS, FlowTableStats::FLOWS, &key),
    }
    match decision.pending() {
        Write::Keep => {}
        Write::Refresh => refresh(pending, &decision.pending_record()),
        Write::Put => {
            let is_written = insert(&PENDING, FlowTableStats::PENDING, &key, &decision.pending_record());
            if is_written && !decision.pending_record().has(Record::ELDER) {
                verdict::count(Counter::FlowPending);
            }
        }
        Write::Remove => remove(&PENDING, FlowTableStats::PENDING, &key),
    }
    verdict::count(if decision.is_hit() {
        Counter::TrackedHit
    } else if balanced != 0 {
        Counter::TrackedBalanced
    } else if decision.backend() != slot.current() {
        Counter::TrackedPrevious
    } else {
        Counter::TrackedCurrent
    });
    decision.backend()
}

/// What a record says now.
#[inline(always)]
fn read(record: Option<*mut Record>) -> Record {
    let Some(record) = record else { return Record::NONE };
    // SAFETY: a value of the map; another CPU may write it at the same time, which leaves every single field whole.
    unsafe {
        Record {
            backend: read_volatile(addr_of!((*record).backend)),
            flags: read_volatile(addr_of!((*record).flags)),
            sequence: read_volatile(addr_of!((*record).sequence)),
            last_seen: read_volatile(addr_of!((*record).last_seen)),
        }
    }
}

/// Whether there is a record, of a backend that is not alive.
#[inline(always)]
fn is_dead(record: &Record) -> bool {
    record.is_there() && !is_alive(record.backend)
}

#[inline(always)]
fn is_alive(number: u32) -> bool {
    BACKENDS.get(number).is_some_and(Backend::is_alive)
}

/// Writes everything but the backend, which stays: the kernel may have given the place to another flow in this moment,
/// and that flow must not move.
#[inline(always)]
fn refresh(record: Option<*mut Record>, fresh: &Record) {
    let Some(record) = record else { return };
    // SAFETY: a value of the map, stays readable and writable while this program runs; fields are whole words.
    unsafe {
        write_volatile(addr_of_mut!((*record).flags), fresh.flags);
        write_volatile(addr_of_mut!((*record).sequence), fresh.sequence);
        write_volatile(addr_of_mut!((*record).last_seen), fresh.last_seen);
    }
}

/// `BPF_NOEXIST`: refuse where the key has a record.
const NO_EXIST: u64 = 1;
/// The kernel's answer where the key has one (`-EEXIST`).
const EXISTS: i32 = -17;

/// Writes a record, whether or not its key has one; counts it in the table's turnover only if its key surely had none.
#[inline(always)]
fn insert<const N: usize>(map: &LruHashMap<Key, Record, N>, table: u32, key: &Key, record: &Record) -> bool {
    let mut outcome = map.insert(key, record, NO_EXIST);
    match outcome {
        Ok(()) => count_turnover(table, |turnover| turnover.made += 1),
        Err(EXISTS) => outcome = map.insert(key, record, 0),
        Err(_) => {}
    }
    if outcome.is_err() {
        verdict::count(Counter::FlowInsertFailed);
    }
    outcome.is_ok()
}

/// Removes a record; there need not be one.
#[inline(always)]
fn remove<const N: usize>(map: &LruHashMap<Key, Record, N>, table: u32, key: &Key) {
    if map.remove(key).is_ok() {
        count_turnover(table, |turnover| turnover.gone += 1);
    }
}

#[inline(always)]
fn count_turnover(table: u32, count: impl FnOnce(&mut FlowTableStats)) {
    if let Some(turnover) = TURNOVER.get_ptr_mut(table) {
        // SAFETY: this CPU's own copy of the value, to which there is no other reference.
        count(unsafe { &mut *turnover });
    }
}
