//! What happened, for `lbctl events`: the last events in memory, each also a line in the log.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use log::Level;

use crate::control::view::Event;

/// Events that are kept; older ones are only in the log.
const KEPT: usize = 4096;

/// The events of this life of the agent.
#[derive(Debug, Default)]
pub struct Journal {
    events: VecDeque<Event>,
    last: u64,
}

impl Journal {
    /// Notes an event and logs it.
    pub fn note(&mut self, level: Level, kind: &str, object: impl Into<String>, message: impl Into<String>) {
        let (object, message) = (object.into(), message.into());
        log::log!(level, "{kind}: {object}{}{message}", if object.is_empty() { "" } else { ": " });
        self.last += 1;
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            number: self.last,
            at_ms: milliseconds_since_1970(),
            kind: kind.to_owned(),
            object,
            message,
        });
    }

    /// Events with numbers above `since`, oldest first.
    pub fn since(&self, since: u64) -> Vec<Event> {
        let first = self.events.partition_point(|event| event.number <= since);
        self.events.range(first..).cloned().collect()
    }
}

/// Wall-clock time; 0 for a clock before 1970.
pub fn milliseconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_kept_and_found_by_number() {
        let mut journal = Journal::default();
        for i in 0..KEPT + 10 {
            journal.note(Level::Debug, "test", "", i.to_string());
        }
        assert_eq!(journal.since(0).len(), KEPT);
        assert_eq!(journal.since(0)[0].number, 11);
        let newest: Vec<_> = journal.since(KEPT as u64 + 8).iter().map(|e| e.number).collect();
        assert_eq!(newest, [KEPT as u64 + 9, KEPT as u64 + 10]);
        assert!(journal.since(u64::MAX).is_empty());
    }
}
