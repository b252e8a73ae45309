//! The control socket, agent's end: HTTP/1.1 with JSON over a Unix socket. What can be asked and
//! what is answered is in [`crate::api`]; [`socket`] makes the file, [`server`] speaks. Nothing here knows how a request is
//! answered: that is the agent's loop, at the other end of a [`Sender`](crate::api::request::Sender).

mod caller;
mod connection;
mod encoding;
mod event_stream;
mod handler;
mod parse;
pub mod route;
pub mod routes;
pub mod server;
mod shared;
pub mod socket;
mod suggest_path;

/// The largest body that carries a configuration, in bytes: the longest file there may be, each of its bytes written as two
/// (as JSON does with quotes and line feeds), and the text around it.
pub const TEXT_LIMIT: usize = 2 * crate::config::document::LONGEST + 64 * 1024;
