//! The flow table: packets read it only in tracked slots. The rule is `lb_common::evidence::decide`; this file reads what
//! the rule needs and writes what it decides.

use core::{
    hint::assert_unchecked,
    ptr::{addr_of, addr_of_mut, read_volatile},
};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_jiffies64};
use lb_common::{
    backend::Backend,
    balance::Balance,
    counter::Counter,
    elsewhere,
    evidence::{self, Decision, Known, Packet, Segment, Write},
    flow::Record,
    flow_table::{self, Bucket, Class, Key, MAX_BUCKETS, Memory, Put, Role},
    icmp,
    service::Service,
    slot::Slot,
    wire::protocol,
};

use crate::{
    arithmetic::Hidden,
    balance,
    family::Family,
    maps::{BACKENDS, BK_SERVICE, DECISION, FLOWS, SERVICES, SLOT_ELSEWHERE},
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
    type Arithmetic = Hidden;

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
}

/// The backend of a flow in a tracked slot; 0 = none.
///
/// Two functions do the work, one after the other, whose arguments are numbers: the verifier goes through them once, and
/// not once for each way that leads here. Most packets change nothing and need only the first one.
#[inline(always)]
pub(crate) fn select_backend<F: Family>(
    service: &Service,
    lookup: &SlotLookup<F>,
    slot_key: SlotKey<'_, F>,
) -> u32 {
    let SlotLookup { flow, number, place, slot, hash } = lookup;
    let home = slot::owner_of_unknown(service, *slot, slot_key);
    let flags = if flow.protocol == protocol::TCP { IS_TCP | flow.flags as u64 } else { 0 };
    let always = if service.tracks_always() { IS_ALWAYS } else { 0 };
    let home_sequence = (home as u64) << 32 | flow.sequence as u64;
    let decided = lb_decide(*hash, slot.0, home_sequence, flags | always);
    if decided & CHANGES == 0 {
        return decided as u32;
    }
    let place_number = (*place as u64) << 32 | *number as u64;
    lb_record(*hash, slot.0, place_number, decided as u32 as u64)
}

/// In the flags of [`lb_decide`]: the packet is TCP, and its flags are in the lowest byte.
const IS_TCP: u64 = 1 << 8;
/// In the flags of [`lb_decide`]: the service records every flow.
const IS_ALWAYS: u64 = 1 << 9;
/// In what [`lb_decide`] returns: something is to be written, and not counted yet.
const CHANGES: u64 = 1 << 32;

/// What [`lb_decide`] leaves for [`lb_record`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Left {
    /// The flow's hash.
    hash: u64,
    /// The lower half of the clock: the records in the decision say this time.
    now: u64,
    decision: Decision,
    /// The flow's record as it was.
    before: Record,
}

/// The backend of a packet that says nothing of its flow, and whether a record named it: nothing is written. `home` is the
/// backend of unknown flows.
#[inline(always)]
pub(crate) fn look_up(hash: u64, slot: Slot, home: u32) -> (u32, bool) {
    let found = lb_look_up(hash, slot.0, home as u64);
    (found as u32, found & KNOWN != 0)
}

/// In what [`lb_look_up`] returns: a record named the backend.
const KNOWN: u64 = 1 << 32;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_look_up(hash: u64, slot: u64, home: u64) -> u64 {
    let (slot, home) = (Slot(slot), home as u32);
    let key = Key::of(hash, Flows.buckets());
    // SAFETY: no arguments, no memory; the verifier inlines it.
    let now = unsafe { bpf_jiffies64() } as u32;
    let flow = read(&key, Role::Flow, now);
    let pending = read(&key, Role::Pending, now);
    let unknown = if is_alive(home) { home } else { slot.current() };
    let known =
        Known { flow, pending, dead_flow: is_dead(&flow), dead_pending: is_dead(&pending), away: false };
    let (backend, is_known) = icmp::backend_of(&known, unknown);
    backend as u64 | if is_known { KNOWN } else { 0 }
}

/// The backend of a packet in a tracked slot, of either family. It gets the hash of the whole flow; the slot's word; the
/// backend of unknown flows and the sequence number; and the flags. What changes is left in [`DECISION`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_decide(hash: u64, slot: u64, home_sequence: u64, flags: u64) -> u64 {
    let (home, sequence) = ((home_sequence >> 32) as u32, home_sequence as u32);
    let (slot, always) = (Slot(slot), flags & IS_ALWAYS != 0);
    let key = Key::of(hash, Flows.buckets());
    // SAFETY: no arguments, no memory; the verifier inlines it.
    let now = unsafe { bpf_jiffies64() } as u32;
    let segment = if flags & IS_TCP != 0 { Segment::of_tcp(flags as u8) } else { Segment::Datagram };
    let packet = Packet { segment, sequence, now };

    let is_home = is_alive(home);
    let unknown = if is_home { home } else { slot.current() };

    let is_recorded = flow_table::holds(&Flows, &key);
    let before = if is_recorded { read(&key, Role::Flow, now) } else { Record::NONE };
    let mut known = Known {
        flow: before,
        pending: Record::NONE,
        dead_flow: is_dead(&before),
        dead_pending: false,
        away: home != 0 && !is_home,
    };
    if is_recorded && evidence::asks_pending(&packet, &known.live_flow()) {
        known.pending = read(&key, Role::Pending, now);
        known.dead_pending = is_dead(&known.pending);
    }
    let decision = evidence::decide(slot, always, &packet, &known, unknown);
    if !decision.writes() && !(always && decision.begins()) {
        verdict::count(counter_of(&decision, slot));
        return decision.backend() as u64;
    }
    let Some(left) = DECISION.get_ptr_mut(0) else { return decision.backend() as u64 };
    // The hash first: a packet that writes in between leaves another one, see `lb_record`.
    // SAFETY: this CPU's own copy of the value.
    unsafe {
        addr_of_mut!((*left).hash).write_volatile(hash);
        (*left).now = now as u64;
        (*left).decision = decision;
        (*left).before = before;
    }
    decision.backend() as u64 | CHANGES
}

/// What counts for a packet in a tracked slot.
#[inline(always)]
fn counter_of(decision: &Decision, slot: Slot) -> Counter {
    if decision.is_hit() {
        Counter::TrackedHit
    } else if decision.backend() != slot.current() {
        Counter::TrackedPrevious
    } else {
        Counter::TrackedCurrent
    }
}

/// Carries out what [`lb_decide`] has left in [`DECISION`] for the flow with that hash, and returns the packet's backend:
/// the one decided, unless the service's balancing chooses. It gets the slot's word, the slot's place and the service's
/// number, too.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_record(hash: u64, slot: u64, place_number: u64, decided: u64) -> u32 {
    let (place, number) = ((place_number >> 32) as u32, place_number as u32);
    let slot = Slot(slot);
    let Some(left) = DECISION.get_ptr(0) else { return decided as u32 };
    // SAFETY: this CPU's own copy of the value. On kernels that let another packet run in between on the same CPU
    // (PREEMPT_RT), that packet may write it at any time, hence volatile.
    let Left { mut decision, before, now, .. } = unsafe { left.read_volatile() };
    // Read after the copy: what another packet has left, or left half, belongs to that packet.
    // SAFETY: as above.
    if unsafe { addr_of!((*left).hash).read_volatile() } != hash {
        return decided as u32;
    }
    let Some(service) = SERVICES.get(number) else { return decided as u32 };
    let key = Key::of(hash, Flows.buckets());
    let now = now as u32;
    let mut counter = counter_of(&decision, slot);
    if decision.begins() && service.tracks_always() {
        // The backend that the slot names does not matter then: a flow begins, and the balancing chooses.
        let balanced = balance::choose(service, number);
        if balanced != 0 {
            decision = decision.balanced(balanced);
            counter = Counter::TrackedBalanced;
        }
    }
    verdict::count(counter);
    if matches!(service.balance(), Balance::LeastConnections) {
        balance::count_live(service, &before, &decision, now);
    }
    if decision.is_elsewhere(slot.current(), now) {
        note_elsewhere(place, now);
    }
    let is_written = write(&key, Role::Flow, decision.flow(), decision.flow_record(), now);
    if is_written && matches!(decision.flow(), Write::Put) {
        verdict::count(Counter::FlowInserted);
    }
    let pending = decision.pending_record();
    let is_written = write(&key, Role::Pending, decision.pending(), pending, now);
    if is_written && matches!(decision.pending(), Write::Put) && !pending.has(Record::ELDER) {
        verdict::count(Counter::FlowPending);
    }
    decision.backend()
}

/// Does with a record what is decided; `false` where it got no place.
#[inline(always)]
fn write(key: &Key, role: Role, write: Write, record: Record, now: u32) -> bool {
    match write {
        Write::Keep => {}
        Write::Put => return put(key, role, &record, now),
        Write::Refresh => {
            if let Some(found) = flow_table::find(&Flows, key, role) {
                found.refresh(role, &record);
            }
        }
        Write::Remove => {
            if let Some(found) = flow_table::find(&Flows, key, role) {
                found.remove();
            }
        }
    }
    true
}

/// What a record says now.
#[inline(always)]
fn read(key: &Key, role: Role, now: u32) -> Record {
    flow_table::find(&Flows, key, role).map_or(Record::NONE, |found| found.read(role, now))
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

/// Writes a record, whether or not its tuple has one of that role; `false` where it got no place.
#[inline(always)]
fn put(key: &Key, role: Role, record: &Record, now: u32) -> bool {
    // SAFETY: no arguments, no memory.
    let random = unsafe { bpf_get_prandom_u32() };
    match flow_table::put(&Flows, key, role, record, now, random) {
        Put::Made | Put::Replaced => {}
        Put::Evicted(Class::Known | Class::Began) => verdict::count(Counter::FlowEvicted),
        Put::Evicted(Class::Once | Class::Unconfirmed) => verdict::count(Counter::FlowEvictedUnproven),
        Put::Refused => {
            verdict::count(Counter::FlowInsertFailed);
            return false;
        }
    }
    true
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
