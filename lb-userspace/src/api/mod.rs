//! What goes over the control socket: requests, views, events and errors. The agent makes views of what it knows; `control`
//! sends them, `ctl` and `metrics` read them. No other part of the agent works with these types, so that they stay as they
//! are when the agent's own types change.

pub mod attention;
pub mod filter;
pub mod kind;
pub mod request;
pub mod scope;
pub mod since;
pub mod view;
