//! The last result of each target, written by the scheduler's thread and read by those who ask.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::health::{Said, Snapshot, Verdict};

/// One target's row. Each has a lock of its own, held for a copy: readers never stop the probes.
pub(super) struct Row {
    service: String,
    backend: String,
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub verdict: Verdict,
    pub streak: u32,
    pub said: Said,
    /// How the last probe ended; `None` = none has ended yet.
    pub last: Option<Result<(), String>>,
    pub elapsed: Duration,
    pub probes: u64,
    pub failures: u64,
    /// The last probe could not be made; `last` says why.
    pub not_asked: bool,
    /// Why probes go on with certificates that are older than their file.
    pub stale: Option<Arc<str>>,
    /// When the verdict became what it is.
    pub since: Instant,
    pub interval: Duration,
    /// When the next probe is due; `None` = one is under way.
    pub due: Option<Instant>,
    /// How much after it was due the last probe began.
    pub late: Duration,
}

impl State {
    /// How late the last probe began, or the next one is by now.
    pub(super) fn lateness(&self) -> Option<Duration> {
        let waits = self.due.map(|due| due.elapsed()).unwrap_or_default();
        Some(waits.max(self.late)).filter(|late| !late.is_zero())
    }
}

impl Row {
    pub(super) fn new(service: &str, backend: &str, verdict: Verdict) -> Self {
        let state = State {
            verdict,
            streak: 0,
            said: Said::default(),
            last: None,
            elapsed: Duration::ZERO,
            probes: 0,
            failures: 0,
            not_asked: false,
            stale: None,
            since: Instant::now(),
            interval: Duration::ZERO,
            due: None,
            late: Duration::ZERO,
        };
        Self { service: service.to_owned(), backend: backend.to_owned(), state: Mutex::new(state) }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn service(&self) -> &str {
        &self.service
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let State { verdict, streak, said, last, elapsed, probes, failures, since, .. } = self.state();
        Snapshot {
            service: self.service.clone(),
            backend: self.backend.clone(),
            verdict,
            streak,
            last,
            elapsed,
            probes,
            failures,
            since: since.elapsed(),
            said,
        }
    }
}
