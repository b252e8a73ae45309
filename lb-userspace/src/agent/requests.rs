//! Answers to the control socket. Every request that changes something takes the same steps: a candidate from the store,
//! a plan for it, the store's files, the tables. A refusal at any step leaves everything as it was.

use super::{
    Agent, Proposal, clock,
    config_store::{Candidate, Concerned, ConfigStore},
    dry_run::DryRun,
    interfaces::Host,
    notes,
    pins::NOT_LASTING,
    process,
    reply::{AfterRequest, json, not_found, unreadable},
    restart::needs_restart,
    views::{self, Counted, Reading, version},
    waiting,
};
use crate::{
    api::{
        attention::{self, Attention, Level},
        kind::Kind,
        request::{Reply, Request},
        scope::{Scope, Scopes},
        since::milliseconds_since_1970,
        view::{self, ApiError, Changed, Code},
    },
    config::{self, spec},
    health::Verdict,
    metrics, state,
    tables::Tables,
};

impl<T: Tables + Host> Agent<T> {
    /// Answers a request; the loop carries out [`Request::Detach`] afterwards.
    pub(super) fn answer(&mut self, request: &Request) -> (Reply, AfterRequest) {
        let reply = match request {
            Request::Version => json(&version()),
            Request::Status => self.reading().and_then(|reading| json(&self.status(&reading))),
            Request::Ready => json(&self.ready()),
            Request::Names => json(&views::names(&self.spec())),
            Request::Services => self.services().and_then(|services| json(&services)),
            Request::Service { service } => self.service(service).and_then(|service| json(&service)),
            Request::Backends { service } => self.service(service).and_then(|s| json(&s.backends)),
            Request::Backend { service, backend } => {
                self.backend(service, backend).and_then(|backend| json(&backend))
            }
            Request::BackendEvents { service, backend, filter } => {
                let events = self.journal.find_backend(&format!("{service}/{backend}"), filter);
                events.ok_or_else(|| unknown_backend(service, backend)).and_then(|events| json(&events))
            }
            Request::ServiceAdd { .. }
            | Request::ServiceSet { .. }
            | Request::ServiceRemove { .. }
            | Request::BackendAdd { .. }
            | Request::BackendSet { .. }
            | Request::BackendRemove { .. } => {
                self.change(&|store| store.candidate(request)).and_then(|changed| json(&changed))
            }
            Request::Config { secrets } => json(&self.store.view(*secrets, clock::milliseconds())),
            Request::ConfigCheck { text, name } => json(&self.store.check(text, name)),
            Request::Plan { text, name } => {
                self.dry_run(text, name).map(DryRun::finish).and_then(|plan| json(&plan))
            }
            Request::ConfigDiff => json(&self.store.diff()),
            Request::ConfigApply { replacement, confirm } => {
                self.apply(replacement.as_ref(), *confirm).and_then(|changed| json(&changed))
            }
            Request::ConfigConfirm => self.confirm().and_then(|changed| json(&changed)),
            Request::ConfigRollback => self.roll_back().and_then(|changed| json(&changed)),
            Request::ConfigSave => self
                .ensure_no_pending_confirm()
                .and_then(|()| self.change(&ConfigStore::saved))
                .and_then(|changed| json(&changed)),
            Request::ConfigRevert => self
                .ensure_no_pending_confirm()
                .and_then(|()| self.change(&ConfigStore::reverted))
                .and_then(|changed| json(&changed)),
            Request::Stats => {
                self.reading().and_then(|reading| self.stats(&reading)).and_then(|stats| json(&stats))
            }
            Request::Health => json(&self.health()),
            Request::Events(filter) => json(&self.journal.find(filter)),
            Request::Metrics(scopes) => self.metrics(*scopes).and_then(|text| json(&text)),
            Request::Detach => {
                let summary =
                    vec!["the program is taken off and every pin removed; the agent stops".to_owned()];
                return (json(&Changed { summary, ..Changed::default() }), AfterRequest::Detach);
            }
        };
        (reply, AfterRequest::Continue)
    }

    /// Reads the file again, or a text that takes its place, and applies it.
    pub(super) fn reload(&mut self, replacement: Option<&(String, String)>) -> Result<Changed, ApiError> {
        let changed = self.change(&|store| store.reloaded(replacement));
        match &changed {
            Ok(changed) => {
                self.last_error = None;
                let mut message = match changed.summary.len() {
                    0 => "nothing changed".to_owned(),
                    _ => changed.summary.join("; "),
                };
                if !self.journal.has_caller() {
                    message.insert_str(0, "SIGHUP: ");
                }
                self.journal.note(Kind::Changed, self.store.file(), message);
            }
            Err(error) => self.refuse(Kind::ConfigRefused, error),
        }
        changed
    }

    /// Carries out a change of the configuration, as a whole or not at all, and records the outcome.
    pub(super) fn change(
        &mut self,
        candidate: &dyn Fn(&ConfigStore) -> Result<Candidate, ApiError>,
    ) -> Result<Changed, ApiError> {
        let outcome = self.try_change(candidate);
        self.last_changes.note(&outcome);
        outcome
    }

    fn try_change(
        &mut self,
        candidate: &dyn Fn(&ConfigStore) -> Result<Candidate, ApiError>,
    ) -> Result<Changed, ApiError> {
        let candidate = candidate(&self.store)?;
        let proposal = self.plan_for(&candidate.wanted)?;
        let old = self.store.spec();
        self.keep_one_usable(candidate.backend.as_ref(), &proposal)?;
        let mut warnings = notes::Change {
            old: &old,
            new: &candidate.wanted.spec,
            before: &self.effective,
            after: &proposal.effective,
            rings: &proposal.rings,
        }
        .warnings();
        warnings.extend(waiting::warnings(proposal.waiting.clone()));
        let concerned = candidate.backend.as_ref().map(|c| (c.service.clone(), c.backend.clone()));
        let later = needs_restart(&old, &candidate.wanted.spec);
        // Files first: what the tables do must survive the agent.
        let summary = candidate.summary.clone();
        self.store.commit(candidate)?;
        let outcome = self.apply_plan(proposal);
        self.apply_pending = outcome.is_err();
        let mut changed = outcome?;
        self.applied_at = milliseconds_since_1970() / 1000;
        self.set_targets();
        let spec = self.store.spec();
        for (backend, changes) in config::backend_diff(&old, &spec) {
            self.journal.note_backend_change(&backend, &changes.join("; "));
        }
        let host = self.reconciler.tables_mut();
        self.interfaces.set(&spec.node.interfaces, spec.node.mode, host, &mut self.journal);
        if self.look_at_egress() {
            self.reconcile();
        }
        if !summary.is_empty() {
            changed.summary = summary;
        }
        for setting in later {
            let message = format!("{setting} takes effect when the agent starts again");
            self.journal.note(Kind::ConfigNeedsRestart, setting, message.clone());
            changed.summary.push(message);
        }
        if let Some((service, backend)) = concerned {
            warnings.extend(self.stays_out(&service, &backend));
        }
        let other_ring = |(old, new): (&spec::Service, &spec::Service)| {
            old.hash != new.hash || old.max_backends.length() != new.max_backends.length()
        };
        if old.services.iter().zip(&spec.services).any(other_ring) {
            let running = self.reconciler.running(clock::since());
            warnings.extend(notes::waiting_rings(&old, &spec, &running, &|_, running| running.ring.length()));
        }
        changed.warnings = warnings;
        Ok(changed)
    }

    /// A service must not lose its last usable backend by mistake: the client has to say that this is intended.
    fn keep_one_usable(&self, concerned: Option<&Concerned>, proposal: &Proposal) -> Result<(), ApiError> {
        let Some(Concerned { service, backend, force: false }) = concerned else { return Ok(()) };
        let usable = |services: &[state::Service]| {
            services.iter().find(|known| known.name == *service).map_or(0, state::Service::usable)
        };
        // Backends that serve on for a while are not a reason to give up the others.
        let leaving = proposal.in_force.deadlines.contains_key(&{
            let found = proposal.effective.iter().find(|known| known.name == *service);
            let Some(found) = found else { return Ok(()) };
            found.listen
        });
        if usable(&self.effective) == 0 || (usable(&proposal.effective) > 0 && !leaving) {
            return Ok(());
        }
        Err(ApiError {
            code: Code::Conflict,
            message: format!(
                "backend {service}/{backend} is the last usable one of service {service}, whose new flows would be dropped as \
                 no_backend; nothing was changed; --force (over HTTP `\"force\": true`) does it all the same"
            ),
            object: format!("backend {service}/{backend}"),
            details: Vec::new(),
        })
    }

    /// Why an enabled backend takes no new flows.
    fn stays_out(&self, service: &str, backend: &str) -> Option<String> {
        let spec = self.spec();
        let (place, wanted) = spec.services.iter().enumerate().find(|(_, known)| known.name == service)?;
        let of = wanted.backends.iter().zip(&self.effective.get(place)?.backends);
        let (wanted, state) = of.into_iter().find(|(wanted, _)| wanted.name == backend)?;
        // The answer already reports a backend that waits for a number.
        if state.state == state::State::Waiting {
            return None;
        }
        notes::stays_out(service, state, wanted)
    }

    fn reading(&self) -> Result<Reading, ApiError> {
        Reading::take(
            &self.reconciler,
            &self.sweeper,
            &self.hop_notes,
            Counted {
                health_ignored: self.health_ignored.clone(),
                doubted: self.doubted.clone(),
                transitions: self.said.transitions.clone(),
                checks: self.scheduler.durations(),
            },
            self.scheduler.troubles(),
            clock::milliseconds(),
        )
        .map_err(unreadable)
    }

    fn services(&self) -> Result<Vec<view::Service>, ApiError> {
        Ok(self.reading()?.services(&self.spec(), &self.effective, &self.causes))
    }

    fn service(&self, name: &str) -> Result<view::Service, ApiError> {
        let found = self.services()?.into_iter().find(|service| service.name == name);
        found.ok_or_else(|| not_found("service", name, "`lbctl service list` shows all"))
    }

    fn backend(&self, service: &str, name: &str) -> Result<view::Backend, ApiError> {
        let found = self.service(service)?.backends.into_iter().find(|backend| backend.name == name);
        found.ok_or_else(|| unknown_backend(service, name))
    }

    fn stats(&self, reading: &Reading) -> Result<view::Stats, ApiError> {
        let counters = self.reconciler.tables().counters().map_err(unreadable)?;
        let losses = self.reconciler.tables().losses().unwrap_or_default();
        Ok(reading.stats(&self.spec(), &counters, &losses, clock::milliseconds()))
    }

    fn status(&self, reading: &Reading) -> view::Status {
        let services = reading.lines(&self.spec(), &self.effective);
        view::Status { services, process: process::now(), ..self.node() }
    }

    /// The status without its services and what the process costs, which takes no time to speak of however many there are.
    fn node(&self) -> view::Status {
        view::Status {
            instance: self.instance.clone(),
            pid: std::process::id(),
            version: version().version,
            uptime_seconds: self.started.elapsed().as_secs(),
            config_file: self.store.file().to_owned(),
            applied_at: self.applied_at,
            last_error: self.last_error.clone(),
            last_change: self.last_changes.applied.clone(),
            last_refused: self.last_changes.refused.clone(),
            overlay_changes: self.store.overlay_changes(),
            rolls_back_in: self.store.rolls_back_in(clock::milliseconds()),
            needs_restart: self.store.needs_restart(),
            fallback: self.store.fallback().map(str::to_owned),
            not_lasting: self.not_lasting.then(|| NOT_LASTING.to_owned()),
            fingerprint: format!("{:016x}", self.rings.fingerprint()),
            fingerprint_unknown: format!("{:016x}", self.reconciler.standing()),
            adopted: self.adopted,
            interfaces: self.surroundings.annotated(self.interfaces.view()),
            pins_trouble: self.pins.wrong().len(),
            pins_mended: self.pins.mended(),
            management_trouble: self.management.state().wrong().len(),
            management_mended: self.management.state().mended(),
            notes: [self.pins.wrong(), self.management.state().wrong()]
                .concat()
                .into_iter()
                .chain(self.surroundings.notes())
                .collect(),
            egress: self.egress.view(self.reconciler.tables()),
            losses_not_counted: self.uncounted.clone(),
            services: Vec::new(),
            limits: views::limits(&self.reconciler),
            map_memory: self.reconciler.tables().memory().iter().map(|(_, bytes)| bytes).sum(),
            process: view::Process::default(),
            applies: views::durations(&self.applies),
        }
    }

    /// Whether packets find what the configuration says.
    fn ready(&self) -> view::Ready {
        let mut reasons = Vec::new();
        if self.applied_at == 0 {
            reasons.push("no configuration has been applied yet".to_owned());
        }
        if self.apply_pending {
            reasons.push("the maps do not say what the configuration does; the agent tries again".to_owned());
        }
        if self.interfaces.view().is_empty() {
            reasons.push("the program is attached nowhere".to_owned());
        }
        let mut attention = Vec::new();
        for Attention { level, object, message } in attention::of_node(&self.node()) {
            let found = if level == Level::Broken { &mut reasons } else { &mut attention };
            found.push(format!("{object}: {message}"));
        }
        view::Ready { ready: reasons.is_empty(), reasons, attention }
    }

    /// What health checks say, and why they fail where this host checks from a virtual address.
    fn health(&self) -> Vec<view::Health> {
        let spec = self.spec();
        let services = config::virtual_addresses(&spec);
        let from_one = self.hops.values().flatten().any(|hop| services.contains_key(&hop.source));
        let mut all: Vec<view::Health> =
            self.scheduler.snapshot().into_iter().map(views::last_check).collect();
        for health in all.iter_mut().filter(|health| from_one && health.verdict == Verdict::Down.name()) {
            let service = spec.services.iter().find(|service| service.name == health.service);
            let mut backends = service.iter().flat_map(|service| &service.backends);
            let Some(backend) = backends.find(|backend| backend.name == health.backend) else { continue };
            health.last = health.last.take().map(|why| self.with_virtual_source(backend.address, why));
        }
        all
    }

    fn metrics(&self, scopes: Scopes) -> Result<String, ApiError> {
        let spec = self.spec();
        let whole = Scopes::whole(spec.node.metrics_of_backends);
        let scopes = if scopes.is_empty() { whole } else { scopes };
        // Rings of a million slots are counted once, not three times.
        let reading = self.reading()?;
        let (of_services, of_backends) = (scopes.has(Scope::Service), scopes.has(Scope::Backend));
        let services = match of_services || of_backends {
            true => reading.services(&spec, &self.effective, &self.causes),
            false => Vec::new(),
        };
        let checks = if of_backends { self.scheduler.snapshot() } else { Vec::new() };
        let snapshot = metrics::Snapshot {
            status: &self.status(&reading),
            stats: &self.stats(&reading)?,
            services: &services,
            health: &checks.into_iter().map(views::last_check).collect::<Vec<_>>(),
        };
        Ok(metrics::render(&snapshot, scopes))
    }
}

fn unknown_backend(service: &str, name: &str) -> ApiError {
    not_found("backend", &format!("{service}/{name}"), &format!("`lbctl backend list {service}` shows all"))
}
