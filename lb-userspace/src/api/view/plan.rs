//! What `POST /v1/plan` answers.

use serde::{Deserialize, Serialize};

/// What a configuration would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What it changes of the configuration in force, one sentence each.
    pub summary: Vec<String>,
    pub services: Vec<PlannedService>,
    /// What it would cut, and how not to.
    pub warnings: Vec<String>,
    /// Map entries that would be written.
    pub writes: u64,
    /// Settings that a running agent does not follow.
    pub needs_restart: Vec<String>,
}

/// What becomes of a service, with backends that are new taken for healthy and reachable, and their weights for whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedService {
    pub name: String,
    /// `new`, `removed`, `changed` or `unchanged`.
    pub change: String,
    pub slots: u32,
    /// Slots that get another owner; where the ring changes its length, slots whose flows had another owner; where slots
    /// go by another hash, all of them.
    pub slots_moved: u32,
    pub moved_percent: f64,
    /// Of these, slots that go from one backend that stays as it is to another.
    pub slots_collateral: u32,
    pub collateral_percent: f64,
    /// Live tracked flows in slots that change; they stay where they are.
    pub flows_in_moved_slots: u64,
    /// Whether these are all: every live flow of the service is tracked, or no slot changes. Otherwise
    /// `flows_in_moved_slots` is a lower bound.
    #[serde(default)]
    pub flows_known: bool,
    /// Live tracked flows of backends that lose their flows.
    pub flows_cut: u64,
    /// Whether these are all: every live flow of the service is tracked, or no backend loses its flows. Otherwise
    /// `flows_cut` is a lower bound.
    #[serde(default)]
    pub flows_cut_known: bool,
    /// Slots that would be written and tracked.
    pub slots_tracked: u32,
    /// How long they learn at most; after that each is tracked until the flows elsewhere are over. `None` = none would be,
    /// or as long as the service has `track = "always"`.
    pub tracked_for_seconds: Option<u64>,
    /// Backends that come, go, or change their weight in the ring, their address or their name.
    pub backends: Vec<PlannedBackend>,
}

/// Weights are those in the ring: 0 for a backend that takes no new flows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedBackend {
    pub name: String,
    /// `added`, `removed`, `weight`, `address` or `name`.
    pub change: String,
    pub weight_before: u16,
    pub weight_after: u16,
    pub slots_before: u32,
    pub slots_after: u32,
}
