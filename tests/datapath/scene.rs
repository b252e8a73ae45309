//! Where most tests begin: the addresses, and a world with one service of each family and protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use lb_common::{hash::Seed, slot::Slot, wire::protocol};
use lb_tests::{
    frame::{self, Segment},
    world::{self, Outcome, Sizes, World},
};

/// The families an inner or outer header may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}
pub(crate) use Family::{V4, V6};

/// Both, to loop over.
pub(crate) const FAMILIES: [Family; 2] = [V4, V6];

/// TCP and UDP, to loop over.
pub(crate) const PROTOCOLS: [u8; 2] = [protocol::TCP, protocol::UDP];

/// The port the services of [`world`] listen on.
pub(crate) const PORT: u16 = 443;

/// Every world's key of the flow hash.
pub(crate) const SEED: Seed = Seed([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);

/// A client, from a port.
pub(crate) fn client(family: Family, port: u16) -> SocketAddr {
    match family {
        V4 => SocketAddr::from((Ipv4Addr::new(198, 51, 100, 1), port)),
        V6 => SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1), port)),
    }
}

/// The virtual address.
pub(crate) fn vip(family: Family, port: u16) -> SocketAddr {
    match family {
        V4 => SocketAddr::from((Ipv4Addr::new(203, 0, 113, 10), port)),
        V6 => SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10), port)),
    }
}

/// An address that belongs to no service.
pub(crate) fn stranger(family: Family, port: u16) -> SocketAddr {
    match family {
        V4 => SocketAddr::from((Ipv4Addr::new(203, 0, 113, 11), port)),
        V6 => SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11), port)),
    }
}

/// The balancer's own address, the source of outer headers.
pub(crate) fn our_address(family: Family) -> IpAddr {
    match family {
        V4 => Ipv4Addr::new(10, 0, 0, 1).into(),
        V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// The address of backend `number`: its last two bytes are the number.
pub(crate) fn backend_address(family: Family, number: u32) -> IpAddr {
    let [high, low] = (number as u16).to_be_bytes();
    match family {
        V4 => Ipv4Addr::new(10, 1, high, low).into(),
        V6 => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number as u16).into(),
    }
}

/// The backend that a forwarded packet went to.
pub(crate) fn backend_of(outcome: &Outcome) -> u32 {
    let address = if frame::is_v4(&outcome.frame) { &outcome.frame[32..34] } else { &outcome.frame[52..54] };
    u32::from(u16::from_be_bytes([address[0], address[1]]))
}

/// The backend that all services of `inner` have in [`world`].
pub(crate) fn sole_backend(inner: Family) -> u32 {
    if inner == V4 { 4 } else { 6 }
}

/// The number that the service of a family and protocol has in [`world`].
pub(crate) fn service(family: Family, protocol: u8) -> u32 {
    u32::from(family == V6) * 2 + u32::from(protocol == protocol::UDP)
}

/// Four services, TCP and UDP on the virtual address of each family, stable; outer headers are of family `outer`.
pub(crate) fn world(outer: Family) -> Result<World> {
    let mut world = World::new(Sizes::default(), SEED)?;
    for inner in FAMILIES {
        add_backend(&mut world, sole_backend(inner), inner, outer)?;
        for protocol in PROTOCOLS {
            let slots = [Slot::stable(sole_backend(inner)); 7];
            let number = world.add_service(vip(inner, PORT), protocol, &slots)?;
            assert_eq!(number, service(inner, protocol));
        }
    }
    Ok(world)
}

/// Adds a backend for packets of family `inner`.
pub(crate) fn add_backend(world: &mut World, number: u32, inner: Family, outer: Family) -> Result<()> {
    let backend = world::backend(our_address(outer), backend_address(outer, number), inner == V6);
    world.set_backend(number, backend)
}

/// A packet to `destination`, from a client's `port`; TCP packets carry data, not a SYN.
pub(crate) fn packet(destination: SocketAddr, port: u16, protocol: u8, payload: usize) -> Vec<u8> {
    let source = client(if destination.is_ipv4() { V4 } else { V6 }, port);
    if protocol == protocol::TCP {
        frame::tcp(source, destination, Segment::Data, 0, payload)
    } else {
        frame::udp(source, destination, 0, payload)
    }
}

/// A packet to the service of a family and protocol.
pub(crate) fn to_service(family: Family, protocol: u8, payload: usize) -> Vec<u8> {
    packet(vip(family, PORT), 40_000, protocol, payload)
}
