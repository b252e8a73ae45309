//! The control socket, agent's end: HTTP/1.1 with JSON over a Unix socket. [`request`] is what can be asked, [`view`]
//! what is answered; [`socket`] makes the file, [`server`] speaks. Nothing here knows how a request is answered: that
//! is the agent's loop, at the other end of a [`request::Sender`].

mod caller;
mod connection;
mod event_stream;
pub mod filter;
mod handler;
pub mod kind;
mod parse;
pub mod request;
pub mod route;
pub mod server;
pub mod since;
pub mod socket;
mod suggest_path;
pub mod view;

/// The largest body that carries a configuration, in bytes: the longest file there may be, each of its bytes written as two
/// (as JSON does with quotes and line feeds), and the text around it.
pub const TEXT_LIMIT: usize = 2 * crate::config::document::LONGEST + 64 * 1024;
