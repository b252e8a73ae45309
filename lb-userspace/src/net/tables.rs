//! What the kernel last said of links and neighbours. Pure: fed with events, it says what they may have changed.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::message::Event;

/// A neighbour is an address on an interface.
pub(super) type Key = (u32, IpAddr);

pub(super) type Mac = [u8; 6];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub name: String,
    pub mac: Option<Mac>,
    /// Has Ethernet headers (`ARPHRD_ETHER`).
    pub ethernet: bool,
    /// Wanted up by the administrator (`IFF_UP`).
    pub up: bool,
    /// Has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    pub no_arp: bool,
    pub loopback: bool,
    pub mtu: u32,
    /// MTU for IPv6 where it differs in principle; `None` = no IPv6 there.
    pub mtu6: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// Answered once and is kept fresh by the kernel.
    Learned(Mac),
    /// Set by the administrator.
    Permanent(Mac),
    /// `NUD_NOARP`: nobody was asked.
    Unasked(Mac),
    /// Asked, no answer yet.
    Asking,
    /// Asked, no answer.
    Failed,
    Unknown,
}

/// What an event may have changed, from nothing to everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// Next hops, on the routes we know.
    Hops,
    /// Routes to the addresses of a prefix.
    Prefix(IpAddr, u8),
    /// Every route.
    Routes,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    links: HashMap<u32, Link>,
    neighbours: HashMap<Key, Neighbour>,
    /// Names of links that were deleted since [`Tables::take_vanished`].
    vanished: HashSet<String>,
}

impl Tables {
    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    pub(super) fn link_named(&self, name: &str) -> Option<(u32, &Link)> {
        self.links.iter().find(|(_, link)| link.name == name).map(|(&index, link)| (index, link))
    }

    pub(super) fn neighbour(&self, key: Key) -> Neighbour {
        self.neighbours.get(&key).copied().unwrap_or(Neighbour::Unknown)
    }

    pub(super) fn apply(&mut self, event: Event) -> Change {
        match event {
            Event::Link(index, link) => {
                let same = self.links.get(&index) == Some(&link);
                if same {
                    return Change::Nothing;
                }
                self.links.insert(index, link);
                // IPv4 routes come and go with links without a notification of their own.
                Change::Routes
            }
            Event::LinkGone(index) => {
                self.neighbours.retain(|&(interface, _), _| interface != index);
                match self.links.remove(&index) {
                    Some(link) => {
                        self.vanished.insert(link.name);
                        Change::Routes
                    }
                    None => Change::Nothing,
                }
            }
            Event::Neighbour(key, neighbour) => {
                // Between reachable and stale an entry goes all day; only what we make of it counts.
                if self.neighbours.insert(key, neighbour) == Some(neighbour) {
                    Change::Nothing
                } else {
                    Change::Hops
                }
            }
            Event::NeighbourGone(key) => match self.neighbours.remove(&key) {
                Some(_) => Change::Hops,
                None => Change::Nothing,
            },
            Event::Route { prefix, length } => Change::Prefix(prefix, length),
            Event::Routing => Change::Routes,
        }
    }

    /// Replaces all links by those of a dump.
    pub(super) fn replace_links(&mut self, links: HashMap<u32, Link>) -> Change {
        if self.links == links {
            return Change::Nothing;
        }
        for (index, link) in &self.links {
            if !links.contains_key(index) {
                self.vanished.insert(link.name.clone());
            }
        }
        self.links = links;
        Change::Routes
    }

    /// Replaces all neighbours by those of a dump.
    pub(super) fn replace_neighbours(&mut self, neighbours: HashMap<Key, Neighbour>) -> Change {
        if self.neighbours == neighbours {
            return Change::Nothing;
        }
        self.neighbours = neighbours;
        Change::Hops
    }

    /// Names of links that were deleted since the last call, also those that are there again.
    pub(super) fn take_vanished(&mut self) -> HashSet<String> {
        std::mem::take(&mut self.vanished)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::net) fn ethernet(name: &str) -> Link {
        Link {
            name: name.into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            ethernet: true,
            up: true,
            carrier: true,
            no_arp: false,
            loopback: false,
            mtu: 1500,
            mtu6: Some(1500),
        }
    }

    const KEY: Key = (2, IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

    #[test]
    fn what_is_known_already_changes_nothing() {
        let mut tables = Tables::default();
        let link = Event::Link(2, ethernet("eth0"));
        assert_eq!(tables.apply(link.clone()), Change::Routes);
        assert_eq!(tables.apply(link), Change::Nothing);
        let neighbour = Event::Neighbour(KEY, Neighbour::Learned([1; 6]));
        assert_eq!(tables.apply(neighbour.clone()), Change::Hops);
        assert_eq!(tables.apply(neighbour), Change::Nothing);
        assert_eq!(tables.apply(Event::NeighbourGone(KEY)), Change::Hops);
        assert_eq!(tables.apply(Event::NeighbourGone(KEY)), Change::Nothing);
        assert_eq!(tables.apply(Event::LinkGone(9)), Change::Nothing);
    }

    #[test]
    fn a_link_that_goes_takes_its_neighbours_along() {
        let mut tables = Tables::default();
        tables.apply(Event::Link(2, ethernet("eth0")));
        tables.apply(Event::Neighbour(KEY, Neighbour::Learned([1; 6])));
        tables.apply(Event::LinkGone(2));
        tables.apply(Event::Link(2, ethernet("eth0")));
        assert_eq!(tables.neighbour(KEY), Neighbour::Unknown);
        assert!(tables.take_vanished().contains("eth0"), "also when it is back");
    }

    #[test]
    fn a_dump_without_a_link_says_it_vanished() {
        let mut tables = Tables::default();
        tables.apply(Event::Link(2, ethernet("eth0")));
        assert_eq!(tables.replace_links(HashMap::new()), Change::Routes);
        assert!(tables.take_vanished().contains("eth0"));
        assert!(tables.take_vanished().is_empty());
    }

    #[test]
    fn a_renamed_link_is_found_by_its_new_name_only() {
        let mut tables = Tables::default();
        tables.apply(Event::Link(2, ethernet("eth0")));
        tables.apply(Event::Link(2, ethernet("wan0")));
        assert!(tables.link_named("eth0").is_none());
        assert_eq!(tables.link_named("wan0").map(|(index, _)| index), Some(2));
    }
}
