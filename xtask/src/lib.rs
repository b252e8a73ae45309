//! The commands of this repository (`cargo xtask …`) as a library, so that tests can use the lab.
//!
//! It depends on no other crate here: it starts cargo and the binaries cargo built.

pub mod bench;
pub mod build;
pub mod children;
pub mod churn;
pub mod demo;
pub mod docs;
pub mod doctor;
pub mod fuzz;
pub mod golden;
pub mod interrupt;
pub mod kernels;
pub mod lab;
pub mod pipe;
pub mod privilege;
pub mod run;
pub mod setup;
pub mod stack;
pub mod test;
pub mod tidy;
pub mod ui;
pub mod wait;
pub mod workspace;
