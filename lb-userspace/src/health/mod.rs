//! Whether backends work. Decides nothing about the ring: the agent's loop does, from [`Verdict`]s.
//!
//! `rise_fall` is the pure part (results → verdict), and so is `said` (what backends say of themselves); `probe` asks one backend once, `scheduler` asks all of them in
//! their rhythm, on a thread of its own.
//!
//! # How fast a killed backend is found
//!
//! With `fall = 2` and a jitter of ±10 %, a backend whose process dies (connections are refused at once) is down at the
//! latest 1.1 × (`interval` + `fast_interval`) after its death, plus the duration of two probes: 660 ms with the default
//! interval of 500 ms and fast interval of 100 ms. One that falls silent takes 1.1 × `interval` + 2 × `timeout`, as long
//! as the timeout is the longer of the two: 1.55 s with the default timeout of 500 ms.
//!
//! A lost packet is no failure: within its time a probe that hears nothing asks again (`probe::attempts`). With one packet in
//! five lost, a probe by TCP fails once in 15,000 times.

mod durations;
pub mod probe;
pub mod rise_fall;
pub mod said;
pub mod scheduler;

use std::time::Duration;

pub use said::Said;
pub use scheduler::{Scheduler, Target, Trouble, Update};

/// A target with its last result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub service: String,
    pub backend: String,
    pub verdict: Verdict,
    /// Results in a row that differ from the verdict.
    pub streak: u32,
    /// How the last probe ended: a failure in words; `None` = none has ended yet.
    pub last: Option<Result<(), String>>,
    /// How long the last probe took.
    pub elapsed: Duration,
    pub probes: u64,
    pub failures: u64,
    /// How long ago the verdict became what it is.
    pub since: Duration,
    /// What the backend says of itself.
    pub said: Said,
}

/// What health checking says of one backend of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// No verdict yet: not enough probes have ended since the backend was first probed.
    Checking,
    Up,
    Down,
}

impl Verdict {
    /// The word the control socket and the logs use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}
