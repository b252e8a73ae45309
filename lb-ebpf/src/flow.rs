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
    flow_table::{self, Bucket, Class, Key, MAX_BUCKETS, Memory, Put, Role},
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
/// not once for each way that leads here. Most packets have nothing to write and need only the first one.
#[inline(always)]
pub(crate) fn select_backend<F: Family>(
    service: &Service,
    lookup: &SlotLookup<F>,
    slot_key: SlotKey<'_, F>,
) -> u32 {
    let SlotLookup { flow, number, place, slot, hash } = lookup;
    let home = slot::owner_of_unknown(service, *slot, slot_key);
    let flags = if flow.protocol == protocol::TCP { IS_TCP | flow.flags as u64 } else { 0 };
    let chosen = lb_decide(
        *hash,
        slot.0,
        (*place as u64) << 32 | *number as u64,
        (home as u64) << 32 | flow.sequence as u64,
        flags,
    );
    if chosen & WRITES != 0 {
        lb_record(*hash);
    }
    chosen as u32
}

/// In the flags of [`lb_decide`]: the packet is TCP, and its flags are in the lowest byte.
const IS_TCP: u64 = 1 << 8;
/// In what [`lb_decide`] returns: records are to be written.
const WRITES: u64 = 1 << 32;

/// The backend of a packet in a tracked slot, of either family. It gets the hash of the whole flow; the slot's word; the
/// slot's place and the service's number; the backend of unknown flows and the sequence number; and the flags. What is
/// to be written is left in [`DECISION`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_decide(hash: u64, slot: u64, place_number: u64, home_sequence: u64, flags: u64) -> u64 {
    let (place, number) = ((place_number >> 32) as u32, place_number as u32);
    let (home, sequence) = ((home_sequence >> 32) as u32, home_sequence as u32);
    let slot = Slot(slot);
    let Some(service) = SERVICES.get(number) else { return 0 };
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
    verdict::count(if decision.is_hit() {
        Counter::TrackedHit
    } else if balanced != 0 {
        Counter::TrackedBalanced
    } else if decision.backend() != slot.current() {
        Counter::TrackedPrevious
    } else {
        Counter::TrackedCurrent
    });
    if !decision.writes() {
        return decision.backend() as u64;
    }
    if decision.is_elsewhere(slot.current(), now) {
        note_elsewhere(place, now);
    }
    let Some(left) = DECISION.get_ptr_mut(0) else { return decision.backend() as u64 };
    // SAFETY: this CPU's own copy of the value.
    unsafe { *left = decision };
    decision.backend() as u64 | WRITES
}

/// Writes what [`lb_decide`] has left in [`DECISION`] for the flow with that hash.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_record(hash: u64) -> u32 {
    let Some(left) = DECISION.get_ptr(0) else { return 0 };
    let key = Key::of(hash, Flows.buckets());
    // SAFETY: as in `lb_decide`.
    let now = unsafe { bpf_jiffies64() } as u32;
    // SAFETY: this CPU's own copy of the value, which no one writes while the program runs.
    let decision = unsafe { &*left };
    let is_written = write(&key, Role::Flow, decision.flow(), decision.flow_record(), now);
    if is_written && matches!(decision.flow(), Write::Put) {
        verdict::count(Counter::FlowInserted);
    }
    let pending = decision.pending_record();
    let is_written = write(&key, Role::Pending, decision.pending(), pending, now);
    if is_written && matches!(decision.pending(), Write::Put) && !pending.has(Record::ELDER) {
        verdict::count(Counter::FlowPending);
    }
    0
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
