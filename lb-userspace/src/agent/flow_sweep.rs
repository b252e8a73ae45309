//! Sweeps next to everything else that the loop does: a thread waits until no packet is under way that began before the
//! sweep, then the loop walks over the flow table, some buckets at a time, and nothing waits for a whole sweep. This file
//! decides when the next sweep begins, and who gets an answer when it has ended.

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::yield_now};

use super::{Agent, Host, TICK, clock};
use crate::{
    api::{
        kind::Kind,
        request::{Envelope, Request},
    },
    config::words::plural,
    health::{Verdict, scheduler::Update},
    reconcile::{FlowCounts, Sweep},
    tables::Tables,
};

/// Buckets that the loop walks over without a pause: less than a millisecond.
const PIECE: u32 = 4096;

/// After a sweep there is a pause of this many times the length of the sweep: sweeps take a tenth of the time, or a
/// fifth while a client waits for its counts.
const PAUSE: u64 = 9;
const PAUSE_WHEN_ASKED: u64 = 4;

/// Counts that are not older than this are reported as they are; for newer ones a sweep begins. In milliseconds.
const FRESH: u64 = 500;

/// How long a client waits for newer counts before it gets the old ones, in milliseconds.
pub(super) const REPLY_TIMEOUT: u64 = 250;

/// If walking alone takes at most this long, the loop may remove a dead backend's records at once without harm.
const SHORT: Duration = Duration::from_millis(10);

/// What a sweep does next.
#[derive(Debug, Default)]
pub(super) enum Walk {
    /// No sweep is under way.
    #[default]
    None,
    /// It waits for the packets that were under way when it began.
    Waiting(oneshot::Receiver<()>),
    /// It walks over the flow table.
    Walking,
}

impl Walk {
    /// Returns when the sweep can go on; `false` = nothing says when the packets have left.
    pub(super) async fn can_go_on(&mut self) -> bool {
        match self {
            Self::None => false,
            Self::Waiting(left) => left.await.is_ok(),
            Self::Walking => {
                // The loop's other inputs come first.
                yield_now().await;
                true
            }
        }
    }
}

/// A client that waits for a sweep.
struct Waiting {
    envelope: Envelope,
    /// When the client gets the counts that there are by then, in milliseconds of the monotonic clock.
    until: u64,
}

/// The sweeps, as the loop knows them. All times are milliseconds of the monotonic clock.
#[derive(Default)]
pub(super) struct Sweeper {
    under_way: Option<UnderWay>,
    /// When the last sweep that ended had begun; 0 = none has ended.
    counted_at: u64,
    ended_at: u64,
    took: u64,
    /// The part of `took` for walking alone; `None` = no walk has ended yet.
    walking: Option<Duration>,
    counts: FlowCounts,
    waiting: Vec<Waiting>,
    /// Somebody wants a sweep before its turn comes.
    asked: bool,
    /// Slots go on learning after their window, which was noted.
    prolonged: bool,
    /// Verdicts on backends that take flows again when no flow record names them as they were before.
    held: Vec<Update>,
}

struct UnderWay {
    sweep: Sweep,
    began: u64,
    /// The longest time for which a piece kept the loop busy, and the time of all pieces.
    longest: Duration,
    walking: Duration,
}

impl Sweeper {
    pub(super) fn counts(&self) -> &FlowCounts {
        &self.counts
    }

    /// Milliseconds since the beginning of the sweep that the counts are from.
    pub(super) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.counted_at)
    }

    /// Asks for a sweep before its turn comes.
    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// When the next sweep has to begin.
    pub(super) fn next_at(&self) -> u64 {
        if self.counted_at == 0 {
            return 0;
        }
        let usual = (TICK.as_millis() as u64).max(PAUSE * self.took);
        let rest = if self.asked { PAUSE_WHEN_ASKED * self.took } else { usual };
        self.ended_at + rest
    }

    /// When the first of the waiting clients has to get an answer.
    pub(super) fn reply_deadline(&self) -> Option<u64> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    fn over(&mut self, began: u64, counts: FlowCounts) {
        let now = clock::milliseconds();
        (self.counted_at, self.ended_at, self.took) = (began.max(1), now, now - began);
        self.counts = counts;
    }
}

/// Whether the answer to a request says how many flows there are.
fn counts_flows(request: &Request) -> bool {
    matches!(
        request,
        Request::Status
            | Request::Services
            | Request::Service { .. }
            | Request::Backends { .. }
            | Request::Backend { .. }
            | Request::Stats
            | Request::Metrics(_)
    )
}

impl<T: Tables + Host> Agent<T> {
    /// Begins a sweep, if there is a reason for one.
    pub(super) fn begin_sweep(&mut self, walk: &mut Walk) {
        let began = clock::milliseconds();
        *walk = Walk::None;
        self.sweeper.under_way = None;
        // A client that asks from now on asks for the next sweep.
        self.sweeper.asked = false;
        let sweep = match self.reconciler.begin_sweep(clock::since()) {
            Ok(Some(sweep)) => sweep,
            Ok(None) => return self.sweep_is_over(began, FlowCounts::default()),
            Err(error) => return self.sweep_failed(began, &error.to_string()),
        };
        let (sender, left) = oneshot::channel();
        let wait = self.reconciler.tables().waiter();
        let thread = thread::Builder::new().name("sweep".to_owned());
        match thread.spawn(move || {
            wait();
            let _no_receiver = sender.send(());
        }) {
            Ok(_) => {
                *walk = Walk::Waiting(left);
                let (longest, walking) = Default::default();
                self.sweeper.under_way = Some(UnderWay { sweep, began, longest, walking });
            }
            Err(error) => self.sweep_failed(began, &error.to_string()),
        }
    }

    /// Goes on with the sweep under way; `can` = the answer of [`Walk::can_go_on`].
    pub(super) fn go_on_sweeping(&mut self, can: bool, walk: &mut Walk) {
        let before = std::mem::take(walk);
        let Some(mut under_way) = self.sweeper.under_way.take() else { return };
        let began = under_way.began;
        if !can {
            return self.sweep_failed(began, "the thread that waits for packets under way ended");
        }
        if let Walk::Waiting(_) = before {
            *walk = Walk::Walking;
            self.sweeper.under_way = Some(under_way);
            return;
        }
        let begun = Instant::now();
        let more = self.reconciler.walk(&mut under_way.sweep, PIECE);
        let took = begun.elapsed();
        under_way.longest = under_way.longest.max(took);
        under_way.walking += took;
        match more {
            Ok(true) => {
                *walk = Walk::Walking;
                self.sweeper.under_way = Some(under_way);
            }
            Ok(false) => self.end_sweep(under_way),
            Err(error) => self.sweep_failed(began, &error.to_string()),
        }
    }

    fn end_sweep(&mut self, under_way: UnderWay) {
        let UnderWay { sweep, began, longest, walking } = under_way;
        let begun = Instant::now();
        match self.reconciler.end_sweep(sweep, clock::since()) {
            Ok((swept, counts)) => {
                self.sweeper.walking = Some(walking);
                // What waited for the old ring can be done now.
                self.apply_pending |= swept.rings_freed > 0;
                self.note_prolonged(swept.prolonged);
                log::debug!(
                    "sweep: {} in {} ms, the loop kept for {} us by walking, {} us by a piece and {} us by the end; {} \
                     deleted, {} stopped learning, {} settled",
                    plural(swept.pending + swept.flows, "record", "records"),
                    clock::milliseconds() - began,
                    walking.as_micros(),
                    longest.as_micros(),
                    begun.elapsed().as_micros(),
                    swept.deleted,
                    plural(swept.learning_ended, "slot", "slots"),
                    swept.settled
                );
                self.sweep_is_over(began, counts);
            }
            Err(error) => self.sweep_failed(began, &error.to_string()),
        }
    }

    /// Notes once that slots go on learning, until none does any more.
    fn note_prolonged(&mut self, slots: u64) {
        if slots > 0 && !self.sweeper.prolonged {
            let slots = plural(slots, "slot", "slots");
            self.journal.note(
                Kind::LearningProlonged,
                "limits.flows",
                format!(
                    "{slots} learn for longer than their window: the flow table was full, and flows lost their records; is \
                     `limits.flows` large enough, or is this a flood?"
                ),
            );
        }
        self.sweeper.prolonged = slots > 0;
    }

    fn sweep_is_over(&mut self, began: u64, counts: FlowCounts) {
        self.sweeper.over(began, counts);
        self.answer_waiting(u64::MAX);
        let held = std::mem::take(&mut self.sweeper.held);
        if !held.is_empty() {
            self.on_health(held);
        }
    }

    /// The last counts stay valid; the next sweep comes in its turn.
    fn sweep_failed(&mut self, began: u64, error: &str) {
        log::error!("sweep: {error}");
        let (counts, counted_at) = (std::mem::take(&mut self.sweeper.counts), self.sweeper.counted_at);
        self.sweeper.over(began, counts);
        self.sweeper.counted_at = counted_at.max(1);
        self.answer_waiting(u64::MAX);
    }

    /// Lets a client wait for a sweep if that helps. Returns an envelope that has to be answered now.
    pub(super) fn wait_for_counts(&mut self, envelope: Envelope) -> Option<Envelope> {
        let now = clock::milliseconds();
        if !counts_flows(&envelope.request) || self.sweeper.age(now) <= FRESH {
            return Some(envelope);
        }
        self.sweeper.asked = true;
        let until = now + REPLY_TIMEOUT;
        // A sweep that began a while ago may still be under way then, and the next one has to wait for its turn.
        if !self.sweeper.is_under_way() && self.sweeper.next_at() > until {
            return Some(envelope);
        }
        self.sweeper.waiting.push(Waiting { envelope, until });
        None
    }

    /// Answers the clients that have waited until `now`.
    pub(super) fn answer_waiting(&mut self, now: u64) {
        let all = std::mem::take(&mut self.sweeper.waiting);
        let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|waiting| waiting.until <= now);
        self.sweeper.waiting = later;
        for Waiting { envelope: Envelope { request, reply, by: _ }, .. } in due {
            let (answer, _) = self.answer(&request);
            // The client that asked may be gone.
            let _ = reply.send(answer);
        }
    }

    /// Returns the verdicts that may count now. A backend may come back while flow records still name it as it was
    /// before. If removing these records at once would keep the loop busy, the backend takes flows again only after a
    /// sweep has removed them.
    pub(super) fn defer_recovered(&mut self, updates: Vec<Update>) -> Vec<Update> {
        // Held verdicts are in the order in which they came: a later verdict on the same backend takes the place of the
        // earlier one.
        let newer: HashSet<(&str, &str)> =
            updates.iter().map(|update| (&*update.service, &*update.backend)).collect();
        self.sweeper.held.retain(|held| !newer.contains(&(&*held.service, &*held.backend)));
        if self.sweeper.walking.is_some_and(|walking| walking <= SHORT) {
            return updates;
        }
        let (held, now): (Vec<_>, Vec<_>) = updates.into_iter().partition(|update| {
            update.verdict == Verdict::Up && self.reconciler.is_unpurged(update.address, &update.service)
        });
        self.sweeper.asked |= !held.is_empty();
        self.sweeper.held.extend(held);
        now
    }
}
