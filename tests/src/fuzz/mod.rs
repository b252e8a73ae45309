//! Fuzzing: the loaded programs against the model (`packet`), told by seeds, so that every run can be had again; and what
//! needs no kernel against what it promises (`pure`).
//!
//! `random` is where chance comes from; `scenes` makes configurations, `frames` valid packets, `mutate` what is wrong
//! with them; `sequence` is a scene with what happens to it, as it is written down; `bed` plays one in the kernel and in
//! the model; `odds` judges what chance decided; `shrink` makes a difference small.

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
