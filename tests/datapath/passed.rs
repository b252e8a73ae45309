//! Packets that are not for a service pass, byte for byte (`lb_tests::world` compares the frames).

use std::net::SocketAddr;

use anyhow::Result;
use lb_common::{counter::Counter, wire::protocol};
use lb_tests::{
    extension::tagged,
    frame::{self, IP},
    need_bpf,
};

use crate::scene::{self, FAMILIES, PORT, PROTOCOLS, V4, V6, client, stranger, vip};

#[test]
fn arp_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    let outcome = world.run("lb_xdp", &frame::arp([203, 0, 113, 10]))?;
    assert_eq!(outcome.counters, [(Counter::PassedNotIp, 1)]);
    Ok(())
}

#[test]
fn a_frame_with_a_vlan_tag_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        let packet = tagged(&scene::to_service(family, protocol::TCP, 0), 7);
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedNotIp, 1)]);
    }
    Ok(())
}

#[test]
fn every_other_ethertype_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    let mut packet = scene::to_service(V4, protocol::TCP, 0);
    // Loopback test, ARP, LLDP, MPLS, 802.1ad, a length of 802.3, and IPv4 and IPv6 with the two bytes swapped.
    for ethertype in [0x9000u16, 0x0806, 0x88cc, 0x8847, 0x88a8, 60, 0x0008, 0xdd86] {
        packet[12..14].copy_from_slice(&ethertype.to_be_bytes());
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedNotIp, 1)], "{ethertype:04x}");
    }
    Ok(())
}

#[test]
fn another_address_or_port_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let others: [(SocketAddr, Counter); 5] = [
                (stranger(family, PORT), Counter::PassedNotService),
                (client(family, PORT), Counter::PassedNotService),
                (vip(family, PORT + 1), Counter::PassedUnserved),
                (vip(family, 0), Counter::PassedUnserved),
                (vip(family, 65_535), Counter::PassedUnserved),
            ];
            for (other, verdict) in others {
                let packet = scene::packet(other, 40_000, protocol, 10);
                let outcome = world.run("lb_xdp", &packet)?;
                assert_eq!(outcome.counters, [(verdict, 1)], "{other}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_packet_from_the_virtual_address_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        let answer = frame::tcp(vip(family, PORT), client(family, 40_000), frame::Segment::Data, 0, 0);
        assert_eq!(world.run("lb_xdp", &answer)?.counters, [(Counter::PassedNotService, 1)]);
    }
    Ok(())
}

#[test]
fn another_protocol_to_the_virtual_address_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    const GRE: u8 = 47;
    const ESP: u8 = 50;
    const SCTP: u8 = 132;
    for family in FAMILIES {
        let control = if family == V4 { protocol::ICMP } else { protocol::ICMPV6 };
        for number in [protocol::ICMP, protocol::ICMPV6, protocol::IPIP, protocol::IPV6, GRE, ESP, SCTP, 255]
        {
            let to = |address: SocketAddr| frame::ip(client(family, 0).ip(), address.ip(), number, &[8; 32]);
            let outcome = world.run("lb_xdp", &to(vip(family, 0)))?;
            let verdict =
                if number == control { Counter::PassedOtherProtocol } else { Counter::PassedUnserved };
            assert_eq!(outcome.counters, [(verdict, 1)], "{number}");
            let outcome = world.run("lb_xdp", &to(stranger(family, 0)))?;
            assert_eq!(outcome.counters, [(Counter::PassedOtherProtocol, 1)], "{number}");
        }
    }
    Ok(())
}

#[test]
fn extension_header_numbers_are_other_protocols_in_ipv4() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for number in [protocol::HOP_BY_HOP, protocol::ROUTING, protocol::FRAGMENT, protocol::AUTHENTICATION] {
        let packet = frame::ip(client(V4, 0).ip(), stranger(V4, 0).ip(), number, &[6; 32]);
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedOtherProtocol, 1)], "{number}");
    }
    Ok(())
}

#[test]
fn a_version_against_the_ethertype_is_malformed() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        let right = if family == V4 { 4 } else { 6 };
        for version in (0..16).filter(|version| *version != right) {
            let mut packet = scene::to_service(family, protocol::TCP, 0);
            packet[IP] = packet[IP] & 0x0f | version << 4;
            assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedMalformed, 1)], "{version}");
        }
    }
    Ok(())
}

#[test]
fn an_ipv4_header_length_below_20_is_malformed() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for ihl in 0..5 {
        let mut packet = scene::to_service(V4, protocol::UDP, 30);
        packet[IP] = 0x40 | ihl;
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedMalformed, 1)], "{ihl}");
    }
    Ok(())
}

#[test]
fn ipv6_to_a_mapped_address_is_not_the_ipv4_service() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    let mut packet = scene::to_service(V6, protocol::TCP, 0);
    // ::ffff:203.0.113.10 must not appear on the wire (RFC 4942, 2.2), and must not lead to the IPv4 service.
    packet[IP + 24..IP + 40].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 10]);
    assert_eq!(world.run("lb_xdp", &packet)?.verdict(), Counter::PassedNotService);
    Ok(())
}
