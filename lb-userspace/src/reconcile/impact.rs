//! What a plan would do to slots and to recorded flows, by service. A flow without a record is where its slot says; such
//! flows are not counted.

use std::collections::{BTreeSet, HashMap};

use lb_common::{
    flow_table::Role,
    slot::{SINCE_STEP, Slot},
};

use super::{
    Plan, Reconciler, mirror::Mirror, operation::Operation, slot::Learning, sweep::Judge, write_log::SlotSet,
};
use crate::tables::{FlowTable, Jiffies, TableError, Tables};

/// What becomes of one service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Impact {
    /// Slot words that would be written.
    pub slots_changed: u32,
    /// Words of these that are tracked.
    pub slots_tracked: u32,
    /// The slots that will learn for the longest time from now; `None` = none would learn.
    pub longest_learning: Option<Learning>,
    /// Live flows that are recorded in slots that change; where the ring hashes sources, in any slot of the service: records do
    /// not say which one.
    pub flows: u64,
    /// Live flows that are recorded at backends that lose their flows.
    pub cut: u64,
}

/// Where the flows lie that a plan concerns.
struct Concerned {
    slots: SlotSet,
    /// Services whose ring is replaced: their flows lie in slots of the old ring.
    replaced: BTreeSet<u32>,
    /// Backends that lose their flows.
    dying: BTreeSet<u32>,
}

/// What is known of a plan without looking at flows, and what is needed to count them, on any thread: the loop does not wait
/// for a walk over the flow table, however large the table is.
pub struct Forecast {
    affected: HashMap<u32, Impact>,
    concerned: Concerned,
    mirror: Mirror,
    clock: Jiffies,
    /// `None` = the plan writes nothing.
    flows: Option<FlowTable>,
}

impl<T: Tables> Reconciler<T> {
    /// The forecast of a plan that was made at `now` from the present state.
    pub fn impact(&self, plan: &Plan, now: u16) -> Result<Forecast, TableError> {
        let (tables, mirror) = (self.tables(), self.mirror());
        let mut affected: HashMap<u32, Impact> = HashMap::new();
        let mut concerned = Concerned {
            slots: SlotSet::new(tables.slots().len()),
            replaced: BTreeSet::new(),
            dying: BTreeSet::new(),
        };
        for operation in &plan.operations {
            match operation {
                Operation::Slots { service, words } => {
                    let of = affected.entry(*service).or_default();
                    of.slots_changed += words.len() as u32;
                    for &(at, word) in words {
                        concerned.slots.insert(at);
                        of.note(Slot(word), now);
                    }
                }
                Operation::Service { number, record } => {
                    let old = mirror.services.get(*number as usize).map(|service| service.ring);
                    if old != Some(record.ring) {
                        concerned.replaced.insert(*number);
                    }
                }
                Operation::Backend { number, record } if !record.is_alive() => {
                    concerned.dying.insert(*number);
                }
                _ => {}
            }
        }
        let read = !plan.operations.is_empty();
        let flows = read.then(|| tables.flow_table());
        Ok(Forecast { affected, concerned, mirror: mirror.clone(), clock: tables.jiffies()?, flows })
    }
}

impl Forecast {
    /// Numbers of backends that lose their flows.
    pub fn dying(&self) -> &BTreeSet<u32> {
        &self.concerned.dying
    }

    /// The result by service number, after one walk over the flow table.
    pub fn count(self) -> HashMap<u32, Impact> {
        let Self { mut affected, concerned: Concerned { slots, replaced, dying }, mirror, clock, flows } =
            self;
        let Some(flows) = flows else { return affected };
        let judge = Judge::new(&mirror, clock, false);
        let changing: BTreeSet<u32> = affected.keys().copied().collect();
        flows.walk(0..u32::MAX, clock.now as u32, |seen| {
            if seen.role == Role::Pending || judge.has_ended(seen) {
                return true;
            }
            let service = judge.service(seen);
            let in_slot = judge.slot(seen).map_or(changing.contains(&service), |slot| slots.contains(slot));
            let (moved, cut) = (in_slot || replaced.contains(&service), dying.contains(&seen.record.backend));
            if moved || cut {
                let of = affected.entry(service).or_default();
                of.flows += u64::from(moved);
                of.cut += u64::from(cut);
            }
            true
        });
        affected
    }
}

impl Impact {
    fn note(&mut self, word: Slot, now: u16) {
        self.slots_tracked += u32::from(word.is_tracked());
        if !word.is_learning() {
            return;
        }
        let seconds_ago = u64::from(now.wrapping_sub(word.since()) & 0x7fff) * SINCE_STEP;
        let longest =
            self.longest_learning.get_or_insert(Learning { since: word.since(), seconds_ago, slots: 0 });
        if seconds_ago < longest.seconds_ago {
            *longest = Learning { since: word.since(), seconds_ago, slots: 0 };
        }
        longest.slots += u32::from(seconds_ago == longest.seconds_ago);
    }
}
