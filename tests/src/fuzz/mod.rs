//! Fuzzing: compares the loaded programs with the model (`packet`), and code that needs no kernel with what it promises
//! (`pure`). A seed decides each run, so that every run can be repeated.
//!
//! `random` makes the random numbers; `scenes` makes configurations, `frames` valid packets, `mutate` errors in them;
//! `sequence` is a scene with its steps, in the form of a file; `bed` plays a sequence in the kernel and in the model; `odds`
//! judges the random choices; `shrink` makes a sequence with a difference small.

pub mod bed;
mod frames;
mod mutate;
mod odds;
pub mod packet;
pub mod pure;
mod random;
mod scenes;
pub mod sequence;
mod shrink;

pub use odds::Odds;
pub use random::Random;
