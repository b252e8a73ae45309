//! From what the tables must say to what they say: [`plan`] is a pure diff of [`Desired`] against the
//! [`mirror::Mirror`], [`apply`] carries the plan out, [`sweep`] does what time brings. [`Reconciler`] holds tables and
//! mirror together for the agent's loop, the only writer.
//!
//! A change of backends, weights or health is a new [`Desired`] with new rings. A [`Desired`] that is applied twice writes
//! nothing the second time.

mod allocate;
pub mod apply;
pub mod backend;
pub mod desired;
pub mod impact;
pub mod known;
mod lacking;
mod lost;
pub mod mirror;
pub mod operation;
mod places;
pub mod plan;
pub mod refusal;
mod returning;
pub mod ring;
pub mod running;
pub mod service_cache;
pub mod service_index;
mod settle;
pub mod slot;
mod standing;
mod summary;
pub mod sweep;
pub mod takeover;
pub mod write_log;

#[cfg(test)]
mod tests;

use std::time::Duration;

use self::mirror::Mirror;
pub use self::{
    apply::Applied,
    desired::{Desired, RingWish},
    lacking::{Lack, Lacking, LackingService},
    plan::Plan,
    refusal::Refusal,
    running::FlowCounts,
    sweep::{Sweep, Swept},
};
use crate::tables::{TableError, Tables};

/// The longest window that a slot's 15-bit clock is used for: a third of the time in which the clock wraps.
pub const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// How long the agent keeps the flows of a backend that is down for its return, at most: as long as flows are remembered
/// anyway, and not longer than this. Until then the backend's slots learn.
pub const RETURN_GRACE: Duration = Duration::from_secs(300);

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The tables cannot say what is desired. Nothing was written.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Refusal>),
    #[error(transparent)]
    Tables(#[from] TableError),
}

/// Tables and what they say.
pub struct Reconciler<T> {
    tables: T,
    mirror: Mirror,
}

impl<T: Tables> Reconciler<T> {
    /// Reads the tables: empty ones, or those of an agent before this one.
    pub fn new(tables: T) -> Result<Self, TableError> {
        let mirror = Mirror::read(&tables)?;
        Ok(Self { tables, mirror })
    }

    pub fn tables(&self) -> &T {
        &self.tables
    }

    /// For what is next to the tables, such as attaching. A caller that writes entries here breaks the mirror.
    pub fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    /// Gives the tables back.
    #[cfg(test)]
    pub(crate) fn into_tables(self) -> T {
        self.tables
    }

    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The lengths to build rings with, for all services in their order. They are those of `wishes`, or the running length
    /// while flows of the last change of length or hash are still being learnt, or while the arena has no room for another
    /// ring. Ask again after rings were freed.
    pub fn ring_lengths(&self, wishes: &[RingWish]) -> Vec<u32> {
        places::lengths(&self.mirror, wishes)
    }

    /// The same for one service alone.
    #[cfg(test)]
    pub(crate) fn ring_length(&self, listen: &crate::config::spec::Listen, length: u32) -> u32 {
        let hash = crate::config::spec::Hash::FiveTuple;
        self.ring_lengths(&[RingWish { listen: *listen, length, hash }])[0]
    }

    /// What to do so that the tables say `desired`, at `now` (from `lb_common::slot::since`).
    pub fn plan(&mut self, desired: &Desired, now: u16) -> Result<Plan, PlanError> {
        // The kernel takes an interface out of the device map by itself when the interface vanishes.
        self.mirror.egress = self.tables.egress()?.into_iter().collect();
        let (slots, index, known) = (self.tables.slots(), self.tables.index(), self.tables.known());
        plan::plan(&self.mirror, plan::Words { slots, index, known }, desired, now)
            .map_err(PlanError::Refused)
    }

    /// What has to be left out of a `desired` that was refused, until numbers and rings are free; `None` = to leave things
    /// out does not help. `wishes` are those of the services of `desired`, in their order.
    pub fn lacking(&self, desired: &Desired, wishes: &[RingWish], now: u16) -> Option<Lacking> {
        lacking::lacking(&self.mirror, self.tables.slots(), desired, wishes, now)
    }

    /// Carries out a plan that was made from the present state.
    pub fn apply(&mut self, plan: &Plan) -> Result<Applied, TableError> {
        apply::apply(&mut self.tables, &mut self.mirror, plan)
    }

    /// Begins a sweep: see [`sweep`]. One sweep is under way at a time; a second one makes the mirror forget the first.
    pub fn begin_sweep(&mut self, now: u16) -> Result<Option<Sweep>, TableError> {
        sweep::begin(&self.tables, &mut self.mirror, now)
    }

    /// Goes on with a sweep, behind a barrier after it began: through the next `buckets` buckets of the flow table. Returns
    /// whether there are more.
    pub fn walk(&self, sweep: &mut Sweep, buckets: u32) -> Result<bool, TableError> {
        sweep::walk(&self.tables, &self.mirror, sweep, buckets)
    }

    /// Ends a sweep whose walk has come to the end.
    pub fn end_sweep(&mut self, sweep: Sweep, now: u16) -> Result<(Swept, FlowCounts), TableError> {
        sweep::end(&mut self.tables, &mut self.mirror, sweep, now)
    }

    /// A whole sweep at once.
    pub fn sweep(&mut self, now: u16) -> Result<Swept, TableError> {
        sweep::whole(&mut self.tables, &mut self.mirror, now).map(|(swept, _)| swept)
    }
}
