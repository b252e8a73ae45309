//! What the kernel last said of links and neighbours. Pure: fed with events, it says what they may have changed.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use super::{Lower, message::Event};

/// Kind of a virtual Ethernet cable.
const VETH: &str = "veth";

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
    /// MTU for IPv6 where it differs in principle; `None` = no IPv6 there, or routers' advertisements may set it.
    pub mtu6: Option<u32>,
    /// Of a virtual device, for example `bridge`; empty = hardware, or one of the few that do not say.
    pub kind: String,
    /// The bridge, bond or the like that it is a part of.
    pub master: Option<u32>,
    /// The device below it, or the other end of a veth.
    pub other: Option<Other>,
}

/// Another device that a link belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Other {
    Here(u32),
    /// In another network namespace.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// Answered once and is kept fresh by the kernel.
    Reachable(Mac),
    /// Set by the administrator.
    Permanent(Mac),
    /// `NUD_NOARP`: there was no question.
    NoArp(Mac),
    /// Asked, no answer yet.
    Incomplete,
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
    /// With the interfaces they are on.
    addresses: BTreeSet<Key>,
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

    /// A link and all that packets come up to it from, itself first.
    pub(super) fn below(&self, index: u32) -> Vec<Lower> {
        let mut indices = vec![index];
        let mut at = 0;
        while let Some(&index) = indices.get(at) {
            let ports =
                self.links.iter().filter(|(_, link)| link.master == Some(index)).map(|(&port, _)| port);
            let under = match self.links.get(&index) {
                Some(Link { kind, other: Some(Other::Here(under)), .. }) if kind != VETH => Some(*under),
                _ => None,
            };
            let mut next: Vec<u32> = ports.chain(under).filter(|index| !indices.contains(index)).collect();
            next.sort_unstable();
            indices.extend(next);
            at += 1;
        }
        indices.iter().filter_map(|index| self.links.get(index)).map(|link| self.lower(link)).collect()
    }

    fn lower(&self, link: &Link) -> Lower {
        let far_end = match link.other {
            Some(Other::Here(other)) if link.kind == VETH => {
                Some(self.links.get(&other).map(|other| other.name.clone()))
            }
            Some(Other::Elsewhere) if link.kind == VETH => Some(None),
            _ => None,
        };
        Lower { name: link.name.clone(), kind: link.kind.clone(), far_end }
    }

    /// What packets for the host itself may be addressed to: neither what only a link knows, nor loopback.
    pub(super) fn hosts(&self) -> BTreeSet<IpAddr> {
        let of_link = |ip: &IpAddr| match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let no_host =
            |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || of_link(ip);
        self.addresses.iter().map(|&(_, ip)| ip).filter(|ip| !no_host(ip)).collect()
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
                self.addresses.retain(|&(interface, _)| interface != index);
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
            Event::Address(index, address) => {
                self.addresses.insert((index, address));
                Change::Routes
            }
            Event::AddressGone(index, address) => {
                self.addresses.remove(&(index, address));
                Change::Routes
            }
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

    /// Replaces all addresses of this host by those of a dump. What routes make of them is asked anyway then.
    pub(super) fn replace_addresses(&mut self, addresses: BTreeSet<Key>) {
        self.addresses = addresses;
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
            kind: String::new(),
            master: None,
            other: None,
        }
    }

    const KEY: Key = (2, IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

    #[test]
    fn what_is_known_already_changes_nothing() {
        let mut tables = Tables::default();
        let link = Event::Link(2, ethernet("eth0"));
        assert_eq!(tables.apply(link.clone()), Change::Routes);
        assert_eq!(tables.apply(link), Change::Nothing);
        let neighbour = Event::Neighbour(KEY, Neighbour::Reachable([1; 6]));
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
        tables.apply(Event::Neighbour(KEY, Neighbour::Reachable([1; 6])));
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

    #[test]
    fn lower_devices_are_found_once_each() {
        let mut tables = Tables::default();
        let link = |name: &str, kind: &str, master, other| Link {
            kind: kind.into(),
            master,
            other,
            ..ethernet(name)
        };
        for (index, link) in [
            (2, link("eth0", "", Some(4), None)),
            (3, link("eth1", "", Some(4), None)),
            (4, link("bond0", "bond", None, None)),
            (5, link("bond0.7", "vlan", Some(8), Some(Other::Here(4)))),
            (6, link("veth0", "veth", Some(8), Some(Other::Here(7)))),
            (7, link("c0", "veth", None, Some(Other::Here(6)))),
            (8, link("br0", "bridge", None, None)),
            (9, link("veth1", "veth", Some(8), Some(Other::Elsewhere))),
            (10, link("eth9", "", None, None)),
        ] {
            tables.apply(Event::Link(index, link));
        }
        let below = tables.below(8);
        let names: Vec<_> = below.iter().map(|lower| lower.name.as_str()).collect();
        assert_eq!(names, ["br0", "bond0.7", "veth0", "veth1", "bond0", "eth0", "eth1"]);
        assert_eq!(below[2].far_end, Some(Some("c0".to_owned())));
        assert_eq!((&below[3].far_end, &below[5].far_end), (&Some(None), &None));
        assert_eq!(tables.below(99), []);
    }

    #[test]
    fn addresses_are_followed_except_link_local_ones() {
        let mut tables = Tables::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (index, text) in [
            (1, "127.0.0.1"),
            (1, "::1"),
            (2, "10.0.0.2"),
            (2, "fe80::1"),
            (2, "2001:db8::2"),
            (2, "169.254.0.9"),
            (3, "10.0.0.2"),
        ] {
            tables.apply(Event::Address(index, ip(text)));
        }
        assert_eq!(tables.hosts(), BTreeSet::from([ip("10.0.0.2"), ip("2001:db8::2")]));
        tables.apply(Event::AddressGone(2, ip("10.0.0.2")));
        assert!(tables.hosts().contains(&ip("10.0.0.2")), "it is on another interface, too");
        tables.apply(Event::LinkGone(3));
        assert_eq!(tables.hosts(), BTreeSet::from([ip("2001:db8::2")]));
        tables.replace_addresses(BTreeSet::from([(4, ip("10.0.0.3"))]));
        assert_eq!(tables.hosts(), BTreeSet::from([ip("10.0.0.3")]));
    }
}
