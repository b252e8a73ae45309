//! What a configuration would change, reported before the agent applies anything: `lbctl plan`. Computes everything as
//! an apply would, and stops before the first write. It assumes that new backends are healthy and reachable, and takes
//! the other backends as they are.

use std::{collections::HashMap, net::IpAddr, thread, time::Duration};

use tokio::sync::oneshot;

use super::{
    Agent, clock,
    config_store::DesiredConfig,
    interfaces::Host,
    notes,
    reply::json,
    restart::needs_restart,
    ring_diff::{self, RingDiff},
    rings::{Built, Rings},
    transitions, waiting,
};
use lb_common::slot::Track;

use crate::{
    api::{
        request::Reply,
        view::{ApiError, Plan, PlannedService},
    },
    config::{
        spec::{Backend, Listen, Service, Spec},
        words,
    },
    health::Verdict,
    net::Hop,
    reconcile::{
        impact::{self, Impact},
        running::{RunningBackend, RunningService},
    },
    state,
    tables::Tables,
};

/// The whole report except the number of flows, which another thread counts.
pub(super) struct DryRun {
    plan: Plan,
    /// For each service of the plan, its present state and the planned one.
    concerned: Vec<Concerned>,
    affected: impact::Forecast,
}

/// A service of a plan.
struct Concerned {
    /// `None` = the service does not run.
    number: Option<u32>,
    window: Duration,
    track: Track,
    /// Every live flow of the service is recorded.
    recorded: bool,
    /// Slots lead to a backend that loses its flows, so some of these flows may have no record.
    unknown_cut: bool,
}

impl DryRun {
    /// Counts the flows and completes the plan.
    pub(super) fn finish(self) -> Plan {
        let Self { mut plan, concerned, affected } = self;
        let affected = affected.count();
        for (service, concerned) in plan.services.iter_mut().zip(concerned) {
            let of = concerned.number.and_then(|number| affected.get(&number)).cloned().unwrap_or_default();
            fill_view(service, &of, &concerned);
        }
        plan
    }
}

impl<T: Tables + Host> Agent<T> {
    /// Answers on a thread of its own, since the answer needs a sweep over the flow table.
    pub(super) fn answer_plan(&mut self, text: &str, name: &str, reply: oneshot::Sender<Reply>) {
        let answer = |plan: Result<Plan, ApiError>| plan.and_then(|plan| json(&plan));
        match self.dry_run(text, name) {
            Ok(run) => {
                // The client may be gone; where no thread starts, the dropped channel tells the client so.
                let work = move || drop(reply.send(answer(Ok(run.finish()))));
                if let Err(error) = thread::Builder::new().name("plan".to_owned()).spawn(work) {
                    log::error!("plan: {error}");
                }
            }
            Err(error) => drop(reply.send(answer(Err(error)))),
        }
    }

    /// The dry run of a text and its name in messages. Changes nothing.
    pub(super) fn dry_run(&mut self, text: &str, name: &str) -> Result<DryRun, ApiError> {
        let candidate = self.store.reloaded(Some(&(text.to_owned(), name.to_owned())))?;
        let DesiredConfig { spec, fingerprint } = &candidate.wanted;
        let mut effective = self.assumed(spec);
        let mut rings = self.rings.clone();
        let now = clock::since();
        let (plan, waiting) = self.planned(spec, *fingerprint, &mut effective, &mut rings, now)?;
        let affected = self.reconciler.impact(&plan, now).map_err(|error| super::failed(&error))?;
        let old = self.store.spec();
        let all = self.reconciler.running(now);
        let running: HashMap<Listen, &RunningService> =
            all.iter().map(|service| (service.listen, service)).collect();
        let (mut services, mut concerned) = (Vec::new(), Vec::new());
        let mut add = |service: &Service, slots: u32, compared: RingDiff, change: &str| {
            services.push(planned(service, slots, compared, change));
            let is = running.get(&service.listen);
            let track = old.services.iter().find(|old| old.listen == service.listen).map(|old| old.track);
            let has_flows = |backend: &&RunningBackend| backend.slots > 0 || backend.learning_slots > 0;
            let mut losing = is.iter().flat_map(|is| &is.backends).filter(has_flows);
            concerned.push(Concerned {
                number: is.map(|is| is.number),
                window: service.window,
                track: service.track,
                recorded: track == Some(Track::Always) && is.is_some_and(|is| is.states.learning == 0),
                unknown_cut: losing.any(|backend| affected.dying().contains(&backend.number)),
            });
        };
        for service in &spec.services {
            let Some(is) = rings.built(&service.name) else { continue };
            let before = old.services.iter().find(|old| old.listen == service.listen);
            match before.and_then(|before| self.rings.built(&before.name)) {
                Some(was) => add(service, is.slots(), ring_diff::compare(was, is), "changed"),
                None => add(service, is.slots(), ring_diff::fresh(is), "new"),
            }
        }
        for service in old.services.iter().filter(|old| spec.services.iter().all(|s| s.listen != old.listen))
        {
            let Some(was) = self.rings.built(&service.name) else { continue };
            add(service, was.slots(), ring_diff::gone(was), "removed");
        }
        let mut warnings = self.cuts(&effective);
        warnings.extend(
            notes::Change { old: &old, new: spec, before: &self.effective, after: &effective, rings: &rings }
                .warnings(),
        );
        warnings.extend(self.waiting_rings(spec, &all, &rings));
        warnings.extend(waiting::warnings(waiting));
        for (service, leaving) in self.with_leaving(spec).leaving(spec) {
            let names: Vec<&str> = leaving.iter().map(|backend| backend.name.as_str()).collect();
            warnings.push(format!(
                "service {}: {} until a backend that the file names is up, at most {} (handover)",
                service.name,
                transitions::serve_on(&names),
                words::duration(service.handover)
            ));
        }
        let plan = Plan {
            summary: candidate.summary,
            services,
            warnings,
            writes: plan.entries(),
            needs_restart: needs_restart(&old, spec).into_iter().map(str::to_owned).collect(),
        };
        Ok(DryRun { plan, concerned, affected })
    }

    /// Changes of hash and ring length that would have to wait.
    fn waiting_rings(&self, new: &Spec, running: &[RunningService], rings: &Rings) -> Vec<String> {
        let slots = |service: &Service, running: &RunningService| {
            rings.built(&service.name).map_or(running.ring.length(), Built::slots)
        };
        let mut running = running.to_vec();
        // The other services change their hash at once, unless they do not get the length that they ask for.
        running.retain(|running| {
            let new = new.services.iter().find(|service| service.listen == running.listen);
            let waits = |service: &Service| slots(service, running) != service.max_backends.length();
            running.learns_from_old_ring || new.is_some_and(waits)
        });
        notes::waiting_rings(&self.store.spec(), new, &running, &slots)
    }

    /// Backends whose flows would be cut: they are alive now, and would not be afterwards.
    fn cuts(&self, new: &[state::Service]) -> Vec<String> {
        let mut warnings = Vec::new();
        for service in &self.effective {
            let name = &service.name;
            let Some(is) = new.iter().find(|new| new.listen == service.listen) else {
                // A removed service reports that itself; a service at another address would look as if it stayed.
                if let Some(is) = new.iter().find(|new| new.name == *name) {
                    warnings.push(format!(
                        "service {name} would lose all its flows at once: they are addressed to {}, not to {}",
                        service.listen, is.listen
                    ));
                }
                continue;
            };
            for backend in service.backends.iter().filter(|backend| backend.alive) {
                // A backend at another address is another backend.
                let alive = is.backends.iter().any(|b| b.address == backend.address && b.alive);
                if !alive {
                    let backend = &backend.name;
                    warnings.push(format!(
                        "backend {name}/{backend} would lose its flows at once; to let them end first: `lbctl backend \
                         drain {name}/{backend} --wait`"
                    ));
                }
            }
        }
        warnings
    }

    /// What would be in force if everything new worked, with whole weights.
    fn assumed(&self, spec: &Spec) -> Vec<state::Service> {
        let verdicts = self.verdicts.answers();
        let health = |service: &Service, backend: &Backend| match verdicts.of(service, backend) {
            // For a backend that neither takes flows nor was ever checked, assume the best.
            Verdict::Checking if !self.before.contains_key(&(service.listen, backend.address)) => Verdict::Up,
            verdict => verdict,
        };
        let mut routed = self.hops.values().filter_map(|hop| hop.as_ref().ok());
        let any = routed.next().cloned();
        let hops = |address: IpAddr| match self.hops.get(&address) {
            Some(hop) => hop.clone(),
            None => Ok(any.clone().unwrap_or_else(|| placeholder_hop(address))),
        };
        self.effective(spec, &health, &hops, clock::milliseconds())
    }
}

/// A next hop for an address while the agent knows none at all.
fn placeholder_hop(address: IpAddr) -> Hop {
    Hop {
        interface: 1,
        interface_name: String::new(),
        via: address,
        mac: [0; 6],
        local_mac: [0; 6],
        mtu: 1500,
        source: address,
    }
}

fn planned(service: &Service, slots: u32, compared: RingDiff, change: &str) -> PlannedService {
    let RingDiff { moved, collateral, backends } = compared;
    PlannedService {
        name: service.name.clone(),
        change: change.to_owned(),
        slots,
        slots_moved: moved,
        moved_percent: percent(moved, slots),
        slots_collateral: collateral,
        collateral_percent: percent(collateral, slots),
        backends,
        ..PlannedService::default()
    }
}

/// Adds what becomes of slot words and flows.
fn fill_view(service: &mut PlannedService, affected: &Impact, concerned: &Concerned) {
    let Concerned { number: _, window, track, recorded, unknown_cut } = *concerned;
    let Impact { slots_changed, slots_tracked, longest_learning, flows, cut } = affected;
    let changes = *slots_changed > 0 || *cut > 0 || !service.backends.is_empty();
    if service.change == "changed" && !changes {
        service.change = "unchanged".to_owned();
    }
    service.flows_in_moved_slots = *flows;
    service.flows_known = recorded || (*slots_changed == 0 && service.change != "removed");
    service.flows_cut = *cut;
    service.flows_cut_known = recorded || !unknown_cut;
    service.slots_tracked = *slots_tracked;
    if track == Track::Always && service.change != "removed" {
        // All slots of a new service are written, and no number of the tables counts them yet.
        if service.change == "new" {
            service.slots_tracked = service.slots;
        }
        return;
    }
    service.tracked_for_seconds = match *longest_learning {
        Some(learning) => Some(learning.ends_in(window)),
        None => (*slots_tracked > 0).then_some(window.as_secs()),
    };
}

/// The percentage, with one decimal.
fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { (f64::from(part) * 1000.0 / f64::from(whole)).round() / 10.0 }
}
