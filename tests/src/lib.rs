//! The shared part of the tests: a data path of their own to run packets through (`world`), the packets (`frame`, and
//! `extension` for what is between the headers; `control` for control messages; `bytes` for what is in them), and what to do
//! without root (`privilege`).

pub mod bench;
pub mod bytes;
pub mod checkout;
pub mod control;
pub mod extension;
pub mod frame;
pub mod fuzz;
pub mod golden;
pub mod model;
pub mod privilege;
pub mod world;
