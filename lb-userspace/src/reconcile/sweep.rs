//! What time brings: learning ends, flow records expire, slots become stable again, numbers and old rings become
//! free. A sweep computes everything from the tables themselves, so an agent that was away resumes where it is.
//!
//! A sweep has three parts, so that it never holds up the loop that owns the tables. [`begin`] notes what the sweep is
//! about. Then a reader reads both flow tables, on another thread if need be, and what it has read goes through [`records`]
//! piece by piece. [`end`] decides about slots. The agent may carry out plans in between. Three things make that sound:
//!
//! - The reading begins behind a barrier that comes after [`begin`]: packets that used what was written before the barrier
//!   have left their records where the reading finds them.
//! - The mirror notes what is written after [`begin`] ([`WriteLog`]), and the sweep decides nothing about it.
//! - A record is judged, and judged again right before it is deleted, by what the tables say at that moment.
//!
//! A slot settles only if the sweep met no record for it at all: records that are redundant in this sweep are gone in the
//! next one.

mod decide;
mod expiry;
mod live;

use std::collections::{BTreeSet, HashSet};

use lb_common::{
    flow::{Key, Record},
    map::NameRecord,
    ring::Ring,
};

pub use self::expiry::{Judge, slot_of};
use self::live::Live;
use super::{
    apply::execute,
    evictions::Reading,
    mirror::Mirror,
    running::{FlowCounts, Met},
    slot::States,
    write_log::{SlotSet, WriteLog},
};
use crate::tables::{Fate, FlowTable, Jiffies, Records, TableError, Tables};

/// What a sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Records that the sweep met in the two flow tables.
    pub pending: u64,
    pub flows: u64,
    /// Records that it deleted from either table.
    pub deleted: u64,
    /// Slots whose unknown flows belong to their owner from now on.
    pub learning_ended: u64,
    /// Slots that became stable.
    pub settled: u64,
    /// Numbers of removed services and backends that can be used again.
    pub numbers_freed: u64,
    /// Old rings that no slot asks any more, after a change of length or hash, or after a takeover of flows.
    pub rings_freed: u64,
    /// Map entries that it wrote.
    pub writes: u64,
}

/// A sweep under way.
#[derive(Debug)]
pub struct Sweep {
    candidates: Candidates,
    /// Backends whose flows were given up before the sweep began: when the sweep ends, no record names them.
    dead: BTreeSet<u32>,
    /// Slots that some record belongs to, also records that the sweep deleted.
    met: SlotSet,
    clock: Jiffies,
    /// Tuples of the elders that stay.
    elders: HashSet<Key>,
    /// The walk before met more than half as many flows as there is room for.
    crowded: bool,
    counts: FlowCounts,
    swept: Swept,
    /// Live flows of services that balance by them.
    live: Live,
    /// What went in and out of the flow tables until the sweep began, in their [`ORDER`].
    turnover: [Reading; 2],
}

/// The order in which the flow tables are read: the unconfirmed flows first, so that a flow that is confirmed in between
/// is met at least once.
pub const ORDER: [FlowTable; 2] = [FlowTable::Pending, FlowTable::Confirmed];

/// Begins a sweep at `now` (from `lb_common::slot::since`). `None` = there is nothing to do, and no record in the flow
/// tables. Costs next to nothing while no slot is tracked and no number waits.
pub fn begin(tables: &impl Tables, mirror: &mut Mirror, now: u16) -> Result<Option<Sweep>, TableError> {
    let tracked = note_stable(tables, mirror, now);
    let candidates = Candidates::of(mirror, now);
    if !tracked && candidates.is_empty() && mirror.stale_flow_owners.is_empty() && !mirror.flows_left {
        return Ok(None);
    }
    let clock = tables.jiffies()?;
    let turnover = |table| Ok(mirror.evictions.of(table).reading(tables.turnover(table)?));
    let turnover = [turnover(ORDER[0])?, turnover(ORDER[1])?];
    let live = Live::of(tables, mirror);
    mirror.changed = Some(WriteLog::new(tables.slots().len()));
    Ok(Some(Sweep {
        candidates,
        dead: mirror.stale_flow_owners.iter().copied().filter(|number| !mirror.may_return(*number)).collect(),
        met: SlotSet::new(tables.slots().len()),
        clock,
        elders: HashSet::new(),
        crowded: mirror.flows_met > u64::from(tables.sizes().flows) / 2,
        counts: FlowCounts::default(),
        swept: Swept::default(),
        turnover,
        live,
    }))
}

/// Takes in records that were read from a table since the sweep began, and deletes those that are of no use.
pub fn records(
    tables: &impl Tables,
    mirror: &mut Mirror,
    sweep: &mut Sweep,
    table: FlowTable,
    read: &Records,
) -> Result<(), TableError> {
    let judge = Judge {
        mirror,
        slots: tables.slots(),
        clock: sweep.clock,
        elders: &sweep.elders,
        crowded: sweep.crowded,
    };
    let (mut condemned, mut elders) = (Vec::new(), Vec::new());
    for (key, record) in read.keys.iter().zip(&read.records) {
        let (fate, slot) = judge.fate(table, key, record);
        if let Some(slot) = slot {
            sweep.met.insert(slot);
        }
        match fate {
            Fate::Delete => condemned.push(*key),
            Fate::Keep => {
                if table == FlowTable::Pending && record.has(Record::ELDER) {
                    elders.push(*key);
                }
                let idle = judge.is_idle(table, key, record);
                let live = table == FlowTable::Confirmed && !idle && sweep.live.meet(record);
                if live || !judge.has_ended(table, key, record) {
                    let elsewhere = judge.disagrees(key, record);
                    sweep.counts.add(table, key.service, record.backend, Met { elsewhere, idle });
                }
            }
        }
    }
    match table {
        FlowTable::Pending => sweep.swept.pending += read.keys.len() as u64,
        FlowTable::Confirmed => sweep.swept.flows += read.keys.len() as u64,
    }
    // A packet may have written the record again since it was read, so the record is judged again.
    let mut again = |key: &_, record: &_| judge.fate(table, key, record).0;
    let deleted = tables.delete_flows(table, &condemned, &mut again);
    let count = mirror.evictions.of_mut(table);
    let deleted = deleted.inspect_err(|_| count.lose_count())?;
    count.taken_out(deleted);
    sweep.swept.deleted += deleted;
    sweep.elders.extend(elders);
    Ok(())
}

/// Ends a sweep at `now`. Its tables were read to the end, with a barrier behind the last record. Returns what the sweep
/// did, and the live flows that it met.
pub fn end(
    tables: &mut impl Tables,
    mirror: &mut Mirror,
    sweep: Sweep,
    now: u16,
) -> Result<(Swept, FlowCounts), TableError> {
    let changed = mirror.changed.take().unwrap_or_default();
    let mut swept = sweep.swept;
    for ((table, begin), met) in ORDER.into_iter().zip(sweep.turnover).zip([swept.pending, swept.flows]) {
        let turnover = tables.turnover(table)?;
        mirror.evictions.of_mut(table).walked(begin, turnover, met);
    }
    for (number, change) in sweep.live.corrections(tables, &changed) {
        tables.add_live(number, change)?;
    }
    mirror.stale_flow_owners.retain(|number| !sweep.dead.contains(number) || changed.died.contains(number));
    mirror.flows_met = swept.flows;
    mirror.flows_left = swept.pending + swept.flows > 0 || changed.is_something();
    let unused = unused(tables, mirror, &changed)?;
    let operations = decide::decide(tables.slots(), mirror, &sweep, &changed, &unused, now, &mut swept);
    for operation in operations {
        execute(tables, &mut mirror.evictions, &operation)?;
        // A slot that changes here needs another look for records: a packet may have written one since.
        mirror.note(&operation);
        swept.writes += operation.entries();
    }
    Ok((swept, sweep.counts))
}

/// Services that had forwarded no packet when the sweep began, and have forwarded none until now. The reading began behind
/// a barrier, so packets that used what was written before the sweep are counted by now.
fn unused(
    tables: &impl Tables,
    mirror: &mut Mirror,
    changed: &WriteLog,
) -> Result<BTreeSet<u32>, TableError> {
    for number in mirror.unused.clone() {
        if tables.service_packets(number)? > 0 {
            mirror.unused.remove(&number);
        }
    }
    Ok(mirror.unused.difference(&changed.services).copied().collect())
}

/// A whole sweep at once, with readers made here.
pub fn whole(
    tables: &mut impl Tables,
    mirror: &mut Mirror,
    now: u16,
) -> Result<(Swept, FlowCounts), TableError> {
    let Some(mut sweep) = begin(tables, mirror, now)? else { return Ok(Default::default()) };
    for table in ORDER {
        let mut reader = tables.flow_reader(table)?;
        if table == ORDER[0] {
            reader.barrier();
        }
        while let Some(read) = reader.next()? {
            records(tables, mirror, &mut sweep, table, &read)?;
        }
        if table == ORDER[1] {
            reader.barrier();
        }
    }
    end(tables, mirror, sweep, now)
}

/// Notes the services that have no tracked slot and ask no old ring. Returns whether there are other services.
fn note_stable(tables: &impl Tables, mirror: &mut Mirror, now: u16) -> bool {
    let slots = tables.slots();
    let mut stable = Vec::new();
    let mut tracked = false;
    for (number, record, _) in mirror.present().filter(|(number, ..)| !mirror.stable.contains(number)) {
        if States::of(slots, record.ring, now).tracked() > 0 || record.old_ring != Ring::NONE {
            tracked = true;
        } else {
            stable.push(number);
        }
    }
    mirror.stable.extend(stable);
    tracked
}

/// Whether `free_after` is in the past at `now`: the clock wraps, so half of its circle is past and the other half future.
fn is_past(meta: &NameRecord, now: u16) -> bool {
    now.wrapping_sub(meta.free_after as u16) & 0x7fff < 0x4000
}

/// Retired numbers that no packet under way can hold any more.
#[derive(Debug)]
struct Candidates {
    services: Vec<u32>,
    backends: Vec<u32>,
}

impl Candidates {
    fn of(mirror: &Mirror, now: u16) -> Self {
        let over = |meta: Option<&NameRecord>| meta.is_some_and(|meta| is_past(meta, now));
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
