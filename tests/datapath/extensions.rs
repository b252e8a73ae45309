//! IPv4 options and IPv6 extension headers in front of TCP and UDP.

use anyhow::Result;
use lb_common::{counter::Counter, wire::protocol};
use lb_tests::{
    extension::{Extension, authentication, extend, options, routing, with_options},
    frame::{self, IP},
    need_bpf,
    world::World,
};

use crate::scene::{self, FAMILIES, PORT, PROTOCOLS, V4, V6, client, stranger, vip};

/// The number of extension headers that the program follows before it gives up.
const LIMIT: usize = 6;

const FORWARDED: Counter = Counter::ForwardedTx;

fn hop_by_hop(units: u8) -> Extension {
    options(protocol::HOP_BY_HOP, units)
}

fn destination_options(units: u8) -> Extension {
    options(protocol::DESTINATION_OPTIONS, units)
}

/// Asserts the verdict on a chain of extension headers in front of TCP and UDP.
fn assert_chain(world: &mut World, chain: &[Extension], verdict: Counter) -> Result<()> {
    for protocol in PROTOCOLS {
        let packet = extend(&scene::to_service(V6, protocol, 9), chain);
        let outcome = world.run("lb_xdp", &packet)?;
        let numbers: Vec<u8> = chain.iter().map(|extension| extension.number).collect();
        assert_eq!(outcome.counters, [(verdict, 1)], "protocol {protocol} behind {numbers:?}");
    }
    Ok(())
}

#[test]
fn ipv4_options_of_every_length_are_stepped_over() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        for protocol in PROTOCOLS {
            for words in 1..=10 {
                let packet = with_options(&scene::to_service(V4, protocol, 5), words);
                assert_eq!(packet[IP], 0x45 + words);
                assert_eq!(world.run("lb_xdp", &packet)?.counters, [(FORWARDED, 1)]);
            }
        }
    }
    Ok(())
}

#[test]
fn ports_are_read_behind_the_options() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for protocol in PROTOCOLS {
        // A packet to another port whose options look like the ports of a service.
        let elsewhere = scene::packet(vip(V4, 444), 40_000, protocol, 5);
        let mut packet = with_options(&elsewhere, 2);
        packet[IP + 20..IP + 24].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
        frame::repair_ipv4_checksum(&mut packet, IP);
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedUnserved, 1)]);
    }
    Ok(())
}

#[test]
fn a_flow_keeps_its_backend_with_and_without_options() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    for (plain, dressed) in [
        (scene::to_service(V4, protocol::TCP, 0), with_options(&scene::to_service(V4, protocol::TCP, 0), 3)),
        (
            scene::to_service(V6, protocol::TCP, 0),
            extend(&scene::to_service(V6, protocol::TCP, 0), &[destination_options(1)]),
        ),
    ] {
        // The outer flow label is made from the flow hash.
        let label = |out: &[u8]| [out[15] & 0x0f, out[16], out[17]];
        let plain = world.run("lb_xdp", &plain)?.frame;
        let dressed = world.run("lb_xdp", &dressed)?.frame;
        assert_eq!(label(&plain), label(&dressed));
    }
    Ok(())
}

#[test]
fn each_extension_header_alone_is_stepped_over() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    for units in [0, 1, 2, 31] {
        assert_chain(&mut world, &[hop_by_hop(units)], FORWARDED)?;
        assert_chain(&mut world, &[destination_options(units)], FORWARDED)?;
    }
    for words in [0, 3, 5, 16] {
        assert_chain(&mut world, &[authentication(words)], FORWARDED)?;
    }
    for addresses in [0, 1, 3] {
        assert_chain(&mut world, &[routing(0, addresses)], FORWARDED)?;
    }
    Ok(())
}

#[test]
fn the_longest_header_there_is_can_be_stepped_over() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    world.change_backend(scene::sole_backend(V6), |backend| backend.room = 9000 - 40)?;
    // 8 + 255 × 8 bytes.
    assert_chain(&mut world, &[destination_options(255)], FORWARDED)
}

#[test]
fn the_chain_that_rfc_8200_recommends_is_stepped_over() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    let chain =
        [hop_by_hop(0), destination_options(1), routing(0, 2), authentication(3), destination_options(0)];
    assert_chain(&mut world, &chain, FORWARDED)
}

#[test]
fn a_routing_header_with_segments_left_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    for left in [1, 2, 255] {
        // The packet goes to one of our addresses, and no service takes it; `unserved` tests the other addresses.
        assert_chain(&mut world, &[routing(left, 2)], Counter::PassedUnserved)?;
        assert_chain(&mut world, &[hop_by_hop(0), routing(left, 2)], Counter::PassedUnserved)?;
    }
    Ok(())
}

#[test]
fn chains_longer_than_the_limit_are_dropped() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    for count in 1..LIMIT + 3 {
        let verdict = if count <= LIMIT { FORWARDED } else { Counter::ExtensionHeaders };
        assert_chain(&mut world, &vec![destination_options(1); count], verdict)?;
    }
    Ok(())
}

#[test]
fn a_long_chain_to_somebody_else_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    for count in [1, LIMIT, LIMIT + 1] {
        let packet = scene::packet(stranger(V6, PORT), 1, protocol::TCP, 0);
        let packet = extend(&packet, &vec![hop_by_hop(0); count]);
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedNotService, 1)]);
    }
    Ok(())
}

#[test]
fn a_chain_cut_short_is_truncated() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    let whole = extend(&scene::to_service(V6, protocol::TCP, 0), &[hop_by_hop(0), destination_options(0)]);
    for end in IP + 40..whole.len() {
        // A header must show its type and length; once both headers have done so, a cut frame contradicts the lengths.
        let verdict = if end < IP + 40 + 8 + 4 { Counter::Truncated } else { Counter::BadLength };
        let outcome = world.run("lb_xdp", &whole[..end])?;
        assert_eq!(outcome.counters, [(verdict, 1)], "cut at {end}");
    }
    Ok(())
}

#[test]
fn a_header_beyond_the_packet_is_a_bad_length() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    for units in [5, 100, 255] {
        let mut packet = extend(&scene::to_service(V6, protocol::UDP, 0), &[destination_options(0)]);
        packet[IP + 41] = units;
        // The header also leads to a transport header that would be outside of the frame.
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::BadLength, 1)], "{units}");
    }
    Ok(())
}

#[test]
fn padding_is_no_place_for_the_chain_to_go_on() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    let mut packet = extend(&scene::to_service(V6, protocol::UDP, 40), &[destination_options(0)]);
    // The payload ends in the middle of the extension header; the rest of the frame is padding.
    frame::set_length(&mut packet, 40 + 4);
    assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::BadLength, 1)]);
    Ok(())
}

#[test]
fn a_chain_that_leads_to_something_else_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    const NO_NEXT_HEADER: u8 = 59;
    const ESP: u8 = 50;
    const MOBILITY: u8 = 135;
    for number in [protocol::ICMPV6, NO_NEXT_HEADER, ESP, MOBILITY, protocol::IPIP, protocol::IPV6, 253] {
        let packet = frame::ip(client(V6, 0).ip(), vip(V6, 0).ip(), number, &[0; 24]);
        for chain in [vec![], vec![hop_by_hop(0)], vec![hop_by_hop(0), routing(0, 1), authentication(3)]] {
            let packet = extend(&packet, &chain);
            let control = number == protocol::ICMPV6;
            let verdict = if control { Counter::PassedOtherProtocol } else { Counter::PassedUnserved };
            assert_eq!(
                world.run("lb_xdp", &packet)?.counters,
                [(verdict, 1)],
                "{number} behind {} headers",
                chain.len()
            );
        }
    }
    Ok(())
}
