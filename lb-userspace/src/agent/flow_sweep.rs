//! Sweeps in parallel to the loop: a thread reads the flow tables, the loop takes in what the thread read, one piece at
//! a time, and nothing waits for a whole sweep. This file decides when the next sweep begins, and who gets an answer
//! when it has ended.

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Agent, Host, TICK, clock};
use crate::{
    api::request::{Envelope, Request},
    config::words::plural,
    health::{Verdict, scheduler::Update},
    reconcile::{FlowCounts, Sweep, sweep::ORDER},
    tables::{FlowReader, FlowTable, Records, TableError, Tables},
};

/// Pieces that the thread has read and the loop has not taken yet.
const AHEAD: usize = 2;

/// After a sweep there is a pause of this many times the length of the sweep: sweeps take a tenth of the time, or a
/// fifth while a client waits for its counts.
const PAUSE: u64 = 9;
const PAUSE_WHEN_ASKED: u64 = 4;

/// Counts that are not older than this are reported as they are; for newer ones a sweep begins. In milliseconds.
const FRESH: u64 = 500;

/// How long a client waits for newer counts before it gets the old ones, in milliseconds.
pub(super) const REPLY_TIMEOUT: u64 = 250;

/// If the reading alone takes at most this long, the loop may remove a dead backend's records at once without harm.
const SHORT: Duration = Duration::from_millis(10);

/// What comes from the thread that reads.
#[derive(Debug)]
pub(super) enum Step {
    Records(FlowTable, Records),
    /// The thread has read both tables to their ends; this is the time it took, without waiting for the loop.
    End(Duration),
    Failed(TableError),
}

/// The channel of the sweep's thread, while a sweep is under way.
pub(super) type Reading = Option<mpsc::Receiver<Step>>;

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
    /// The part of `took` for the reading alone; `None` = nothing was read yet.
    reading: Option<Duration>,
    counts: FlowCounts,
    waiting: Vec<Waiting>,
    /// Somebody wants a sweep before its turn comes.
    asked: bool,
    /// Verdicts on backends that take flows again when no flow record names them as they were before.
    held: Vec<Update>,
}

struct UnderWay {
    sweep: Sweep,
    began: u64,
    /// The longest time for which a piece kept the loop busy.
    longest: u64,
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
            | Request::Metrics
    )
}

/// Reads both tables to their ends, between two barriers, or until no one listens any longer.
fn read(mut readers: Vec<(FlowTable, Box<dyn FlowReader>)>, steps: &mpsc::Sender<Step>) {
    if let Some((_, first)) = readers.first_mut() {
        first.barrier();
    }
    let mut spent = Duration::ZERO;
    for (table, reader) in &mut readers {
        loop {
            let begun = Instant::now();
            let next = reader.next();
            spent += begun.elapsed();
            let step = match next {
                Ok(Some(read)) if read.keys.is_empty() => continue,
                Ok(Some(read)) => Step::Records(*table, read),
                Ok(None) => break,
                Err(error) => Step::Failed(error),
            };
            let failed = matches!(step, Step::Failed(_));
            if steps.blocking_send(step).is_err() || failed {
                return;
            }
        }
    }
    if let Some((_, last)) = readers.last_mut() {
        last.barrier();
    }
    let _no_receiver = steps.blocking_send(Step::End(spent));
}

impl<T: Tables + Host> Agent<T> {
    /// Begins a sweep, if there is a reason for one.
    pub(super) fn begin_sweep(&mut self, reading: &mut Reading) {
        let began = clock::milliseconds();
        *reading = None;
        self.sweeper.under_way = None;
        // A client that asks from now on asks for the next sweep.
        self.sweeper.asked = false;
        let outcome = self.reconciler.begin_sweep(clock::since()).and_then(|sweep| {
            let Some(sweep) = sweep else { return Ok(None) };
            let mut readers = Vec::new();
            for table in ORDER {
                readers.push((table, self.reconciler.tables().flow_reader(table)?));
            }
            Ok(Some((sweep, readers)))
        });
        let (sweep, readers) = match outcome {
            Ok(Some(begun)) => begun,
            Ok(None) => return self.sweep_is_over(began, FlowCounts::default()),
            Err(error) => return self.sweep_failed(began, &error.to_string()),
        };
        let (sender, receiver) = mpsc::channel(AHEAD);
        let thread = thread::Builder::new().name("sweep".to_owned());
        match thread.spawn(move || read(readers, &sender)) {
            Ok(_) => {
                *reading = Some(receiver);
                self.sweeper.under_way = Some(UnderWay { sweep, began, longest: 0 });
            }
            Err(error) => self.sweep_failed(began, &error.to_string()),
        }
    }

    /// Takes in what the thread has read; `None` = the thread has died.
    pub(super) fn sweep_step(&mut self, step: Option<Step>, reading: &mut Reading) {
        let Some(mut under_way) = self.sweeper.under_way.take() else {
            *reading = None;
            return;
        };
        let (begun, began) = (clock::milliseconds(), under_way.began);
        let outcome = match step {
            Some(Step::Records(table, read)) => {
                let outcome = self.reconciler.sweep_records(&mut under_way.sweep, table, &read);
                under_way.longest = under_way.longest.max(clock::milliseconds() - begun);
                if outcome.is_ok() {
                    self.sweeper.under_way = Some(under_way);
                    return;
                }
                outcome.map_err(|error| error.to_string())
            }
            Some(Step::End(spent)) => {
                self.sweeper.reading = Some(spent);
                let longest = under_way.longest;
                let ended = self.reconciler.end_sweep(under_way.sweep, clock::since());
                ended.map_err(|error| error.to_string()).map(|(swept, counts)| {
                    // What waited for the old ring can be done now.
                    self.apply_pending |= swept.rings_freed > 0;
                    let now = clock::milliseconds();
                    log::debug!(
                        "sweep: {} in {} ms, the loop kept for {longest} ms by a piece and {} ms by the end; {} deleted, {} \
                         stopped learning, {} settled",
                        plural(swept.pending + swept.flows, "record", "records"),
                        now - began,
                        now - begun,
                        swept.deleted,
                        plural(swept.learning_ended, "slot", "slots"),
                        swept.settled
                    );
                    self.sweep_is_over(began, counts);
                })
            }
            Some(Step::Failed(error)) => Err(error.to_string()),
            None => Err("the thread that reads the flow tables ended".to_owned()),
        };
        *reading = None;
        if let Err(error) = outcome {
            self.sweep_failed(began, &error);
        }
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
        if self.sweeper.reading.is_some_and(|reading| reading <= SHORT) {
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
