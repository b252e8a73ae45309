//! `lb_pass` on interfaces that packets are redirected to: most drivers of network cards send XDP frames only while an XDP
//! program of any kind is on the card. A pinned link holds it, like the balancer's own program. Where another program is
//! already on the interface, that program is enough.

use std::{io, path::Path};

use nix::net::if_::if_nametoindex;

use super::Kernel;
use crate::{
    bpf::{
        kernel_version,
        link::{self, AttachError},
        loader::program,
        pin::{PinError, remove_link},
        xdp_netlink::{self, Mode},
    },
    fault::{self, Kind},
};

/// The result of putting `lb_pass` on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Passing {
    /// It is there; this agent or an earlier one put it there.
    Ours,
    /// Another program is there.
    Others,
    /// The driver takes no program.
    NoXdp,
    /// The driver takes no program now; the kernel's error.
    Refused(String),
}

impl Kernel {
    /// Puts `lb_pass` on an interface, in the driver.
    ///
    /// # Errors
    /// The pin could not be made or read, or the program not loaded; the interface is as it was.
    pub fn put_pass(&mut self, interface: &str) -> Result<Passing, AttachError> {
        let pin = self.pins.pass(interface);
        let index = if_nametoindex(interface).map_err(|_| AttachError::NoInterface)?;
        if let Some(there) = link::pinned(&pin)? {
            if there.interface == index && link::is_here(there)? {
                return Ok(Passing::Ours);
            }
            // The link's interface is gone, or another interface has its name now.
            remove_link(&pin)?;
        }
        if link::present(index)?.is_some() {
            return Ok(Passing::Others);
        }
        let other = |error: &dyn std::fmt::Display| AttachError::Other(error.to_string());
        let pass = program(&mut self.ebpf, "lb_pass").map_err(|error| other(&error))?;
        if pass.fd().is_err() {
            pass.load()
                .map_err(|error| AttachError::Other(kernel_version::refused_program("lb_pass", &error)))?;
        }
        fault::point(Kind::Link).map_err(failed(&pin, "attaching"))?;
        let link = match link::attach_in(pass, index, Mode::Native) {
            Ok(link) => link,
            Err(AttachError::Refused { source, .. }) => {
                let none = source.raw_os_error() == Some(nix::libc::EOPNOTSUPP);
                return Ok(if none { Passing::NoXdp } else { Passing::Refused(source.to_string()) });
            }
            Err(error) => return Err(error),
        };
        fault::point(Kind::Pin).map_err(failed(&pin, "pinning the link"))?;
        link.pin(&pin).map_err(|error| other(&format!("{}: {error}", pin.display())))?;
        Ok(Passing::Ours)
    }

    /// Takes `lb_pass` off where this instance put it; not an error when it is not there.
    pub fn take_pass(&mut self, interface: &str) -> Result<(), PinError> {
        let pin = self.pins.pass(interface);
        if pin.exists() { remove_link(&pin) } else { Ok(()) }
    }

    /// Interfaces on which this instance has put `lb_pass`.
    pub fn passes(&self) -> Result<Vec<String>, PinError> {
        self.pins.passing()
    }

    /// How the balancer's program runs on an interface, also before this agent has attached its own; `None` = not there.
    pub fn running_mode(&self, interface: &str) -> Option<Mode> {
        let there = link::pinned(&self.pins.link(interface)).ok().flatten()?;
        let present = xdp_netlink::program_on(there.interface).ok().flatten()?;
        (there.interface != 0 && present.program == there.program).then_some(present.mode)
    }

    /// An interface with our `lb_pass` becomes an interface of the balancer's own program. The link stays, and with it the
    /// state of the card: a new attachment would reset the card.
    pub(super) fn promote_pass(&self, interface: &str) -> Result<(), AttachError> {
        let (from, to) = (self.pins.pass(interface), self.pins.link(interface));
        if !from.exists() || to.exists() {
            return Ok(());
        }
        let index = if_nametoindex(interface).map_err(|_| AttachError::NoInterface)?;
        if link::pinned(&from)?.is_none_or(|there| there.interface != index) {
            return Ok(remove_link(&from)?);
        }
        fault::point(Kind::Pin).map_err(failed(&to, "renaming the pin"))?;
        std::fs::rename(&from, &to).map_err(failed(&to, "renaming the pin"))?;
        Ok(())
    }
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Io { path, action, source }
}
