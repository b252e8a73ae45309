//! `lb_decap`: which headers it takes off, what it leaves as it is, and what it does with ECN.

use anyhow::Result;
use lb_common::{
    counter::Counter,
    encap::Kind,
    wire::protocol::{self, TCP, UDP},
};
use lb_tests::{
    extension::{authentication, extend, fragmented, options, padded, routing, tagged, with_options},
    frame::{self, IP},
    need_bpf,
    world::{self, Sizes, World},
};

use crate::scene::{
    self, FAMILIES, Family, PORT, PROTOCOLS, SEED, V4, V6, backend_address, our_address, sole_backend, vip,
};

/// The backend on which `lb_decap` runs.
const HERE: u32 = 4;

/// A world that decapsulates at the backend's address of either family.
fn world() -> Result<World> {
    let mut world = World::new(Sizes::default(), SEED)?;
    for family in FAMILIES {
        world.add_decap(backend_address(family, HERE))?;
    }
    Ok(world)
}

/// `inner` (a frame) behind an outer header of family `outer` to backend `number`.
fn tunnelled_to(number: u32, outer: Family, inner: &[u8]) -> Vec<u8> {
    let protocol = if frame::is_v4(inner) { protocol::IPIP } else { protocol::IPV6 };
    frame::ip(our_address(outer), backend_address(outer, number), protocol, &inner[IP..])
}

fn tunnelled(outer: Family, inner: &[u8]) -> Vec<u8> {
    tunnelled_to(HERE, outer, inner)
}

/// The frame that decapsulation must produce: the inner packet behind the outer frame's Ethernet addresses.
fn bare(outer: &[u8], inner: &[u8]) -> Vec<u8> {
    [&outer[..12], &inner[12..]].concat()
}

#[test]
fn all_four_encapsulations_come_off() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for outer in FAMILIES {
        for inner in FAMILIES {
            for protocol in PROTOCOLS {
                for payload in [0, 1, 1000] {
                    let inner = scene::to_service(inner, protocol, payload);
                    let packet = tunnelled(outer, &inner);
                    let outcome = world.run("lb_decap", &packet)?;
                    assert_eq!(outcome.counters, [(Counter::Decapsulated, 1)]);
                    assert_eq!(outcome.frame, bare(&packet, &inner));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn whatever_is_inside_comes_out() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for outer in FAMILIES {
        let mut inners = vec![with_options(&scene::to_service(V4, UDP, 9), 10)];
        inners
            .push(extend(&scene::to_service(V6, UDP, 9), &[options(protocol::HOP_BY_HOP, 3), routing(0, 1)]));
        for family in FAMILIES {
            inners.push(fragmented(&scene::to_service(family, TCP, 64), 5, true));
            inners.push(frame::ip(our_address(family), vip(family, 0).ip(), protocol::ICMP, &[8; 9]));
        }
        for inner in inners {
            let packet = tunnelled(outer, &inner);
            let outcome = world.run("lb_decap", &packet)?;
            assert_eq!(outcome.counters, [(Counter::Decapsulated, 1)]);
            assert_eq!(outcome.frame, bare(&packet, &inner));
        }
    }
    Ok(())
}

#[test]
fn only_one_outer_header_comes_off() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    let once = tunnelled(V4, &scene::to_service(V6, TCP, 5));
    let packet = tunnelled(V4, &once);
    let outcome = world.run("lb_decap", &packet)?;
    assert_eq!(outcome.frame, bare(&packet, &once));
    Ok(())
}

#[test]
fn outer_ipv4_options_come_off_too() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for family in FAMILIES {
        let inner = scene::to_service(family, TCP, 5);
        for words in 1..=10 {
            let packet = with_options(&tunnelled(V4, &inner), words);
            let outcome = world.run("lb_decap", &packet)?;
            assert_eq!(outcome.counters, [(Counter::Decapsulated, 1)], "{words} words");
            assert_eq!(outcome.frame, bare(&packet, &inner));
        }
    }
    Ok(())
}

#[test]
fn the_encapsulation_limit_of_ip6tnl_comes_off_too() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    let mut limit = options(protocol::DESTINATION_OPTIONS, 0);
    // Tunnel encapsulation limit 4 (RFC 2473, 4.1.1), then PadN as ip6_tunnel.c writes it.
    limit.bytes[2..].copy_from_slice(&[4, 1, 4, 1, 1, 0]);
    for family in FAMILIES {
        let inner = scene::to_service(family, TCP, 5);
        for option in [limit.clone(), options(protocol::DESTINATION_OPTIONS, 5)] {
            let packet = extend(&tunnelled(V6, &inner), &[option]);
            let outcome = world.run("lb_decap", &packet)?;
            assert_eq!(outcome.counters, [(Counter::Decapsulated, 1)]);
            assert_eq!(outcome.frame, bare(&packet, &inner));
        }
    }
    Ok(())
}

#[test]
fn other_extension_headers_in_front_pass() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    let option = || options(protocol::DESTINATION_OPTIONS, 0);
    for chain in [
        vec![options(protocol::HOP_BY_HOP, 0)],
        vec![routing(0, 1)],
        vec![authentication(3)],
        vec![option(), option()],
    ] {
        let packet = extend(&tunnelled(V6, &scene::to_service(V4, TCP, 5)), &chain);
        assert_eq!(world.run("lb_decap", &packet)?.counters, [(Counter::PassedNotTunnel, 1)]);
    }
    Ok(())
}

#[test]
fn another_destination_passes() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for outer in FAMILIES {
        for inner in FAMILIES {
            let packet = tunnelled_to(HERE + 1, outer, &scene::to_service(inner, TCP, 5));
            assert_eq!(world.run("lb_decap", &packet)?.counters, [(Counter::PassedNotTunnel, 1)]);
        }
    }
    Ok(())
}

#[test]
fn what_is_no_tunnel_passes() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    let mut packets = vec![frame::arp([10, 1, 0, 4])];
    for family in FAMILIES {
        let (from, here) = (our_address(family), backend_address(family, HERE));
        packets.push(tagged(&tunnelled(family, &scene::to_service(V4, TCP, 5)), 7));
        for number in [protocol::ICMP, TCP, UDP, 47, protocol::ICMPV6, 59, 98, 255] {
            packets.push(frame::ip(from, here, number, &[0x45; 40]));
        }
    }
    for packet in packets {
        assert_eq!(world.run("lb_decap", &packet)?.counters, [(Counter::PassedNotTunnel, 1)]);
    }
    Ok(())
}

#[test]
fn outer_fragments_pass() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for outer in FAMILIES {
        for (offset, more) in [(0, true), (9, true), (9, false)] {
            let packet = fragmented(&tunnelled(outer, &scene::to_service(V4, TCP, 64)), offset, more);
            assert_eq!(world.run("lb_decap", &packet)?.counters, [(Counter::PassedNotTunnel, 1)]);
        }
    }
    Ok(())
}

#[test]
fn a_version_that_contradicts_the_ethertype_passes() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for outer in FAMILIES {
        let mut packet = tunnelled(outer, &scene::to_service(V4, TCP, 64));
        packet[IP] = 0x55;
        assert_eq!(world.run("lb_decap", &packet)?.counters, [(Counter::PassedNotTunnel, 1)]);
    }
    let mut short = tunnelled(V4, &scene::to_service(V4, TCP, 64));
    short[IP] = 0x44;
    assert_eq!(world.run("lb_decap", &short)?.counters, [(Counter::PassedNotTunnel, 1)]);
    Ok(())
}

#[test]
fn a_frame_that_ends_in_the_inner_header_is_malformed() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for outer in FAMILIES {
        for inner in FAMILIES {
            let packet = tunnelled(outer, &scene::to_service(inner, TCP, 5));
            let inside = IP + if outer == V4 { 20 } else { 40 };
            let readable = inside + if inner == V4 { 20 } else { 40 };
            for end in IP..packet.len() {
                let verdict = match end {
                    _ if end < inside => Counter::PassedNotTunnel,
                    _ if end < readable => Counter::DecapMalformed,
                    // The host judges the rest.
                    _ => Counter::Decapsulated,
                };
                let mut cut = packet[..end].to_vec();
                let lies = if end < inside { verdict } else { Counter::DecapMalformed };
                let outcome = world.run("lb_decap", &cut)?;
                assert_eq!(outcome.counters, [(lies, 1)], "{inner:?} in {outer:?} cut at {end}");
                if end >= inside {
                    frame::set_length(&mut cut, end - IP);
                    let outcome = world.run("lb_decap", &cut)?;
                    assert_eq!(outcome.counters, [(verdict, 1)], "{inner:?} in {outer:?} of {end} bytes");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn inner_options_cut_short_are_malformed() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for outer in FAMILIES {
        let inner = with_options(&scene::to_service(V4, UDP, 0), 3);
        let packet = tunnelled(outer, &inner);
        let readable = packet.len() - 8;
        for end in readable - 12..=packet.len() {
            let verdict = if end < readable { Counter::DecapMalformed } else { Counter::Decapsulated };
            let mut cut = packet[..end].to_vec();
            frame::set_length(&mut cut, end - IP);
            assert_eq!(world.run("lb_decap", &cut)?.counters, [(verdict, 1)], "cut at {end}");
        }
    }
    Ok(())
}

#[test]
fn outer_options_beyond_the_frame_are_malformed() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    let mut packet = tunnelled(V4, &scene::to_service(V4, UDP, 0))[..IP + 40].to_vec();
    packet[IP] = 0x4f;
    assert_eq!(world.run("lb_decap", &packet)?.counters, [(Counter::DecapMalformed, 1)]);

    let mut packet =
        extend(&tunnelled(V6, &scene::to_service(V4, UDP, 0)), &[options(protocol::DESTINATION_OPTIONS, 0)]);
    packet[IP + 41] = 255;
    assert_eq!(world.run("lb_decap", &packet)?.counters, [(Counter::DecapMalformed, 1)]);
    // Not even the first two bytes of the extension header are there.
    assert_eq!(world.run("lb_decap", &packet[..IP + 41])?.counters, [(Counter::PassedNotTunnel, 1)]);
    Ok(())
}

#[test]
fn an_inner_version_against_the_protocol_is_malformed() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for outer in FAMILIES {
        for inner in FAMILIES {
            let packet = tunnelled(outer, &scene::to_service(inner, TCP, 50));
            let inside = IP + if outer == V4 { 20 } else { 40 };
            let right = if inner == V4 { 4 } else { 6 };
            for version in (0..16).filter(|version| *version != right) {
                let mut packet = packet.clone();
                packet[inside] = packet[inside] & 0x0f | version << 4;
                assert_eq!(world.run("lb_decap", &packet)?.counters, [(Counter::DecapMalformed, 1)]);
            }
        }
        for ihl in 0..5 {
            let mut packet = tunnelled(outer, &scene::to_service(V4, TCP, 50));
            packet[IP + if outer == V4 { 20 } else { 40 }] = 0x40 | ihl;
            assert_eq!(world.run("lb_decap", &packet)?.counters, [(Counter::DecapMalformed, 1)]);
        }
    }
    Ok(())
}

#[test]
fn ecn_is_combined_as_rfc_6040_says() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    // RFC 6040, 4.2, figure 4. Rows: inner Not-ECT, ECT(1), ECT(0), CE; columns: outer the same; `None` = drop.
    let figure = [
        [Some(0b00), Some(0b00), Some(0b00), None],
        [Some(0b01), Some(0b01), Some(0b01), Some(0b11)],
        [Some(0b10), Some(0b01), Some(0b10), Some(0b11)],
        [Some(0b11), Some(0b11), Some(0b11), Some(0b11)],
    ];
    const DSCP: u8 = 46 << 2;
    for outer in FAMILIES {
        for inner in FAMILIES {
            for (inner_ecn, row) in (0..).zip(figure) {
                for (outer_ecn, combined) in (0..).zip(row) {
                    let mut packet = scene::to_service(inner, TCP, 5);
                    frame::set_tos(&mut packet, DSCP | inner_ecn);
                    let mut tunnel = tunnelled(outer, &packet);
                    // Another DSCP outside, which is not copied to the inner packet (RFC 2983, uniform and pipe are policy).
                    frame::set_tos(&mut tunnel, 10 << 2 | outer_ecn);
                    let outcome = world.run("lb_decap", &tunnel)?;
                    let Some(combined) = combined else {
                        assert_eq!(outcome.counters, [(Counter::DecapEcn, 1)]);
                        continue;
                    };
                    assert_eq!(outcome.counters, [(Counter::Decapsulated, 1)]);
                    // Sets the byte and computes the IPv4 checksum again from all bytes.
                    frame::set_tos(&mut packet, DSCP | combined);
                    assert_eq!(
                        outcome.frame,
                        bare(&tunnel, &packet),
                        "{inner:?} {inner_ecn:02b} in {outer:?} {outer_ecn:02b}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_wrong_inner_checksum_is_not_made_right() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    let mut packet = scene::to_service(V4, TCP, 5);
    frame::set_tos(&mut packet, 0b10);
    packet[IP + 10] ^= 0x5a;
    let mut tunnel = tunnelled(V4, &packet);
    frame::set_tos(&mut tunnel, 0b11);
    let out = world.run("lb_decap", &tunnel)?.frame;
    assert_eq!(frame::tos(&out), 0b11);
    assert_ne!(frame::ipv4_checksum(&out[IP..IP + 20]), 0);
    Ok(())
}

/// The same as `tunnelled`, in a datagram to `port`.
fn in_udp(outer: Family, port: u16, inner: &[u8]) -> Vec<u8> {
    let length = (8 + inner.len() - IP) as u16;
    let mut datagram = [50_000_u16.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(&inner[IP..]);
    frame::ip(our_address(outer), backend_address(outer, HERE), UDP, &datagram)
}

#[test]
fn gue_comes_off_only_where_it_is_accepted() -> Result<()> {
    need_bpf!();
    let mut world = world()?;
    for outer in FAMILIES {
        let inner = scene::to_service(V4, TCP, 64);
        let packet = in_udp(outer, 6080, &inner);
        let refused = world.run("lb_decap", &packet)?;
        assert_eq!(refused.counters, [(Counter::PassedNotTunnel, 1)]);
        world.add_decap_of(backend_address(outer, HERE), &[Kind::Gue])?;
        let outcome = world.run("lb_decap", &packet)?;
        assert_eq!(outcome.counters, [(Counter::Decapsulated, 1)]);
        assert_eq!(outcome.frame, bare(&packet, &inner));
        let ipip = world.run("lb_decap", &tunnelled(outer, &inner))?;
        assert_eq!(ipip.counters, [(Counter::PassedNotTunnel, 1)], "IP in IP is not accepted any more");
        // Another port; variant 0, which has a header of its own; a datagram that ends inside its header or that claims more.
        let other = world.run("lb_decap", &in_udp(outer, 6081, &inner))?;
        assert_eq!(other.counters, [(Counter::PassedNotTunnel, 1)]);
        let udp = IP + if outer == V4 { 20 } else { 40 };
        let changed = |at: usize, byte: u8| {
            let mut packet = packet.clone();
            packet[udp + at] = byte;
            packet
        };
        let variant_0 = world.run("lb_decap", &changed(8, 0x05))?;
        assert_eq!(variant_0.counters, [(Counter::PassedNotTunnel, 1)]);
        for length in [7, 20, packet[udp + 5] + 1] {
            let lies = world.run("lb_decap", &changed(5, length))?;
            assert_eq!(lies.counters, [(Counter::DecapMalformed, 1)], "{length}");
        }
    }
    Ok(())
}

#[test]
fn what_the_balancer_puts_on_the_backend_takes_off() -> Result<()> {
    need_bpf!();
    let mut here = world()?;
    for (inner, outer) in [(V4, V4), (V4, V6), (V6, V4), (V6, V6)] {
        here.add_decap_of(backend_address(outer, sole_backend(inner)), &[Kind::Ipip, Kind::Gue])?;
    }
    for (outer, kind) in FAMILIES.into_iter().flat_map(|outer| [(outer, Kind::Ipip), (outer, Kind::Gue)]) {
        let mut balancer = scene::world(outer)?;
        for inner in FAMILIES {
            let (number, from) = (sole_backend(inner), our_address(outer));
            let to = backend_address(outer, number);
            balancer.set_backend(number, world::backend_by(kind, from, to, inner == V6))?;
        }
        let mut originals = vec![
            with_options(&scene::to_service(V4, TCP, 7), 4),
            extend(&scene::to_service(V6, UDP, 7), &[options(protocol::HOP_BY_HOP, 1), routing(0, 2)]),
        ];
        for inner in FAMILIES {
            for protocol in PROTOCOLS {
                for tos in [0, 0b01, 0b10, 0b11, 0xb8, 0xff] {
                    for payload in [0, 1, 333, 1300] {
                        let mut packet = scene::to_service(inner, protocol, payload);
                        frame::set_tos(&mut packet, tos);
                        originals.push(packet);
                    }
                }
                originals.push(padded(&scene::packet(vip(inner, PORT), 9, protocol, 1), 17));
            }
        }
        for original in originals {
            let sent = balancer.run("lb_xdp", &original)?;
            assert_eq!(sent.counters, [(Counter::ForwardedTx, 1)]);
            let outcome = here.run("lb_decap", &sent.frame)?;
            assert_eq!(outcome.counters, [(Counter::Decapsulated, 1)]);
            assert_eq!(outcome.frame[12..], original[12..]);
        }
    }
    Ok(())
}
