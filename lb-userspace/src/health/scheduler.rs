//! Probes every target in its rhythm. Holds sockets, clocks and the list of targets; what a result means is decided in
//! `machine`.
//!
//! A thread of its own runs all of it, so that a probe's time is measured right while the agent's loop builds a ring
//! of a million slots, and a thousand TLS handshakes do not hold up the loop. An idle target costs a heap entry and
//! its row, no task and no timer.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use self::{
    places::Places,
    probe_loop::Driver,
    table::{Row, State},
};
use super::{Said, Snapshot, Verdict, durations::Durations};
use crate::{config::spec::Health, histogram::Histogram};

mod places;
mod probe_loop;
mod pulse;
mod shared;
mod table;

pub use self::pulse::Pulse;

/// Updates that may lie in the channel; what does not fit waits, coalesced, on the scheduler's side.
const UPDATES: usize = 1024;

/// Places for further attempts where nothing else is said.
const SPARE: usize = 1024;

/// A backend to be probed. Identified by service and backend together.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub service: String,
    pub backend: String,
    pub address: IpAddr,
    /// Shared by the backends of a service.
    pub health: Arc<Health>,
    /// What is known of it already, for example from an agent that ran before; else [`Verdict::Checking`].
    pub initial: Verdict,
    /// What it is known to have said of itself.
    pub said: Said,
}

/// A verdict that changed, or what a backend says of itself. Single results are in [`Scheduler::snapshot`] only, so that ten thousand healthy backends
/// cost the agent's loop nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub service: String,
    pub backend: String,
    /// The address that was probed: an update that was on its way when the target changed is recognised by it.
    pub address: IpAddr,
    pub verdict: Verdict,
    /// The verdict of the update before this one, or the target's `initial`.
    pub previous: Verdict,
    pub said: Said,
    /// How the last probe ended: a failure in words.
    pub last: Result<(), String>,
    /// How long the last probe took.
    pub elapsed: Duration,
    /// Probes that have ended, and how many of them failed.
    pub probes: u64,
    pub failures: u64,
}

/// See [`Scheduler::troubles`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Backends whose last probe could not be made, and why one of them could not.
    pub unasked: usize,
    pub reason: Option<String>,
    /// Why the file of certificates could not be read again.
    pub stale: Option<Arc<str>>,
    /// How much later than it was due a probe began, or waits to begin, where that is much.
    pub late: Option<Duration>,
}

/// A probe that begins so much after it was due, or half an interval where that is longer, is late: backends that died are out
/// later than the documentation says.
const LATE: Duration = Duration::from_millis(250);

/// The handle. Dropping it ends the thread and all probes.
pub struct Scheduler {
    targets: watch::Sender<Arc<[Target]>>,
    rows: Arc<Mutex<Vec<Arc<Row>>>>,
    pulse: Arc<Pulse>,
    hurried: Arc<Hurried>,
    durations: Arc<Durations>,
}

/// Services whose backends are all asked at their fast interval.
pub(super) type Hurried = Mutex<HashSet<String>>;

impl Scheduler {
    /// Starts the thread, in the network namespace of the caller's. At most `concurrency` probes (0 counts as 1) are
    /// in flight at once, each with one file descriptor and those of its further attempts; what is due beyond that waits its
    /// turn (`places`).
    ///
    /// The receiver yields `None` only if the thread ended. Take all that lies there at once (`recv_many`): when a rack
    /// fails, one new ring will do.
    ///
    /// # Errors
    ///
    /// The system refused a thread or an epoll descriptor.
    pub fn new(concurrency: usize) -> io::Result<(Self, mpsc::Receiver<Update>)> {
        Self::with_spare(concurrency, SPARE)
    }

    /// The same, with `spare` places for further attempts of probes that hear nothing, over all services.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_spare(concurrency: usize, spare: usize) -> io::Result<(Self, mpsc::Receiver<Update>)> {
        let (targets, wanted) = watch::channel(Arc::from([]));
        let (updates, receiver) = mpsc::channel(UPDATES);
        let rows = Arc::new(Mutex::new(Vec::new()));
        let pulse = Arc::new(Pulse::default());
        let hurried = Arc::new(Hurried::default());
        let durations = Arc::new(Durations::default());
        let driver = Driver::new(
            Places::new(concurrency, spare),
            wanted,
            updates,
            Arc::clone(&rows),
            Arc::clone(&pulse),
        )
        .hurried_by(Arc::clone(&hurried))
        .counted_by(Arc::clone(&durations));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        std::thread::Builder::new().name("lb-health".into()).spawn(move || runtime.block_on(driver.run()))?;
        Ok((Self { targets, rows, pulse, hurried, durations }, receiver))
    }

    /// Asks the backends of these services at their fast interval from their next probe on, and no others.
    pub fn hurry(&self, services: HashSet<String>) {
        *self.hurried.lock().unwrap_or_else(PoisonError::into_inner) = services;
    }

    /// Replaces the list of targets. One that is unchanged (`initial` aside) keeps its verdict and its rhythm; one with
    /// the same address and another health setting keeps its verdict until the new probe says otherwise `rise` or
    /// `fall` times; one with a new address begins at `initial`. Of two with the same names the first counts.
    pub fn set_targets(&self, targets: Vec<Target>) {
        // No receiver: the thread has ended, which the update channel tells.
        let _ = self.targets.send(targets.into());
    }

    /// For a watchdog: whether the thread lives.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Every target with its last result, in the order of [`Scheduler::set_targets`]. Follows a change of targets
    /// within moments.
    pub fn snapshot(&self) -> Vec<Snapshot> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rows.iter().map(|row| row.snapshot()).collect()
    }

    /// How long probes took, by service.
    pub fn durations(&self) -> HashMap<String, Histogram> {
        self.durations.all()
    }

    /// What keeps the checks of a service from being made as they should, by service. A verdict that stays because
    /// no probe can be made looks like one that holds.
    pub fn troubles(&self) -> HashMap<String, Trouble> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut troubles: HashMap<String, Trouble> = HashMap::new();
        for row in rows {
            let state = row.state();
            let late = state.lateness().filter(|late| *late > LATE.max(state.interval / 2));
            let State { last, not_asked, stale, .. } = state;
            let reason = last.and_then(Result::err).filter(|_| not_asked);
            if reason.is_none() && stale.is_none() && late.is_none() {
                continue;
            }
            let trouble = troubles.entry(row.service().to_owned()).or_default();
            trouble.unasked += usize::from(reason.is_some());
            trouble.reason = trouble.reason.take().or(reason);
            trouble.stale = trouble.stale.take().or(stale);
            trouble.late = trouble.late.max(late);
        }
        troubles
    }
}

#[cfg(test)]
mod tests;
