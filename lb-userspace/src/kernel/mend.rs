//! Checks the pins while the agent runs. Another tool may remove pins, and without this check the loss would show only at the
//! next restart, which would find nothing to take over. The agent's descriptors keep the objects alive, so that they can be
//! pinned again. The loss counters are not checked: a start makes new ones, and only the count is lost.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::maps::MapData;
use nix::net::if_::if_nametoindex;

use super::Kernel;
use crate::{
    bpf::{sys, xdp_netlink},
    config::words::plural,
};

/// What was found wrong with a pin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mended {
    /// The pin was gone, and is there again.
    Again(String),
    /// The pin cannot be put back.
    Not(String),
}

/// The state of a pin.
enum Pin {
    AsItIs,
    Gone,
    /// Another object is pinned there.
    Other,
}

impl Kernel {
    /// Checks every pin, and puts back those that are gone.
    pub fn mend_pins(&mut self) -> Vec<Mended> {
        let mut found = Vec::new();
        let mut gone = Vec::new();
        for (name, map) in &self.pinned {
            let path = self.pins.map(name);
            match map_at(&path, map) {
                Pin::AsItIs => {}
                Pin::Gone => gone.push((path, map.fd().as_fd())),
                Pin::Other => found.push(other(&path)),
            }
        }
        let mut links: Vec<(std::path::PathBuf, OwnedFd)> = Vec::new();
        for interface in self.links.keys() {
            let path = self.pins.link(interface);
            // Where the interface is gone there is no link to pin; the watcher reports the interface.
            if !path.exists()
                && let Some(link) = running_link(interface)
            {
                links.push((path, link));
            }
        }
        gone.extend(links.iter().map(|(path, link)| (path.clone(), link.as_fd())));
        if gone.is_empty() {
            return found;
        }
        // The lock that was taken at the start belongs to the directory that is gone.
        let unlocked = !self.pins.path().exists();
        let made = self.pins.create().and_then(|()| if unlocked { self.pins.lock() } else { Ok(None) });
        let made = made.and_then(|lock| self.pins.record().map(|()| lock));
        if let Err(error) = &made {
            let path = self.pins.path().display();
            found.push(Mended::Not(format!(
                "{path}: {}: {error}",
                plural(gone.len() as u64, "pin is gone", "pins are gone")
            )));
            return found;
        }
        if let Ok(Some(lock)) = made {
            self.relocked = Some(lock);
        }
        for (path, object) in gone {
            let shown = path.display();
            found.push(match sys::pin(object, &path) {
                Ok(()) => Mended::Again(format!("{shown} was gone")),
                Err(error) => Mended::Not(format!("{shown} is gone, and cannot be pinned again: {error}")),
            });
        }
        found
    }
}

fn other(path: &Path) -> Mended {
    Mended::Not(format!(
        "{} is of another object, which a start would take over: stop the process that put it there, remove the pin, and this \
         agent puts its own back",
        path.display()
    ))
}

fn map_at(path: &Path, ours: &MapData) -> Pin {
    if fs::symlink_metadata(path).is_err() {
        return Pin::Gone;
    }
    let id = |map: &MapData| map.info().map(|info| info.id());
    match (MapData::from_pin(path).as_ref().map(id), id(ours)) {
        (Ok(Ok(there)), Ok(ours)) if there == ours => Pin::AsItIs,
        _ => Pin::Other,
    }
}

/// The link that holds the program on an interface.
fn running_link(interface: &str) -> Option<OwnedFd> {
    let index = if_nametoindex(interface).ok()?;
    let present = xdp_netlink::program_on(index).ok().flatten()?;
    let wanted = sys::XdpLinkInfo { program: present.program, interface: index };
    sys::find_xdp_link(wanted).ok().flatten()
}
