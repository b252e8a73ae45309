//! The agent: one loop that owns the configuration, what was observed, and the tables. The agent is the only writer of
//! the tables.
//!
//! Inputs are the control socket, health verdicts, the kernel's routing, signals and time. Each input ends in the same
//! few steps: what should be in force ([`state`]), what the tables must say ([`desired`]), the difference
//! ([`reconcile`]), and the writes for it. Nothing here decides what a packet does.

mod audit;
mod by_backend;
pub mod clock;
mod config_store;
mod confirm;
pub mod desired;
mod doubt;
mod dry_run;
mod egress;
mod firsts;
mod flood;
mod flow_sweep;
mod history;
mod host;
pub mod interfaces;
pub mod journal;
mod last_change;
mod leaving;
pub mod logger;
mod management;
mod manager;
mod merging;
mod next_hops;
mod notes;
mod pins;
mod process;
mod reply;
mod requests;
mod restart;
mod ring_diff;
pub mod rings;
pub mod run;
mod slow_start;
mod surroundings;
#[cfg(test)]
mod tests;
mod tracking_causes;
mod transitions;
mod verdicts;
mod views;
mod waiting;
mod watched;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    config_store::{ConfigStore, DesiredConfig},
    doubt::Doubts,
    egress::{Egress, Port},
    flow_sweep::Sweeper,
    interfaces::Interfaces,
    journal::Journal,
    last_change::LastChanges,
    leaving::InForce,
    management::Management,
    rings::Rings,
    slow_start::SlowStarts,
    surroundings::Surroundings,
    tracking_causes::TrackingCauses,
    transitions::Said,
    verdicts::Verdicts,
    watched::Watched,
};
pub use self::{interfaces::Host, run::Options};
use crate::{
    api::{
        kind::Kind,
        view::{ApiError, Changed, Code},
    },
    config::{
        commit_confirm::Unconfirmed,
        spec::{Listen, Spec},
        words::plural,
    },
    health::scheduler::Scheduler,
    histogram::Histogram,
    net::{Hop, Hops, Seeds},
    reconcile::{Plan, PlanError, Reconciler, Refusal, mirror, operation::Operation},
    state::{self, Before, State},
    tables::{TableError, Tables},
};
use lb_common::slot::Slot;

/// The least time between sweeps of the flow tables, and between attempts to attach.
const TICK: Duration = Duration::from_secs(5);

/// The agent between two inputs.
pub struct Agent<T> {
    instance: String,
    store: ConfigStore,
    reconciler: Reconciler<T>,
    rings: Rings,
    /// The configuration, with the backends of the one before that serve on.
    in_force: InForce,
    /// What is in force of the configuration, in the order of its services.
    effective: Vec<state::Service>,
    /// What was in force, also from an agent before us; by what flows know of a backend (listener and address).
    before: HashMap<(Listen, IpAddr), Before>,
    /// Since when backends take no flows because they are down, in milliseconds of the monotonic clock.
    failing: HashMap<(Listen, IpAddr), u64>,
    doubts: Doubts,
    /// By service: how often many failures at once were not believed.
    doubted: HashMap<String, u64>,
    slow_starts: SlowStarts,
    /// By service: how often too few backends were healthy, so that health was ignored.
    health_ignored: HashMap<String, u64>,
    scheduler: Scheduler,
    verdicts: Verdicts,
    /// What the kernel's routing says.
    found: Hops,
    /// The next hops of an agent before us.
    adopted_hops: Seeds,
    egress: Egress,
    /// Why losses behind the program are not counted.
    uncounted: Option<String>,
    /// The next hops of `found` that can be used.
    hops: HashMap<IpAddr, Result<Hop, String>>,
    /// What is wrong with next hops that are known.
    hop_notes: HashMap<IpAddr, String>,
    interfaces: Interfaces,
    surroundings: Surroundings,
    journal: Journal,
    /// What was reported of services and backends.
    said: Said,
    started: Instant,
    adopted: bool,
    /// Seconds since 1970.
    applied_at: u64,
    /// Why the last attempt to change something was refused.
    last_error: Option<String>,
    last_changes: LastChanges,
    /// Why slots are tracked.
    causes: TrackingCauses,
    /// The tables are not as they should be; the agent tries again later.
    apply_pending: bool,
    /// Something is left out of the tables until numbers are free; the agent tries again later.
    waits: bool,
    /// How long changes took to be written.
    applies: Histogram,
    sweeper: Sweeper,
    /// Pins do not outlive the processes of this mount namespace.
    not_lasting: bool,
    pins: Watched,
    management: Management,
}

/// A plan and its purpose: made without any side effect, carried out only as a whole.
struct Proposal {
    in_force: InForce,
    effective: Vec<state::Service>,
    rings: Rings,
    plan: Plan,
    /// The time for which the plan is made, in the steps of slot words.
    since: u16,
    /// What the plan leaves out until numbers are free.
    waiting: Vec<String>,
}

impl<T: Tables + Host> Agent<T> {
    /// An agent over tables that are empty or that an agent before it made.
    fn new(
        instance: String,
        store: ConfigStore,
        tables: T,
        adopted: bool,
        scheduler: Scheduler,
    ) -> Result<Self, TableError> {
        let reconciler = Reconciler::new(tables)?;
        let (mut before, mut adopted_hops) = (HashMap::new(), Seeds::new());
        if adopted {
            for service in reconciler.running(clock::since()) {
                for backend in service.backends {
                    adopted_hops.extend(next_hops::seed(&backend.record).map(|seed| (backend.address, seed)));
                    let alive = backend.record.is_alive();
                    let was = Before { in_ring: backend.slots > 0, alive, untried: false };
                    before.insert((service.listen, backend.address), was);
                }
            }
        }
        Ok(Self {
            instance,
            in_force: InForce::of(&store.desired().spec),
            store,
            reconciler,
            rings: Rings::default(),
            effective: Vec::new(),
            before,
            failing: HashMap::new(),
            doubts: Doubts::default(),
            doubted: HashMap::new(),
            slow_starts: SlowStarts::default(),
            health_ignored: HashMap::new(),
            scheduler,
            verdicts: Verdicts::default(),
            found: Hops::default(),
            adopted_hops,
            egress: Egress::default(),
            uncounted: None,
            hops: HashMap::new(),
            hop_notes: HashMap::new(),
            interfaces: Interfaces::default(),
            surroundings: Surroundings::default(),
            journal: Journal::default(),
            said: Said::default(),
            started: Instant::now(),
            adopted,
            applied_at: 0,
            last_error: None,
            last_changes: LastChanges::default(),
            causes: TrackingCauses::default(),
            apply_pending: false,
            waits: false,
            applies: Histogram::default(),
            sweeper: Sweeper::default(),
            not_lasting: false,
            pins: Watched::default(),
            management: Management::default(),
        })
    }

    /// What would be in force under `spec`, and what the agent would have to write. Changes nothing.
    fn plan_for(&mut self, wanted: &DesiredConfig) -> Result<Proposal, ApiError> {
        let in_force = self.with_leaving(&wanted.spec);
        let verdicts = self.verdicts.answers();
        let hop = |address: IpAddr| {
            let unasked = || Err(format!("the route to {address} is being looked up"));
            self.hops.get(&address).cloned().unwrap_or_else(unasked)
        };
        let now = clock::milliseconds();
        let mut effective = self.effective(&in_force.spec, &|s, b| verdicts.of(s, b), &hop, now);
        drop(verdicts);
        let spec = &in_force.spec;
        // A copy: a refused proposal must leave no trace in the rings in force and their fingerprint.
        let mut rings = self.rings.clone();
        let since = clock::since();
        let (plan, waiting) = self.planned(spec, wanted.fingerprint, &mut effective, &mut rings, since)?;
        Ok(Proposal { in_force, effective, rings, plan, since, waiting })
    }

    /// The configuration in force, with the backends of the one before that serve on.
    fn spec(&self) -> Arc<Spec> {
        self.in_force.spec.clone()
    }

    /// Carries out a proposal.
    fn apply_plan(&mut self, proposal: Proposal) -> Result<Changed, ApiError> {
        let Proposal { in_force, effective, rings, plan, since, waiting } = proposal;
        let taken = self.reconciler.usage().slots;
        let begun = Instant::now();
        let applied = self.reconciler.apply(&plan).map_err(|error| {
            let error = failed(&error);
            self.journal.note(Kind::ApplyFailed, "", error.message.clone());
            error
        })?;
        self.applies.note(begun.elapsed());
        self.note_causes(&plan, &effective, since);
        if applied.slots > 0 && self.reconciler.has_unused() {
            self.sweeper.ask();
        }
        self.note_transitions(&effective);
        let now = clock::milliseconds();
        self.slow_starts.note(&effective, &self.before, now);
        self.note_leaving(&in_force);
        let others = !Arc::ptr_eq(&in_force.spec, &self.in_force.spec) && in_force.spec != self.in_force.spec;
        // A ring that became free may make room for a ring that waits.
        self.waits = !waiting.is_empty() || self.reconciler.usage().slots < taken;
        (self.in_force, self.effective, self.rings) = (in_force, effective, rings);
        let mut failing = HashMap::new();
        for service in &self.effective {
            for backend in &service.backends {
                let key = (service.listen, backend.address);
                self.before.insert(key, backend.before());
                if backend.state == State::Down && !backend.in_ring {
                    failing.insert(key, self.failing.get(&key).copied().unwrap_or(now));
                }
            }
        }
        self.failing = failing;
        // Where a backend begins or ceases to serve on, its checks begin or end.
        if others && self.applied_at > 0 {
            self.set_targets();
        }
        let (writes, slots_changed) = (applied.writes, applied.slots);
        Ok(Changed { writes, slots_changed, summary: plan.summary, warnings: Vec::new() })
    }

    /// Brings the tables in line with what the agent has observed since.
    fn reconcile(&mut self) {
        let wanted = self.store.desired();
        let outcome = self.plan_for(&wanted).and_then(|proposal| self.apply_plan(proposal));
        self.apply_pending = outcome.is_err();
        match outcome {
            Ok(changed) if changed.writes > 0 => {
                let written = plural(changed.writes, "entry", "entries");
                log::debug!("{written} written, {} of them in rings", changed.slots_changed);
            }
            Ok(_) => {}
            Err(error) => self.refuse(Kind::RefreshFailed, &error),
        }
    }

    /// Asks again for the state of the interfaces that packets leave by, and judges the next hops by it. Returns whether
    /// the judgement has changed.
    fn look_at_egress(&mut self) -> bool {
        let ports = self.interfaces.attached_ports();
        self.look_from(ports)
    }

    /// The same, for a program that is attached to `ports`.
    fn look_from(&mut self, ports: Vec<Port>) -> bool {
        let spec = self.store.spec();
        let (host, now) = (self.reconciler.tables_mut(), clock::milliseconds());
        let wanted = &spec.node.interfaces;
        let changed = self.egress.look(&self.found, ports, wanted, host, &mut self.journal, now);
        if changed {
            self.judge();
        }
        changed
    }

    fn judge(&mut self) {
        let Hops { hops, notes } = self.egress.judged(&self.found);
        (self.hops, self.hop_notes) = (hops, notes);
    }

    /// Records that something was refused; what ran before keeps running.
    fn refuse(&mut self, kind: Kind, error: &ApiError) {
        let mut message = error.message.clone();
        if !error.details.is_empty() {
            // One line, in a table as in the log.
            message = format!("{message}: {}", error.details.join("; "));
        }
        if self.last_error.as_ref() != Some(&message) {
            self.journal.note(kind, error.object.clone(), message.clone());
        }
        self.last_error = Some(message);
    }

    /// Records why slots are tracked from now on.
    fn note_causes(&mut self, plan: &Plan, new: &[state::Service], since: u16) {
        self.causes.keep(new);
        for operation in &plan.operations {
            let Operation::Slots { service, words } = operation else { continue };
            if !words.iter().any(|(_, word)| Slot(*word).is_learning()) {
                continue;
            }
            let meta = self.reconciler.mirror().service_metas.get(*service as usize);
            let Some(name) = meta.map(mirror::name) else { continue };
            let Some(new) = new.iter().find(|service| service.name == name) else { continue };
            let old = self.effective.iter().find(|service| service.name == name);
            self.causes.note(old, new, since);
        }
    }

    /// Reports the services whose health checks begin or cease to be late.
    fn look_at_checks(&mut self) {
        let troubles = self.scheduler.troubles();
        let late = |name: &str| troubles.get(name).and_then(|trouble| trouble.late);
        let before = std::mem::take(&mut self.said.late);
        for service in &self.store.spec().services {
            let object = || format!("service {}", service.name);
            match (late(&service.name), before.contains(&service.name)) {
                (Some(late), was) => {
                    if !was {
                        self.journal.note(Kind::ChecksLate, object(), notes::late_checks(late));
                    }
                    self.said.late.insert(service.name.clone());
                }
                (None, true) => self.journal.note(Kind::ChecksInTime, object(), "begin when they are due"),
                (None, false) => {}
            }
        }
    }

    /// When something is due without any input, in milliseconds of the monotonic clock.
    fn due(&self) -> Option<u64> {
        let backends = self.effective.iter().flat_map(|service| &service.backends);
        let weights = backends.filter_map(|backend| backend.slow).map(|slow| slow.next);
        let held = self.effective.iter().flat_map(|service| &service.backends).filter_map(|b| b.held_until);
        let leaving = self.in_force.deadlines.values().copied();
        let rest =
            self.store.unconfirmed().map(Unconfirmed::deadline_ms).into_iter().chain(self.doubts.due());
        weights.chain(held).chain(leaving).chain(rest).min()
    }

    /// Does what is due.
    fn do_what_is_due(&mut self) {
        self.roll_back_if_due();
        self.doubt();
        self.reconcile();
    }

    /// See [`next_hops::seeds`].
    fn seeds(&self) -> Seeds {
        next_hops::seeds(&self.adopted_hops, &self.found)
    }

    /// Every address that packets may be sent to.
    fn addresses(&self) -> Vec<IpAddr> {
        let spec = self.spec();
        let mut all: Vec<IpAddr> =
            spec.services.iter().flat_map(|service| service.backends.iter().map(|b| b.address)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What a tick does in addition to sweeps: interfaces that can be attached now, tables that are not as they should
    /// be.
    fn tick(&mut self) {
        let mode = self.store.spec().node.mode;
        self.look_at_pins();
        self.look_at_management();
        self.interfaces.check(self.reconciler.tables_mut(), &mut self.journal);
        self.interfaces.retry(mode, self.reconciler.tables_mut(), &mut self.journal);
        self.look_around();
        self.look_at_checks();
        if self.look_at_egress() || self.apply_pending || self.waits {
            self.reconcile();
        }
    }
}

/// The answer for a plan that could not be made, for the control socket.
fn refused(error: &PlanError) -> ApiError {
    match error {
        PlanError::Refused(reasons) => ApiError {
            code: if reasons.iter().all(Refusal::is_limit) { Code::LimitExceeded } else { Code::Invalid },
            message: "the running maps cannot hold this configuration; nothing was changed".to_owned(),
            object: String::new(),
            details: reasons.iter().map(Refusal::to_string).collect(),
        },
        PlanError::Tables(error) => failed(error),
    }
}

/// The answer for a map that could not be read or written, for the control socket.
fn failed(error: &TableError) -> ApiError {
    ApiError {
        code: Code::Failed,
        message: error.to_string(),
        object: "data path".to_owned(),
        details: Vec::new(),
    }
}
