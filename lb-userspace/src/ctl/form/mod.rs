//! Forms of an answer for scripts: [`yaml`] and [`csv`] of the same JSON that the agent sent, so that keys and columns have the
//! names that they have there.

pub mod csv;
pub mod yaml;
