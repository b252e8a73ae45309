//! The control socket, agent's end.

pub mod request;
pub mod view;
