//! Carries a plan out, step by step, and updates the mirror with each step. Decides nothing.

use std::sync::atomic::Ordering;

use super::{mirror::Mirror, operation::Operation, plan::Plan};
use crate::tables::{TableError, Tables};

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Map entries written.
    pub writes: u64,
    /// Slot words among these entries.
    pub slots: u64,
    /// Flow records deleted because the backend they name was down.
    pub flows_purged: u64,
}

/// Carries all steps out. After an error the tables are valid, the mirror says which steps were carried out, and a new plan
/// goes on from there.
pub fn apply(tables: &mut impl Tables, mirror: &mut Mirror, plan: &Plan) -> Result<Applied, TableError> {
    let mut applied = Applied::default();
    mirror.set_windows(&plan.windows);
    for operation in &plan.operations {
        applied.flows_purged += execute(tables, operation)?;
        mirror.note(operation);
        applied.writes += operation.entries();
        if let Operation::Slots { words, .. } = operation {
            applied.slots += words.len() as u64;
        }
    }
    Ok(applied)
}

/// Carries one step out. Returns how many flow records a purge deleted.
pub fn execute(tables: &mut impl Tables, operation: &Operation) -> Result<u64, TableError> {
    match operation {
        Operation::PurgeFlows(backends) => {
            let now = tables.jiffies()?.now as u32;
            let deleted =
                tables.walk_flows(0..u32::MAX, now, &mut |seen| !backends.contains(&seen.record.backend))?;
            // No flow of these backends is live any more. A walk would correct the counts too late, since the backends take
            // flows again now.
            for &number in backends {
                let live = tables.live().get(number as usize).map_or(0, |live| live.load(Ordering::Relaxed));
                if live != 0 {
                    tables.add_live(number, live.cast_signed().wrapping_neg())?;
                }
            }
            return Ok(deleted);
        }
        Operation::AddEgress(interface) => tables.add_egress(*interface)?,
        Operation::RemoveEgress(interface) => tables.remove_egress(*interface)?,
        Operation::ServiceMeta { number, meta } => tables.set_service_meta(*number, meta)?,
        Operation::Service { number, record } => tables.set_service(*number, record)?,
        Operation::BackendMeta { number, meta } => tables.set_backend_meta(*number, meta)?,
        Operation::Backend { number, record } => tables.set_backend(*number, record)?,
        Operation::ResetService { number, takes_over: _ } => tables.reset_service_tally(*number)?,
        Operation::ResetBackend(number) => tables.reset_backend_tally(*number)?,
        Operation::Slots { words, .. } => tables.set_slots(words)?,
        Operation::NoteElsewhere(ring) => tables.note_elsewhere(*ring)?,
        Operation::Index { at, word } => tables.set_index(*at, *word)?,
        Operation::ServiceCache { at, entry } => tables.set_service_cache(*at, entry)?,
        Operation::ServiceCacheKeys(keys) => {
            for (at, key) in keys {
                tables.set_cache_key(*at, *key)?;
            }
        }
        Operation::Known { at, word } => tables.set_known(*at, *word)?,
        Operation::AddHost(address) => tables.add_host(address)?,
        Operation::RemoveHost(address) => tables.remove_host(address)?,
        Operation::Ingress { interface, mtu } => tables.set_ingress(*interface, *mtu)?,
        Operation::RemoveIngress(interface) => tables.remove_ingress(*interface)?,
        Operation::Node(node) => tables.set_node(node)?,
        Operation::Barrier => tables.barrier()?,
    }
    Ok(0)
}
