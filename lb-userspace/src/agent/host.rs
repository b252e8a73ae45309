//! The kernel half as the agent's `Host`: attaches programs, and translates the results into the agent's types.

use std::{collections::BTreeMap, io};

use lb_common::loss::Loss;

use super::{Host, interfaces::Attached};
use crate::{
    bpf::xdp_netlink::Mode,
    config::spec::AttachMode,
    kernel::{Kernel, egress::Passing, mend::Mended},
    net::device::{self, Device},
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

    fn mend_pins(&mut self) -> Vec<Mended> {
        Self::mend_pins(self)
    }

    fn is_attached(&mut self, interface: &str) -> bool {
        Self::is_attached(self, interface)
    }

    fn memory(&self) -> &[(&'static str, u64)] {
        Self::memory(self)
    }

    fn running_mode(&self, interface: &str) -> Option<&'static str> {
        Self::running_mode(self, interface).map(Mode::name)
    }

    fn device(&self, index: u32) -> io::Result<Device> {
        device::ask(index)
    }

    fn put_pass(&mut self, interface: &str) -> Result<Passing, String> {
        Self::put_pass(self, interface).map_err(|error| error.to_string())
    }

    fn take_pass(&mut self, interface: &str) -> Result<(), String> {
        Self::take_pass(self, interface).map_err(|error| error.to_string())
    }

    fn passes(&self) -> Vec<String> {
        Self::passes(self).unwrap_or_else(|error| {
            log::warn!("{error}");
            Vec::new()
        })
    }

    fn losses(&self) -> Option<BTreeMap<Loss, u64>> {
        let read = Self::losses(self)?.read();
        read.inspect_err(|error| log::warn!("reading what was lost failed: {error}")).ok()
    }
}
