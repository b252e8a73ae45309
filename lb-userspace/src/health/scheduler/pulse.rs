//! Whether the thread of the checks lives: it is asked, and answers between two things it does. Costs nothing while it
//! is not asked.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Questions and answers, as numbers that grow.
#[derive(Debug, Default)]
pub struct Pulse {
    asked: AtomicU64,
    answered: AtomicU64,
    wake: Notify,
}

impl Pulse {
    /// Asks for a sign of life.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether every question has its answer.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) == self.asked.load(Ordering::Relaxed)
    }

    /// Waits for a question, on the thread's side.
    pub(super) async fn asked(&self) {
        self.wake.notified().await;
    }

    /// The answer to all questions.
    pub(crate) fn answer(&self) {
        self.answered.store(self.asked.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
