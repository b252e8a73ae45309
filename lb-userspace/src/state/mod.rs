//! What is wanted × what is observed → what should be in force: a pure function, called again after every change of
//! the configuration, of a health verdict or of a next hop. It knows no kernel and keeps nothing.

mod decide;
mod slow;
#[cfg(test)]
mod tests;

use self::decide::Held;
pub use self::slow::Slow;

use std::net::IpAddr;

use crate::{
    config::{
        spec::{self, AllDown, Hold, Listen, Spec},
        words::{Word, plural},
    },
    health::{Said, Verdict},
    net::Hop,
    ring::Entry,
};

/// How a backend is doing, in one word: the first of these that holds, except that `Waiting` comes right after `Disabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The operator took the backend and its flows out.
    Disabled,
    /// Its health check fails.
    Down,
    /// The operator drains it, or its weight is 0.
    Draining,
    /// No verdict yet.
    Checking,
    /// It would be up, but its next hop is not known.
    Unresolved,
    /// It is not in the maps yet: every number is taken, some of them by what was removed a moment ago.
    Waiting,
    Up,
}

impl State {
    /// The word that control socket, logs and metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Checking => "checking",
            Self::Unresolved => "unresolved",
            Self::Waiting => "waiting",
            Self::Up => "up",
        }
    }
}

/// What has been in force for a backend until now: from the last call, or from the maps of an agent before us. It counts
/// while there is no verdict, so that a restart, or a changed health check, moves nothing. It also counts for a failing
/// backend that stays in the ring or keeps its flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    pub in_ring: bool,
    pub alive: bool,
    /// It was in the ring although no check had shown that it works, since no other backend was known to work.
    pub untried: bool,
}

/// What the agent has observed.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    /// Not called for services without a health check.
    pub health: &'a dyn Fn(&spec::Service, &spec::Backend) -> Verdict,
    /// Why failing checks of the backend are not believed: too many backends fail at once.
    pub doubted: &'a dyn Fn(&spec::Service, &spec::Backend) -> Option<String>,
    /// What the backend says of itself in answer to its check.
    pub said: &'a dyn Fn(&spec::Service, &spec::Backend) -> Said,
    /// By backend address: the next hop, or why there is none.
    pub hops: &'a dyn Fn(IpAddr) -> Result<Hop, String>,
    /// By `listen` and address, which are what flows know of a backend; `None` = the backend is new.
    pub before: &'a dyn Fn(&Listen, IpAddr) -> Option<Before>,
    /// By `listen` and address: since when the backend takes no flows because it is down; `None` = it takes flows, or did until
    /// now.
    pub failing: &'a dyn Fn(&Listen, IpAddr) -> Option<u64>,
    /// Since when the backend is in the ring, or would be if it entered the ring now; `None` = it was there
    /// when the agent came, or it starts with its whole weight for another reason.
    pub entered: &'a dyn Fn(&spec::Service, &spec::Backend) -> Option<u64>,
    /// The time now, in milliseconds of the clock of `entered` and `failing`.
    pub now: u64,
}

/// One service, at the place that it has in [`Spec::services`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub listen: Listen,
    /// In the order of [`spec::Service::backends`]: by name.
    pub backends: Vec<Backend>,
    /// Too few backends are healthy, so health is ignored; how many, in words.
    pub health_ignored: Option<String>,
    /// Why failing checks are not believed, in words: too many backends fail at once.
    pub doubted: Option<String>,
    /// No backend passes its check: the backends that were in the ring stay there.
    pub failing: bool,
    /// Packets do not find the service yet, and why, in words: it waits for a number or a ring.
    pub waits: Option<String>,
}

impl Service {
    /// The service `web` of tests.
    #[cfg(test)]
    pub(crate) fn testing(backends: Vec<Backend>) -> Self {
        let listen = Listen { protocol: spec::Protocol::Tcp, address: [192, 0, 2, 1].into(), port: 80 };
        let name = "web".to_owned();
        Self { name, listen, backends, health_ignored: None, doubted: None, failing: false, waits: None }
    }

    /// What the ring is made of. Every backend has its place in it, so that owner `i` in the ring is
    /// `backends[i - 1]`; backends that are not in the ring have weight 0.
    pub fn entries(&self) -> Vec<Entry<'_>> {
        self.backends.iter().map(|backend| Entry { name: &backend.name, weight: backend.weight }).collect()
    }

    /// How many backends take new flows. With none of them the ring is empty, and packets are dropped as `no_backend`.
    pub fn usable(&self) -> usize {
        self.backends.iter().filter(|backend| backend.in_ring).count()
    }
}

/// One backend as it should be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    pub address: IpAddr,
    pub state: State,
    /// What its health check says; `None` = it has no health check, or it is disabled and not checked.
    pub health: Option<Verdict>,
    /// Why the backend is not `up`, in words.
    pub reason: Option<String>,
    /// It takes new flows.
    pub in_ring: bool,
    /// The weight in the ring: 1–1000 if `in_ring`, else 0.
    pub weight: u16,
    /// `weight` is a part of the configured weight and grows.
    pub slow: Option<Slow>,
    /// Established flows may go on here: [`lb_common::backend::Backend::ALIVE`] says so, and
    /// [`lb_common::slot::Slot::change`] lets slots learn from such a backend.
    pub alive: bool,
    /// It is leaving: [`lb_common::backend::Backend::DRAINING`].
    pub draining: bool,
    /// It is down and keeps its established flows until this time, in milliseconds of the monotonic clock.
    pub held_until: Option<u64>,
    /// It is in the ring although no check has shown that it works.
    pub untried: bool,
    /// What it says of itself.
    pub said: Said,
    /// `None` = not known (packets are dropped as `no_next_hop`), or not needed, since the backend is disabled.
    pub hop: Option<Hop>,
}

impl Backend {
    /// A backend of tests: up with this weight, or down without one.
    #[cfg(test)]
    pub(crate) fn testing(name: &str, weight: u16) -> Self {
        let is_up = weight > 0;
        Self {
            name: name.to_owned(),
            address: [10, 0, 0, 1].into(),
            state: if is_up { State::Up } else { State::Down },
            health: None,
            reason: None,
            in_ring: is_up,
            weight,
            slow: None,
            alive: is_up,
            draining: false,
            said: Said::default(),
            held_until: None,
            untried: false,
            hop: None,
        }
    }

    /// Leaves the backend out of the maps for now. A disabled one is still reported as disabled.
    pub fn wait(&mut self, why: &str) {
        if self.state != State::Disabled {
            self.state = State::Waiting;
        }
        let reasons = [Some(why), self.reason.as_deref()];
        self.reason = Some(reasons.into_iter().flatten().collect::<Vec<_>>().join("; "));
        (self.in_ring, self.weight, self.slow) = (false, 0, None);
        (self.alive, self.draining) = (false, false);
        (self.held_until, self.untried) = (None, false);
    }

    /// What the next call needs to know of this one.
    pub fn before(&self) -> Before {
        Before { in_ring: self.in_ring, alive: self.alive, untried: self.untried }
    }
}

/// What should be in force for `spec`, given what was observed.
pub fn effective(spec: &Spec, observed: Observed<'_>) -> Vec<Service> {
    spec.services.iter().map(|service| decide_service(service, observed)).collect()
}

/// What decides about the backends of a service, in addition to their own settings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Their verdicts.
    Verdicts,
    /// No backend is known to work: backends without a verdict count as working.
    Unchecked,
    /// There is no backend without a verdict either: the backends that were in the ring stay there.
    Failing,
}

fn decide_service(service: &spec::Service, observed: Observed<'_>) -> Service {
    let health_ignored = too_few_healthy(service, observed);
    let decide = |trust: Trust, heard: bool| -> Vec<Backend> {
        let ignored = health_ignored.is_some();
        let decide = |backend| decide_backend(service, backend, ignored, trust, heard, observed);
        service.backends.iter().map(decide).collect()
    };
    let owned = |backends: &[Backend]| backends.iter().any(|backend| backend.in_ring);
    let keeps = service.all_down == AllDown::Keep;
    let leave = service.backends.iter().any(|backend| (observed.said)(service, backend).leaves().is_some());
    let mut backends = decide(Trust::Verdicts, true);
    if !owned(&backends) {
        backends = decide(Trust::Unchecked, true);
    }
    // One that works and wants no new flows is better than one that does not work.
    if !owned(&backends) && keeps && leave {
        backends = decide(Trust::Unchecked, false);
    }
    let mut failing = false;
    for heard in [true, false] {
        if !owned(&backends) && keeps {
            backends = decide(Trust::Failing, heard);
            failing = owned(&backends);
        }
    }
    let doubted = service.backends.iter().find_map(|backend| {
        (verdict(service, backend, observed) == Verdict::Down)
            .then(|| (observed.doubted)(service, backend))?
    });
    Service {
        name: service.name.clone(),
        listen: service.listen,
        backends,
        health_ignored,
        doubted,
        failing,
        waits: None,
    }
}

/// Whether fewer than `min_healthy` of the backends that may take new flows are healthy, in words. A backend without a
/// verdict counts as healthy where it takes flows. It also counts so where the service begins, so that a start does not
/// ignore health. Where other backends take flows, a backend that waits for its first verdict carries none of them: it does
/// not count at all.
fn too_few_healthy(service: &spec::Service, observed: Observed<'_>) -> Option<String> {
    let least = service.min_healthy.filter(|_| service.health.is_some())?;
    let was_in_ring = |backend: &spec::Backend| {
        (observed.before)(&service.listen, backend.address).is_some_and(|before| before.in_ring)
    };
    let begins = !service.backends.iter().any(was_in_ring);
    let enabled = service
        .backends
        .iter()
        .filter(|b| b.admin == spec::Admin::Enabled && b.weight > 0)
        .filter(|backend| (observed.said)(service, backend).leaves().is_none());
    let (mut all, mut healthy) = (0, 0);
    for backend in enabled {
        let verdict = (observed.health)(service, backend);
        if verdict == Verdict::Checking && !begins && !was_in_ring(backend) {
            continue;
        }
        all += 1;
        healthy += usize::from(verdict != Verdict::Down);
    }
    let of = || plural(all as u64, "backend", "backends");
    (healthy < least.of(all)).then(|| format!("{healthy} of {} healthy, min_healthy is {least}", of()))
}

/// The next hop, if the service's encapsulation can go that way.
fn within_reach(service: &spec::Service, hop: Hop, backend: IpAddr) -> Result<Hop, String> {
    if service.encapsulation.kind().is_for_one_link() && hop.via != backend {
        return Err(format!(
            "encapsulation {} needs the backend on a network of this host, but the way to {backend} leads over router {}",
            service.encapsulation.word(),
            hop.via
        ));
    }
    Ok(hop)
}

fn verdict(service: &spec::Service, backend: &spec::Backend, observed: Observed<'_>) -> Verdict {
    match &service.health {
        Some(_) => (observed.health)(service, backend),
        None => Verdict::Up,
    }
}

fn decide_backend(
    service: &spec::Service,
    backend: &spec::Backend,
    health_ignored: bool,
    trust: Trust,
    heard: bool,
    observed: Observed<'_>,
) -> Backend {
    // Nothing is sent to a disabled backend, so its neighbour is not resolved either.
    let hop = (backend.admin != spec::Admin::Disabled).then(|| {
        (observed.hops)(backend.address).and_then(|hop| within_reach(service, hop, backend.address))
    });
    let before = (observed.before)(&service.listen, backend.address);
    let verdict = verdict(service, backend, observed);
    let said = (observed.said)(service, backend);
    let doubted = verdict == Verdict::Down && (observed.doubted)(service, backend).is_some();
    let failing = (observed.failing)(&service.listen, backend.address).unwrap_or(observed.now);
    let checked = service.health.is_some() && backend.admin != spec::Admin::Disabled;
    let decision = decide::decide(&decide::Input {
        admin: backend.admin,
        weight: backend.weight,
        said,
        heard,
        hold: match service.hold {
            Hold::Forever => Held::Forever,
            Hold::For(time) => Held::until(failing, time, observed.now),
        },
        verdict,
        health_ignored,
        doubted,
        trust,
        unresolved: hop.as_ref().and_then(|hop| hop.as_ref().err()).map(String::as_str),
        before,
    });
    let slow = service.slow_start.filter(|_| decision.in_ring).and_then(|whole| {
        let since = (observed.entered)(service, backend)?;
        Slow::of(since, observed.now, whole)
    });
    // One that has to take flows although it says 0% has its whole weight.
    let whole = if said.leaves().is_none() { said.weight(backend.weight) } else { backend.weight };
    Backend {
        name: backend.name.clone(),
        address: backend.address,
        state: decision.state,
        health: checked.then_some(verdict),
        reason: decision.reason,
        in_ring: decision.in_ring,
        weight: match slow {
            _ if !decision.in_ring => 0,
            Some(slow) => slow.weight(whole),
            None => whole,
        },
        slow,
        alive: decision.alive,
        draining: decision.draining,
        held_until: decision.held_until,
        untried: decision.untried,
        said,
        hop: hop.and_then(Result::ok),
    }
}
