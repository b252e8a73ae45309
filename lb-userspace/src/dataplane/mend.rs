//! What is pinned, looked at while the agent runs: another tool may take pins away, and it would not be known before the next
//! restart, which would find nothing to take over. Descriptors that the agent holds keep the objects alive, so that they can be
//! pinned again. Those of the counters of losses are not among them: a start makes new ones, and nothing but the count ends.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::maps::MapData;
use nix::net::if_::if_nametoindex;

use super::{kernel::Kernel, netlink, sys};
use crate::config::words::plural;

/// What was found of a pin that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mended {
    /// It was gone, and is there again.
    Again(String),
    /// It cannot be put back.
    Not(String),
}

/// What becomes of a pin.
enum Pin {
    AsItIs,
    Gone,
    /// Another object is pinned there.
    Other,
}

impl Kernel {
    /// Looks at every pin, and puts back those that are gone.
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
            // A link whose interface is gone has nothing to lose; the watcher says so.
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
        // The lock that was taken at the start is of the directory that is gone.
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
    let present = netlink::program_on(index).ok().flatten()?;
    let wanted = sys::XdpLinkInfo { program: present.program, interface: index };
    sys::find_xdp_link(wanted).ok().flatten()
}
