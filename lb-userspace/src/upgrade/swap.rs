//! Swaps the program in the links, in one step for each interface: an interface is never without a program.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use aya::programs::loaded_programs;

use super::error::{MigrateError, OpenError};
use crate::{
    bpf::{link, loader::LoadError, pin::PinDirectory, sys},
    fault::{self, Kind},
    kernel::Kernel,
};

/// A pinned link of an interface that is there.
pub(super) struct Link {
    pin: PathBuf,
    link: OwnedFd,
    /// Id of the program in the link.
    pub(super) program: u32,
}

/// All pinned links. A link of another network namespace is an error: it belongs to another agent.
pub(super) fn links(pins: &PinDirectory) -> Result<Vec<Link>, MigrateError> {
    let mut links = Vec::new();
    let found = pins.inspect().map_err(|error| failed(pins.path().into())(&error))?;
    for pin in found.links {
        let failed = failed(pin.clone());
        let info = link::pinned(&pin).map_err(|error| failed(&error))?;
        let Some(info) = info.filter(|info| info.interface != 0) else { continue };
        if !link::is_here(info).map_err(|error| failed(&error))? {
            return Err(failed(&"it belongs to an interface in another network namespace"));
        }
        let link = sys::open_pin(&pin).map_err(|error| failed(&error))?;
        links.push(Link { pin, link, program: info.program });
    }
    Ok(links)
}

fn failed(pin: PathBuf) -> impl Fn(&dyn std::fmt::Display) -> MigrateError {
    move |why| MigrateError::Link { pin: pin.clone(), why: why.to_string() }
}

/// Records in `next` that the program of `kernel` uses the maps there, before it comes into a link.
pub(super) fn announce(kernel: &mut Kernel, next: &PinDirectory) -> Result<(), OpenError> {
    let info = kernel.program()?.info().map_err(|error| LoadError::Load(error.to_string()))?;
    Ok(next.record_program(info.id())?)
}

/// Puts the program of `kernel` into all links, or into none. Returns when no packet is in the old program any more.
pub(super) fn swap(kernel: &mut Kernel, links: &[Link]) -> Result<(), MigrateError> {
    for (done, link) in links.iter().enumerate() {
        let swapped = fault::point(Kind::Link).and_then(|()| {
            let program = kernel.program().map_err(std::io::Error::other)?;
            sys::update_link(link.link.as_fd(), program.fd().map_err(std::io::Error::other)?.as_fd())
        });
        match swapped {
            // The link's interface has just been removed.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOLINK) => {}
            Err(error) => {
                links[..done].iter().for_each(put_back);
                return Err(failed(link.pin.clone())(&error));
            }
            Ok(()) => {}
        }
    }
    sys::wait_for_programs();
    Ok(())
}

fn put_back(link: &Link) {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == link.program);
    let outcome =
        program.ok_or_else(|| std::io::Error::other("the program before is gone")).and_then(|program| {
            fault::point(Kind::Link)?;
            sys::update_link(link.link.as_fd(), program.fd().map_err(std::io::Error::other)?.as_fd())
        });
    if let Err(error) = outcome {
        log::error!("{}: putting the program before back failed: {error}", link.pin.display());
    }
}
