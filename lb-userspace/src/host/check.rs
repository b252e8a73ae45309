//! A file checked against this host, without an agent: `lbd --check` and `lbctl config check` use the same function.

use super::{ThisHost, command, state_directory};
use crate::{
    config::{
        Diagnostic,
        document::{self, Document},
    },
    instance::{lock, paths::Paths},
    net::link,
};

/// Checks a text as the agent of `instance` would at a start on this host; `name` = the name of the text in messages.
///
/// # Errors
/// Everything that is wrong.
pub fn on_this_host(text: &[u8], name: &str, instance: &str) -> Result<Document, Vec<Diagnostic>> {
    let exists = |interface: &str| link::index_of(interface).is_some();
    let host = ThisHost {
        interface_exists: &exists,
        state_directory: &state_directory,
        command: &command,
        listens: None,
        // An address that the agent uses already is free for it.
        agent: lock::holder(&Paths::lock_of(instance)),
    };
    document::parse_on_host(text, name, &host)
}
