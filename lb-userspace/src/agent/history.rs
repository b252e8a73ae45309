//! The last events of each backend: with thousands of backends, or one that flaps, the journal has long forgotten when and why a
//! quiet one changed. The journal adds to them and finds them.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::api::view::Event;

/// How many events of each backend are kept, about 300 bytes each.
const KEPT: usize = 16;
/// How many backends that are no longer configured are kept: who removed a backend is asked after it is gone.
const REMOVED: usize = 256;

/// By `service/backend`, oldest event first.
#[derive(Debug, Default)]
pub(super) struct History {
    backends: HashMap<String, VecDeque<Event>>,
    /// Those that are no longer configured, in the order in which they were removed.
    removed: VecDeque<String>,
}

impl History {
    /// Takes in which backends are configured.
    pub(super) fn follow(&mut self, configured: &HashSet<String>) {
        self.removed.retain(|name| !configured.contains(name));
        let mut gone: Vec<String> = self
            .backends
            .keys()
            .filter(|name| !configured.contains(*name) && !self.removed.contains(name))
            .cloned()
            .collect();
        gone.sort_unstable();
        self.removed.extend(gone);
        while self.removed.len() > REMOVED {
            if let Some(name) = self.removed.pop_front() {
                self.backends.remove(&name);
            }
        }
        for name in configured {
            self.begin(name);
        }
    }

    /// From now on this backend has a history.
    pub(super) fn begin(&mut self, name: &str) {
        if !self.backends.contains_key(name) {
            self.backends.insert(name.to_owned(), VecDeque::new());
        }
    }

    /// Adds an event, if its object is a backend.
    pub(super) fn add(&mut self, event: &Event) {
        let Some(events) = self.backends.get_mut(&event.object) else { return };
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(event.clone());
    }

    /// The events of a backend; `None` = no such backend is known.
    pub(super) fn of(&self, name: &str) -> Option<&VecDeque<Event>> {
        self.backends.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, object: &str) -> Event {
        Event {
            number,
            at_ms: number,
            level: "info".to_owned(),
            kind: "backend_up".to_owned(),
            object: object.to_owned(),
            message: String::new(),
            by: None,
        }
    }

    fn names(range: std::ops::Range<usize>) -> HashSet<String> {
        range.map(|n| format!("web/web-{n}")).collect()
    }

    fn numbers(history: &History, name: &str) -> Vec<u64> {
        history.of(name).into_iter().flatten().map(|event| event.number).collect()
    }

    #[test]
    fn a_backend_keeps_its_last_events_next_to_one_that_flaps() {
        let mut history = History::default();
        history.follow(&names(0..2));
        history.add(&event(1, "web/web-0"));
        for number in 2..1_000 {
            history.add(&event(number, "web/web-1"));
        }
        history.add(&event(1_000, "etc/lb.toml"));
        assert_eq!(numbers(&history, "web/web-0"), [1]);
        assert_eq!(numbers(&history, "web/web-1"), (1_000 - KEPT as u64..1_000).collect::<Vec<_>>());
        assert!(history.of("etc/lb.toml").is_none(), "not a backend");
    }

    #[test]
    fn a_removed_backend_keeps_its_events_for_a_while() {
        let mut history = History::default();
        history.follow(&names(0..1));
        history.add(&event(1, "web/web-0"));
        history.follow(&names(1..2));
        history.add(&event(2, "web/web-0"));
        assert_eq!(numbers(&history, "web/web-0"), [1, 2]);
        // It comes back, and goes on.
        history.follow(&names(0..2));
        history.add(&event(3, "web/web-0"));
        assert_eq!(numbers(&history, "web/web-0"), [1, 2, 3]);
        // Backends that come and go without end do not pile up.
        for n in 2..10 * REMOVED {
            history.follow(&names(n..n + 1));
        }
        assert_eq!((history.backends.len(), history.removed.len()), (REMOVED + 1, REMOVED));
        assert!(history.of("web/web-0").is_none());
    }
}
