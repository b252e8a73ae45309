//! The agent and its command line, in the order in which a change walks:
//! `config` (file → spec) → `state` (desired × observed → effective) → `ring` (slots) → `reconcile`
//! (plan, apply) → `tables` (the maps, as a trait) → `kernel` (maps, program, links) → `bpf` (calls of the kernel).
//! `upgrade` opens what an older agent left. `health` and `net` observe; `control` and `ctl` are the two ends of the
//! socket; `tools` has the commands that are no agent; `agent` is the one loop that owns all of it.

pub mod agent;
pub mod api;
pub mod bpf;
pub mod config;
pub mod control;
pub mod ctl;
#[cfg(test)]
mod documents;
mod fault;
pub mod health;
pub mod histogram;
pub mod host;
pub mod instance;
pub mod kernel;
pub mod metrics;
pub mod net;
pub mod printable;
pub mod reconcile;
pub mod ring;
pub mod state;
pub mod tables;
pub mod tools;
pub mod upgrade;
#[cfg(test)]
mod wait;
