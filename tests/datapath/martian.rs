//! Sources that no client has, in plain packets and in packets that take the longer path.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_common::{counter::Counter, slot::Slot, wire::protocol};
use lb_tests::{
    extension,
    frame::{self, Segment},
    need_bpf,
    world::World,
};

use crate::scene::{self, FAMILIES, PORT, PROTOCOLS, V4, V6, sole_backend, stranger, vip};

/// A packet to the service of a family, either plain or with a part that takes the longer path.
fn from(source: SocketAddr, protocol: u8, plain: bool) -> Vec<u8> {
    let family = if source.is_ipv4() { V4 } else { V6 };
    let to = vip(family, PORT);
    let frame = if protocol == protocol::TCP {
        frame::tcp(source, to, Segment::Data, 0, 20)
    } else {
        frame::udp(source, to, 0, 20)
    };
    if plain {
        return frame;
    }
    match family {
        V4 => extension::with_options(&frame, 1),
        V6 => extension::extend(&frame, &[extension::options(protocol::HOP_BY_HOP, 0)]),
    }
}

fn verdict(world: &mut World, source: &str, port: u16, protocol: u8, plain: bool) -> Result<Counter> {
    let source: IpAddr = source.parse()?;
    Ok(world.run("lb_xdp", &from(SocketAddr::new(source, port), protocol, plain))?.verdict())
}

#[test]
fn sources_that_no_client_has_are_dropped() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    let own = FAMILIES.map(|family| vip(family, 0).ip().to_string());
    let wrong = [
        &own[0],
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
        &own[1],
        "::",
        "::1",
        "::198.51.100.7",
        "ff02::1",
    ];
    let right =
        ["1.2.3.4", "126.255.255.255", "128.0.0.1", "223.255.255.255", "2001:db8::7", "fe80::1", "fd00::7"];
    for protocol in PROTOCOLS {
        for plain in [true, false] {
            for source in wrong {
                assert_eq!(
                    verdict(&mut world, source, 4000, protocol, plain)?,
                    Counter::MartianSource,
                    "{source} {protocol} {plain}"
                );
            }
            for source in right {
                assert_eq!(
                    verdict(&mut world, source, 4000, protocol, plain)?,
                    Counter::ForwardedTx,
                    "{source} {protocol} {plain}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn only_a_datagram_of_a_udp_service_here_is_dropped() -> Result<()> {
    need_bpf!();
    const OTHER: u16 = 53;
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        world.add_service(
            stranger(family, OTHER),
            protocol::UDP,
            &[Slot::stable(sole_backend(family)); 7],
        )?;
        world.add_service(
            stranger(family, OTHER + 1),
            protocol::TCP,
            &[Slot::stable(sole_backend(family)); 7],
        )?;
    }
    for plain in [true, false] {
        for source in FAMILIES.map(|family| stranger(family, 0).ip().to_string()) {
            let mut verdict = |port, protocol| verdict(&mut world, &source, port, protocol, plain);
            assert_eq!(verdict(OTHER, protocol::UDP)?, Counter::MartianSource, "{source} {plain}");
            assert_eq!(
                verdict(OTHER, protocol::TCP)?,
                Counter::ForwardedTx,
                "a segment: a handshake ends it"
            );
            assert_eq!(verdict(OTHER + 1, protocol::UDP)?, Counter::ForwardedTx, "a TCP service's port");
            assert_eq!(verdict(OTHER + 64, protocol::UDP)?, Counter::ForwardedTx, "a port with the same bit");
        }
    }
    Ok(())
}

#[test]
fn a_udp_service_on_every_port_is_no_client_at_any() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        world.add_service(stranger(family, 0), protocol::UDP, &[Slot::stable(sole_backend(family)); 7])?;
        for port in [1, 40_000] {
            let source = stranger(family, 0).ip().to_string();
            let got = verdict(&mut world, &source, port, protocol::UDP, true)?;
            assert_eq!(got, Counter::MartianSource, "{source} {port}");
        }
    }
    Ok(())
}
