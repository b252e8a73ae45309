//! What time brings: learning ends, flow records expire, slots become stable again, numbers and old rings become
//! free. Everything is told from the tables themselves, so an agent that was away resumes where it is.
//!
//! A sweep walks the flow tables, deletes what is of no use, and then decides about slots. It settles a slot only if
//! it met no record for it at all: records that are redundant in this sweep are gone in the next one.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use lb_common::{
    backend::Backend,
    flow::{Key, Record},
    hash,
    map::Meta,
    ring::Ring,
    service::Service,
    slot::{PREVIOUS_RING, Slot},
};

use super::{
    apply::execute,
    mirror::Mirror,
    operation::Operation,
    slot::{self, States},
};
use crate::dataplane::{Fate, FlowTable, Jiffies, TableError, Tables};

/// How long a flow is kept after a FIN or RST of its client, in seconds: four minutes would be TIME-WAIT (RFC 9293,
/// 3.4.2), one is what hosts really use.
const CLOSING: u64 = 60;

/// Seconds of silence after which a flow that its client closed counts as ended: longer than the last packets of a
/// connection take, and than `last_seen` may lag behind (`Record::REFRESH`).
const ENDED: u64 = 2;

/// How long a SYN may wait for the client's next segment, in seconds: longer than the pauses between repeated SYNs
/// (RFC 6298, doubled from 1 s; Linux gives up after the one of 64 s).
const PENDING: u64 = 120;

/// What a sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Records met in the two flow tables.
    pub pending: u64,
    pub flows: u64,
    /// Records deleted from either.
    pub deleted: u64,
    /// Slots whose unknown flows belong to their owner from now on.
    pub learning_ended: u64,
    /// Slots that became stable.
    pub settled: u64,
    /// Numbers of removed services and backends that can be used again.
    pub numbers_freed: u64,
    /// Rings that nobody asks any more, after a change of length.
    pub rings_freed: u64,
    /// Map entries written.
    pub writes: u64,
}

/// One sweep at `now` (from `lb_common::slot::since`). Costs next to nothing while no slot is tracked and no
/// number waits.
pub fn sweep(tables: &mut impl Tables, mirror: &mut Mirror, now: u16) -> Result<Swept, TableError> {
    let mut swept = Swept::default();
    let tracked = tracked_services(tables.slots(), mirror, now);
    let candidates = Candidates::of(mirror, now);
    let idle = tracked.is_empty() && candidates.is_empty() && mirror.unpurged.is_empty();
    if idle && !mirror.flows_left {
        return Ok(swept);
    }
    let unpurged = mirror.unpurged.clone();
    let with_records = walk(tables, mirror, &mut swept)?;
    mirror.unpurged.retain(|number| !unpurged.contains(number));
    mirror.flows_left = swept.pending + swept.flows > 0;
    let operations = decide(tables.slots(), mirror, &tracked, &candidates, &with_records, now, &mut swept);
    for operation in operations {
        execute(tables, &operation)?;
        // Slots that change here leave records to be looked for once more: a packet may have written one since.
        mirror.note(&operation);
        swept.writes += operation.entries();
    }
    Ok(swept)
}

/// Services some slot of which is tracked, or whose old ring is still there. Those that have neither are noted.
fn tracked_services(slots: &[AtomicU64], mirror: &mut Mirror, now: u16) -> Vec<(u32, Service, States)> {
    let mut tracked = Vec::new();
    let mut stable = Vec::new();
    for (number, record, _) in mirror.present().filter(|(number, ..)| !mirror.stable.contains(number)) {
        let states = States::of(slots, record.ring, now);
        if states.tracked() > 0 || record.old_ring != Ring::NONE {
            tracked.push((number, *record, states));
        } else {
            stable.push(number);
        }
    }
    mirror.stable.extend(stable);
    tracked
}

/// Retired numbers that no packet under way can hold any more.
struct Candidates {
    services: Vec<u32>,
    backends: Vec<u32>,
}

impl Candidates {
    fn of(mirror: &Mirror, now: u16) -> Self {
        let over = |meta: Option<&Meta>| {
            // Half of the clock's circle lies behind `now`, half ahead of it.
            meta.is_some_and(|meta| now.wrapping_sub(meta.free_after as u16) & 0x7fff < 0x4000)
        };
        let services = mirror.retired_services();
        let backends = mirror.retired_backends();
        Self {
            services: services.filter(|&n| over(mirror.service_metas.get(n as usize))).collect(),
            backends: backends.filter(|&n| over(mirror.backend_metas.get(n as usize))).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.services.is_empty() && self.backends.is_empty()
    }
}

/// A set of slots, a bit for each of the arena.
pub(super) struct SlotSet(Vec<u64>);

impl SlotSet {
    pub(super) fn new(slots: usize) -> Self {
        Self(vec![0; slots.div_ceil(64)])
    }

    pub(super) fn insert(&mut self, at: u32) {
        if let Some(bits) = self.0.get_mut(at as usize / 64) {
            *bits |= 1 << (at % 64);
        }
    }

    pub(super) fn contains(&self, at: u32) -> bool {
        self.0.get(at as usize / 64).is_some_and(|bits| bits & 1 << (at % 64) != 0)
    }
}

/// Walks both flow tables. Returns the slots that some record belongs to, deleted ones included.
fn walk(tables: &impl Tables, mirror: &Mirror, swept: &mut Swept) -> Result<SlotSet, TableError> {
    let clock = tables.jiffies()?;
    let slots = tables.slots();
    let mut met = SlotSet::new(slots.len());
    let judge = Judge { mirror, slots, clock };
    // First the unconfirmed: a flow that is confirmed in between is met at least once.
    for table in [FlowTable::Pending, FlowTable::Confirmed] {
        let walked = tables.walk_flows(table, &mut |key, record| {
            let (fate, slot) = judge.fate(table, key, record);
            if let Some(slot) = slot {
                met.insert(slot);
            }
            fate
        })?;
        match table {
            FlowTable::Pending => swept.pending = walked.seen,
            FlowTable::Confirmed => swept.flows = walked.seen,
        }
        swept.deleted += walked.deleted;
    }
    Ok(met)
}

/// Whether a flow record is still of use.
pub struct Judge<'a> {
    pub mirror: &'a Mirror,
    pub slots: &'a [AtomicU64],
    pub clock: Jiffies,
}

impl Judge<'_> {
    /// The fate of a record, and the slot it belongs to.
    pub fn fate(&self, table: FlowTable, key: &Key, record: &Record) -> (Fate, Option<u32>) {
        let Some(slot) = slot_of(self.mirror, key) else { return (Fate::Delete, None) };
        let word = self.slots.get(slot as usize).map_or(0, |word| word.load(Ordering::Relaxed));
        let fate = if self.is_needed(table, key, record, Slot(word)) { Fate::Keep } else { Fate::Delete };
        (fate, Some(slot))
    }

    fn is_needed(&self, table: FlowTable, key: &Key, record: &Record, word: Slot) -> bool {
        let backend = record.backend as usize;
        let used = self.mirror.backend_metas.get(backend).is_some_and(|meta| meta.flags & Meta::USED != 0);
        let alive = self.mirror.backends.get(backend).is_some_and(Backend::is_alive);
        // In a stable slot nobody looks, and what lies there would mislead after the next change. In a
        // remembering one whom nobody knows is at `current` anyway, but where every flow is written down.
        let always = self.mirror.services.get(key.service as usize).is_some_and(Service::tracks_always);
        let says_something =
            word.is_learning() || word.is_tracked() && (always || record.backend != word.current());
        used && alive && says_something && !self.is_over(table, key, record)
    }

    /// Whether a flow is written down at another backend than its slot's owner.
    pub fn disagrees(&self, key: &Key, record: &Record) -> bool {
        let word = slot_of(self.mirror, key).and_then(|slot| self.slots.get(slot as usize));
        word.is_some_and(|word| Slot(word.load(Ordering::Relaxed)).current() != record.backend)
    }

    /// Whether nobody waits for a flow any more: its client closed it and has been quiet since. Its record is kept for
    /// a while, for what is still under way.
    pub fn has_ended(&self, table: FlowTable, key: &Key, record: &Record) -> bool {
        let closed = table == FlowTable::Confirmed && record.flags & Record::CLOSING != 0;
        closed && self.clock.age(record.last_seen) >= ENDED || self.is_over(table, key, record)
    }

    /// Whether a flow is gone for its age.
    pub fn is_over(&self, table: FlowTable, key: &Key, record: &Record) -> bool {
        let age = self.clock.age(record.last_seen);
        let closing = table == FlowTable::Confirmed && record.flags & Record::CLOSING != 0;
        let window = self.mirror.windows.get(&key.service).map(Duration::as_secs);
        age > window.unwrap_or(u64::MAX)
            || closing && age > CLOSING
            || table == FlowTable::Pending && age > PENDING
    }
}

/// The slot of a flow, counted from the start of the arena.
pub fn slot_of(mirror: &Mirror, key: &Key) -> Option<u32> {
    let service = mirror.services.get(key.service as usize)?;
    if service.flags & Service::PRESENT == 0 {
        return None;
    }
    let protocol = (service.port_protocol >> 16) as u8;
    let (seed, ring) = (&mirror.node.seed, service.ring);
    Some(ring.slot(hash::placing(seed, ring, &key.source, &service.address, key.ports, protocol)))
}

/// What may be written now that the flow tables were walked.
fn decide(
    slots: &[AtomicU64],
    mirror: &Mirror,
    tracked: &[(u32, Service, States)],
    candidates: &Candidates,
    with_records: &SlotSet,
    now: u16,
    swept: &mut Swept,
) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (number, record, states) in tracked {
        let mut asks_old_ring = states.asks_old_ring;
        let window = mirror.windows.get(number).map(Duration::as_secs);
        let mut words = Vec::new();
        for (at, word) in slot::words(slots, record.ring) {
            if window.is_some_and(|window| word.window_over(now, window)) {
                asks_old_ring -= u32::from(word.previous() == PREVIOUS_RING);
                swept.learning_ended += 1;
                words.push((at, word.end_learning().0));
            } else if word.is_tracked()
                && !word.is_learning()
                && !record.tracks_always()
                && !with_records.contains(at)
            {
                swept.settled += 1;
                words.push((at, word.settle().0));
            }
        }
        if !words.is_empty() {
            operations.push(Operation::Slots { service: *number, words });
        }
        if record.old_ring != Ring::NONE && asks_old_ring == 0 {
            swept.rings_freed += 1;
            let record = Service { old_ring: Ring::NONE, ..*record };
            operations.push(Operation::Service { number: *number, record });
        }
    }
    if swept.rings_freed > 0 {
        operations.push(Operation::Barrier);
    }
    if !candidates.is_empty() {
        free_numbers(slots, mirror, candidates, &mut operations, swept);
    }
    operations
}

/// Retired numbers that no slot names. No flow does either: the walk deleted such records, and since the grace
/// time began before it no packet could write another.
fn free_numbers(
    slots: &[AtomicU64],
    mirror: &Mirror,
    candidates: &Candidates,
    operations: &mut Vec<Operation>,
    swept: &mut Swept,
) {
    let mut free: BTreeSet<u32> = candidates.backends.iter().copied().collect();
    for ring in mirror.regions() {
        slot::owners(slots, ring, |current, previous| {
            free.remove(&current);
            free.remove(&previous);
        });
    }
    swept.numbers_freed += (free.len() + candidates.services.len()) as u64;
    for number in free {
        operations.push(Operation::Backend { number, record: Backend::default() });
        operations.push(Operation::BackendMeta { number, meta: Meta::FREE });
    }
    for &number in &candidates.services {
        operations.push(Operation::ServiceMeta { number, meta: Meta::FREE });
    }
}
