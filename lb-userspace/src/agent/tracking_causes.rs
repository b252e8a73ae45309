//! Why slots are tracked: what changed in a service at the moment when its slots got other owners, kept under the
//! `since` that the slot words carry. In memory only: of changes before the agent started, only the time is known, from
//! the words themselves, and not the reason.

use std::collections::{HashMap, VecDeque};

use crate::state::{Backend, Service};

/// How many changes are kept for each service, the newest ones.
const KEPT: usize = 64;

/// How many sentences are kept for each change.
const SENTENCES: usize = 8;

/// What changed, by service; the time is [`lb_common::slot::since`].
#[derive(Debug, Default)]
pub(super) struct TrackingCauses {
    kept: HashMap<String, VecDeque<Change>>,
}

#[derive(Debug)]
struct Change {
    since: u16,
    sentences: Vec<String>,
    /// The number of sentences that had no room.
    more: usize,
}

impl TrackingCauses {
    /// Records that slots of `new` changed at `since`; `old` is what was in force before, `None` = not known.
    pub(super) fn note(&mut self, old: Option<&Service>, new: &Service, since: u16) {
        let mut sentences = match old {
            Some(old) => differences(old, new),
            None => vec!["what the agent found differed from the configuration it started with".to_owned()],
        };
        if sentences.is_empty() {
            sentences.push("the ring was rebuilt, or its tracking was set again".to_owned());
        }
        let changes = self.kept.entry(new.name.clone()).or_default();
        if changes.back().is_none_or(|last| last.since != since) {
            if changes.len() == KEPT {
                changes.pop_front();
            }
            changes.push_back(Change { since, sentences: Vec::new(), more: 0 });
        }
        let Some(change) = changes.back_mut() else { return };
        for sentence in sentences {
            if change.sentences.contains(&sentence) {
                continue;
            }
            if change.sentences.len() < SENTENCES {
                change.sentences.push(sentence);
            } else {
                change.more += 1;
            }
        }
    }

    /// Forgets services that are gone.
    pub(super) fn keep(&mut self, services: &[Service]) {
        self.kept.retain(|name, _| services.iter().any(|service| service.name == *name));
    }

    /// What changed at `since`; empty = not known.
    pub(super) fn of(&self, service: &str, since: u16) -> Vec<String> {
        let changes = self.kept.get(service).into_iter().flatten();
        let Some(change) = changes.rev().find(|change| change.since == since) else { return Vec::new() };
        let mut sentences = change.sentences.clone();
        if change.more > 0 {
            sentences.push(format!("{} more", change.more));
        }
        sentences
    }
}

/// The differences that move slots or flows, a sentence for each backend.
fn differences(old: &Service, new: &Service) -> Vec<String> {
    let before: HashMap<&str, &Backend> = old.backends.iter().map(|b| (b.name.as_str(), b)).collect();
    let after: HashMap<&str, &Backend> = new.backends.iter().map(|b| (b.name.as_str(), b)).collect();
    let removed = old.backends.iter().filter(|backend| !after.contains_key(backend.name.as_str()));
    let mut sentences: Vec<String> = removed.map(|backend| format!("{} is removed", backend.name)).collect();
    for backend in &new.backends {
        let name = &backend.name;
        let Some(was) = before.get(name.as_str()) else {
            sentences.push(format!("{name} is new"));
            continue;
        };
        if was.address != backend.address {
            sentences
                .push(format!("{name} has another address: {} instead of {}", backend.address, was.address));
        }
        if (was.in_ring, was.alive) != (backend.in_ring, backend.alive) {
            let why = backend.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            sentences.push(format!("{name} is {}{why}", backend.state.name()));
        } else if was.weight != backend.weight {
            sentences.push(format!("{name} has weight {} instead of {}", backend.weight, was.weight));
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::state::State;

    fn backend(name: &str, weight: u16) -> Backend {
        Backend {
            name: name.to_owned(),
            address: IpAddr::from([10, 0, 0, 1]),
            state: if weight > 0 { State::Up } else { State::Down },
            health: None,
            reason: (weight == 0).then(|| "connection refused".to_owned()),
            in_ring: weight > 0,
            weight,
            slow: None,
            alive: weight > 0,
            draining: false,
            held_until: None,
            untried: false,
            said: crate::health::Said::default(),
            hop: None,
        }
    }

    fn service(backends: Vec<Backend>) -> Service {
        Service::testing(backends)
    }

    #[test]
    fn whatever_moves_slots_has_a_sentence() {
        let old = service(vec![backend("a", 1), backend("b", 1), backend("c", 1), backend("d", 1)]);
        let moved = Backend { address: IpAddr::from([10, 0, 0, 9]), ..backend("d", 1) };
        let new = service(vec![backend("b", 0), backend("c", 5), moved, backend("e", 1)]);
        let mut reasons = TrackingCauses::default();
        reasons.note(Some(&old), &new, 7);
        assert_eq!(
            reasons.of("web", 7),
            [
                "a is removed",
                "b is down: connection refused",
                "c has weight 5 instead of 1",
                "d has another address: 10.0.0.9 instead of 10.0.0.1",
                "e is new",
            ]
        );
        assert!(reasons.of("web", 8).is_empty() && reasons.of("dns", 7).is_empty());
    }

    #[test]
    fn simultaneous_changes_are_joined_and_counted() {
        let mut reasons = TrackingCauses::default();
        for n in 0..20 {
            reasons.note(Some(&service(vec![])), &service(vec![backend(&format!("b-{n}"), 1)]), 3);
        }
        let sentences = reasons.of("web", 3);
        assert_eq!((sentences.len(), sentences[8].as_str()), (SENTENCES + 1, "12 more"));
    }

    #[test]
    fn the_newest_changes_of_present_services_are_kept() {
        let mut reasons = TrackingCauses::default();
        let (one, two) = (service(vec![backend("a", 1)]), service(vec![backend("a", 2)]));
        for since in 0..100 {
            reasons.note(Some(&one), &two, since);
        }
        assert!(reasons.of("web", 35).is_empty() && !reasons.of("web", 36).is_empty());
        reasons.keep(&[]);
        assert!(reasons.of("web", 99).is_empty());
    }

    #[test]
    fn a_change_without_a_known_cause_has_a_reason() {
        let mut reasons = TrackingCauses::default();
        reasons.note(None, &service(vec![]), 1);
        reasons.note(Some(&service(vec![])), &service(vec![]), 2);
        assert!(reasons.of("web", 1)[0].contains("it started with"));
        assert!(reasons.of("web", 2)[0].contains("rebuilt"));
    }
}
