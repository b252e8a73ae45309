//! The agent and its command line, in the order in which a change walks:
//! `config` (file → spec) → `state` (desired × observed → effective) → `ring` (slots) → `reconcile`
//! (plan, apply) → `dataplane` (maps, program, pins). `health` and `net` observe; `control` and `ctl` are the two
//! ends of the socket; `agent` is the one loop that owns all of it.

pub mod agent;
pub mod config;
pub mod control;
pub mod ctl;
pub mod dataplane;
#[cfg(test)]
mod documents;
mod fault;
pub mod health;
pub mod metrics;
pub mod net;
pub mod object;
pub mod printable;
pub mod reconcile;
pub mod ring;
pub mod state;
#[cfg(test)]
mod wait;
