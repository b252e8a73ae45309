//! Fuzzing: compares the loaded programs with the model (`packet`), and code that needs no kernel with what it promises
//! (`pure`). A seed decides each run, so that every run can be repeated.
//!
//! `random` makes the random numbers; `scenes` makes configurations, `frames` valid packets, `control` control messages, `mutate` errors in them;
//! `sequence` is a scene with its steps, in the form of a file; `comparison` plays a sequence in the kernel and in the model; `distribution`
//! judges the random choices; `shrink` makes a sequence with a difference small.

pub mod comparison;
mod control;
mod distribution;
mod frames;
mod mutate;
pub mod packet;
pub mod pure;
mod random;
mod scenes;
pub mod sequence;
mod shrink;

pub use distribution::Distribution;
pub use random::Random;
