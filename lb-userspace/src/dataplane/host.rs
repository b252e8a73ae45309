//! The kernel half as the agent's host: attaching in the words the agent reports.

use super::kernel::Kernel;
use crate::{
    agent::{Host, interfaces::Attached},
    config::spec::AttachMode,
};

impl Host for Kernel {
    fn attach(&mut self, interface: &str, mode: AttachMode) -> Result<Attached, String> {
        match Self::attach(self, interface, mode) {
            Ok(attached) => Ok(Attached { mode: attached.mode.name(), note: attached.note }),
            Err(error) => Err(error.to_string()),
        }
    }

    fn detach(&mut self, interface: &str) -> Result<(), String> {
        Self::detach(self, interface).map_err(|error| error.to_string())
    }

    fn memory(&self) -> &[(&'static str, u64)] {
        Self::memory(self)
    }
}
