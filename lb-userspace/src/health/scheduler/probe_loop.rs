//! The scheduler's loop: a heap of times, the probes in flight, and the updates to report.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::ClientConfig;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinError, JoinSet},
    time::Instant,
};

use super::{
    Hurried, Pulse, Target, Update,
    places::{Id, Places},
    shared::Shared,
    table::{Row, State},
};
use crate::{
    config::spec::Health,
    health::{
        Said, Verdict,
        durations::Durations,
        probe::{self, Failure, tls::Clients},
        rise_fall::Machine,
        said::{Standing, Words},
    },
};

/// First probes of new targets are spread over this much per target (at most over one interval): three backends are
/// asked at once, ten thousand do not all fire in one moment.
const FIRST_SPREAD: Duration = Duration::from_millis(1);
/// However the intervals are set, a target is not asked more often than this.
const SHORTEST_DELAY: Duration = Duration::from_millis(10);
/// What comes due within this much of the last start waits for the end of it and starts together: ten thousand targets
/// do not each wake the thread. A target that is alone is asked when it is due.
const BATCH_WINDOW: Duration = Duration::from_millis(5);
/// Probes that begin in one go, before results are looked at again.
const AT_ONCE: usize = 64;
/// Between two log lines about probes that could not be made.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

struct Entry {
    target: Target,
    tls: Option<Result<Arc<ClientConfig>, String>>,
    machine: Machine,
    standing: Standing,
    row: Arc<Row>,
    /// What the receiver of updates knows.
    reported: (Verdict, Said),
    /// Whether it is in `Driver::unreported`.
    queued: bool,
    running: Option<AbortHandle>,
    /// Its service, in `Driver::places`.
    group: usize,
    /// When the next probe was to begin.
    due: Instant,
}

/// The end of a probe of the target `id`.
struct Done {
    id: Id,
    started: Instant,
    elapsed: Duration,
    result: Result<(), Failure>,
    words: Words,
}

pub(super) struct Driver {
    /// What is due and waits, and how many are under way.
    places: Places,
    wanted: watch::Receiver<Arc<[Target]>>,
    updates: mpsc::Sender<Update>,
    rows: Arc<Mutex<Vec<Arc<Row>>>>,
    pulse: Arc<Pulse>,
    entries: HashMap<Id, Entry>,
    /// Which of them one probe is for.
    shared: Shared,
    next_id: Id,
    /// When each idle target that does not wait yet is due. Entries of old ids are dropped when they come up.
    due: BinaryHeap<Reverse<(Instant, Id)>>,
    /// Nothing is started before.
    batch_end: Instant,
    probes: JoinSet<Done>,
    /// Targets whose verdict may differ from what was reported, in the order in which it changed.
    unreported: VecDeque<Id>,
    clients: Clients,
    random: fastrand::Rng,
    complained: Option<Instant>,
    hurried: Arc<Hurried>,
    durations: Arc<Durations>,
}

impl Driver {
    pub(super) fn new(
        places: Places,
        wanted: watch::Receiver<Arc<[Target]>>,
        updates: mpsc::Sender<Update>,
        rows: Arc<Mutex<Vec<Arc<Row>>>>,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            places,
            wanted,
            updates,
            rows,
            pulse,
            entries: HashMap::new(),
            shared: Shared::default(),
            next_id: 0,
            due: BinaryHeap::new(),
            batch_end: Instant::now(),
            probes: JoinSet::new(),
            unreported: VecDeque::new(),
            clients: Clients::default(),
            random: fastrand::Rng::new(),
            complained: None,
            hurried: Arc::default(),
            durations: Arc::default(),
        }
    }

    pub(super) fn hurried_by(self, hurried: Arc<Hurried>) -> Self {
        Self { hurried, ..self }
    }

    /// How long probes take is counted here.
    pub(super) fn counted_by(self, durations: Arc<Durations>) -> Self {
        Self { durations, ..self }
    }

    /// Runs until the handle is dropped.
    pub(super) async fn run(mut self) {
        let updates = self.updates.clone();
        let pulse = Arc::clone(&self.pulse);
        loop {
            self.start_due();
            if self.places.may_start() {
                // More than began at once: what began comes first.
                tokio::task::yield_now().await;
            }
            let next = self.due.peek().map(|Reverse((at, _))| *at);
            let next = if self.places.may_start() { Some(self.batch_end) } else { next };
            let wake = next.map(|at| self.batch_end.max(at));
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let targets = Arc::clone(&self.wanted.borrow_and_update());
                    self.retarget(&targets);
                }
                Some(done) = self.probes.join_next() => {
                    self.finish(done);
                    while let Some(done) = self.probes.try_join_next() {
                        self.finish(done);
                    }
                }
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                () = pulse.asked() => pulse.answer(),
                permit = updates.reserve(), if !self.unreported.is_empty() => {
                    let Ok(permit) = permit else { return };
                    let update = next_update(&mut self.unreported, &mut self.entries);
                    if let Some(update) = update {
                        permit.send(update);
                    }
                }
            }
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        if now < self.batch_end {
            return;
        }
        while let Some(&Reverse((at, id))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            // One that was answered by another one's probe is due later.
            if let Some(entry) = self.entries.get(&id).filter(|entry| entry.due <= now) {
                self.places.wait(entry.group, id);
            }
        }
        for _ in 0..AT_ONCE {
            let Some(id) = self.places.next() else { break };
            let shares = self.shared.is_asked(id);
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if shares || entry.running.is_some() || entry.due > now {
                // The probe that is under way is for this one, too, or has ended while this one waited.
                if shares {
                    entry.row.change(|state| state.due = None);
                }
                continue;
            }
            self.batch_end = now + BATCH_WINDOW;
            self.places.runs(entry.group);
            self.shared.ask(id, true);
            let late = now.saturating_duration_since(entry.due);
            entry.row.change(|state| (state.due, state.late) = (None, late));
            // Of a backend that is known to be silent, silence is no news.
            let asks_again = entry.machine.verdict() != Verdict::Down || entry.machine.streak() > 0;
            let spare = asks_again.then(|| self.places.spare(entry.group));
            let health = Arc::clone(&entry.target.health);
            let address = SocketAddr::new(entry.target.address, health.port);
            let tls = entry.tls.clone();
            entry.running = Some(self.probes.spawn(async move {
                let started = Instant::now();
                let (result, words) = probe::run(address, &health, tls.as_ref(), spare.as_deref()).await;
                Done { id, started, elapsed: started.elapsed(), result, words }
            }));
        }
        // Where probes wait for others to end, that is their beat.
        if self.places.anyone_waits() {
            self.batch_end = now;
        }
    }

    fn finish(&mut self, done: Result<Done, JoinError>) {
        let done = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                // A defect in a probe must not end the checks of its backend in silence.
                let running =
                    |entry: &Entry| entry.running.as_ref().is_some_and(|run| run.id() == error.id());
                let Some((&id, _)) = self.entries.iter().find(|(_, entry)| running(entry)) else { return };
                let result = Err(Failure::LocalError("the probe failed from within, see the log".into()));
                let (started, elapsed, words) = (Instant::now(), Duration::ZERO, Words::default());
                Done { id, started, elapsed, result, words }
            }
        };
        let Some(entry) = self.entries.get_mut(&done.id) else { return };
        entry.running = None;
        self.places.ended(entry.group);
        self.shared.ask(done.id, false);
        let others: Vec<Id> = self.shared.others(done.id).collect();
        for id in std::iter::once(done.id).chain(others) {
            self.answer(id, &done);
        }
    }

    /// Takes in the end of a probe for a target that it was for, and says when that is asked again.
    fn answer(&mut self, id: Id, done: &Done) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let result = match &done.result {
            Ok(()) => entry.standing.take(done.words.clone()).map_err(Failure::Backend),
            Err(failure) => Err(failure.clone()),
        };
        let works = match &result {
            Ok(()) => Some(true),
            Err(Failure::Backend(_)) => Some(false),
            Err(Failure::LocalError(reason) | Failure::Unsaid(reason)) => {
                log_throttled(&mut self.complained, &entry.target, reason);
                None
            }
        };
        let changed = works.is_some_and(|works| entry.machine.record(works).is_some());
        entry.row.change(|state| {
            state.verdict = entry.machine.verdict();
            state.streak = entry.machine.streak();
            state.said = entry.standing.said();
            state.last = Some(result.map_err(|failure| failure.to_string()));
            state.not_asked = works.is_none();
            state.elapsed = done.elapsed;
            state.probes += u64::from(works.is_some());
            state.failures += u64::from(works == Some(false));
            if changed {
                state.since = std::time::Instant::now();
            }
        });
        if works.is_some() {
            self.durations.note(&entry.target.service, done.elapsed);
        }
        if entry.news() && !entry.queued {
            entry.queued = true;
            self.unreported.push_back(id);
        }
        let health = &entry.target.health;
        let hurried =
            self.hurried.lock().unwrap_or_else(PoisonError::into_inner).contains(&entry.target.service);
        let interval = if hurried { health.fast_interval.min(health.interval) } else { health.interval };
        let delay = jitter(&mut self.random, entry.machine.delay(interval, health.fast_interval));
        let next = (done.started + delay.max(SHORTEST_DELAY)).max(Instant::now());
        entry.due = next;
        entry.row.change(|state| state.due = Some(next.into_std()));
        self.due.push(Reverse((next, id)));
    }

    fn retarget(&mut self, targets: &[Target]) {
        self.clients.prepare(targets.iter().filter_map(|target| target.health.probe.tls()));
        let mut old: HashMap<(String, String), (Id, Entry)> = self
            .entries
            .drain()
            .map(|(id, entry)| ((entry.target.service.clone(), entry.target.backend.clone()), (id, entry)))
            .collect();
        let mut rows = Vec::with_capacity(targets.len());
        let mut fresh = Vec::new();
        let mut seen = HashSet::with_capacity(targets.len());
        for target in targets {
            if !seen.insert((&target.service, &target.backend)) {
                continue;
            }
            let tls = target.health.probe.tls().and_then(|tls| self.clients.get(tls)).cloned();
            let before = old.remove(&(target.service.clone(), target.backend.clone()));
            let entry = match before {
                Some((id, mut entry))
                    if entry.target.address == target.address && entry.target.health == target.health =>
                {
                    entry.tls = tls;
                    rows.push(Arc::clone(&entry.row));
                    self.entries.insert(id, entry);
                    continue;
                }
                Some((_, mut entry)) => {
                    if let Some(running) = entry.running.take() {
                        running.abort();
                    }
                    if entry.target.address == target.address {
                        Entry::new(
                            target,
                            tls,
                            (entry.row.state().verdict, entry.standing.said()),
                            entry.reported,
                            Arc::clone(&entry.row),
                        )
                    } else {
                        Entry::begin(target, tls)
                    }
                }
                None => Entry::begin(target, tls),
            };
            rows.push(Arc::clone(&entry.row));
            fresh.push(entry);
        }
        for entry in self.entries.values().chain(&fresh) {
            let stale = entry.target.health.probe.tls().and_then(|tls| self.clients.stale(tls));
            entry.row.change(|state| state.stale = stale);
        }
        for (_, entry) in old.into_values() {
            // What ends now is of no group any more.
            if let Some(running) = entry.running {
                running.abort();
            }
        }
        let spread = FIRST_SPREAD * u32::try_from(fresh.len()).unwrap_or(u32::MAX);
        let now = Instant::now();
        for mut entry in fresh {
            let id = self.next_id;
            self.next_id += 1;
            let first = now + below(&mut self.random, spread.min(entry.target.health.interval));
            entry.queued = entry.news();
            if entry.queued {
                self.unreported.push_back(id);
            }
            entry.due = first;
            self.entries.insert(id, entry);
        }
        self.regroup();
        self.durations.keep(&targets.iter().map(|target| target.service.as_str()).collect());
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }
}

impl Driver {
    /// Services as they are now, and who is due when.
    fn regroup(&mut self) {
        let mut groups: HashMap<&str, usize> = HashMap::new();
        for entry in self.entries.values() {
            let next = groups.len();
            groups.entry(&entry.target.service).or_insert(next);
        }
        let groups: HashMap<String, usize> =
            groups.into_iter().map(|(service, group)| (service.to_owned(), group)).collect();
        self.places.begin(groups.len());
        self.due.clear();
        self.shared = Shared::new(self.entries.iter().map(|(id, entry)| (*id, &entry.target)));
        for (&id, entry) in &mut self.entries {
            entry.group = groups.get(&entry.target.service).copied().unwrap_or(0);
            let (interval, due) = (entry.target.health.interval, entry.due);
            if entry.running.is_some() {
                self.shared.ask(id, true);
                self.places.runs(entry.group);
                entry.row.change(|state| state.interval = interval);
            } else {
                self.due.push(Reverse((due, id)));
                entry.row.change(|state| (state.interval, state.due) = (interval, Some(due.into_std())));
            }
        }
    }
}

impl Entry {
    fn begin(target: &Target, tls: Option<Result<Arc<ClientConfig>, String>>) -> Self {
        let row = Arc::new(Row::new(&target.service, &target.backend, target.initial));
        let known = (target.initial, target.said);
        Self::new(target, tls, known, known, row)
    }

    fn new(
        target: &Target,
        tls: Option<Result<Arc<ClientConfig>, String>>,
        (verdict, said): (Verdict, Said),
        reported: (Verdict, Said),
        row: Arc<Row>,
    ) -> Self {
        let Health { rise, fall, .. } = *target.health;
        let machine = Machine::new(verdict, rise, fall);
        let standing = Standing::new(said);
        row.change(|state| state.said = said);
        let (running, group, due) = (None, 0, Instant::now());
        Self {
            target: target.clone(),
            tls,
            machine,
            standing,
            row,
            reported,
            queued: false,
            running,
            group,
            due,
        }
    }
}

impl Entry {
    /// Whether there is something that the receiver of updates does not know.
    fn news(&self) -> bool {
        self.reported != (self.machine.verdict(), self.standing.said())
    }
}

/// The next update that says something new: a verdict that changed back before it was reported is not worth one.
fn next_update(unreported: &mut VecDeque<Id>, entries: &mut HashMap<Id, Entry>) -> Option<Update> {
    while let Some(id) = unreported.pop_front() {
        let Some(entry) = entries.get_mut(&id) else { continue };
        entry.queued = false;
        if !entry.news() {
            continue;
        }
        let (verdict, said) = (entry.machine.verdict(), entry.standing.said());
        let State { last, elapsed, probes, failures, .. } = entry.row.state();
        return Some(Update {
            service: entry.target.service.clone(),
            backend: entry.target.backend.clone(),
            address: entry.target.address,
            verdict,
            previous: std::mem::replace(&mut entry.reported, (verdict, said)).0,
            said,
            last: last.unwrap_or(Ok(())),
            elapsed,
            probes,
            failures,
        });
    }
    None
}

fn log_throttled(last: &mut Option<Instant>, target: &Target, reason: &str) {
    if last.is_some_and(|last| last.elapsed() < COMPLAINT_INTERVAL) {
        return;
    }
    *last = Some(Instant::now());
    log::warn!(
        "backend {}/{}: could not be probed, its verdict stays: {reason} (further ones like this are not logged for {} s)",
        target.service,
        target.backend,
        COMPLAINT_INTERVAL.as_secs()
    );
}

/// From nothing up to `span`, `span` excluded.
fn below(random: &mut fastrand::Rng, span: Duration) -> Duration {
    span.mul_f64(random.f64())
}

/// ±10 %, so that targets that began together drift apart.
fn jitter(random: &mut fastrand::Rng, delay: Duration) -> Duration {
    delay.mul_f64(0.9 + 0.2 * random.f64())
}

#[cfg(test)]
mod tests;
