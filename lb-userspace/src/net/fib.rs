//! What the forwarding tables themselves say of a way. The kernel's answer to a plain look-up also has what it has learned since:
//! path MTUs and next hops of ICMP messages, which anybody can forge who reaches an address of this host. What is asked with
//! `RTM_F_FIB_MATCH` (Linux 4.13) has nothing of the kind. No sockets here.

use std::net::IpAddr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteFlags, RouteHeader, RouteProtocol},
};

use super::message::{self, Route, attribute, attributes, ip, number};

/// `rtnexthop` in `linux/rtnetlink.h`: length, flags, weight, interface.
const NEXT_HOP: usize = 8;
/// `linux/rtnetlink.h`.
const RTM_F_FIB_MATCH: u32 = 0x2000;

/// An entry of the forwarding tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Interfaces and gateways of its ways; none where it is by a next-hop object that the kernel does not spell out.
    ways: Vec<(u32, Option<IpAddr>)>,
    /// The MTU that the operator gave the route.
    mtu: Option<u32>,
}

/// Asks which entry packets to `address` meet.
pub(super) fn request(address: IpAddr) -> RouteNetlinkMessage {
    let mut request = message::route_request(address);
    if let RouteNetlinkMessage::GetRoute(message) = &mut request {
        message.header.flags |= RouteFlags::from_bits_retain(RTM_F_FIB_MATCH);
    }
    request
}

/// Reads the answer to a [`request`].
pub(super) fn entry(payload: &[u8]) -> Option<Entry> {
    let header = RouteHeader::parse(payload).ok()?;
    let (mut entry, mut interface, mut gateway) = (Entry::default(), None, None);
    for (kind, value) in attributes(payload.get(message::ROUTE_HEADER..)?) {
        match kind {
            attribute::RTA_OIF => interface = number(value),
            attribute::RTA_GATEWAY => gateway = ip(value),
            attribute::RTA_VIA => gateway = value.get(2..).and_then(ip),
            // A router's advertisement puts its MTU into the routes that it makes (RFC 4861, 4.6.4).
            attribute::RTA_METRICS if header.protocol != RouteProtocol::Ra => {
                entry.mtu = message::mtu_metric(value);
            }
            attribute::RTA_MULTIPATH => entry.ways = ways(value),
            _ => {}
        }
    }
    entry.ways.extend(interface.map(|interface| (interface, gateway)));
    Some(entry)
}

fn ways(mut bytes: &[u8]) -> Vec<(u32, Option<IpAddr>)> {
    let mut ways = Vec::new();
    while let Some(header) = bytes.first_chunk::<NEXT_HOP>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let Some(own) = bytes.get(NEXT_HOP..length) else { break };
        let gateway = attributes(own).find_map(|(kind, value)| match kind {
            attribute::RTA_GATEWAY => ip(value),
            attribute::RTA_VIA => value.get(2..).and_then(ip),
            _ => None,
        });
        ways.extend(number(&header[4..]).map(|interface| (interface, gateway)));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    ways
}

impl Entry {
    /// Takes what was learned out of the answer to a plain look-up. Of several ways the one that the kernel chose stays, as long
    /// as it is one of them.
    pub(super) fn correct(&self, route: &mut Route) {
        route.mtu = self.mtu;
        let chosen = (route.interface.unwrap_or(0), route.gateway);
        if self.ways.is_empty() || self.ways.contains(&chosen) {
            return;
        }
        let same_interface = self.ways.iter().find(|(interface, _)| *interface == chosen.0);
        if let Some((interface, gateway)) = same_interface.or(self.ways.first()) {
            (route.interface, route.gateway) = (Some(*interface), *gateway);
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;
    use netlink_packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteNextHop, RouteType},
    };

    use super::*;

    const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn read(protocol: RouteProtocol, attributes: Vec<RouteAttribute>) -> Entry {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.protocol = protocol;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        entry(&bytes).unwrap()
    }

    fn gateway(ip: IpAddr) -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::from(ip))
    }

    fn route(interface: u32, gateway: Option<IpAddr>, mtu: Option<u32>) -> Route {
        Route {
            kind: RouteType::Unicast,
            interface: Some(interface),
            gateway,
            source: None,
            mtu,
            encapsulated: false,
        }
    }

    #[test]
    fn what_was_learned_gives_way_to_what_the_tables_say() {
        let mtu = || RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]);
        let entry = read(RouteProtocol::Static, vec![RouteAttribute::Oif(7), gateway(ROUTER), mtu()]);
        let mut learned = route(7, Some(OTHER), Some(552));
        entry.correct(&mut learned);
        assert_eq!(learned, route(7, Some(ROUTER), Some(1400)));
        let entry = read(RouteProtocol::Ra, vec![RouteAttribute::Oif(7), gateway(ROUTER), mtu()]);
        entry.correct(&mut learned);
        assert_eq!(learned, route(7, Some(ROUTER), None), "a router's word");
    }

    #[test]
    fn of_several_ways_the_one_that_the_kernel_chose_stays() {
        let way = |interface, via| {
            let mut way = RouteNextHop::default();
            way.interface_index = interface;
            way.attributes = vec![gateway(via)];
            way
        };
        let entry =
            read(RouteProtocol::Static, vec![RouteAttribute::MultiPath(vec![way(7, ROUTER), way(8, OTHER)])]);
        assert_eq!(entry.ways, [(7, Some(ROUTER)), (8, Some(OTHER))]);
        for (chosen, expected) in [
            ((8, Some(OTHER)), (8, Some(OTHER))),
            ((8, Some(ROUTER)), (8, Some(OTHER))),
            ((9, None), (7, Some(ROUTER))),
        ] {
            let mut found = route(chosen.0, chosen.1, Some(552));
            entry.correct(&mut found);
            assert_eq!(found, route(expected.0, expected.1, None), "{chosen:?}");
        }
    }

    #[test]
    fn what_is_cut_short_has_no_further_ways() {
        assert_eq!(ways(&[1, 2, 3]), []);
        assert_eq!(ways(&[200, 0, 0, 0, 7, 0, 0, 0]), []);
    }
}
