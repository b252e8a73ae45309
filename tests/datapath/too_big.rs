//! Packets that are longer than their backend takes: who learns, and what exactly. The expected messages are made by a
//! foreign library.

use std::{net::IpAddr, time::Instant};

use anyhow::Result;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4::DestUnreachableHeader};
use lb_common::{
    counter::Counter::{self, *},
    encap::Kind,
    icmp::{ANSWERS_PER_SECOND, BURST},
    map::Node,
    wire::protocol::{DESTINATION_OPTIONS, TCP},
};
use lb_tests::{
    extension::{extend, options, padded, with_options},
    frame::{self, IP, OUR_MAC, ROUTER_MAC},
    need_bpf,
    world::{self, MTU, World},
};

use crate::scene::{
    self, FAMILIES, Family, PORT, PROTOCOLS, V4, V6, backend_address, client, our_address, packet,
    sole_backend, vip,
};

/// A world that answers.
fn world(outer: Family) -> Result<World> {
    let mut world = scene::world(outer)?;
    world.set_node(|node| node.flags |= Node::ANSWER_TOO_BIG)?;
    Ok(world)
}

/// A packet to a service that is `length` bytes long from its IP header on, and must not be cut.
fn of_length(family: Family, protocol: u8, length: usize) -> Vec<u8> {
    let least = scene::to_service(family, protocol, 0).len() - IP;
    let mut frame = scene::to_service(family, protocol, length - least);
    if family == V4 {
        frame[IP + 6] = 0x40;
        frame::repair_ipv4_checksum(&mut frame, IP);
    }
    frame
}

/// The message that a packet's sender should get.
fn reported(packet: &[u8], mtu: u16) -> Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(OUR_MAC, ROUTER_MAC);
    let mut out = Vec::new();
    if frame::is_v4(packet) {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (vip(V4, 0).ip(), client(V4, 0).ip()) else { panic!() };
        let needed = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
            next_hop_mtu: mtu,
        });
        let step = ethernet.ipv4(from.octets(), to.octets(), 64).icmpv4(needed);
        step.write(&mut out, &packet[IP..IP + 548])?;
        out[IP + 1] = 192;
        out[IP + 6] = 0;
        frame::repair_ipv4_checksum(&mut out, IP);
    } else {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (vip(V6, 0).ip(), client(V6, 0).ip()) else { panic!() };
        let step = ethernet.ipv6(from.octets(), to.octets(), 64);
        let step = step.icmpv6(Icmpv6Type::PacketTooBig { mtu: mtu.into() });
        step.write(&mut out, &packet[IP..IP + 1232])?;
        out[IP] = 0x6c;
    }
    Ok(out)
}

fn answers(world: &mut World, packet: &[u8], mtu: u16) -> Result<()> {
    let outcome = world.run("lb_xdp", packet)?;
    assert_eq!((outcome.action, &outcome.counters[..]), (3, &[(PacketTooBig, 1)][..]));
    assert_eq!(outcome.frame, reported(packet, mtu)?, "{} bytes", packet.len());
    Ok(())
}

fn ends(world: &mut World, frame: &[u8], counters: &[Counter]) -> Result<()> {
    let counters: Vec<(Counter, u64)> = counters.iter().map(|counter| (*counter, 1)).collect();
    assert_eq!(world.run("lb_xdp", frame)?.counters, counters, "{} bytes", frame.len());
    Ok(())
}

#[test]
fn the_sender_learns_the_room_of_every_encapsulation() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = world(outer)?;
        for kind in Kind::ALL {
            for family in FAMILIES {
                let number = sole_backend(family);
                let to = backend_address(outer, number);
                let record = world::backend_by(kind, our_address(outer), to, family == V6);
                world.set_backend(number, record)?;
                let ip = if outer == V4 { 20 } else { 40 };
                let overhead = match kind {
                    Kind::Ipip => ip,
                    Kind::L2 => 0,
                    Kind::Gue => ip + 8,
                };
                let room = MTU - overhead;
                for protocol in PROTOCOLS {
                    let fits = of_length(family, protocol, room.into());
                    ends(&mut world, &fits, &[ForwardedTx])?;
                    for length in [room + 1, room + 2, room + 999, 3000] {
                        answers(&mut world, &of_length(family, protocol, length.into()), room)?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn options_and_extension_headers_are_quoted_and_padding_is_not() -> Result<()> {
    need_bpf!();
    let mut world = world(V4)?;
    let room = MTU - 20;
    for words in 1..=10 {
        answers(&mut world, &with_options(&of_length(V4, TCP, 1490), words), room)?;
    }
    let chain = [options(DESTINATION_OPTIONS, 3), options(0, 0)];
    answers(&mut world, &extend(&of_length(V6, TCP, 1490), &chain), room)?;
    for family in FAMILIES {
        answers(&mut world, &padded(&of_length(family, TCP, 1490), 60), room)?;
        // Only the packet counts, not what the frame has behind it.
        ends(&mut world, &padded(&of_length(family, TCP, 1480), 60), &[ForwardedTx])?;
    }
    Ok(())
}

#[test]
fn a_packet_that_may_be_cut_is_dropped_and_counted() -> Result<()> {
    need_bpf!();
    for answers in [true, false] {
        let mut world = if answers { world(V4)? } else { scene::world(V4)? };
        for protocol in PROTOCOLS {
            let mut packet = of_length(V4, protocol, 1481);
            // The reserved bit is not don't-fragment.
            for flags in [0, 0x80] {
                packet[IP + 6] = flags;
                frame::repair_ipv4_checksum(&mut packet, IP);
                ends(&mut world, &packet, &[TooBig, TooBigMayFragment])?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_node_that_says_drop_answers_nothing() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        ends(&mut world, &of_length(family, TCP, 1481), &[TooBig])?;
    }
    Ok(())
}

#[test]
fn a_frame_to_a_group_is_not_answered() -> Result<()> {
    need_bpf!();
    let mut world = world(V4)?;
    for family in FAMILIES {
        for destination in [[0xff; 6], [0x01, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            let mut packet = of_length(family, TCP, 1481);
            packet[..6].copy_from_slice(&destination);
            ends(&mut world, &packet, &[TooBig])?;
        }
    }
    Ok(())
}

/// Gives the backend of a family's services that much room.
fn set_room(world: &mut World, family: Family, room: u16) -> Result<()> {
    world.change_backend(sole_backend(family), |backend| backend.room = room)
}

#[test]
fn ipv6_gets_no_report_of_an_mtu_below_1280() -> Result<()> {
    need_bpf!();
    let mut world = world(V4)?;
    set_room(&mut world, V6, 1279)?;
    for length in [1280, 1281, 1500] {
        ends(&mut world, &of_length(V6, TCP, length), &[TooBig])?;
    }
    set_room(&mut world, V6, 1280)?;
    ends(&mut world, &of_length(V6, TCP, 1280), &[ForwardedTx])?;
    answers(&mut world, &of_length(V6, TCP, 1281), 1280)
}

#[test]
fn a_packet_shorter_than_its_quote_is_not_answered() -> Result<()> {
    need_bpf!();
    let mut world = world(V4)?;
    set_room(&mut world, V4, 300)?;
    for length in [301, 547] {
        ends(&mut world, &of_length(V4, TCP, length), &[TooBig])?;
        // Bytes behind the packet do not make it longer.
        ends(&mut world, &padded(&of_length(V4, TCP, length), 600), &[TooBig])?;
    }
    answers(&mut world, &of_length(V4, TCP, 548), 300)
}

#[test]
fn what_was_merged_before_it_came_is_not_answered() -> Result<()> {
    need_bpf!();
    let mut world = world(V4)?;
    world.set_ingress_mtu(1500)?;
    for family in FAMILIES {
        ends(&mut world, &of_length(family, TCP, 1501), &[Merged])?;
        answers(&mut world, &of_length(family, TCP, 1500), MTU - 20)?;
    }
    Ok(())
}

#[test]
fn without_room_in_front_of_the_frame_there_is_no_answer() -> Result<()> {
    need_bpf!();
    let mut world = world(V4)?;
    // Of 216 bytes, the rest is metadata.
    for (family, enough, too_much) in [(V4, 188, 192), (V6, 168, 172)] {
        let packet = of_length(family, TCP, 1481);
        let outcome = world.run_with_metadata("lb_xdp", &packet, enough)?;
        assert_eq!(outcome.counters, [(PacketTooBig, 1)]);
        assert_eq!(outcome.frame, reported(&packet, MTU - 20)?);
        let outcome = world.run_with_metadata("lb_xdp", &packet, too_much)?;
        assert_eq!(outcome.counters, [(TooBig, 1)]);
    }
    Ok(())
}

#[test]
fn another_client_gets_its_own_answer() -> Result<()> {
    need_bpf!();
    let mut world = world(V4)?;
    for family in FAMILIES {
        for port in 1..5 {
            let mut frame = packet(vip(family, PORT), port, TCP, 1500);
            frame[IP + 6] |= if family == V4 { 0x40 } else { 0 };
            let outcome = world.run("lb_xdp", &frame)?;
            let quoted = frame::transport(&outcome.frame) + 8;
            let ports = quoted + if family == V4 { 20 } else { 40 };
            assert_eq!(outcome.frame[ports..ports + 2], port.to_be_bytes());
        }
    }
    Ok(())
}

#[test]
fn answers_are_bounded_by_burst_and_rate() -> Result<()> {
    need_bpf!();
    const SENT: u64 = 20_000;
    let mut world = world(V4)?;
    // One processor for all packets: each has an allowance of its own.
    let mut one = nix::sched::CpuSet::new();
    one.set(0)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one)?;
    let packet = of_length(V4, TCP, 1481);
    // The first packet finds a full allowance, whatever came before.
    world.run("lb_xdp", &packet)?;
    world.limit_answers();
    let began = Instant::now();
    let (mut answered, mut dropped) = (0, 0);
    for _ in 0..SENT {
        match world.run("lb_xdp", &packet)?.counters[..] {
            [(PacketTooBig, 1)] => answered += 1,
            [(TooBig, 1)] => dropped += 1,
            ref other => panic!("{other:?}"),
        }
    }
    let milliseconds = began.elapsed().as_millis() as u64;
    assert_eq!(answered + dropped, SENT);
    let most = BURST + milliseconds * ANSWERS_PER_SECOND / 1000 + 1;
    assert!((BURST - 1..=most).contains(&answered), "{answered} answers in {milliseconds} ms");
    // The processor is not always ours, so there are answers in nearly every millisecond that it was.
    assert!(dropped > 0 || milliseconds > SENT, "{SENT} packets in {milliseconds} ms, none was dropped");
    Ok(())
}
