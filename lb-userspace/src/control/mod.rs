//! The control socket, agent's end: HTTP/1.1 with JSON over a Unix socket. [`request`] is what can be asked, [`view`]
//! what is answered; [`socket`] makes the file, [`server`] speaks. Nothing here knows how a request is answered: that
//! is the agent's loop, at the other end of a [`request::Sender`].

mod caller;
mod connection;
pub mod filter;
mod follow;
mod handler;
pub mod kind;
mod nearest;
mod parse;
pub mod request;
pub mod route;
pub mod server;
pub mod since;
pub mod socket;
pub mod view;
