//! How many lines of a kind the log gets: every line while there are few, one line a second for all of them while there
//! are many. This file decides; `journal` logs.

use std::{collections::BTreeMap, mem};

use log::Level;

use crate::api::kind::Kind;

/// Lines of one kind that are logged one by one within [`WINDOW`].
const BURST: usize = 8;
/// Milliseconds from the first line of a kind to the summary of the lines that were held back.
const WINDOW: u64 = 1_000;
/// This many summaries follow each other a [`WINDOW`] apart; those after them are [`LONG_WINDOW`] apart.
const SHORT_WINDOWS: u32 = 10;
/// Milliseconds.
const LONG_WINDOW: u64 = 10_000;

/// One line in place of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// The most severe level of these lines.
    pub(super) level: Level,
    pub(super) kind: Kind,
    pub(super) message: String,
}

/// For each kind, what was logged and what was held back.
#[derive(Debug, Default)]
pub(super) struct Flood(BTreeMap<Kind, Window>);

#[derive(Debug)]
struct Window {
    /// Milliseconds of the monotonic clock.
    ends: u64,
    logged: usize,
    held: usize,
    level: Level,
    first: String,
    /// How many summaries of this kind have followed each other.
    summaries: u32,
}

impl Flood {
    /// Whether a line about `object` is logged now; a line that is not is counted for the next summary.
    pub(super) fn admits(&mut self, kind: Kind, level: Level, object: &str, now: u64) -> bool {
        let fresh = || Window {
            ends: now + WINDOW,
            logged: 0,
            held: 0,
            level: Level::Trace,
            first: String::new(),
            summaries: 0,
        };
        let window = self.0.entry(kind).or_insert_with(fresh);
        if window.held == 0 && window.ends <= now {
            *window = fresh();
        }
        if window.logged < BURST {
            window.logged += 1;
            return true;
        }
        if window.held == 0 {
            object.clone_into(&mut window.first);
        }
        window.held += 1;
        // A smaller level is more severe.
        window.level = window.level.min(level);
        false
    }

    /// When the next summary is due, in milliseconds of the monotonic clock.
    pub(super) fn due(&self) -> Option<u64> {
        self.0.values().filter(|window| window.held > 0).map(|window| window.ends).min()
    }

    /// The summaries that are due.
    pub(super) fn summaries(&mut self, now: u64) -> Vec<Summary> {
        let due = self.0.iter_mut().filter(|(_, window)| window.held > 0 && window.ends <= now);
        due.map(|(kind, window)| {
            window.summaries += 1;
            window.ends = now + if window.summaries < SHORT_WINDOWS { WINDOW } else { LONG_WINDOW };
            let held = mem::take(&mut window.held);
            let level = mem::replace(&mut window.level, Level::Trace);
            let first = mem::take(&mut window.first);
            let message = format!("{held} more, the first {first}; `lbctl events` has them all");
            Summary { level, kind: *kind, message }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines for `events` of one kind, one event every `every` milliseconds.
    fn lines(flood: &mut Flood, begin: u64, events: u64, every: u64) -> (usize, Vec<Summary>) {
        let (mut single, mut summaries) = (0, Vec::new());
        for n in 0..events {
            let now = begin + n * every;
            if flood.due().is_some_and(|due| due <= now) {
                summaries.extend(flood.summaries(now));
            }
            single += usize::from(flood.admits(Kind::BackendDown, Level::Warn, &format!("web/web-{n}"), now));
        }
        (single, summaries)
    }

    #[test]
    fn a_few_are_logged_one_by_one() {
        let mut flood = Flood::default();
        assert_eq!(lines(&mut flood, 0, BURST as u64, 1), (BURST, vec![]));
        assert_eq!(flood.due(), None);
        // Once a second for an hour is not a flood.
        assert_eq!(lines(&mut flood, 5_000, 3_600, 1_000), (3_600, vec![]));
    }

    #[test]
    fn suppressed_lines_become_one_with_count_and_first() {
        let mut flood = Flood::default();
        assert_eq!(lines(&mut flood, 0, 1_000, 0), (BURST, vec![]));
        assert_eq!(flood.due(), Some(WINDOW));
        let message =
            format!("{} more, the first web/web-{BURST}; `lbctl events` has them all", 1_000 - BURST);
        let summary = Summary { level: Level::Warn, kind: Kind::BackendDown, message };
        assert_eq!(flood.summaries(WINDOW), [summary]);
        assert_eq!((flood.due(), flood.summaries(WINDOW)), (None, vec![]));
    }

    #[test]
    fn ten_thousand_within_a_minute_are_less_than_thirty_lines() {
        let mut flood = Flood::default();
        let (single, summaries) = lines(&mut flood, 0, 10_000, 6);
        assert_eq!(single, BURST, "no single lines between the summaries");
        assert!(single + summaries.len() < 30, "{summaries:?}");
        let last = summaries.last().unwrap();
        assert!(last.message.starts_with("1667 more"), "ten seconds: {last:?}");
    }

    #[test]
    fn after_a_quiet_second_lines_are_single_again() {
        let mut flood = Flood::default();
        lines(&mut flood, 0, 100, 0);
        flood.summaries(WINDOW);
        assert!(!flood.admits(Kind::BackendDown, Level::Warn, "a", WINDOW + 1), "the flood goes on");
        flood.summaries(2 * WINDOW);
        assert!(flood.admits(Kind::BackendDown, Level::Warn, "a", 3 * WINDOW));
    }

    #[test]
    fn kinds_are_limited_apart_and_the_worst_level_wins() {
        let mut flood = Flood::default();
        for level in [Level::Info, Level::Warn, Level::Info] {
            (0..BURST).for_each(|_| {
                flood.admits(Kind::BackendDown, level, "a", 0);
            });
        }
        assert!(flood.admits(Kind::ServiceWithoutBackend, Level::Error, "web", 0));
        assert_eq!(flood.summaries(WINDOW)[0].level, Level::Warn);
    }
}
