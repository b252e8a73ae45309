//! The few rtnetlink messages we speak (rtnetlink(7)): requests out, and out of an answer or a notification the few
//! attributes we look at. Each attribute is read by itself, so that one a newer kernel made longer or added costs
//! nothing but itself. No sockets here.

use std::net::IpAddr;

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressHeader, AddressMessage},
    link::{LinkFlags, LinkHeader, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType},
};

use super::tables::{Key, Link, Neighbour, Other};

/// Attribute numbers of `linux/if_link.h`, `linux/if_addr.h`, `linux/neighbour.h` and `linux/rtnetlink.h`.
pub(in crate::net) mod attribute {
    pub(super) const IFLA_ADDRESS: u16 = 1;
    pub(super) const IFLA_IFNAME: u16 = 3;
    pub(super) const IFLA_MTU: u16 = 4;
    pub(super) const IFLA_LINK: u16 = 5;
    pub(super) const IFLA_MASTER: u16 = 10;
    pub(super) const IFLA_LINKINFO: u16 = 18;
    pub(super) const IFLA_INFO_KIND: u16 = 1;
    pub(super) const IFLA_AF_SPEC: u16 = 26;
    pub(super) const IFLA_LINK_NETNSID: u16 = 37;
    pub(super) const IFA_ADDRESS: u16 = 1;
    pub(super) const IFA_LOCAL: u16 = 2;
    pub(super) const IFLA_INET6_CONF: u16 = 2;
    /// Indices into `IFLA_INET6_CONF` (`linux/ipv6.h`).
    pub(super) const DEVCONF_FORWARDING: usize = 0;
    pub(super) const DEVCONF_ACCEPT_RA: usize = 3;
    pub(super) const DEVCONF_MTU6: usize = 2;
    pub(super) const NDA_DST: u16 = 1;
    pub(super) const NDA_LLADDR: u16 = 2;
    pub(super) const RTA_DST: u16 = 1;
    pub(in crate::net) const RTA_OIF: u16 = 4;
    pub(in crate::net) const RTA_GATEWAY: u16 = 5;
    pub(super) const RTA_PREFSRC: u16 = 7;
    pub(in crate::net) const RTA_METRICS: u16 = 8;
    pub(in crate::net) const RTA_MULTIPATH: u16 = 9;
    pub(in crate::net) const RTA_VIA: u16 = 18;
    pub(super) const RTA_ENCAP: u16 = 22;
    pub(super) const RTAX_MTU: u16 = 2;
}

/// Bytes of the fixed part in front of the attributes: `ifinfomsg`, `ifaddrmsg`, `ndmsg`, `rtmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const NEIGHBOUR_HEADER: usize = 12;
pub(super) const ROUTE_HEADER: usize = 12;

/// What a notification, or a message of a dump, says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    Link(u32, Link),
    LinkGone(u32),
    Neighbour(Key, Neighbour),
    NeighbourGone(Key),
    /// The way to the addresses of a prefix may be another.
    Route {
        prefix: IpAddr,
        length: u8,
    },
    /// The way to any address may be another: a rule or a next-hop object changed.
    Routing,
    /// An address of this host, and the interface it is on. The way to any address may be another, too.
    Address(u32, IpAddr),
    AddressGone(u32, IpAddr),
}

/// The kernel's answer to [`route_request`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Route {
    pub kind: RouteType,
    pub interface: Option<u32>,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
    /// Path MTU of the route, where it is not the interface's.
    pub mtu: Option<u32>,
    /// Has an encapsulation of its own (`ip route … encap …`).
    pub encapsulated: bool,
}

impl Route {
    /// Packets to that address are sent on, instead of being taken, refused or thrown away here.
    pub(super) fn leads_on(&self) -> bool {
        self.kind == RouteType::Unicast
    }
}

/// Reads one message. `None`: nothing we follow, or cut short.
pub(super) fn event(kind: u16, payload: &[u8]) -> Option<Event> {
    match kind {
        libc::RTM_NEWLINK => link(payload).map(|(index, link)| Event::Link(index, link)),
        libc::RTM_DELLINK => {
            let header = LinkHeader::parse(payload).ok()?;
            // A port that leaves a bridge is announced as a deleted link of the bridge family.
            (header.interface_family == AddressFamily::Unspec).then_some(Event::LinkGone(header.index))
        }
        libc::RTM_NEWNEIGH => neighbour(payload).map(|(key, neighbour)| Event::Neighbour(key, neighbour)),
        libc::RTM_DELNEIGH => neighbour(payload).map(|(key, _)| Event::NeighbourGone(key)),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => changed_route(payload),
        libc::RTM_NEWADDR => address(payload).map(|(index, address)| Event::Address(index, address)),
        libc::RTM_DELADDR => address(payload).map(|(index, address)| Event::AddressGone(index, address)),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Event::Routing),
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Some(Event::Routing),
        _ => None,
    }
}

/// Linux 5.3.
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

fn link(payload: &[u8]) -> Option<(u32, Link)> {
    let header = LinkHeader::parse(payload).ok()?;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut link = Link {
        name: String::new(),
        mac: None,
        ethernet: header.link_layer_type == LinkLayerType::Ether,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        no_arp: header.flags.contains(LinkFlags::Noarp),
        loopback: header.flags.contains(LinkFlags::Loopback),
        mtu: 0,
        mtu6: None,
        kind: String::new(),
        master: None,
        other: None,
    };
    let mut elsewhere = false;
    for (kind, value) in attributes(payload.get(LINK_HEADER..)?) {
        match kind {
            attribute::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            attribute::IFLA_IFNAME => link.name = text(value),
            attribute::IFLA_LINK => link.other = number(value).map(Other::Here),
            attribute::IFLA_LINK_NETNSID => elsewhere = true,
            attribute::IFLA_MASTER => link.master = number(value),
            attribute::IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == attribute::IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            attribute::IFLA_MTU => link.mtu = number(value).unwrap_or(0),
            attribute::IFLA_AF_SPEC => link.mtu6 = mtu6(value),
            _ => {}
        }
    }
    if elsewhere {
        link.other = Some(Other::Elsewhere);
    }
    (header.index != 0 && !link.name.is_empty()).then_some((header.index, link))
}

/// An address of this host. Next to a peer's address our own is the local one (if_addr.h).
fn address(payload: &[u8]) -> Option<(u32, IpAddr)> {
    let header = AddressHeader::parse(payload).ok()?;
    let all = || attributes(payload.get(ADDRESS_HEADER..).unwrap_or_default());
    let of = |wanted| all().find_map(|(kind, value)| (kind == wanted).then(|| ip(value))?);
    Some((header.index, of(attribute::IFA_LOCAL).or_else(|| of(attribute::IFA_ADDRESS))?))
}

/// The interface's MTU for IPv6, unless routers may lower it (RFC 4861, 4.6.4): anybody on the link can say that it is one.
fn mtu6(af_spec: &[u8]) -> Option<u32> {
    let inet6 = u16::from(u8::from(AddressFamily::Inet6));
    let (_, inet6) = attributes(af_spec).find(|&(kind, _)| kind == inet6)?;
    let (_, conf) = attributes(inet6).find(|&(kind, _)| kind == attribute::IFLA_INET6_CONF)?;
    let setting = |index: usize| number(conf.get(4 * index..)?);
    // 1 = where the host forwards nothing, 2 = always (ip-sysctl).
    let advertised = match setting(attribute::DEVCONF_ACCEPT_RA) {
        Some(1) => setting(attribute::DEVCONF_FORWARDING) == Some(0),
        accepts => accepts == Some(2),
    };
    setting(attribute::DEVCONF_MTU6).filter(|&mtu| mtu > 0 && !advertised)
}

fn neighbour(payload: &[u8]) -> Option<(Key, Neighbour)> {
    let header = NeighbourHeader::parse(payload).ok()?;
    // The same messages carry bridge forwarding entries (another family) and addresses we answer for.
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes(payload.get(NEIGHBOUR_HEADER..)?) {
        match kind {
            attribute::NDA_DST => address = ip(value),
            attribute::NDA_LLADDR => mac = value.try_into().ok().filter(|mac| *mac != [0; 6]),
            _ => {}
        }
    }
    let address = address.filter(|address| !address.is_multicast())?;
    let neighbour = match (header.state, mac) {
        (NeighbourState::Failed, _) => Neighbour::Failed,
        (NeighbourState::Permanent, Some(mac)) => Neighbour::Permanent(mac),
        (NeighbourState::Noarp, Some(mac)) => Neighbour::NoArp(mac),
        (
            NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe,
            Some(mac),
        ) => Neighbour::Reachable(mac),
        (NeighbourState::Incomplete, _) => Neighbour::Incomplete,
        _ => Neighbour::Unknown,
    };
    Some(((header.ifindex, address), neighbour))
}

fn changed_route(payload: &[u8]) -> Option<Event> {
    let header = RouteHeader::parse(payload).ok()?;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let prefix = attributes(payload.get(ROUTE_HEADER..)?)
        .find_map(|(kind, value)| (kind == attribute::RTA_DST).then(|| ip(value))?)
        .unwrap_or(any);
    Some(Event::Route { prefix, length: header.destination_prefix_length })
}

/// Reads the answer to a [`route_request`].
pub(super) fn route(payload: &[u8]) -> Option<Route> {
    let header = RouteHeader::parse(payload).ok()?;
    let mut route = Route {
        kind: header.kind,
        interface: None,
        gateway: None,
        source: None,
        mtu: None,
        encapsulated: false,
    };
    for (kind, value) in attributes(payload.get(ROUTE_HEADER..)?) {
        match kind {
            attribute::RTA_OIF => route.interface = number(value),
            attribute::RTA_GATEWAY => route.gateway = ip(value),
            // An IPv4 route by an IPv6 router (RFC 8950): the family, then the address.
            attribute::RTA_VIA => route.gateway = value.get(2..).and_then(ip),
            attribute::RTA_PREFSRC => route.source = ip(value),
            attribute::RTA_METRICS => {
                route.mtu = mtu_metric(value);
            }
            attribute::RTA_ENCAP => route.encapsulated = true,
            _ => {}
        }
    }
    Some(route)
}

/// The MTU among the metrics of a route.
pub(super) fn mtu_metric(metrics: &[u8]) -> Option<u32> {
    attributes(metrics)
        .find_map(|(kind, value)| (kind == attribute::RTAX_MTU).then(|| number(value))?)
        .filter(|&mtu| mtu > 0)
}

/// Asks which way packets to `address` go.
pub(super) fn route_request(address: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
    RouteNetlinkMessage::GetRoute(message)
}

/// Asks the kernel to resolve a neighbour as if a packet were sent to it, or to make sure of it if it is resolved
/// (`NTF_USE`). Sets no state itself. Not for permanent entries: kernels since 5.16 would make them ordinary ones.
pub(super) fn neighbour_request((interface, address): Key) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = interface;
    message.header.flags = NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    RouteNetlinkMessage::NewNeighbour(message)
}

pub(super) fn link_dump() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

pub(super) fn address_dump() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

pub(super) fn neighbour_dump(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Appends a request to `buffer`, padded as a following one needs it.
pub(super) fn encode(request: RouteNetlinkMessage, flags: u16, sequence: u32, buffer: &mut Vec<u8>) {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = buffer.len();
    let length = message.buffer_len();
    buffer.resize(start + length.next_multiple_of(4), 0);
    message.serialize(&mut buffer[start..start + length]);
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The attributes of a message or of a nested attribute; ends at the first that is cut short.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The two high bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> String {
    let end = value.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(end).into_owned()
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::{link::LinkAttribute, route::RouteMetric};
    use proptest::prelude::*;

    use super::*;

    fn bytes(message: &impl Emitable) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn link_message(family: AddressFamily) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![
            LinkAttribute::IfName("eth1".into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        ];
        message
    }

    #[test]
    fn a_link_is_read() {
        let Some(Event::Link(7, link)) =
            event(libc::RTM_NEWLINK, &bytes(&link_message(AddressFamily::Unspec)))
        else {
            panic!()
        };
        assert_eq!((link.name.as_str(), link.mtu, link.mac), ("eth1", 1500, Some([2, 0, 0, 0, 0, 1])));
        assert!(link.up && link.carrier && link.ethernet && !link.loopback && !link.no_arp);
    }

    #[test]
    fn a_port_leaving_a_bridge_is_not_a_link_that_vanished() {
        let message = bytes(&link_message(AddressFamily::Bridge));
        assert_eq!(event(libc::RTM_DELLINK, &message), None);
        assert_eq!(event(libc::RTM_NEWLINK, &message), None);
        let message = bytes(&link_message(AddressFamily::Unspec));
        assert_eq!(event(libc::RTM_DELLINK, &message), Some(Event::LinkGone(7)));
    }

    fn neighbour_message(state: NeighbourState, mac: Option<[u8; 6]>) -> Vec<u8> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 7;
        message.header.state = state;
        message.attributes.push(NeighbourAttribute::Destination(IpAddr::from([10, 0, 0, 1]).into()));
        if let Some(mac) = mac {
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        }
        bytes(&message)
    }

    #[test]
    fn neighbour_states_become_what_we_make_of_them() {
        let mac = [2, 0, 0, 0, 0, 9];
        let read = |state, mac| match event(libc::RTM_NEWNEIGH, &neighbour_message(state, mac)) {
            Some(Event::Neighbour((7, address), neighbour)) if address == IpAddr::from([10, 0, 0, 1]) => {
                neighbour
            }
            other => panic!("{other:?}"),
        };
        for state in
            [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Delay, NeighbourState::Probe]
        {
            assert_eq!(read(state, Some(mac)), Neighbour::Reachable(mac));
        }
        assert_eq!(read(NeighbourState::Permanent, Some(mac)), Neighbour::Permanent(mac));
        assert_eq!(read(NeighbourState::Noarp, Some(mac)), Neighbour::NoArp(mac));
        assert_eq!(read(NeighbourState::Incomplete, None), Neighbour::Incomplete);
        assert_eq!(read(NeighbourState::Failed, Some(mac)), Neighbour::Failed);
        assert_eq!(read(NeighbourState::Reachable, None), Neighbour::Unknown);
        assert_eq!(read(NeighbourState::Permanent, Some([0; 6])), Neighbour::Unknown);
    }

    #[test]
    fn a_route_answer_is_read() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Oif(7),
            RouteAttribute::Gateway(std::net::Ipv4Addr::new(10, 0, 0, 254).into()),
            RouteAttribute::PrefSource(std::net::Ipv4Addr::new(10, 0, 0, 2).into()),
            RouteAttribute::Metrics(vec![RouteMetric::Advmss(1300), RouteMetric::Mtu(1400)]),
        ];
        let expected = Route {
            kind: RouteType::Unicast,
            interface: Some(7),
            gateway: Some([10, 0, 0, 254].into()),
            source: Some([10, 0, 0, 2].into()),
            mtu: Some(1400),
            encapsulated: false,
        };
        assert_eq!(route(&bytes(&message)), Some(expected));
    }

    #[test]
    fn own_address_is_read_next_to_a_peers() {
        use netlink_packet_route::address::AddressAttribute;
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.index = 7;
        let (ours, peers) = (IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 1]));
        message.attributes = vec![AddressAttribute::Address(ours)];
        assert_eq!(event(libc::RTM_NEWADDR, &bytes(&message)), Some(Event::Address(7, ours)));
        message.attributes = vec![AddressAttribute::Address(peers), AddressAttribute::Local(ours)];
        assert_eq!(event(libc::RTM_DELADDR, &bytes(&message)), Some(Event::AddressGone(7, ours)));
        message.attributes.clear();
        assert_eq!(event(libc::RTM_NEWADDR, &bytes(&message)), None);
    }

    #[test]
    fn a_new_default_route_concerns_its_whole_family() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        let expected = Event::Route { prefix: IpAddr::from([0_u8; 16]), length: 0 };
        assert_eq!(event(libc::RTM_DELROUTE, &bytes(&message)), Some(expected));
    }

    #[test]
    fn requests_follow_each_other_at_multiples_of_four_bytes() {
        let mut buffer = Vec::new();
        encode(route_request(IpAddr::from([10, 0, 0, 1])), 1, 5, &mut buffer);
        let first = buffer.len();
        encode(neighbour_request((3, IpAddr::from([10, 0, 0, 1]))), 1, 6, &mut buffer);
        assert_eq!(first % 4, 0);
        let second = netlink_packet_core::NetlinkBuffer::new_checked(&buffer[first..]).unwrap();
        assert_eq!((second.sequence_number(), second.length() as usize), (6, buffer.len() - first));
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_fail(
            kind in prop_oneof![16_u16..40, 100_u16..106],
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = event(kind, &payload);
            let _ = route(&payload);
        }

        #[test]
        fn a_message_cut_anywhere_is_read_as_far_as_it_goes(cut in 0_usize..60) {
            let whole = bytes(&link_message(AddressFamily::Unspec));
            let _ = event(libc::RTM_NEWLINK, &whole[..cut.min(whole.len())]);
        }
    }
}
