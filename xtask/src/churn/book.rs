//! The account of a run: which events there were, and what the client saw after each. Whatever goes wrong is put down to
//! the last event before the request that was not answered. No sockets and no lab here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    message::Identity,
    world::{BACKENDS, SERVICES},
};
use crate::lab::backend_name;

/// What the client saw between one event and the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// TCP connections that were established when the event began.
    pub(super) alive: usize,
    /// Established connections that were cut or fell silent, although their backend lived.
    pub(super) broken: usize,
    /// Flows that another backend answered, although theirs lived.
    pub(super) moved: usize,
    /// Connections that ended with their backend, which was killed.
    pub(super) ended_with_backend: usize,
    /// New connections and datagrams that failed with no reason for it.
    pub(super) failed: usize,
    /// The same while a killed backend was not yet out of the ring, or the service had no backend at all.
    pub(super) failed_with_reason: usize,
    /// Short requests that were answered.
    pub(super) requests: usize,
    /// Of these, those that took so long that a packet must have been repeated ([`SLOW`]).
    pub(super) slow: usize,
    /// The longest that an established connection waited for an answer.
    pub(super) gap: Duration,
}

/// A SYN is repeated after 1 s.
const SLOW: Duration = Duration::from_millis(900);

impl Seen {
    /// Both together.
    pub(super) fn add(&mut self, other: Self) {
        let Self {
            alive,
            broken,
            moved,
            ended_with_backend,
            failed,
            failed_with_reason,
            requests,
            slow,
            gap,
        } = other;
        self.alive = self.alive.min(alive);
        self.broken += broken;
        self.moved += moved;
        self.ended_with_backend += ended_with_backend;
        self.failed += failed;
        self.failed_with_reason += failed_with_reason;
        self.requests += requests;
        self.slow += slow;
        self.gap = self.gap.max(gap);
    }
}

/// An event and what came after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) label: &'static str,
    pub(super) at: Instant,
    pub(super) seen: Seen,
}

/// A stretch in which new connections may fail; `until` is not known while it lasts.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    from: Instant,
    until: Option<Instant>,
}

/// How much there was of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Long-lived TCP connections that were opened.
    pub(super) connections: u64,
    /// Short requests that were answered, each a TCP connection of its own.
    pub(super) requests: u64,
    pub(super) udp_flows: u64,
    /// Answers that arrived and were right.
    pub(super) answers: u64,
}

/// What went wrong, for people: so many of each run are kept.
const INCIDENTS: usize = 40;

/// The account.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) moments: Vec<Moment>,
    pub(super) totals: Totals,
    pub(super) incidents: Vec<String>,
    /// Established long-lived connections and UDP flows, by service and backend.
    pub(super) alive: [[usize; BACKENDS as usize]; SERVICES.len()],
    /// Lives of backends that were ended.
    dead: BTreeSet<Identity>,
    /// Lives that began while their backend's checks called it down, and still do: what it answers are flows of the life before,
    /// which go elsewhere when the hold is over.
    pub(super) returning: BTreeSet<Identity>,
    /// Backends that the agent has taken out and whose flows it holds: also a new one on the ports of a connection that ended
    /// with its backend goes there.
    pub(super) held: BTreeSet<u8>,
    /// Connections to these are to be ended by the client.
    pub(super) leaving: BTreeSet<(usize, u8)>,
    troubles: BTreeMap<Option<usize>, Vec<Trouble>>,
    began: Instant,
}

impl Book {
    /// Begins with a moment of no event.
    pub(super) fn new() -> Self {
        let began = Instant::now();
        let first = Moment { label: "nothing", at: began, seen: Seen::default() };
        Self {
            moments: vec![first],
            totals: Totals::default(),
            incidents: Vec::new(),
            alive: [[0; BACKENDS as usize]; SERVICES.len()],
            dead: BTreeSet::new(),
            returning: BTreeSet::new(),
            held: BTreeSet::new(),
            leaving: BTreeSet::new(),
            troubles: BTreeMap::new(),
            began,
        }
    }

    /// An event is about to happen.
    pub(super) fn begin(&mut self, label: &'static str) {
        let seen = Seen { alive: self.tcp_alive(), ..Seen::default() };
        self.moments.push(Moment { label, at: Instant::now(), seen });
    }

    /// TCP connections that are established.
    pub(super) fn tcp_alive(&self) -> usize {
        let tcp = SERVICES.iter().zip(&self.alive).filter(|(kind, _)| !kind.udp);
        tcp.flat_map(|(_, backends)| backends).sum()
    }

    pub(super) fn count(&mut self, service: usize, identity: Identity, change: isize) {
        let backend = usize::from(identity.backend);
        if let Some(count) = self.alive.get_mut(service).and_then(|counts| counts.get_mut(backend)) {
            *count = count.saturating_add_signed(change);
        }
    }

    /// The server of that life is about to be killed.
    pub(super) fn kill(&mut self, identity: Identity) {
        self.dead.insert(identity);
    }

    pub(super) fn is_dead(&self, identity: Identity) -> bool {
        self.dead.contains(&identity)
    }

    /// From now on new connections to a service (`None` = any) may fail.
    pub(super) fn begin_trouble(&mut self, service: Option<usize>) {
        self.troubles.entry(service).or_default().push(Trouble { from: Instant::now(), until: None });
    }

    /// Such a stretch ends at `until`.
    pub(super) fn end_trouble(&mut self, service: Option<usize>, until: Instant) {
        let open = self.troubles.get_mut(&service).into_iter().flatten();
        open.filter(|trouble| trouble.until.is_none()).for_each(|trouble| trouble.until = Some(until));
    }

    fn in_trouble(&self, service: usize, from: Instant, to: Instant) -> bool {
        let of = |key| self.troubles.get(&key).into_iter().flatten();
        of(None)
            .chain(of(Some(service)))
            .any(|trouble| trouble.from <= to && trouble.until.is_none_or(|until| from <= until))
    }

    fn seen_at(&mut self, at: Instant) -> &mut Seen {
        let after = self.moments.partition_point(|moment| moment.at <= at);
        &mut self.moments[after.max(1) - 1].seen
    }

    fn note(&mut self, at: Instant, what: &str) {
        let label = self.moments[self.moments.partition_point(|moment| moment.at <= at).max(1) - 1].label;
        if self.incidents.len() < INCIDENTS {
            let second = at.saturating_duration_since(self.began).as_secs_f64();
            self.incidents.push(format!("{second:.1} s, after \"{label}\": {what}"));
        }
    }

    /// An answer came after `gap` to what was asked at `at` on an established connection.
    pub(super) fn answered(&mut self, at: Instant, gap: Duration) {
        self.totals.answers += 1;
        let seen = self.seen_at(at);
        seen.gap = seen.gap.max(gap);
    }

    /// A short request that was begun at `at` was answered after `took`.
    pub(super) fn requested(&mut self, at: Instant, took: Duration) {
        self.totals.requests += 1;
        self.totals.answers += 1;
        let seen = self.seen_at(at);
        seen.requests += 1;
        seen.slow += usize::from(took > SLOW);
    }

    /// An established connection ended that was not meant to end.
    pub(super) fn ended(&mut self, at: Instant, service: usize, identity: Identity, why: &str) {
        self.count(service, identity, -1);
        if self.is_dead(identity) {
            self.seen_at(at).ended_with_backend += 1;
        } else {
            self.seen_at(at).broken += 1;
            let name = SERVICES.get(service).map_or("?", |kind| kind.name);
            self.note(at, &format!("broken: {name}, at {}: {why}", backend_name(identity.backend)));
        }
    }

    /// Another backend answered than before.
    pub(super) fn switched(&mut self, at: Instant, service: usize, from: Identity, to: Identity) {
        self.count(service, from, -1);
        self.count(service, to, 1);
        if !self.is_dead(from) && !self.returning.contains(&from) {
            self.seen_at(at).moved += 1;
            let name = SERVICES.get(service).map_or("?", |kind| kind.name);
            let (from, to) = (backend_name(from.backend), backend_name(to.backend));
            self.note(at, &format!("moved: {name}, from {from} to {to}"));
        }
    }

    /// What was asked at `at`, and should have begun a connection or is a datagram, came to nothing.
    pub(super) fn failed(&mut self, at: Instant, service: usize, identity: Option<Identity>, why: &str) {
        let dead = identity.is_some_and(|identity| self.is_dead(identity));
        if dead || self.in_trouble(service, at, Instant::now()) {
            self.seen_at(at).failed_with_reason += 1;
        } else {
            self.seen_at(at).failed += 1;
            let name = SERVICES.get(service).map_or("?", |kind| kind.name);
            let by = identity.map(|identity| format!(" at {}", backend_name(identity.backend)));
            self.note(at, &format!("failed: {name}{}: {why}", by.unwrap_or_default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Identity = Identity { backend: 1, life: 1 };
    const B: Identity = Identity { backend: 2, life: 2 };

    #[test]
    fn what_breaks_is_put_down_to_the_event_before() {
        let mut book = Book::new();
        book.count(0, A, 1);
        book.begin("first");
        let between = Instant::now();
        std::thread::sleep(Duration::from_millis(2));
        book.begin("second");
        book.ended(between, 0, A, "reset");
        let broken: Vec<usize> = book.moments.iter().map(|moment| moment.seen.broken).collect();
        assert_eq!(broken, [0, 1, 0]);
        assert_eq!(book.moments[1].seen.alive, 1);
        assert_eq!(book.tcp_alive(), 0);
    }

    #[test]
    fn a_connection_to_a_killed_backend_does_not_count_as_broken() {
        let mut book = Book::new();
        book.kill(A);
        book.ended(Instant::now(), 0, A, "reset");
        book.ended(Instant::now(), 0, Identity { life: 3, ..A }, "reset");
        let seen = book.moments[0].seen;
        assert_eq!((seen.ended_with_backend, seen.broken), (1, 1));
    }

    #[test]
    fn another_backend_is_a_move_only_while_the_first_lives() {
        let mut book = Book::new();
        book.switched(Instant::now(), 2, A, B);
        book.kill(B);
        book.switched(Instant::now(), 2, B, A);
        assert_eq!(book.moments[0].seen.moved, 1);
    }

    #[test]
    fn a_flow_that_a_backend_answers_before_its_checks_pass_may_go_on_elsewhere() {
        let mut book = Book::new();
        let again = Identity { life: 3, ..A };
        book.kill(A);
        book.returning.insert(again);
        book.switched(Instant::now(), 2, A, again);
        book.switched(Instant::now(), 2, again, B);
        assert_eq!(book.moments[0].seen.moved, 0);
        book.returning.clear();
        book.switched(Instant::now(), 2, again, B);
        assert_eq!(book.moments[0].seen.moved, 1);
    }

    #[test]
    fn requests_may_fail_while_a_killed_backend_is_not_yet_out() {
        let mut book = Book::new();
        let before = Instant::now();
        book.failed(before, 0, None, "refused");
        std::thread::sleep(Duration::from_millis(2));
        book.begin_trouble(None);
        book.failed(Instant::now(), 0, None, "refused");
        book.end_trouble(None, Instant::now());
        std::thread::sleep(Duration::from_millis(2));
        book.failed(Instant::now(), 0, None, "refused");
        let seen = book.moments[0].seen;
        assert_eq!((seen.failed, seen.failed_with_reason), (2, 1));
    }

    #[test]
    fn a_service_without_backends_excuses_only_its_own_requests() {
        let mut book = Book::new();
        book.begin_trouble(Some(4));
        book.failed(Instant::now(), 4, None, "refused");
        book.failed(Instant::now(), 0, None, "refused");
        let seen = book.moments[0].seen;
        assert_eq!((seen.failed, seen.failed_with_reason), (1, 1));
    }
}
