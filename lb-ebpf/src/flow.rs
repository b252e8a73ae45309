//! The flow table: packets read it only in tracked slots. The rule is `lb_common::evidence::decide`; this file reads what
//! the rule needs and writes what it decides.

use core::{hint::assert_unchecked, ptr::read_volatile};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_jiffies64};
use lb_common::{
    backend::Backend,
    balance::Balance,
    counter::Counter,
    elsewhere,
    evidence::{self, Known, Packet, Segment, Write},
    flow::Record,
    flow_table::{self, Bucket, Class, Found, Key, MAX_BUCKETS, Memory, Put, Role},
    service::Service,
    slot::Slot,
    wire::protocol,
};

use crate::{
    arithmetic, balance,
    family::Family,
    maps::{BACKENDS, BK_SERVICE, FLOWS, SLOT_ELSEWHERE},
    slot::{self, SlotKey, SlotLookup},
    verdict,
};

/// Buckets of [`FLOWS`]. The agent writes it before it loads the program, and the kernel forbids every write from then on.
#[unsafe(no_mangle)]
static FLOW_BUCKETS: u32 = 0;

/// The map [`FLOWS`].
struct Flows;

// SAFETY: the kernel's pointers to values of an array are valid as long as the map, which the program holds.
unsafe impl Memory for Flows {
    #[inline(always)]
    fn buckets(&self) -> u32 {
        // SAFETY: a global variable; volatile, since the compiler would take the value above for the one at run time.
        let buckets = unsafe { read_volatile(&raw const FLOW_BUCKETS) };
        // SAFETY: no table has more.
        unsafe { assert_unchecked(buckets <= MAX_BUCKETS) };
        buckets
    }

    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<*mut Bucket> {
        FLOWS.get_ptr_mut(number)
    }

    #[inline(always)]
    fn service(&self, backend: u32) -> u32 {
        // SAFETY: a word of the map; the agent writes it whole, at any time, hence volatile.
        BK_SERVICE.get_ptr(backend).map_or(0, |service| unsafe { read_volatile(service) as u32 })
    }

    #[inline(always)]
    fn sign(&self, number: u64) -> u64 {
        arithmetic::sign(number)
    }
}

/// The backend of a flow in a tracked slot; 0 = none.
#[inline(always)]
pub(crate) fn select_backend<F: Family>(
    service: &Service,
    lookup: &SlotLookup<F>,
    slot_key: SlotKey<'_, F>,
) -> u32 {
    let SlotLookup { flow, number, slot, .. } = lookup;
    let (number, slot) = (*number, *slot);
    let key = Key::of(lookup.hash, Flows.buckets());
    // SAFETY: no arguments, no memory; the verifier inlines it.
    let now = unsafe { bpf_jiffies64() } as u32;
    let segment =
        if flow.protocol == protocol::TCP { Segment::of_tcp(flow.flags) } else { Segment::Datagram };
    let packet = Packet { segment, sequence: flow.sequence, now };

    let home = slot::owner_of_unknown(service, slot, slot_key);
    let is_home = is_alive(home);
    let unknown = if is_home { home } else { slot.current() };

    let confirmed = flow_table::find(&Flows, &key, Role::Flow);
    let before = read(confirmed.as_ref(), Role::Flow, now);
    let mut known = Known {
        flow: before,
        pending: Record::NONE,
        dead_flow: is_dead(&before),
        dead_pending: false,
        away: home != 0 && !is_home,
    };
    let pending = if evidence::asks_pending(&packet, &known.live_flow()) {
        flow_table::find(&Flows, &key, Role::Pending)
    } else {
        None
    };
    known.pending = read(pending.as_ref(), Role::Pending, now);
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
    if decision.is_elsewhere(slot.current(), now) {
        note_elsewhere(lookup.place, now);
    }
    match decision.flow() {
        Write::Keep => {}
        Write::Refresh => refresh(confirmed.as_ref(), Role::Flow, &decision.flow_record()),
        Write::Put => {
            if put(&key, Role::Flow, &decision.flow_record(), now) {
                verdict::count(Counter::FlowInserted);
            }
        }
        Write::Remove => remove(confirmed.as_ref()),
    }
    match decision.pending() {
        Write::Keep => {}
        Write::Refresh => refresh(pending.as_ref(), Role::Pending, &decision.pending_record()),
        Write::Put => {
            let is_written = put(&key, Role::Pending, &decision.pending_record(), now);
            if is_written && !decision.pending_record().has(Record::ELDER) {
                verdict::count(Counter::FlowPending);
            }
        }
        Write::Remove => remove(pending.as_ref()),
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
fn read(found: Option<&Found>, role: Role, now: u32) -> Record {
    found.map_or(Record::NONE, |found| found.read(role, now))
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

#[inline(always)]
fn refresh(found: Option<&Found>, role: Role, fresh: &Record) {
    if let Some(found) = found {
        found.refresh(role, fresh);
    }
}

#[inline(always)]
fn remove(found: Option<&Found>) {
    if let Some(found) = found {
        found.remove();
    }
}

/// Writes a record, whether or not its tuple has one of that role.
#[inline(always)]
fn put(key: &Key, role: Role, record: &Record, now: u32) -> bool {
    // SAFETY: no arguments, no memory.
    let random = unsafe { bpf_get_prandom_u32() };
    match flow_table::put(&Flows, key, role, record, now, random) {
        Put::Made | Put::Replaced => true,
        Put::Evicted(Class::Known | Class::Began) => {
            verdict::count(Counter::FlowEvicted);
            true
        }
        Put::Evicted(Class::Once | Class::Unconfirmed) => {
            verdict::count(Counter::FlowEvictedUnproven);
            true
        }
        Put::Refused => {
            verdict::count(Counter::FlowInsertFailed);
            false
        }
    }
}

/// Sets the clock of a slot of the arena. A clock that shows the right time already stays untouched, so that its cache
/// line does not move between CPUs with every packet.
#[inline(always)]
fn note_elsewhere(place: u32, now: u32) {
    let Some(entry) = SLOT_ELSEWHERE.get_ptr_mut(elsewhere::entry(place)) else { return };
    // SAFETY: one of four aligned places in the entry; the agent and packets write it whole, at any time, hence volatile.
    unsafe {
        let clock = entry.byte_add(elsewhere::byte(place)).cast::<u16>();
        if clock.read_volatile() != elsewhere::at(now) {
            clock.write_volatile(elsewhere::at(now));
        }
    }
}
