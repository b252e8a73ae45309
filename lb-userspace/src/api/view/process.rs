//! What the agent costs, and how long things take it.

use serde::{Deserialize, Serialize};

/// The agent's process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Processor time, of user and kernel.
    pub cpu_seconds: f64,
    /// Seconds since 1970.
    pub start_time: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_files: u64,
    /// The limit of open files; 0 = there is none, or it is not known.
    pub most_files: u64,
}

/// How often something took how long, since the agent was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// Upper bounds in microseconds.
    pub bounds_us: Vec<u64>,
    /// How many took at most as long as each bound.
    pub counts: Vec<u64>,
    /// How many there were.
    pub count: u64,
    /// All of them together, in microseconds.
    pub sum_us: u64,
}
