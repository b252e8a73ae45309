//! What a plan would do to slots and to flows that are written down, by service. Flows that are not written down are
//! where their slot says; nobody counts them.

use std::collections::{BTreeSet, HashMap};

use lb_common::slot::{SINCE_STEP, Slot};

use super::{
    Plan, Reconciler,
    changed::SlotSet,
    operation::Operation,
    slot::Learning,
    sweep::{Judge, slot_of},
};
use crate::dataplane::{Fate, FlowTable, TableError, Tables};

/// What becomes of one service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Affected {
    /// Slot words that would be written.
    pub slots_changed: u32,
    /// Of these, tracked ones.
    pub slots_tracked: u32,
    /// Those that learn longest; `None` = none would learn.
    pub longest_learning: Option<Learning>,
    /// Live flows that are written down in slots that change.
    pub flows: u64,
    /// Live flows that are written down at backends that lose their flows.
    pub cut: u64,
}

/// Where flows lie that a plan concerns.
struct Concerned {
    slots: SlotSet,
    /// Services whose ring is replaced: their flows lie in slots of the old one.
    replaced: BTreeSet<u32>,
    /// Backends that lose their flows.
    dying: BTreeSet<u32>,
}

impl<T: Tables> Reconciler<T> {
    /// By service number, for a plan made at `now` from the present state.
    pub fn affected(&self, plan: &Plan, now: u16) -> Result<HashMap<u32, Affected>, TableError> {
        let mirror = self.mirror();
        let mut affected: HashMap<u32, Affected> = HashMap::new();
        let mut concerned = Concerned {
            slots: SlotSet::new(self.tables().slots().len()),
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
        if !plan.operations.is_empty() {
            self.count(&concerned, &mut affected)?;
        }
        Ok(affected)
    }

    /// One walk over the flow table.
    fn count(&self, concerned: &Concerned, affected: &mut HashMap<u32, Affected>) -> Result<(), TableError> {
        let Concerned { slots, replaced, dying } = concerned;
        let (tables, mirror) = (self.tables(), self.mirror());
        let judge = Judge { mirror, slots: tables.slots(), clock: tables.jiffies()? };
        tables.walk_flows(FlowTable::Confirmed, &mut |key, record| {
            if !judge.has_ended(FlowTable::Confirmed, key, record) {
                let moved = slot_of(mirror, key).is_some_and(|slot| slots.contains(slot));
                let (moved, cut) =
                    (moved || replaced.contains(&key.service), dying.contains(&record.backend));
                if moved || cut {
                    let of = affected.entry(key.service).or_default();
                    of.flows += u64::from(moved);
                    of.cut += u64::from(cut);
                }
            }
            Fate::Keep
        })?;
        Ok(())
    }
}

impl Affected {
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
