//! The lab as data: which nodes there are, how they are cabled, which addresses and routes they have. Nothing here
//! touches the kernel.
//!
//! ```text
//!   client ── router ── balancer          every answer goes backend → router → client
//!               │ │ └──────│── backend-1  and never through the balancer
//!               │ └────────│── backend-2
//!               └──────────┴── backend-3  the last one is also cabled to the balancer (redirect, not XDP_TX)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What kind of lab is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Namespaces are called `<prefix>-<node>`, and the lab's files are under `/run/<prefix>`.
    pub prefix: String,
    /// 1–9.
    pub backends: u8,
    /// The last backend has a second cable, straight to the balancer, and is reached over it.
    pub direct: bool,
    /// The backend's end of that cable runs an XDP program that passes everything. Without one, and without
    /// `lb_decap`, it takes nothing that XDP sends.
    pub direct_pass: bool,
    /// Of the link between client and router, in bytes.
    pub client_mtu: u16,
    /// Of all other links: the client's MTU plus room for the outer header (40 bytes for IPv6).
    pub fabric_mtu: u16,
    /// Of the agent, whose pins and socket are removed with the lab.
    pub instance: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            prefix: "lb-lab".to_owned(),
            backends: 3,
            direct: true,
            direct_pass: false,
            client_mtu: 1500,
            fabric_mtu: 1600,
            instance: "lab".to_owned(),
        }
    }
}

pub const CLIENT: &str = "client";
pub const ROUTER: &str = "router";
pub const BALANCER: &str = "balancer";

/// Virtual addresses, from the documentation ranges (RFC 5737, RFC 3849); every backend has them on `lo`.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// The client's own addresses.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 2);

/// The name of backend `index`, counted from 0.
pub fn backend_name(index: u8) -> String {
    format!("backend-{}", index + 1)
}

/// One end of a cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub node: String,
    pub interface: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// A cable: networks are /24 and /64, the ends' addresses lie in the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ends: [End; 2],
    pub mtu: u16,
}

/// A route of a node, both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub node: String,
    pub to_v4: String,
    pub to_v6: String,
    pub via_v4: Ipv4Addr,
    pub via_v6: Ipv6Addr,
}

impl Config {
    /// All nodes, the client first, the backends last.
    pub fn nodes(&self) -> Vec<String> {
        let mut nodes = vec![CLIENT.to_owned(), ROUTER.to_owned(), BALANCER.to_owned()];
        nodes.extend((0..self.backends).map(backend_name));
        nodes
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.prefix)
    }

    /// All cables.
    pub fn links(&self) -> Vec<Link> {
        let link = |a: (&str, &str), b: (&str, &str), net: Net, mtu: u16| Link {
            ends: [end(a, net, 1), end(b, net, 2)],
            mtu,
        };
        let mut links = vec![
            link((ROUTER, CLIENT), (CLIENT, "eth0"), Net::Client, self.client_mtu),
            link((ROUTER, BALANCER), (BALANCER, "eth0"), Net::Fabric(0), self.fabric_mtu),
        ];
        for index in 0..self.backends {
            let name = backend_name(index);
            links.push(link((ROUTER, &name), (&name, "eth0"), Net::Fabric(index + 1), self.fabric_mtu));
        }
        if let Some(index) = self.direct_backend() {
            let name = backend_name(index);
            links.push(link((BALANCER, "eth1"), (&name, "eth1"), Net::Fabric(index + 11), self.fabric_mtu));
        }
        links
    }

    /// All routes beyond those of the cables.
    pub fn routes(&self) -> Vec<Route> {
        let default = |node: &str, net: Net| Route {
            node: node.to_owned(),
            to_v4: "0.0.0.0/0".to_owned(),
            to_v6: "::/0".to_owned(),
            via_v4: net.v4(1),
            via_v6: net.v6(1),
        };
        let mut routes = vec![default(CLIENT, Net::Client), default(BALANCER, Net::Fabric(0))];
        routes.extend((0..self.backends).map(|index| default(&backend_name(index), Net::Fabric(index + 1))));
        routes.push(Route {
            node: ROUTER.to_owned(),
            to_v4: format!("{VIP_V4}/32"),
            to_v6: format!("{VIP_V6}/128"),
            via_v4: Net::Fabric(0).v4(2),
            via_v6: Net::Fabric(0).v6(2),
        });
        routes
    }

    /// The backend that is cabled to the balancer.
    pub fn direct_backend(&self) -> Option<u8> {
        if self.direct { self.backends.checked_sub(1) } else { None }
    }

    /// The addresses under which the balancer reaches backend `index`, and its interface they are on.
    pub fn backend_address(&self, index: u8) -> (Ipv4Addr, Ipv6Addr, &'static str) {
        if self.direct_backend() == Some(index) {
            (Net::Fabric(index + 11).v4(2), Net::Fabric(index + 11).v6(2), "eth1")
        } else {
            (Net::Fabric(index + 1).v4(2), Net::Fabric(index + 1).v6(2), "eth0")
        }
    }

    /// Ends that get an XDP program which passes everything, so that they take what XDP on the balancer sends.
    pub fn xdp_receivers(&self) -> Vec<(String, String)> {
        let mut ends = vec![(ROUTER.to_owned(), BALANCER.to_owned())];
        if self.direct_pass {
            ends.extend(self.direct_backend().map(|index| (backend_name(index), "eth1".to_owned())));
        }
        ends
    }
}

/// A network of the lab.
#[derive(Clone, Copy)]
enum Net {
    /// 198.51.100.0/24 and 2001:db8:c::/64
    Client,
    /// 10.0.N.0/24 and fd00:0:0:N::/64
    Fabric(u8),
}

impl Net {
    fn v4(self, host: u8) -> Ipv4Addr {
        match self {
            Self::Client => Ipv4Addr::new(198, 51, 100, host),
            Self::Fabric(number) => Ipv4Addr::new(10, 0, number, host),
        }
    }

    fn v6(self, host: u8) -> Ipv6Addr {
        match self {
            Self::Client => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, host.into()),
            // The network's number is written in decimal, so that both families read alike.
            Self::Fabric(number) => {
                let number = u16::from(number / 10) * 16 + u16::from(number % 10);
                Ipv6Addr::new(0xfd00, 0, 0, number, 0, 0, 0, host.into())
            }
        }
    }
}

fn end((node, interface): (&str, &str), net: Net, host: u8) -> End {
    End { node: node.to_owned(), interface: interface.to_owned(), v4: net.v4(host), v6: net.v6(host) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_interface_name_is_used_once_in_a_node_and_fits_the_kernel() {
        let config = Config { backends: 9, ..Config::default() };
        let mut seen = HashSet::new();
        for end in config.links().into_iter().flat_map(|link| link.ends) {
            assert!(end.interface.len() <= 15, "{}", end.interface);
            assert!(seen.insert((end.node.clone(), end.interface.clone())), "{end:?}");
        }
    }

    #[test]
    fn every_address_is_used_once() {
        let config = Config { backends: 9, ..Config::default() };
        let mut seen = HashSet::new();
        for end in config.links().into_iter().flat_map(|link| link.ends) {
            assert!(seen.insert(end.v4.to_string()), "{end:?}");
            assert!(seen.insert(end.v6.to_string()), "{end:?}");
        }
    }

    #[test]
    fn the_client_is_where_the_constants_say() {
        let links = Config::default().links();
        assert_eq!((links[0].ends[1].v4, links[0].ends[1].v6), (CLIENT_V4, CLIENT_V6));
    }

    #[test]
    fn the_last_backend_is_reached_over_its_own_cable() {
        let config = Config::default();
        assert_eq!(
            config.backend_address(0),
            ("10.0.1.2".parse().unwrap(), "fd00:0:0:1::2".parse().unwrap(), "eth0")
        );
        assert_eq!(
            config.backend_address(2),
            ("10.0.13.2".parse().unwrap(), "fd00:0:0:13::2".parse().unwrap(), "eth1")
        );
        let without = Config { direct: false, ..config };
        assert_eq!(without.backend_address(2).2, "eth0");
    }

    #[test]
    fn an_outer_ipv6_header_fits_the_fabric() {
        let config = Config::default();
        assert!(config.fabric_mtu >= config.client_mtu + 40);
    }
}
