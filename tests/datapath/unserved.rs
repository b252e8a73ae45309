//! Packets that no service takes: the address belongs to a service, to the host, or to another host. And packets that are
//! too long because they were merged.

use std::net::SocketAddr;

use anyhow::Result;
use lb_common::{counter::Counter, map::Node, wire::protocol};
use lb_tests::{
    extension::fragmented,
    frame::{self, IP},
    need_bpf,
    world::World,
};

use crate::scene::{self, FAMILIES, Family, PORT, PROTOCOLS, V4, V6, client, stranger, vip};

fn drop_unserved(world: &mut World) -> Result<()> {
    world.set_node(|node| node.flags |= Node::DROP_UNSERVED)
}

fn assert_verdict(world: &mut World, packet: &[u8], verdict: Counter, what: &str) -> Result<()> {
    let outcome = world.run("lb_xdp", packet)?;
    assert_eq!(outcome.counters, [(verdict, 1)], "{what}");
    assert_eq!(outcome.frame, packet, "{what}: left as it was");
    Ok(())
}

fn ip(family: Family, to: SocketAddr, number: u8) -> Vec<u8> {
    frame::ip(client(family, 0).ip(), to.ip(), number, &[8; 32])
}

#[test]
fn what_goes_to_the_host_is_counted_apart() -> Result<()> {
    need_bpf!();
    for (family, protocol) in FAMILIES.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
        let mut world = scene::world(family)?;
        let plain = scene::packet(stranger(family, PORT), 40_000, protocol, 20);
        let fragment = fragmented(&scene::packet(stranger(family, PORT), 1, protocol, 64), 0, true);
        for packet in [&plain, &fragment] {
            assert_verdict(&mut world, packet, Counter::PassedNotService, "an address that no service has")?;
        }
        world.add_host(stranger(family, 0).ip())?;
        for packet in [&plain, &fragment] {
            assert_verdict(&mut world, packet, Counter::PassedHost, "the host's")?;
        }
        // With another protocol the verdict stays the same.
        let other = ip(family, stranger(family, 0), protocol::IPIP);
        assert_verdict(&mut world, &other, Counter::PassedOtherProtocol, "another protocol")?;
    }
    Ok(())
}

#[test]
fn an_address_of_host_and_service_is_the_services() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let mut world = scene::world(family)?;
        world.add_host(vip(family, 0).ip())?;
        let packet = scene::packet(vip(family, PORT + 1), 40_000, protocol::TCP, 0);
        assert_verdict(&mut world, &packet, Counter::PassedUnserved, "another port")?;
        let outcome = world.run("lb_xdp", &scene::to_service(family, protocol::TCP, 0))?;
        assert_eq!(outcome.verdict(), Counter::ForwardedTx);
    }
    Ok(())
}

#[test]
fn unserved_packets_are_dropped_if_set_but_icmp_never() -> Result<()> {
    need_bpf!();
    const SCTP: u8 = 132;
    for family in FAMILIES {
        let mut world = scene::world(family)?;
        drop_unserved(&mut world)?;
        let other_port = scene::packet(vip(family, PORT + 1), 40_000, protocol::TCP, 0);
        assert_verdict(&mut world, &other_port, Counter::Unserved, "another port")?;
        assert_verdict(&mut world, &ip(family, vip(family, 0), SCTP), Counter::Unserved, "SCTP")?;
        let (control, foreign) = match family {
            V4 => (protocol::ICMP, protocol::ICMPV6),
            V6 => (protocol::ICMPV6, protocol::ICMP),
        };
        assert_verdict(
            &mut world,
            &ip(family, vip(family, 0), control),
            Counter::PassedOtherProtocol,
            "ICMP",
        )?;
        assert_verdict(&mut world, &ip(family, vip(family, 0), foreign), Counter::Unserved, "foreign ICMP")?;
        // An error in a packet to our address keeps its own counter, and other addresses keep their verdict.
        let fragment = fragmented(&scene::to_service(family, protocol::UDP, 64), 0, true);
        assert_verdict(&mut world, &fragment, Counter::Fragment, "a fragment")?;
        let packet = scene::packet(stranger(family, PORT), 40_000, protocol::TCP, 0);
        assert_verdict(&mut world, &packet, Counter::PassedNotService, "somebody else's")?;
    }
    Ok(())
}

#[test]
fn extension_headers_do_not_hide_icmpv6_or_routing() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    let mut packet = ip(V6, vip(V6, 0), protocol::IPIP);
    packet[IP + 6] = protocol::HOP_BY_HOP;
    packet[IP + 40..IP + 48].copy_from_slice(&[protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0]);
    let mut routed = ip(V6, vip(V6, 0), protocol::IPIP);
    routed[IP + 6] = protocol::ROUTING;
    routed[IP + 40..IP + 48].copy_from_slice(&[protocol::TCP, 0, 0, 1, 0, 0, 0, 0]);
    let mut elsewhere = routed.clone();
    let std::net::IpAddr::V6(stranger) = stranger(V6, 0).ip() else { unreachable!("an IPv6 address") };
    elsewhere[IP + 24..IP + 40].copy_from_slice(&stranger.octets());
    assert_verdict(&mut world, &routed, Counter::PassedUnserved, "a routing header")?;
    assert_verdict(&mut world, &elsewhere, Counter::PassedRoutingHeader, "to somebody else")?;
    drop_unserved(&mut world)?;
    assert_verdict(&mut world, &packet, Counter::PassedOtherProtocol, "ICMPv6")?;
    assert_verdict(&mut world, &routed, Counter::Unserved, "a routing header")?;
    assert_verdict(&mut world, &elsewhere, Counter::PassedRoutingHeader, "to somebody else")
}

/// With very many addresses every bit is set: then the exact tables decide.
#[test]
fn a_bit_that_is_set_in_vain_changes_nothing() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let mut world = scene::world(family)?;
        drop_unserved(&mut world)?;
        world.suspect_all()?;
        let packet = scene::packet(stranger(family, PORT), 40_000, protocol::TCP, 0);
        assert_verdict(&mut world, &packet, Counter::PassedNotService, "somebody else's")?;
        let unserved = scene::packet(vip(family, 1), 40_000, protocol::TCP, 0);
        assert_verdict(&mut world, &unserved, Counter::Unserved, "another port")?;
    }
    Ok(())
}

#[test]
fn only_a_packet_above_its_ingress_mtu_was_merged() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let mut world = scene::world(family)?;
        let packet = scene::to_service(family, protocol::TCP, 1480);
        let length = frame::length(&packet) as u32;
        assert_verdict(&mut world, &packet, Counter::TooBig, "an interface nothing is known of")?;
        for (mtu, verdict) in
            [(length, Counter::TooBig), (length - 1, Counter::Merged), (u32::MAX, Counter::TooBig)]
        {
            world.set_ingress_mtu(mtu)?;
            assert_verdict(&mut world, &packet, verdict, "MTU")?;
        }
        // A packet that fits is forwarded, whether it was merged or not.
        world.set_ingress_mtu(60)?;
        let outcome = world.run("lb_xdp", &scene::to_service(family, protocol::TCP, 1000))?;
        assert_eq!(outcome.verdict(), Counter::ForwardedTx);
    }
    Ok(())
}

/// A segment of TCP, with the length in its IP header left out.
fn without_length(family: Family, protocol: u8) -> Vec<u8> {
    let mut packet = scene::to_service(family, protocol, 1480);
    frame::set_length(&mut packet, if family == V4 { 0 } else { 40 });
    packet
}

/// The result when more than 64 KB were merged into one packet, with as many bytes as a test may have: the header cannot hold
/// the length.
#[test]
fn a_merged_packet_beyond_its_length_field_is_merged() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let mut world = scene::world(family)?;
        let segment = without_length(family, protocol::TCP);
        let contradicts = if family == V4 { Counter::BadLength } else { Counter::Truncated };
        assert_verdict(&mut world, &segment, contradicts, "an interface nothing is known of")?;
        let length = (segment.len() - IP) as u32;
        for (mtu, verdict) in [(length, contradicts), (length - 1, Counter::Merged)] {
            world.set_ingress_mtu(mtu)?;
            assert_verdict(&mut world, &segment, verdict, "MTU")?;
        }
        let datagram = without_length(family, protocol::UDP);
        assert_verdict(&mut world, &datagram, contradicts, "a datagram, which is never merged")?;
        let mut elsewhere = scene::packet(stranger(family, PORT), 40_000, protocol::TCP, 1480);
        frame::set_length(&mut elsewhere, if family == V4 { 0 } else { 40 });
        assert_verdict(&mut world, &elsewhere, Counter::PassedNotService, "to somebody else")?;
        let mut wrong = scene::to_service(family, protocol::TCP, 1480);
        frame::set_length(&mut wrong, if family == V4 { 19 } else { 41 });
        assert_verdict(&mut world, &wrong, contradicts, "a length that is there, and wrong")?;
    }
    Ok(())
}

/// Kernels put the option of RFC 2675 into packets that they merged beyond the payload length of IPv6.
#[test]
fn only_the_jumbo_payload_option_marks_a_merged_packet() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    let plain = without_length(V6, protocol::TCP);
    let with_option = |option: u8, next: u8| {
        let mut packet = plain.clone();
        packet[IP + 6] = protocol::HOP_BY_HOP;
        packet.splice(IP + 40..IP + 40, [next, 0, option, 4, 0, 0, 5, 208]);
        packet
    };
    let jumbo = with_option(0xc2, protocol::TCP);
    assert_verdict(&mut world, &jumbo, Counter::BadLength, "an interface nothing is known of")?;
    world.set_ingress_mtu(1500)?;
    assert_verdict(&mut world, &jumbo, Counter::Merged, "longer than 1500 bytes")?;
    assert_verdict(&mut world, &with_option(1, protocol::TCP), Counter::BadLength, "padding")?;
    assert_verdict(&mut world, &with_option(0xc2, protocol::UDP), Counter::BadLength, "a datagram")
}
