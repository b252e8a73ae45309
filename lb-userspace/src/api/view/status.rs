//! Lines of `lbctl status`.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceLine {
    pub name: String,
    pub listen: String,
    pub backends: usize,
    pub backends_in_ring: usize,
    /// Backends whose `admin` is `enabled`.
    #[serde(default)]
    pub backends_enabled: usize,
    /// Backends that are not disabled and whose `health` is `up` or `not_checked`.
    #[serde(default)]
    pub backends_healthy: usize,
    pub slots_tracked: u32,
    /// Of these, slots whose unknown flows belong to another backend than their owner.
    #[serde(default)]
    pub slots_learning: u32,
    /// Fewer backends than `min_healthy` are healthy, so that health is ignored: how many; `None` = health counts.
    #[serde(default)]
    pub health_ignored: Option<String>,
    /// Backends whose weight has not grown to its whole yet.
    #[serde(default)]
    pub backends_starting: usize,
    /// How much after they were due health checks of the service begin, in milliseconds; 0 = in time.
    #[serde(default)]
    pub checks_late_ms: u64,
    /// What an operator should know, in words: no usable backend, health that is ignored, a change that waits.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Name of the setting in `[limits]`.
    pub name: String,
    pub used: u64,
    pub size: u64,
    /// Bytes the kernel accounts for the maps of that size.
    #[serde(default)]
    pub bytes: u64,
}
