//! What `lbd` is in addition to an agent: its command line, and commands that attach, change or take off and end.

pub mod cli;
pub mod decap;
pub mod decap_command;
pub mod detach;
pub mod say;
pub mod xdp_pass;
