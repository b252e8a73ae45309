//! What the rig has made of the load balancer so far: services, their backends, which of them live. The script is made on it
//! and carried out on it, so that both mean the same; nothing here touches a lab.

use std::fmt::Write as _;

use super::script::{Act, Edit};
use crate::lab::{self, VIP_V4, VIP_V6, backend_name};

/// Backends of the lab.
pub(super) const BACKENDS: u8 = 8;
/// Of these, how many every service begins with.
pub(super) const FIRST: u8 = 6;
/// Backends that can take new flows; no act of the script leaves a service fewer.
pub(super) const LEAST: usize = 2;

/// A service of the rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) udp: bool,
    pub(super) v6: bool,
    pub(super) port: u16,
    /// `track_window` or `udp_idle`, in seconds; `None` = the default.
    pub(super) window: Option<u64>,
}

/// Where the rig's servers listen, TCP and UDP.
pub(super) const PORT: u16 = 7;
/// Where the service with a single backend is.
pub(super) const LONE_PORT: u16 = 8;

/// All services. Those over IPv4 have a short window, so that slots go through all their states again and again; those
/// over IPv6 have the default one, so that history piles up.
pub(super) const SERVICES: [Kind; 5] = [
    Kind { name: "echo", udp: false, v6: false, port: PORT, window: Some(16) },
    Kind { name: "echo6", udp: false, v6: true, port: PORT, window: None },
    Kind { name: "udp", udp: true, v6: false, port: PORT, window: Some(16) },
    Kind { name: "udp6", udp: true, v6: true, port: PORT, window: None },
    Kind { name: "lone", udp: false, v6: false, port: LONE_PORT, window: Some(16) },
];
/// The service that has one backend, which is removed and comes back.
pub(super) const LONE: usize = 4;
/// The one backend it has.
pub(super) const LONE_BACKEND: u8 = 0;

/// A backend of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) weight: u16,
    pub(super) draining: bool,
    /// Draining in order to be removed: its connections are being ended by the client.
    pub(super) leaving: bool,
}

impl Place {
    pub(super) const NEW: Self = Self { weight: 100, draining: false, leaving: false };

    fn takes_new(self) -> bool {
        self.weight > 0 && !self.draining && !self.leaving
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) max_backends: u32,
    /// By the lab's numbers; `None` = not of this service.
    pub(super) places: [Option<Place>; BACKENDS as usize],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct World {
    pub(super) services: [Service; SERVICES.len()],
    /// Backends whose server was killed.
    pub(super) dead: [bool; BACKENDS as usize],
    /// Whether the agent runs.
    pub(super) agent: bool,
}

/// The first `max_backends` of every service.
pub(super) const MAX_BACKENDS: u32 = 16;

impl World {
    /// As every run begins.
    pub(super) fn first() -> Self {
        let service = |index| {
            let mut places = [None; BACKENDS as usize];
            if index == LONE {
                places[usize::from(LONE_BACKEND)] = Some(Place::NEW);
            } else {
                places[..usize::from(FIRST)].fill(Some(Place::NEW));
            }
            Service { max_backends: MAX_BACKENDS, places }
        };
        Self { services: std::array::from_fn(service), dead: [false; BACKENDS as usize], agent: true }
    }

    pub(super) fn place(&self, service: usize, backend: u8) -> Option<Place> {
        *self.services.get(service)?.places.get(usize::from(backend))?
    }

    fn place_mut(&mut self, service: usize, backend: u8) -> Option<&mut Option<Place>> {
        self.services.get_mut(service)?.places.get_mut(usize::from(backend))
    }

    pub(super) fn is_dead(&self, backend: u8) -> bool {
        self.dead.get(usize::from(backend)).copied().unwrap_or(false)
    }

    /// Backends of a service that can take new flows.
    pub(super) fn usable(&self, service: usize) -> usize {
        let takes = |&backend: &u8| {
            self.place(service, backend).is_some_and(Place::takes_new) && !self.is_dead(backend)
        };
        (0..BACKENDS).filter(takes).count()
    }

    /// Whether every service can take new flows, but for the one that is meant to be empty at times.
    pub(super) fn is_served(&self) -> bool {
        (0..LONE).all(|service| self.usable(service) >= LEAST)
    }

    /// What an act makes of it.
    pub(super) fn apply(&mut self, act: &Act) {
        match act {
            Act::Add { service, backend, weight } => {
                self.set(*service, *backend, |place| *place = Some(Place { weight: *weight, ..Place::NEW }));
            }
            Act::Drain { service, backend } => self.edit(*service, *backend, |place| place.draining = true),
            Act::Undrain { service, backend } => {
                self.edit(*service, *backend, |place| place.draining = false);
            }
            Act::Finish { service, backend } => self.edit(*service, *backend, |place| place.leaving = true),
            Act::Remove { service, backend } => self.set(*service, *backend, |place| *place = None),
            Act::Weight { service, backend, weight } => {
                self.edit(*service, *backend, |place| place.weight = *weight);
            }
            Act::Kill { backend } => self.set_dead(*backend, true),
            Act::Revive { backend } => self.set_dead(*backend, false),
            Act::Reload(edits) => {
                for Edit { service, backend, weight, draining } in edits {
                    self.edit(*service, *backend, |place| {
                        place.weight = *weight;
                        place.draining = *draining;
                    });
                }
            }
            Act::AgentKill | Act::AgentStop => self.agent = false,
            Act::AgentStart => self.agent = true,
            Act::Resize { service, max_backends } => {
                if let Some(service) = self.services.get_mut(*service) {
                    service.max_backends = *max_backends;
                }
            }
        }
    }

    fn set(&mut self, service: usize, backend: u8, change: impl FnOnce(&mut Option<Place>)) {
        if let Some(place) = self.place_mut(service, backend) {
            change(place);
        }
    }

    fn edit(&mut self, service: usize, backend: u8, change: impl FnOnce(&mut Place)) {
        self.set(service, backend, |place| {
            if let Some(place) = place {
                change(place);
            }
        });
    }

    fn set_dead(&mut self, backend: u8, dead: bool) {
        if let Some(entry) = self.dead.get_mut(usize::from(backend)) {
            *entry = dead;
        }
    }

    /// The agent's file. `head` is put before: node and health.
    pub(super) fn configuration(&self, lab: &lab::Config, head: &str, track: Option<&str>) -> String {
        let mut text = head.to_owned();
        for (index, (kind, service)) in SERVICES.iter().zip(&self.services).enumerate() {
            let protocol = if kind.udp { "udp" } else { "tcp" };
            let address = if kind.v6 { format!("[{VIP_V6}]") } else { VIP_V4.to_string() };
            write!(
                text,
                "\n[[service]]\nname = \"{}\"\nlisten = \"{protocol}/{address}:{}\"\nmax_backends = {}\n",
                kind.name, kind.port, service.max_backends
            )
            .ok();
            if let Some(window) = kind.window {
                let key = if kind.udp { "udp_idle" } else { "track_window" };
                writeln!(text, "{key} = \"{window}s\"").ok();
            }
            if index == LONE {
                // That its backend is out is to be seen.
                writeln!(text, "all_down = \"drop\"").ok();
            }
            if let Some(track) = track {
                writeln!(text, "track = \"{track}\"").ok();
            }
            for backend in 0..BACKENDS {
                let Some(place) = self.place(index, backend) else { continue };
                writeln!(
                    text,
                    "\n[[service.backend]]\nname = \"{}\"\naddress = \"{}\"\nweight = {}\nstate = \"{}\"",
                    backend_name(backend),
                    address_of(lab, index, backend),
                    place.weight,
                    if place.draining { "draining" } else { "enabled" },
                )
                .ok();
            }
        }
        text
    }
}

/// Under which address a service reaches a backend.
pub(super) fn address_of(lab: &lab::Config, service: usize, backend: u8) -> String {
    let (v4, v6, _) = lab.backend_address(backend);
    if SERVICES.get(service).is_some_and(|kind| kind.v6) { v6.to_string() } else { v4.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_or_dead_backend_takes_no_new_flows() {
        let mut world = World::first();
        assert_eq!(world.usable(0), usize::from(FIRST));
        world.apply(&Act::Drain { service: 0, backend: 1 });
        world.apply(&Act::Kill { backend: 2 });
        world.apply(&Act::Weight { service: 0, backend: 3, weight: 0 });
        assert_eq!(world.usable(0), usize::from(FIRST) - 3);
        world.apply(&Act::Undrain { service: 0, backend: 1 });
        world.apply(&Act::Revive { backend: 2 });
        assert_eq!(world.usable(0), usize::from(FIRST) - 1);
    }

    #[test]
    fn the_file_says_what_the_acts_have_made() {
        let mut world = World::first();
        world.apply(&Act::Drain { service: 0, backend: 1 });
        world.apply(&Act::Remove { service: 1, backend: 0 });
        world.apply(&Act::Resize { service: 0, max_backends: 30 });
        let text =
            world.configuration(&lab::Config { backends: BACKENDS, ..lab::Config::default() }, "", None);
        assert!(text.contains("listen = \"tcp/203.0.113.10:7\"\nmax_backends = 30\n"), "{text}");
        assert_eq!(text.matches("state = \"draining\"").count(), 1);
        assert_eq!(text.matches("[[service.backend]]").count(), 4 * usize::from(FIRST));
    }
}
