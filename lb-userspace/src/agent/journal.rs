//! What happened, for `lbctl events`: the last events in memory, each of them also a line in the log, unless there are
//! many. The kinds of events are in [`crate::api::kind`], the last events of each backend in `history`.

use std::collections::{HashSet, VecDeque};

use log::Level;

use super::{clock, firsts::Firsts, flood::Flood, history::History};
use crate::{
    api::{
        filter::Filter,
        kind::{Group, Kind},
        since::{Since, milliseconds_since_1970, since_1970},
        view::{Caller, Event},
    },
    printable::printable,
};

/// How many events on states of services and backends are kept; older ones are only in the log.
const KEPT_STATES: usize = 4096;
/// How many other events are kept: a backend that flaps must not push out who changed what.
const KEPT_OTHERS: usize = 1024;

/// The events since this agent started.
#[derive(Debug)]
pub struct Journal {
    states: VecDeque<Event>,
    others: VecDeque<Event>,
    history: History,
    last: u64,
    flood: Flood,
    firsts: Firsts,
    /// The client that asked for what the agent is doing.
    caller: Option<Caller>,
}

impl Default for Journal {
    /// Numbers begin at the time of the start in microseconds: a client that continues after the last number of an agent
    /// before us misses nothing and gets nothing twice. No agent records a million events a second.
    fn default() -> Self {
        Self {
            states: VecDeque::new(),
            others: VecDeque::new(),
            history: History::default(),
            last: since_1970().as_micros() as u64,
            flood: Flood::default(),
            firsts: Firsts::default(),
            caller: None,
        }
    }
}

impl Journal {
    /// Records an event and logs it at the level of its kind.
    pub fn note(&mut self, kind: Kind, object: impl Into<String>, message: impl Into<String>) {
        self.note_at(kind.level(), kind, object, message);
    }

    /// Records an event and logs it at another level.
    pub fn note_at(
        &mut self,
        level: Level,
        kind: Kind,
        object: impl Into<String>,
        message: impl Into<String>,
    ) {
        let event = self.record(level, kind, &object.into(), &message.into());
        // A change is part of the histories of all backends that it concerns: see `note_backend_change`.
        if kind != Kind::Changed {
            self.history.add(&event);
        }
    }

    /// Records that a backend has another state.
    pub fn note_state(&mut self, level: Level, kind: Kind, backend: String, message: String) {
        self.history.begin(&backend);
        self.note_at(level, kind, backend, message);
    }

    /// Records what a change of the configuration is for one backend. The log and the journal have one event for the whole
    /// change, which may be a file.
    pub fn note_backend_change(&mut self, backend: &str, message: &str) {
        self.history.begin(backend);
        let event = self.event(Kind::Changed.level(), Kind::Changed, backend, message);
        self.history.add(&event);
    }

    /// A backend passed its first check: the log and the journal get one event with the others of the same second.
    pub fn note_first_up(&mut self, backend: String, message: String) {
        self.history.begin(&backend);
        let event = self.event(Kind::BackendUp.level(), Kind::BackendUp, &backend, &message);
        self.history.add(&event);
        self.firsts.add(backend, message, clock::milliseconds());
    }

    /// Takes in which backends are configured, each as `service/backend`.
    pub fn follow(&mut self, backends: &HashSet<String>) {
        self.history.follow(backends);
    }

    /// The next event. Its message contains names from requests and answers of servers: `printable` keeps it on one line.
    fn event(&mut self, level: Level, kind: Kind, object: &str, message: &str) -> Event {
        self.last += 1;
        Event {
            number: self.last,
            at_ms: milliseconds_since_1970(),
            level: level.as_str().to_lowercase(),
            kind: kind.name().to_owned(),
            object: printable(object),
            message: printable(message),
            by: self.caller.clone().filter(|_| kind.group() == Group::Change),
        }
    }

    /// Keeps an event and logs it.
    fn record(&mut self, level: Level, kind: Kind, object: &str, message: &str) -> Event {
        let event = self.event(level, kind, object, message);
        // The log has every event about who changed what: clients cannot ask faster than they get answers.
        let audit = kind.group() == Group::Change;
        if audit || self.flood.admits(kind, level, &event.object, clock::milliseconds()) {
            write(level, kind, &event.object, &event.message, event.by.as_ref());
        }
        let (events, most) = match kind.group() {
            Group::State => (&mut self.states, KEPT_STATES),
            Group::Agent | Group::Change => (&mut self.others, KEPT_OTHERS),
        };
        if events.len() == most {
            events.pop_front();
        }
        events.push_back(event.clone());
        event
    }

    /// When [`Self::summarise`] has something to do, in milliseconds of the monotonic clock.
    pub fn due(&self) -> Option<u64> {
        self.flood.due().into_iter().chain(self.firsts.due()).min()
    }

    /// Logs the summaries that are due. `unchecked` counts backends without a verdict.
    pub fn summarise(&mut self, unchecked: usize) {
        let now = clock::milliseconds();
        if self.firsts.due().is_some_and(|due| due <= now)
            && let Some((kind, object, message)) = self.firsts.take(now, unchecked)
        {
            // Each backend has an event of its own in its history already.
            self.record(kind.level(), kind, &object, &message);
        }
        for summary in self.flood.summaries(now) {
            write(summary.level, summary.kind, "", &summary.message, None);
        }
    }

    /// From now on, events on changes name this client.
    pub fn on_behalf_of(&mut self, caller: Option<Caller>) {
        self.caller = caller;
    }

    /// Whether a client has asked for what the agent is doing.
    pub fn has_caller(&self) -> bool {
        self.caller.is_some()
    }

    /// The events that `filter` asks for, oldest first. A number that no event has reached yet comes from an agent
    /// before us whose clock was ahead: all events are newer.
    pub fn find(&self, filter: &Filter) -> Vec<Event> {
        let since = filter.since.fixed(milliseconds_since_1970());
        let (number, time) = match since {
            Since::Number(number) if number <= self.last => (number, 0),
            Since::At(time) => (0, time),
            Since::Number(_) | Since::Ago(_) | Since::TimeOfDay(_) => (0, 0),
        };
        let fits = |event: &&Event| event.number > number && event.at_ms >= time && filter.fits(event);
        let histories: Vec<_> = filter.objects.iter().filter_map(|name| self.history.of(name)).collect();
        let mut events: Vec<&Event> = histories.iter().copied().flatten().filter(fits).collect();
        if histories.is_empty() || histories.len() < filter.objects.len() {
            let missing = |event: &&Event| {
                !filter.objects.contains(&event.object) || self.history.of(&event.object).is_none()
            };
            let behind = |events: &VecDeque<Event>| events.partition_point(|event| event.number <= number);
            let states = self.states.range(behind(&self.states)..);
            let others = self.others.range(behind(&self.others)..);
            events.extend(states.chain(others).filter(fits).filter(missing));
        }
        events.sort_unstable_by_key(|event| event.number);
        let surplus = filter.limit.map_or(0, |limit| events.len().saturating_sub(limit));
        events.into_iter().skip(surplus).cloned().collect()
    }

    /// The same of one backend, `service/backend`; `None` = no such backend is known, nor was one a while ago.
    pub fn find_backend(&self, backend: &str, filter: &Filter) -> Option<Vec<Event>> {
        self.history.of(backend)?;
        Some(self.find(&Filter { objects: vec![backend.to_owned()], ..filter.clone() }))
    }

    /// Events after this number, oldest first.
    #[cfg(test)]
    pub fn since(&self, number: u64) -> Vec<Event> {
        self.find(&Filter { since: Since::Number(number), ..Filter::default() })
    }
}

/// One line in the log.
fn write(level: Level, kind: Kind, object: &str, message: &str, by: Option<&Caller>) {
    let kind = kind.name();
    match by {
        None => log::log!(target: "lb", level, kind, object; "{message}"),
        Some(caller) => {
            let user = caller.user.as_deref().unwrap_or_default();
            log::log!(target: "lb", level, kind, object, uid = caller.uid, user; "{message} (by {caller})");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_a_server_answers() {
        let mut journal = Journal::default();
        journal.note(Kind::BackendDown, "a\nb", "503 \u{1b}[2J\nlbd: all is well");
        let event = &journal.since(0)[0];
        assert_eq!(
            (event.object.as_str(), event.message.as_str()),
            ("a\\nb", "503 \\u{1b}[2J\\nlbd: all is well")
        );
    }

    #[test]
    fn the_newest_events_are_kept_and_found_by_number() {
        let mut journal = Journal::default();
        let first = journal.last + 1;
        for i in 0..KEPT_STATES + 10 {
            journal.note(Kind::BackendUp, "", i.to_string());
        }
        assert_eq!(journal.since(0).len(), KEPT_STATES);
        assert_eq!(journal.since(0)[0].number, first + 10);
        let last = first + KEPT_STATES as u64 + 9;
        let newest: Vec<_> = journal.since(last - 2).iter().map(|e| e.number).collect();
        assert_eq!(newest, [last - 1, last]);
        assert!(journal.since(last).is_empty());
    }

    #[test]
    fn a_flapping_backend_pushes_out_no_change() {
        let mut journal = Journal::default();
        journal.note(Kind::Changed, "web/web-1", "weight 100 -> 50");
        for _ in 0..2 * KEPT_STATES {
            journal.note(Kind::BackendDown, "web/web-2", "refused");
        }
        journal.note(Kind::Changed, "web/web-1", "weight 50 -> 100");
        let events = journal.since(0);
        let changes: Vec<_> = events.iter().filter(|event| event.kind == "changed").collect();
        assert_eq!(changes.len(), 2);
        assert_eq!(events.len(), KEPT_STATES + 2);
        assert!(events.is_sorted_by_key(|event| event.number), "in the order in which they happened");
    }

    #[test]
    fn numbers_grow_from_one_life_to_the_next() {
        let mut before = Journal::default();
        before.note(Kind::Started, "main", "pid 1");
        let last = before.since(0)[0].number;
        std::thread::sleep(std::time::Duration::from_millis(1));
        let mut after = Journal::default();
        after.note(Kind::Started, "main", "pid 2");
        assert_eq!(after.since(last).len(), 1, "nothing is lost");
        // The clock was set back between the two agents.
        assert_eq!(after.since(last + 3_600_000_000).len(), 1);
    }

    #[test]
    fn the_last_so_many_of_those_that_fit_are_found() {
        let mut journal = Journal::default();
        for n in 0..5 {
            journal.note(Kind::BackendDown, "web/web-1", format!("{n}"));
            journal.note(Kind::BackendUp, "web/web-1", format!("{n}"));
        }
        let found = |filter: Filter| -> Vec<String> {
            journal
                .find(&filter)
                .into_iter()
                .map(|event| format!("{} {}", event.kind, event.message))
                .collect()
        };
        let downs = Filter { kinds: vec![Kind::BackendDown], limit: Some(2), ..Filter::default() };
        assert_eq!(found(downs.clone()), ["backend_down 3", "backend_down 4"]);
        assert!(found(Filter { limit: Some(0), ..downs.clone() }).is_empty());
        assert_eq!(
            found(Filter { since: Since::Ago(std::time::Duration::from_secs(600)), ..downs.clone() }).len(),
            2
        );
        let in_an_hour = Since::At(milliseconds_since_1970() + 3_600_000);
        assert!(found(Filter { since: in_an_hour, ..downs }).is_empty());
    }

    #[test]
    fn only_changes_carry_who_asked_for_them() {
        let mut journal = Journal::default();
        let caller = Caller { uid: 0, user: Some("root".to_owned()), pid: Some(7) };
        journal.on_behalf_of(Some(caller.clone()));
        journal.note(Kind::Changed, "web", "removed");
        journal.note(Kind::BackendDown, "web/web-1", "refused");
        journal.on_behalf_of(None);
        journal.note(Kind::Changed, "web", "added");
        let by: Vec<_> = journal.since(0).into_iter().map(|event| event.by).collect();
        assert_eq!(by, [Some(caller), None, None]);
    }

    fn names(backends: &[&str]) -> HashSet<String> {
        backends.iter().map(|name| (*name).to_owned()).collect()
    }

    fn messages(events: Vec<Event>) -> Vec<String> {
        events.into_iter().map(|event| format!("{} {}", event.kind, event.message)).collect()
    }

    #[test]
    fn a_quiet_backend_is_remembered_next_to_one_that_flaps() {
        let mut journal = Journal::default();
        journal.follow(&names(&["web/web-1", "web/web-2"]));
        journal.note_state(Level::Warn, Kind::BackendDown, "web/web-1".to_owned(), "refused".to_owned());
        for n in 0..2 * KEPT_STATES {
            journal.note_state(Level::Info, Kind::BackendDown, "web/web-2".to_owned(), n.to_string());
        }
        let filter = |object: &str| Filter { objects: vec![object.to_owned()], ..Filter::default() };
        assert_eq!(messages(journal.find(&filter("web/web-1"))), ["backend_down refused"]);
        let found = journal.find_backend("web/web-1", &Filter::default());
        assert_eq!(found.map(messages).as_deref(), Some(&["backend_down refused".to_owned()][..]));
        assert_eq!(journal.find_backend("web/web-9", &Filter::default()), None);
        let both = Filter { objects: vec!["web/web-1".to_owned(), "web".to_owned()], ..Filter::default() };
        let both = journal.find(&both);
        assert_eq!((both[0].object.as_str(), both.len()), ("web/web-1", 1 + KEPT_STATES));
    }

    #[test]
    fn the_first_check_of_each_backend_is_in_its_history() {
        let mut journal = Journal::default();
        for backends in [&["web/web-1"][..], &["web/web-2", "web/web-3"]] {
            for backend in backends {
                journal.note_first_up((*backend).to_owned(), format!("{backend} answered"));
            }
            let (kind, object, message) = journal.firsts.take(0, 0).unwrap();
            journal.record(kind.level(), kind, &object, &message);
        }
        for backend in ["web/web-1", "web/web-2"] {
            let found = journal.find_backend(backend, &Filter::default()).unwrap();
            assert_eq!(messages(found), [format!("backend_up {backend} answered")]);
        }
        assert_eq!(
            messages(journal.since(0)),
            ["backend_up web/web-1 answered", "backends_up 2 backends up: web/web-2, web/web-3"]
        );
    }

    #[test]
    fn a_change_is_one_event_and_part_of_each_history() {
        let mut journal = Journal::default();
        let caller = Caller { uid: 0, user: Some("root".to_owned()), pid: Some(7) };
        journal.on_behalf_of(Some(caller.clone()));
        journal.note_backend_change("web/web-1", "backend web/web-1: weight from 100 to 50");
        journal.note(
            Kind::Changed,
            "web/web-1",
            "backend web/web-1: weight from 100 to 50; 12 slots changed",
        );
        assert_eq!(journal.since(0).len(), 1);
        let found = journal.find_backend("web/web-1", &Filter::default()).unwrap();
        assert_eq!(found[0].by, Some(caller));
        assert_eq!(messages(found), ["changed backend web/web-1: weight from 100 to 50"]);
    }
}
