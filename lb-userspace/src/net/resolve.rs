//! From an address, its route and the tables to a next hop, or to the reason why there is none. Pure.

use std::net::IpAddr;

use netlink_packet_route::route::RouteType;

use super::{
    Hop, Seed,
    message::Route,
    tables::{Key, Link, Neighbour, Tables},
};

/// What the kernel answered when it was asked for the route: a route, or an error number.
pub(super) type Lookup = Result<Route, i32>;

/// What there is to say of an address.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resolved {
    pub hop: Result<Hop, String>,
    /// What is not as it should be although there is a hop.
    pub note: Option<String>,
    pub ask: Ask,
}

/// What to ask the kernel about the neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Nothing,
    /// From time to time, so that its entry stays fresh.
    Refresh(Key),
    /// Until it answers.
    Resolve(Key),
    /// It was asked just now.
    Wait(Key),
}

/// What was known before.
#[derive(Clone, Copy, Debug)]
pub(super) enum Last<'a> {
    Nothing,
    /// What was found.
    Hop(&'a Hop),
    /// What an agent before us found, by which router it does not say.
    Seed(&'a Seed),
}

impl Last<'_> {
    /// The hardware address that goes on to be used on a way.
    fn mac(self, way: &Way<'_>) -> Option<[u8; 6]> {
        match self {
            Self::Hop(hop) if hop.interface == way.interface && hop.via == way.via => Some(hop.mac),
            Self::Seed(seed) if seed.interface == way.interface && seed.local_mac == way.local_mac => {
                Some(seed.mac)
            }
            _ => None,
        }
    }
}

/// Finds the next hop to `address`. `last` is what was found before.
///
/// A neighbour that does not answer any more keeps its last hardware address as long as link and route stay: whether
/// the backend works is for health to say, and a neighbour table that was flushed or overflowed must cut no flow.
/// The same goes for a link without carrier, whose routes the kernel keeps as well.
pub(super) fn resolve(address: IpAddr, lookup: &Lookup, tables: &Tables, last: Last<'_>) -> Resolved {
    match way(address, lookup, tables) {
        Ok(way) => way.resolve(tables, last),
        Err(reason) => Resolved { hop: Err(reason), note: None, ask: Ask::Nothing },
    }
}

/// Everything but the neighbour.
struct Way<'a> {
    interface: u32,
    link: &'a Link,
    via: IpAddr,
    local_mac: [u8; 6],
    mtu: u16,
    source: IpAddr,
}

fn way<'a>(address: IpAddr, lookup: &Lookup, tables: &'a Tables) -> Result<Way<'a>, String> {
    let route = lookup.as_ref().map_err(|&error| no_route(address, error))?;
    match route.kind {
        RouteType::Unicast => {}
        RouteType::Local => {
            return Err(format!("{address} is an address of this host, a backend must be another one"));
        }
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
            return Err(format!("{address} is not the address of one host"));
        }
        _ => return Err(format!("no route to {address}: a route of the kind unreachable covers it")),
    }
    if route.encapsulated {
        return Err(format!(
            "the route to {address} adds an encapsulation of its own, which is not supported"
        ));
    }
    let interface = route.interface.ok_or_else(|| format!("the route to {address} names no interface"))?;
    let link = tables
        .link(interface)
        .ok_or_else(|| format!("interface number {interface} on the way to {address} is gone"))?;
    let name = &link.name;
    if link.loopback {
        return Err(format!("the route to {address} leads back to this host over {name}"));
    }
    if !link.up {
        return Err(format!("interface {name} is down"));
    }
    let local_mac = match link.mac {
        Some(mac) if link.ethernet => mac,
        _ => {
            return Err(format!(
                "interface {name} on the way to {address} has no Ethernet header, which is not supported"
            ));
        }
    };
    let source = route
        .source
        .filter(|source| source.is_ipv4() == address.is_ipv4() && !source.is_unspecified())
        .ok_or_else(|| {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            format!("interface {name} has no {family} address to reach {address} from")
        })?;
    let mtu = [Some(link.mtu), route.mtu, link.mtu6.filter(|_| address.is_ipv6())];
    let mtu = mtu.into_iter().flatten().min().unwrap_or(0);
    Ok(Way {
        interface,
        link,
        via: route.gateway.unwrap_or(address),
        local_mac,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        source,
    })
}

fn no_route(address: IpAddr, error: i32) -> String {
    match error {
        libc::ENETUNREACH | libc::ESRCH => format!("no route to {address}"),
        libc::EHOSTUNREACH => format!("no route to {address}: an unreachable route covers it"),
        libc::EACCES => format!("no route to {address}: a prohibit route covers it"),
        libc::EINVAL => format!("no route to {address}: a blackhole route covers it"),
        error => format!("no route to {address}: {}", std::io::Error::from_raw_os_error(error)),
    }
}

impl Way<'_> {
    fn resolve(&self, tables: &Tables, last: Last<'_>) -> Resolved {
        let key = (self.interface, self.via);
        let neighbour = tables.neighbour(key);
        let name = &self.link.name;
        let ask = match neighbour {
            Neighbour::Reachable(_) => Ask::Refresh(key),
            Neighbour::Incomplete => Ask::Wait(key),
            Neighbour::Permanent(_) => Ask::Nothing,
            _ if self.link.no_arp => Ask::Nothing,
            Neighbour::NoArp(_) => Ask::Nothing,
            Neighbour::Failed | Neighbour::Unknown => Ask::Resolve(key),
        };
        let (mac, why) = match neighbour {
            Neighbour::Reachable(mac) | Neighbour::Permanent(mac) => (Some(mac), String::new()),
            // What the kernel puts there by itself on an interface without ARP is the interface's own address.
            Neighbour::NoArp(mac) if mac != self.local_mac && mac != [0xff; 6] => (Some(mac), String::new()),
            _ if self.link.no_arp => (
                None,
                format!(
                    "interface {name} has no ARP: set the neighbour with \
                     `ip neighbour add {via} lladdr … dev {name}`",
                    via = self.via
                ),
            ),
            Neighbour::Failed => (None, format!("neighbour {} on {name} does not answer", self.via)),
            _ => (None, format!("neighbour {} on {name} not resolved yet", self.via)),
        };
        let no_carrier = (!self.link.carrier).then(|| format!("interface {name} has no carrier"));
        if let Some(mac) = mac {
            return Resolved { hop: Ok(self.hop(mac)), note: no_carrier, ask };
        }
        let why = no_carrier.unwrap_or(why);
        match last.mac(self) {
            Some(mac) => Resolved {
                hop: Ok(self.hop(mac)),
                note: Some(format!("{why}, its last hardware address is used on")),
                ask,
            },
            None => Resolved { hop: Err(why), note: None, ask },
        }
    }

    fn hop(&self, mac: [u8; 6]) -> Hop {
        Hop {
            interface: self.interface,
            interface_name: self.link.name.clone(),
            via: self.via,
            mac,
            local_mac: self.local_mac,
            mtu: self.mtu,
            source: self.source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{message::Event, tables::tests::ethernet};

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 11));
    const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1));
    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 2));
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

    fn on_link() -> Route {
        Route {
            kind: RouteType::Unicast,
            interface: Some(2),
            gateway: None,
            source: Some(SOURCE),
            mtu: None,
            encapsulated: false,
        }
    }

    fn tables(link: Link, neighbours: &[(IpAddr, Neighbour)]) -> Tables {
        let mut tables = Tables::default();
        tables.apply(Event::Link(2, link));
        for &(address, neighbour) in neighbours {
            tables.apply(Event::Neighbour((2, address), neighbour));
        }
        tables
    }

    fn resolved(route: Route, tables: &Tables) -> Resolved {
        resolve(BACKEND, &Ok(route), tables, Last::Nothing)
    }

    fn reason(route: Route, tables: &Tables) -> String {
        resolved(route, tables).hop.unwrap_err()
    }

    fn hop(route: Route, tables: &Tables) -> Hop {
        resolved(route, tables).hop.unwrap()
    }

    #[test]
    fn a_backend_on_the_link_is_its_own_next_hop() {
        let tables = tables(ethernet("eth0"), &[(BACKEND, Neighbour::Reachable(MAC))]);
        let expected = Hop {
            interface: 2,
            interface_name: "eth0".into(),
            via: BACKEND,
            mac: MAC,
            local_mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            source: SOURCE,
        };
        let resolved = resolved(on_link(), &tables);
        assert_eq!(resolved, Resolved { hop: Ok(expected), note: None, ask: Ask::Refresh((2, BACKEND)) });
    }

    #[test]
    fn behind_a_router_the_router_is_the_next_hop() {
        let tables = tables(ethernet("eth0"), &[(ROUTER, Neighbour::Reachable(MAC))]);
        let hop = hop(Route { gateway: Some(ROUTER), ..on_link() }, &tables);
        assert_eq!((hop.via, hop.mac), (ROUTER, MAC));
    }

    #[test]
    fn an_ipv4_backend_behind_an_ipv6_router_resolves_too() {
        let router: IpAddr = "fe80::1".parse().unwrap();
        let tables = tables(ethernet("eth0"), &[(router, Neighbour::Reachable(MAC))]);
        let hop = hop(Route { gateway: Some(router), ..on_link() }, &tables);
        assert_eq!((hop.via, hop.source), (router, SOURCE));
    }

    #[test]
    fn the_smaller_mtu_of_route_and_link_counts() {
        let known = [(BACKEND, Neighbour::Reachable(MAC))];
        let mtu = |link_mtu, route_mtu| {
            let tables = tables(Link { mtu: link_mtu, ..ethernet("eth0") }, &known);
            hop(Route { mtu: route_mtu, ..on_link() }, &tables).mtu
        };
        assert_eq!(mtu(1500, None), 1500);
        assert_eq!(mtu(1500, Some(1400)), 1400);
        assert_eq!(mtu(1500, Some(9000)), 1500);
        assert_eq!(mtu(100_000, None), u16::MAX);
    }

    #[test]
    fn the_mtu_of_an_interface_for_ipv6_counts_for_ipv6_only() {
        let backend: IpAddr = "fd00::11".parse().unwrap();
        let link = Link { mtu6: Some(1400), ..ethernet("eth0") };
        let tables =
            tables(link, &[(BACKEND, Neighbour::Reachable(MAC)), (backend, Neighbour::Reachable(MAC))]);
        assert_eq!(hop(on_link(), &tables).mtu, 1500);
        let route = Route { source: Some("fd00::2".parse().unwrap()), ..on_link() };
        assert_eq!(resolve(backend, &Ok(route), &tables, Last::Nothing).hop.unwrap().mtu, 1400);
    }

    #[test]
    fn unknown_neighbour_is_asked_for_and_never_guessed() {
        let tables = tables(ethernet("eth0"), &[]);
        let resolved = resolved(on_link(), &tables);
        assert_eq!(resolved.hop, Err("neighbour 10.0.0.11 on eth0 not resolved yet".into()));
        assert_eq!(resolved.ask, Ask::Resolve((2, BACKEND)));
    }

    #[test]
    fn a_neighbour_that_is_being_asked_is_waited_for() {
        let tables = tables(ethernet("eth0"), &[(BACKEND, Neighbour::Incomplete)]);
        assert_eq!(resolved(on_link(), &tables).ask, Ask::Wait((2, BACKEND)));
    }

    #[test]
    fn a_neighbour_that_never_answered_is_no_hop() {
        let tables = tables(ethernet("eth0"), &[(BACKEND, Neighbour::Failed)]);
        assert_eq!(reason(on_link(), &tables), "neighbour 10.0.0.11 on eth0 does not answer");
    }

    #[test]
    fn a_permanent_neighbour_is_used_and_left_alone() {
        let tables = tables(ethernet("eth0"), &[(BACKEND, Neighbour::Permanent(MAC))]);
        let resolved = resolved(on_link(), &tables);
        assert_eq!((resolved.hop.unwrap().mac, resolved.ask), (MAC, Ask::Nothing));
    }

    #[test]
    fn a_silent_neighbour_keeps_its_last_address() {
        let before = hop(on_link(), &tables(ethernet("eth0"), &[(BACKEND, Neighbour::Reachable(MAC))]));
        for neighbour in [Neighbour::Failed, Neighbour::Unknown, Neighbour::Incomplete] {
            let tables = tables(ethernet("eth0"), &[(BACKEND, neighbour)]);
            let resolved = resolve(BACKEND, &Ok(on_link()), &tables, Last::Hop(&before));
            assert_eq!(resolved.hop, Ok(before.clone()));
            assert!(resolved.note.unwrap().contains("10.0.0.11 on eth0"));
            assert_ne!(resolved.ask, Ask::Nothing);
        }
    }

    #[test]
    fn an_adopted_hop_is_used_until_the_neighbour_answers() {
        let seed = Seed { interface: 2, mac: MAC, local_mac: [2, 0, 0, 0, 0, 1] };
        for neighbour in [Neighbour::Failed, Neighbour::Unknown, Neighbour::Incomplete] {
            let tables = tables(ethernet("eth0"), &[(BACKEND, neighbour)]);
            let resolved = resolve(BACKEND, &Ok(on_link()), &tables, Last::Seed(&seed));
            assert_eq!(resolved.hop.unwrap().mac, MAC);
            assert!(resolved.note.unwrap().ends_with("its last hardware address is used on"));
            for other in [Seed { interface: 3, ..seed }, Seed { local_mac: [9; 6], ..seed }] {
                assert!(
                    resolve(BACKEND, &Ok(on_link()), &tables, Last::Seed(&other)).hop.is_err(),
                    "{other:?}"
                );
            }
        }
        let tables = tables(ethernet("eth0"), &[(BACKEND, Neighbour::Reachable([7; 6]))]);
        assert_eq!(resolve(BACKEND, &Ok(on_link()), &tables, Last::Seed(&seed)).hop.unwrap().mac, [7; 6]);
    }

    #[test]
    fn the_last_address_is_not_kept_on_another_way() {
        let before = hop(on_link(), &tables(ethernet("eth0"), &[(BACKEND, Neighbour::Reachable(MAC))]));
        let tables = tables(ethernet("eth0"), &[]);
        let route = Route { gateway: Some(ROUTER), ..on_link() };
        assert!(resolve(BACKEND, &Ok(route), &tables, Last::Hop(&before)).hop.is_err());
    }

    #[test]
    fn a_link_without_carrier_keeps_what_was_known() {
        let before = hop(on_link(), &tables(ethernet("eth0"), &[(BACKEND, Neighbour::Reachable(MAC))]));
        let tables = tables(Link { carrier: false, ..ethernet("eth0") }, &[]);
        let resolved = resolve(BACKEND, &Ok(on_link()), &tables, Last::Hop(&before));
        assert_eq!(resolved.hop, Ok(before));
        assert!(resolved.note.unwrap().starts_with("interface eth0 has no carrier"));
        assert_eq!(reason(on_link(), &tables), "interface eth0 has no carrier");
    }

    #[test]
    fn a_link_that_is_down_or_gone_drops_what_was_known() {
        let before = hop(on_link(), &tables(ethernet("eth0"), &[(BACKEND, Neighbour::Reachable(MAC))]));
        let down = tables(Link { up: false, ..ethernet("eth0") }, &[(BACKEND, Neighbour::Reachable(MAC))]);
        let resolved = resolve(BACKEND, &Ok(on_link()), &down, Last::Hop(&before));
        assert_eq!(resolved.hop, Err("interface eth0 is down".into()));
        let resolved = resolve(BACKEND, &Ok(on_link()), &Tables::default(), Last::Hop(&before));
        assert_eq!(resolved.hop, Err("interface number 2 on the way to 10.0.0.11 is gone".into()));
    }

    #[test]
    fn a_route_that_is_gone_drops_what_was_known() {
        let tables = tables(ethernet("eth0"), &[(BACKEND, Neighbour::Reachable(MAC))]);
        let before = hop(on_link(), &tables);
        for (error, words) in [
            (libc::ENETUNREACH, "no route to 10.0.0.11"),
            (libc::EHOSTUNREACH, "no route to 10.0.0.11: an unreachable route covers it"),
            (libc::EACCES, "no route to 10.0.0.11: a prohibit route covers it"),
            (libc::EINVAL, "no route to 10.0.0.11: a blackhole route covers it"),
        ] {
            assert_eq!(resolve(BACKEND, &Err(error), &tables, Last::Hop(&before)).hop, Err(words.into()));
        }
    }

    #[test]
    fn this_host_is_no_backend() {
        let tables = tables(ethernet("eth0"), &[]);
        let route = Route { kind: RouteType::Local, ..on_link() };
        assert!(reason(route, &tables).starts_with("10.0.0.11 is an address of this host"));
        let looped = self::tables(Link { loopback: true, ..ethernet("lo") }, &[]);
        assert!(reason(on_link(), &looped).contains("leads back to this host over lo"));
    }

    #[test]
    fn a_group_of_hosts_is_no_backend() {
        let tables = tables(ethernet("eth0"), &[]);
        for kind in [RouteType::Broadcast, RouteType::Multicast, RouteType::Anycast] {
            assert!(reason(Route { kind, ..on_link() }, &tables).contains("not the address of one host"));
        }
    }

    #[test]
    fn a_link_without_ethernet_headers_is_not_supported() {
        for link in [
            Link { ethernet: false, mac: None, ..ethernet("tun0") },
            Link { ethernet: false, ..ethernet("tun0") },
        ] {
            let words = reason(on_link(), &tables(link, &[]));
            assert!(words.contains("tun0") && words.contains("no Ethernet header"), "{words}");
        }
    }

    #[test]
    fn a_link_without_arp_needs_a_neighbour_that_somebody_set() {
        let link = Link { no_arp: true, ..ethernet("eth9") };
        let own = link.mac.unwrap();
        let resolved = resolved(on_link(), &tables(link.clone(), &[(BACKEND, Neighbour::NoArp(own))]));
        assert!(resolved.hop.unwrap_err().contains("ip neighbour add 10.0.0.11 lladdr"));
        assert_eq!(resolved.ask, Ask::Nothing);
        for neighbour in [Neighbour::Permanent(MAC), Neighbour::NoArp(MAC)] {
            assert_eq!(hop(on_link(), &tables(link.clone(), &[(BACKEND, neighbour)])).mac, MAC);
        }
    }

    #[test]
    fn a_route_that_encapsulates_is_not_supported() {
        let tables = tables(ethernet("eth0"), &[(BACKEND, Neighbour::Reachable(MAC))]);
        assert!(
            reason(Route { encapsulated: true, ..on_link() }, &tables).contains("encapsulation of its own")
        );
    }

    #[test]
    fn a_missing_source_address_is_named() {
        let tables = tables(ethernet("eth0"), &[(BACKEND, Neighbour::Reachable(MAC))]);
        let words = reason(Route { source: None, ..on_link() }, &tables);
        assert_eq!(words, "interface eth0 has no IPv4 address to reach 10.0.0.11 from");
    }
}
