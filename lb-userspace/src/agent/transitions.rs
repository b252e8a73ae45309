//! What is worth an event when services and backends get a new state: one event for each transition, at a fitting level.
//! [`crate::state`] decides what is in force, `flood` decides how many lines the log gets.

use std::collections::{HashMap, HashSet};

use log::Level;

use super::{Agent, by_backend::ByBackend, clock, interfaces::Host, leaving::InForce};
use crate::{
    api::kind::Kind,
    config::words::{self, plural},
    state::{self, Backend, State},
    tables::Tables,
};

/// A backend that is down again within this many milliseconds flaps: this is known already, so it is not a warning.
const FLAP: u64 = 60_000;

/// What was reported before, as far as it matters for the next report.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// What the last probe of a backend said, until it is part of an event.
    pub(super) probes: ByBackend<String>,
    /// When the last down event of a backend was, in milliseconds of the monotonic clock.
    downs: ByBackend<u64>,
    /// How often the state of a backend changed.
    pub(super) transitions: ByBackend<u64>,
    /// Services that have no usable backend.
    without_backend: HashSet<String>,
    /// Services whose health checks are late.
    pub(super) late: HashSet<String>,
}

impl Said {
    /// Forgets what is no longer configured.
    pub(super) fn keep(&mut self, known: &ByBackend<()>) {
        self.probes.keep(known);
        self.downs.keep(known);
        self.transitions.keep(known);
    }

    /// Level and message of a backend's new state.
    fn transition(
        &mut self,
        service: &str,
        backend: &Backend,
        old: Option<State>,
        now: u64,
    ) -> (Level, String) {
        let probe = self.probes.remove(service, &backend.name);
        let kind = kind(backend.state);
        let mut message = match (&backend.reason, &probe) {
            (Some(reason), Some(probe)) if backend.state == State::Down => format!("{reason}: {probe}"),
            (Some(reason), _) => reason.clone(),
            (None, Some(probe)) => probe.clone(),
            (None, None) => match old {
                Some(State::Unresolved) => "its next hop is known".to_owned(),
                Some(State::Waiting) => "it waits no more".to_owned(),
                Some(State::Draining | State::Disabled) => "takes new flows again".to_owned(),
                _ => "takes new flows".to_owned(),
            },
        };
        let mut level = kind.level();
        if backend.state == State::Down {
            let before =
                self.downs.insert(service, &backend.name, now).map(|before| now.saturating_sub(before));
            if let Some(before) = before.filter(|before| *before < FLAP) {
                level = Level::Info;
                message.push_str(&format!("; flapping: it was also down {} s ago", before / 1000));
            }
        }
        (level, message)
    }
}

const fn kind(state: State) -> Kind {
    match state {
        State::Disabled => Kind::BackendDisabled,
        State::Down => Kind::BackendDown,
        State::Draining => Kind::BackendDraining,
        State::Checking => Kind::BackendChecking,
        State::Unresolved => Kind::BackendUnresolved,
        State::Waiting => Kind::BackendWaiting,
        State::Up => Kind::BackendUp,
    }
}

/// `web-1 serves on`, or `web-1 and 3 more serve on`.
pub(super) fn serve_on(names: &[&str]) -> String {
    match names {
        [one] => format!("{one} serves on"),
        [first, rest @ ..] => format!("{first} and {} more serve on", rest.len()),
        [] => "nothing serves on".to_owned(),
    }
}

impl<T: Tables + Host> Agent<T> {
    /// Records what differs from what was in force.
    pub(super) fn note_transitions(&mut self, new: &[state::Service]) {
        self.note_changes(new);
        self.note_unusable(new);
        self.note_ignored_health(new);
        self.note_failing(new);
    }

    /// One event for each backend whose state changed. The event of the change reports new backends, and a first check
    /// that passes is expected.
    fn note_changes(&mut self, new: &[state::Service]) {
        let old: HashMap<(&str, &str), State> = self
            .effective
            .iter()
            .flat_map(|service| {
                service.backends.iter().map(|backend| ((&*service.name, &*backend.name), backend.state))
            })
            .collect();
        let now = clock::milliseconds();
        for service in new {
            for backend in &service.backends {
                let before = old.get(&(&*service.name, &*backend.name)).copied();
                if before == Some(backend.state) || (before.is_none() && backend.state == State::Checking) {
                    continue;
                }
                if before.is_some() {
                    let so_far = self.said.transitions.get(&service.name, &backend.name).copied();
                    let one_more = so_far.unwrap_or(0) + 1;
                    self.said.transitions.insert(&service.name, &backend.name, one_more);
                }
                let (level, message) = self.said.transition(&service.name, backend, before, now);
                let object = format!("{}/{}", service.name, backend.name);
                let first = matches!(before, None | Some(State::Checking));
                if first && backend.state == State::Up {
                    self.journal.note_first_up(object, message);
                } else {
                    self.journal.note_state(level, kind(backend.state), object, message);
                }
            }
        }
        // A probe that changed no state, for example of a backend that drains, must not be part of a later event.
        self.said.probes.clear();
    }

    /// A service without a usable backend drops everything: worth an event of its own. While backends wait for their
    /// first verdict, for a number or for room, that is expected and no event.
    fn note_unusable(&mut self, new: &[state::Service]) {
        self.said.without_backend.retain(|name| new.iter().any(|service| service.name == *name));
        let had: HashSet<&str> =
            self.effective.iter().filter(|old| old.usable() > 0).map(|old| &*old.name).collect();
        for service in new.iter().filter(|service| !service.backends.is_empty()) {
            let (all, usable) = (service.backends.len(), service.usable());
            if usable > 0 {
                if self.said.without_backend.remove(&service.name) {
                    let all = plural(all as u64, "backend", "backends");
                    let message = format!("{usable} of {all} can take new flows again");
                    self.journal.note(Kind::ServiceUsable, &*service.name, message);
                }
                continue;
            }
            let waits = service.backends.iter().any(|b| matches!(b.state, State::Checking | State::Waiting));
            if (waits && !had.contains(&*service.name)) || self.said.without_backend.contains(&service.name) {
                continue;
            }
            self.said.without_backend.insert(service.name.clone());
            let message = "no backend is usable: new flows are dropped as no_backend";
            self.journal.note(Kind::ServiceWithoutBackend, &*service.name, message);
        }
    }

    /// One event for each service whose health begins or ceases to be ignored.
    fn note_ignored_health(&mut self, new: &[state::Service]) {
        self.health_ignored.retain(|name, _| new.iter().any(|service| service.name == *name));
        for service in new {
            let old = self.effective.iter().find(|old| old.name == service.name);
            let was = old.is_some_and(|old| old.health_ignored.is_some());
            match &service.health_ignored {
                Some(why) if !was => {
                    *self.health_ignored.entry(service.name.clone()).or_default() += 1;
                    let message = format!("{why}: health is ignored, all enabled backends take flows");
                    self.journal.note(Kind::HealthIgnored, &*service.name, message);
                }
                None if was => {
                    let message = "enough backends are healthy again: health counts";
                    self.journal.note(Kind::HealthCountsAgain, &*service.name, message);
                }
                _ => {}
            }
        }
    }

    /// One event for each service in which no backend passes its check, and one event when a backend passes again.
    fn note_failing(&mut self, new: &[state::Service]) {
        for service in new {
            let was = self.effective.iter().any(|old| old.name == service.name && old.failing);
            match (was, service.failing) {
                (false, true) => {
                    let message =
                        "no backend passes its check: the ring stays as it was (all_down = \"keep\")";
                    self.journal.note(Kind::ServiceFailing, &*service.name, message);
                }
                (true, false) => {
                    self.journal.note(
                        Kind::ServiceWorks,
                        &*service.name,
                        "the ring follows the checks again",
                    );
                }
                _ => {}
            }
        }
    }

    /// One event for each service in which backends of the configuration before begin or cease to serve on.
    pub(super) fn note_leaving(&mut self, new: &InForce) {
        for (service, backends) in new.leaving(&self.store.desired().spec) {
            if self.in_force.deadlines.contains_key(&service.listen) {
                continue;
            }
            let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
            let message = format!(
                "{} until a backend that the configuration names is up, at most {}",
                serve_on(&names),
                words::duration(service.handover)
            );
            self.journal.note(Kind::HandoverBegins, &*service.name, message);
        }
        for service in &self.in_force.spec.services {
            let listen = &service.listen;
            if self.in_force.deadlines.contains_key(listen) && !new.deadlines.contains_key(listen) {
                let over = self.in_force.deadlines.get(listen).is_some_and(|at| *at <= clock::milliseconds());
                let message = if over { "the time is over (handover)" } else { "a successor is up" };
                self.journal.note(Kind::HandoverEnds, &*service.name, message);
            }
        }
    }

    /// Logs the summaries of many events.
    pub(super) fn summarise(&mut self) {
        let unchecked = self.unchecked();
        self.journal.summarise(unchecked);
    }

    /// Backends that have no verdict yet.
    fn unchecked(&self) -> usize {
        let backends = self.effective.iter().flat_map(|service| &service.backends);
        backends.filter(|backend| backend.state == State::Checking).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(state: State, reason: Option<&str>) -> Backend {
        let reason = reason.map(ToOwned::to_owned);
        Backend { state, reason, in_ring: state == State::Up, ..Backend::testing("web-1", 0) }
    }

    #[test]
    fn no_transition_is_said_without_words() {
        use State::{Checking, Disabled, Down, Draining, Unresolved, Up, Waiting};
        for old in [
            None,
            Some(Checking),
            Some(Down),
            Some(Draining),
            Some(Disabled),
            Some(Unresolved),
            Some(Waiting),
            Some(Up),
        ] {
            for new in [Checking, Disabled, Down, Draining, Unresolved, Waiting, Up] {
                let (_, message) = Said::default().transition("web", &backend(new, None), old, 0);
                assert!(!message.is_empty(), "{old:?} -> {new:?}");
            }
        }
        let back = Said::default().transition("web", &backend(Up, None), Some(Draining), 0);
        assert_eq!(back, (Level::Info, "takes new flows again".to_owned()));
    }

    #[test]
    fn what_the_probe_said_is_part_of_the_one_event() {
        let mut said = Said::default();
        said.probes.insert("web", "web-1", "connection refused".to_owned());
        let down = backend(State::Down, Some("its health check fails"));
        let expected = (Level::Warn, "its health check fails: connection refused".to_owned());
        assert_eq!(said.transition("web", &down, Some(State::Up), 0), expected);
        said.probes.insert("web", "web-1", "answered in 3 ms".to_owned());
        let up = said.transition("web", &backend(State::Up, None), Some(State::Down), 0);
        assert_eq!(up, (Level::Info, "answered in 3 ms".to_owned()));
    }

    #[test]
    fn a_flapping_backend_is_an_event_not_a_warning() {
        let mut said = Said::default();
        let down = backend(State::Down, Some("its health check fails"));
        let mut level = |now| said.transition("web", &down, Some(State::Up), now).0;
        assert_eq!([level(1_000), level(13_000), level(72_999)], [Level::Warn, Level::Info, Level::Info]);
        assert_eq!(level(72_999 + FLAP), Level::Warn);
        let (_, message) = said.transition("web", &down, Some(State::Up), 145_000);
        assert_eq!(message, "its health check fails; flapping: it was also down 12 s ago");
    }
}
