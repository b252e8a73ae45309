//! What the tests share: a data path of their own to run packets through (`world`), and the packets (`frame`).

pub mod bench;
pub mod frame;
pub mod world;
