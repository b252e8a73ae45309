//! When backends entered the ring, for slow start. Only a backend that comes, or comes back, while its service works
//! starts slowly. The backends that an agent or a new service begins with have their whole weight at once.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::key;
use crate::{
    config::spec::Listen,
    state::{Backend, Before, Service, State},
};

type Key = (String, String);

/// What was in force, by what flows know of a backend (listener and address).
type Befores = HashMap<(Listen, IpAddr), Before>;

/// What is known of the backends of all services.
#[derive(Debug, Default)]
pub(super) struct SlowStarts {
    /// In milliseconds of the monotonic clock.
    since: HashMap<Key, u64>,
    /// Backends that their service began with and that have no verdict yet.
    first: HashSet<Key>,
    /// Services that have been in force.
    begun: HashSet<String>,
}

impl SlowStarts {
    /// Since when a backend is in the ring, or would be if it entered the ring `now`; `None` = it has its whole weight.
    pub(super) fn entered(
        &self,
        service: &str,
        backend: &str,
        before: Option<Before>,
        now: u64,
    ) -> Option<u64> {
        let key = key(service, backend);
        if before.is_some_and(|before| before.in_ring) {
            return self.since.get(&key).copied();
        }
        (self.begun.contains(service) && !self.first.contains(&key)).then_some(now)
    }

    /// Records what is in force from `now` on; `before` is what was in force until now.
    pub(super) fn note(&mut self, services: &[Service], before: &Befores, now: u64) {
        let mut known = HashSet::new();
        for service in services {
            for backend in &service.backends {
                let key = key(&service.name, &backend.name);
                self.note_backend(
                    service,
                    backend,
                    &key,
                    before.get(&(service.listen, backend.address)).copied(),
                    now,
                );
                known.insert(key);
            }
        }
        self.begun = services.iter().map(|service| service.name.clone()).collect();
        self.since.retain(|key, _| known.contains(key));
        self.first.retain(|key| known.contains(key));
    }

    fn note_backend(
        &mut self,
        service: &Service,
        backend: &Backend,
        key: &Key,
        before: Option<Before>,
        now: u64,
    ) {
        if backend.in_ring {
            if let Some(since) = self.entered(&service.name, &backend.name, before, now) {
                self.since.insert(key.clone(), since);
            }
            self.first.remove(key);
            return;
        }
        self.since.remove(key);
        match backend.state {
            State::Checking | State::Unresolved | State::Waiting if !self.begun.contains(&service.name) => {
                self.first.insert(key.clone());
            }
            State::Checking | State::Unresolved | State::Waiting | State::Up => {}
            // The backend was seen not to work, or the operator did not want it: when it comes, it comes back.
            State::Down | State::Draining | State::Disabled => {
                self.first.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(backends: &[(&str, State)]) -> Service {
        let backends = backends.iter().map(|&(name, state)| Backend {
            name: name.to_owned(),
            address: [10, 0, 0, name.as_bytes()[0]].into(),
            state,
            health: None,
            reason: None,
            in_ring: state == State::Up,
            weight: 100,
            slow: None,
            alive: true,
            draining: false,
            held_until: None,
            untried: false,
            said: crate::health::Said::default(),
            hop: None,
        });
        Service::testing(backends.collect())
    }

    /// Records one state after the other, a millisecond apart, and returns since when `a` is in the ring.
    fn since(history: &[&[(&str, State)]]) -> Option<u64> {
        let (mut entries, mut before) = (SlowStarts::default(), HashMap::new());
        for (now, &backends) in (0u64..).zip(history) {
            let service = service(backends);
            entries.note(std::slice::from_ref(&service), &before, now);
            let was = |b: &Backend| {
                ((service.listen, b.address), Before { in_ring: b.in_ring, alive: true, untried: false })
            };
            before = service.backends.iter().map(was).collect();
        }
        entries.since.get(&key("web", "a")).copied()
    }

    use State::{Checking, Disabled, Down, Draining, Unresolved, Up};

    #[test]
    fn what_a_service_begins_with_has_its_whole_weight_at_once() {
        assert_eq!(since(&[&[("a", Up)]]), None);
        assert_eq!(since(&[&[("a", Checking)], &[("a", Up)]]), None);
        assert_eq!(since(&[&[("a", Unresolved)], &[("a", Checking)], &[("a", Up)]]), None);
        assert_eq!(
            since(&[&[("a", Checking), ("b", Checking)], &[("a", Checking), ("b", Up)], &[("a", Up)]]),
            None
        );
    }

    #[test]
    fn what_comes_back_or_is_new_begins_when_it_enters() {
        for away in [Down, Draining, Disabled, Unresolved] {
            assert_eq!(
                since(&[&[("a", Up)], &[("a", away)], &[("a", Up)], &[("a", Up)]]),
                Some(2),
                "{away:?}"
            );
        }
        assert_eq!(since(&[&[("a", Checking)], &[("a", Down)], &[("a", Up)]]), Some(2), "down at the start");
        assert_eq!(since(&[&[("b", Up)], &[("a", Up), ("b", Up)]]), Some(1), "new");
        assert_eq!(
            since(&[&[("b", Up)], &[("a", Checking), ("b", Up)], &[("a", Up)]]),
            Some(2),
            "new and checked"
        );
    }

    #[test]
    fn a_backend_that_leaves_in_between_starts_again() {
        let history: [&[_]; 5] = [&[("a", Up)], &[("a", Down)], &[("a", Up)], &[("a", Down)], &[("a", Up)]];
        assert_eq!(since(&history), Some(4));
    }
}
