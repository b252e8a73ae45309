//! An instance on its host: its name, its files and its lock. `lbd`, `lbctl` and `lbd decap` agree on them here.

pub mod lock;
pub mod paths;
