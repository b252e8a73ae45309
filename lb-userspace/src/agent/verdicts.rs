//! What the checks say, by address and question: a backend that gets another name, and a service that asks the same
//! question of the same address, have the answer at once. [`crate::state`] decides what verdicts do to rings.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Agent,
    by_backend::ByBackend,
    clock,
    doubt::Change,
    interfaces::Host,
    leaving::{self, InForce},
    views,
};
use crate::{
    api::kind::Kind,
    config::spec::{Admin, Backend, Health, Listen, Service, Spec},
    health::{
        Said, Verdict,
        scheduler::{Target, Update},
    },
    net::Hop,
    state,
    tables::Tables,
};

/// The last verdict on a backend.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) address: IpAddr,
    /// The check that was made.
    pub(super) health: Arc<Health>,
    pub(super) verdict: Verdict,
    /// What the backend says of itself.
    pub(super) said: Said,
}

impl Known {
    /// Whether the question is the same, at whatever interval the checks run.
    fn answers(&self, health: &Health) -> bool {
        self.verdict != Verdict::Checking
            && self.health.port == health.port
            && self.health.probe == health.probe
    }
}

/// The last verdict of the checks of each backend.
#[derive(Debug, Default)]
pub(super) struct Verdicts(ByBackend<Known>);

impl Verdicts {
    pub(super) fn insert(&mut self, service: &str, backend: &str, known: Known) {
        self.0.insert(service, backend, known);
    }

    /// Answers many questions about one state of the verdicts.
    pub(super) fn answers(&self) -> Answers<'_> {
        Answers { verdicts: self, by_address: OnceCell::new() }
    }
}

/// See [`Verdicts::answers`].
pub(super) struct Answers<'a> {
    verdicts: &'a Verdicts,
    /// Made at the first question for a backend without a verdict of its own.
    by_address: OnceCell<HashMap<IpAddr, Vec<&'a Known>>>,
}

impl Answers<'_> {
    /// The verdict on a backend: of its own checks, or otherwise of another backend's checks that ask the same of the
    /// same address.
    pub(super) fn of(&self, service: &Service, backend: &Backend) -> Verdict {
        self.known(service, backend).map_or(Verdict::Checking, |known| known.verdict)
    }

    /// What the backend says of itself in answer to the check that its verdict is of.
    pub(super) fn said(&self, service: &Service, backend: &Backend) -> Said {
        if !service.health.as_ref().is_some_and(|health| health.probe.speaks()) {
            return Said::default();
        }
        self.known(service, backend).map(|known| known.said).unwrap_or_default()
    }

    fn known(&self, service: &Service, backend: &Backend) -> Option<&Known> {
        let own = self.verdicts.0.get(&service.name, &backend.name);
        let own = own.filter(|known| known.address == backend.address && known.verdict != Verdict::Checking);
        if own.is_some() {
            return own;
        }
        let health = service.health.as_ref()?;
        let by_address = self.by_address.get_or_init(|| {
            let mut all: HashMap<IpAddr, Vec<&Known>> = HashMap::new();
            for known in self.verdicts.0.values() {
                all.entry(known.address).or_default().push(known);
            }
            all
        });
        let others = by_address.get(&backend.address).into_iter().flatten();
        let mut same = others.copied().filter(|known| known.answers(health));
        // If two verdicts differ, the one that takes the backend out is the older one: checks that pass are newer.
        same.clone().find(|known| known.verdict == Verdict::Up).or_else(|| same.next())
    }
}

impl<T: Tables + Host> Agent<T> {
    /// Takes in verdicts; the tables follow once for all of them.
    pub(super) fn on_health(&mut self, updates: Vec<Update>) {
        let spec = self.spec();
        let mut asked: HashMap<&str, Arc<Health>> = HashMap::new();
        for update in self.defer_recovered(updates) {
            let Update { service, backend, address, verdict, said: says, last, elapsed, .. } = update;
            // A verdict that was on its way when the configuration changed is of a backend that is no longer checked.
            let configured = spec.backend(&service, &backend).filter(|(_, known)| known.address == address);
            let Some((service, Some(health))) = configured.map(|(service, _)| (service, &service.health))
            else {
                continue;
            };
            let said = match verdict {
                Verdict::Up => Some(format!("answered in {:.2} ms", elapsed.as_secs_f64() * 1000.0)),
                Verdict::Down => {
                    let why = last.err().unwrap_or_else(|| "no answer".to_owned());
                    Some(self.with_virtual_source(address, why))
                }
                Verdict::Checking => None,
            };
            match said {
                Some(said) => self.said.probes.insert(&service.name, &backend, said),
                None => self.said.probes.remove(&service.name, &backend),
            };
            let health = asked.entry(&service.name).or_insert_with(|| Arc::new(health.clone())).clone();
            let known = Known { address, health, verdict, said: says };
            self.verdicts.insert(&service.name, &backend, known);
        }
        self.doubt();
        self.reconcile();
    }

    /// Why a check fails, and the cause where this host checks from a virtual address.
    pub(super) fn with_virtual_source(&self, address: IpAddr, why: String) -> String {
        let hop = self.hops.get(&address).and_then(|hop| hop.as_ref().ok());
        match hop.and_then(|hop| views::virtual_source(&self.spec(), hop)) {
            Some(cause) => format!("{why}; {cause}"),
            None => why,
        }
    }

    /// The configuration `wanted`, with the backends of the one in force that serve on.
    pub(super) fn with_leaving(&self, wanted: &Arc<Spec>) -> InForce {
        let verdicts = self.verdicts.answers();
        let works = |service: &Service, backend: &Backend| {
            let healthy = service.health.is_none() || verdicts.of(service, backend) == Verdict::Up;
            let stays = verdicts.said(service, backend).leaves().is_none();
            healthy && stays && self.hops.get(&backend.address).is_some_and(Result::is_ok)
        };
        leaving::in_force(wanted, &self.in_force, &self.effective, &works, clock::milliseconds())
    }

    /// What is in force of `spec` by the rules, given verdicts and next hops.
    pub(super) fn effective(
        &self,
        spec: &Spec,
        health: &dyn Fn(&Service, &Backend) -> Verdict,
        hops: &dyn Fn(IpAddr) -> Result<Hop, String>,
        now: u64,
    ) -> Vec<state::Service> {
        let doubted = |service: &Service, backend: &Backend| {
            self.doubts.of(&service.listen, backend.address).map(str::to_owned)
        };
        let answers = self.verdicts.answers();
        let said = |service: &Service, backend: &Backend| answers.said(service, backend);
        let before = |listen: &Listen, address: IpAddr| self.before.get(&(*listen, address)).copied();
        let failing = |listen: &Listen, address: IpAddr| self.failing.get(&(*listen, address)).copied();
        let entered = |service: &Service, backend: &Backend| {
            let before = before(&service.listen, backend.address);
            self.slow_starts.entered(&service.name, &backend.name, before, now)
        };
        let observed = state::Observed {
            health,
            doubted: &doubted,
            said: &said,
            hops,
            before: &before,
            failing: &failing,
            entered: &entered,
            now,
        };
        state::effective(spec, observed)
    }

    /// Another configuration is in force: checks what it names, and forgets what it does not name.
    pub(super) fn set_targets(&mut self) {
        let spec = self.spec();
        let (mut targets, mut probed) = (Vec::new(), ByBackend::default());
        let (mut known, mut flows) = (ByBackend::default(), HashSet::new());
        let answers = self.verdicts.answers();
        for service in &spec.services {
            for backend in &service.backends {
                known.insert(&service.name, &backend.name, ());
                flows.insert((service.listen, backend.address));
            }
            let Some(health) = &service.health else { continue };
            let health = Arc::new(health.clone());
            for backend in service.backends.iter().filter(|backend| backend.admin != Admin::Disabled) {
                let (verdict, said) = (answers.of(service, backend), answers.said(service, backend));
                let of = Known { address: backend.address, health: health.clone(), verdict, said };
                probed.insert(&service.name, &backend.name, of);
                targets.push(Target {
                    service: service.name.clone(),
                    backend: backend.name.clone(),
                    address: backend.address,
                    health: health.clone(),
                    initial: verdict,
                    said,
                });
            }
        }
        drop(answers);
        self.verdicts = Verdicts(probed);
        self.before.retain(|key, _| flows.contains(key));
        self.said.keep(&known);
        self.journal
            .follow(&known.names().map(|(service, backend)| format!("{service}/{backend}")).collect());
        self.scheduler.set_targets(targets);
    }

    /// Judges again which failures are believed.
    pub(super) fn doubt(&mut self) {
        let spec = self.spec();
        let answers = self.verdicts.answers();
        let mut verdicts: HashMap<(Listen, IpAddr), Verdict> = HashMap::new();
        for service in &spec.services {
            for backend in &service.backends {
                verdicts.insert((service.listen, backend.address), answers.of(service, backend));
            }
        }
        drop(answers);
        let verdict = |listen: &Listen, address: IpAddr| {
            verdicts.get(&(*listen, address)).copied().unwrap_or(Verdict::Checking)
        };
        let worked = |listen: &Listen, address: IpAddr| {
            self.before.get(&(*listen, address)).is_some_and(|before| before.alive && !before.untried)
        };
        let changes = self.doubts.look(&spec, &verdict, &worked, clock::milliseconds());
        for change in changes {
            let name = |listen: Option<Listen>| {
                let found = spec.services.iter().find(|service| Some(service.listen) == listen);
                found.map_or_else(String::new, |service| service.name.clone())
            };
            match change {
                Change::Begins(of, why) => {
                    let concerned =
                        spec.services.iter().filter(|s| of.is_none_or(|listen| s.listen == listen));
                    for service in concerned {
                        *self.doubted.entry(service.name.clone()).or_default() += 1;
                    }
                    let message =
                        format!("{why}: not believed until the rest answers, rings stay as they are");
                    self.journal.note(Kind::CorrelatedFailure, name(of), message);
                }
                Change::Ends(of) => {
                    self.journal.note(
                        Kind::CorrelatedFailureOver,
                        name(of),
                        "checks that fail are believed again",
                    );
                }
            }
        }
        let eager: HashSet<String> =
            spec.services.iter().filter(|s| self.doubts.concern(&s.listen)).map(|s| s.name.clone()).collect();
        self.scheduler.hurry(eager);
    }
}
