//! What time brings: learning ends, flow records expire, slots become stable again, numbers and old rings become
//! free. A sweep computes everything from the tables themselves, so an agent that was away resumes where it is.
//!
//! A sweep has three parts, so that it never holds up the loop that owns the tables. [`begin`] notes what the sweep is
//! about. Then [`walk`] goes through the flow table, some buckets at a time. [`end`] decides about slots. The agent may carry
//! out plans in between. Three things make that sound:
//!
//! - The walk begins behind a barrier that comes after [`begin`]: packets that used what was written before the barrier have
//!   left their records where the walk finds them, and have set the clocks of their slots.
//! - The mirror notes what is written after [`begin`] ([`WriteLog`]), and the sweep decides nothing about it.
//! - A record is judged by what the tables say at that moment, and deleted in the same moment.
//!
//! A record does not say which slot its flow falls into. A remembering slot settles when no record has sent a packet elsewhere
//! than to the slot's owner for as long as flows are remembered ([`lb_common::elsewhere`]): the walk has deleted all records
//! that were silent for so long.

mod counted;
mod decide;
mod expiry;
mod live;

use std::{collections::BTreeSet, sync::atomic::Ordering};

use lb_common::{elsewhere, flow_table::Role, map::NameRecord, ring::Ring, slot::Slot};

pub use self::expiry::Judge;
use self::{counted::Counted, live::Live};
use super::{apply::execute, mirror::Mirror, running::FlowCounts, slot::States, write_log::WriteLog};
use crate::tables::{Jiffies, TableError, Tables, clocks};

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
    /// Slots that go on learning after their window, since the flow table has lost records.
    pub prolonged: u64,
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
    clock: Jiffies,
    /// The walk before met more than half as many flows as there is room for.
    crowded: bool,
    /// Made from the mirror of this generation.
    judge: Option<(u64, Judge)>,
    /// The bucket where the walk goes on.
    next: u32,
    counted: Counted,
    swept: Swept,
    /// Live flows of services that balance by them.
    live: Live,
}

/// Begins a sweep at `now` (from `lb_common::slot::since`). `None` = there is nothing to do, and no record in the flow
/// tables. Costs next to nothing while no slot is tracked and no number waits.
pub fn begin(tables: &impl Tables, mirror: &mut Mirror, now: u16) -> Result<Option<Sweep>, TableError> {
    let tracked = note_stable(tables, mirror, now);
    let candidates = Candidates::of(mirror, now);
    if !tracked && candidates.is_empty() && mirror.stale_flow_owners.is_empty() && !mirror.flows_left {
        return Ok(None);
    }
    let clock = tables.jiffies()?;
    clear_clocks(tables, mirror)?;
    let live = Live::of(tables, mirror);
    mirror.changed = Some(WriteLog::new(tables.slots().len()));
    Ok(Some(Sweep {
        candidates,
        dead: mirror.stale_flow_owners.iter().copied().filter(|number| !mirror.may_return(*number)).collect(),
        clock,
        crowded: mirror.flows_met > u64::from(tables.sizes().flows) / 2,
        judge: None,
        next: 0,
        counted: Counted::new(mirror.backends.len()),
        swept: Swept::default(),
        live,
    }))
}

/// Sets the clocks of services without traffic back: no record has sent a packet elsewhere, and the clocks say what was there
/// before these services, or when the agent wrote their slots. A packet that comes in this moment is the service's first one;
/// then [`end`] finds the service in use, and the slots go on learning. Clocks that a tracked slot of another service shares
/// stay.
fn clear_clocks(tables: &impl Tables, mirror: &Mirror) -> Result<(), TableError> {
    let slots = tables.slots();
    let is_tracked = |at: u32| {
        let word = slots.get(at as usize).map(|word| Slot(word.load(Ordering::Relaxed)));
        word.is_some_and(Slot::is_tracked)
    };
    for (number, record, _) in mirror.present() {
        let has_traffic = !mirror.unused.contains(&number) || mirror.stable.contains(&number);
        if has_traffic || tables.service_packets(number)? > 0 {
            continue;
        }
        let ring = record.ring.offset()..record.ring.offset().saturating_add(record.ring.length());
        let first = ring.start - ring.start % elsewhere::SLOTS;
        for group in (first..ring.end).step_by(elsewhere::SLOTS as usize) {
            let mut others = (group..group.saturating_add(elsewhere::SLOTS)).filter(|at| !ring.contains(at));
            if !others.any(is_tracked) {
                clocks::set(tables.elsewhere(), group, elsewhere::NEVER);
            }
        }
    }
    Ok(())
}

/// Goes through the next `buckets` buckets: counts the flows that stay, and deletes records that are of no use. Returns whether
/// there are more.
pub fn walk(
    tables: &impl Tables,
    mirror: &Mirror,
    sweep: &mut Sweep,
    buckets: u32,
) -> Result<bool, TableError> {
    let Sweep { clock, crowded, judge, next, counted, swept, .. } = sweep;
    let judge = match judge {
        Some((generation, judge)) if *generation == mirror.generation => judge,
        judge => &mut judge.insert((mirror.generation, Judge::new(mirror, *clock, *crowded))).1,
    };
    let all = tables.flow_table().buckets();
    let range = *next..next.saturating_add(buckets).min(all);
    let mut keep = |seen: &_| {
        let is_needed = judge.is_needed(seen);
        match seen.role {
            Role::Flow => swept.flows += 1,
            Role::Pending => swept.pending += 1,
        }
        if is_needed {
            counted.meet(seen, judge, tables.slots());
        }
        is_needed
    };
    *next = range.end;
    let deleted = tables.walk_flows(range, clock.now as u32, &mut keep)?;
    swept.deleted += deleted;
    Ok(*next < all)
}

/// Ends a sweep at `now`, whose walk has come to the end. Returns what the sweep did, and the live flows that it met.
pub fn end(
    tables: &mut impl Tables,
    mirror: &mut Mirror,
    sweep: Sweep,
    now: u16,
) -> Result<(Swept, FlowCounts), TableError> {
    let changed = mirror.changed.take().unwrap_or_default();
    let mut swept = sweep.swept;
    for (number, change) in sweep.live.corrections(tables, &sweep.counted, &changed) {
        tables.add_live(number, change)?;
    }
    mirror.stale_flow_owners.retain(|number| !sweep.dead.contains(number) || changed.died.contains(number));
    mirror.flows_met = swept.flows + swept.pending;
    mirror.flows_left = mirror.flows_met > swept.deleted || changed.is_something();
    let unused = unused(tables, mirror, &changed)?;
    mirror.lost.look(&tables.counters()?, now);
    let operations = decide::decide(tables, mirror, &sweep, &changed, &unused, now, &mut swept);
    for operation in operations {
        execute(tables, &operation)?;
        // A slot that changes here waits for the next sweep: a packet may have written a record since.
        mirror.note(&operation);
        swept.writes += operation.entries();
    }
    Ok((swept, sweep.counted.flows(mirror)))
}

/// Services that had forwarded no packet when the sweep began, and have forwarded none until now. The walk began behind a
/// barrier, so packets that used what was written before the sweep are counted by now.
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

/// A whole sweep at once.
pub fn whole(
    tables: &mut impl Tables,
    mirror: &mut Mirror,
    now: u16,
) -> Result<(Swept, FlowCounts), TableError> {
    let Some(mut sweep) = begin(tables, mirror, now)? else { return Ok(Default::default()) };
    tables.barrier()?;
    while walk(tables, mirror, &mut sweep, u32::MAX)? {}
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
