//! The outer header, byte for byte.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::{counter::Counter, encap::Kind, wire::protocol};
use lb_tests::{
    extension::{extend, options, with_options},
    frame::{self, NEXT_HOP_MAC, OUR_MAC, Segment},
    need_bpf,
    world::{self, World},
};

use crate::scene::{
    self, FAMILIES, Family, PORT, PROTOCOLS, V4, V6, backend_address, client, our_address, sole_backend, vip,
};

/// The outer packet by RFC 2003, RFC 2473 and our choices (TTL 64, DF, identification 0, flow label from the hash) for a
/// packet that goes to a backend. Put together by hand, so that it shares no line with the code that it judges.
fn expected(packet: &[u8], source: IpAddr, backend: IpAddr, inner: Family, hash: u64) -> Vec<u8> {
    let tos = frame::tos(packet);
    let inner_length = (packet.len() - 14) as u16;
    let inner_protocol = if inner == V4 { 4 } else { 41 };
    let mut out = NEXT_HOP_MAC.to_vec();
    out.extend(OUR_MAC);
    match (source, backend) {
        (IpAddr::V4(source), IpAddr::V4(backend)) => {
            out.extend([0x08, 0x00, 0x45, tos]);
            out.extend((inner_length + 20).to_be_bytes());
            out.extend([0, 0, 0x40, 0, 64, inner_protocol, 0, 0]);
            out.extend(source.octets());
            out.extend(backend.octets());
            frame::repair_ipv4_checksum(&mut out, 14);
        }
        (IpAddr::V6(source), IpAddr::V6(backend)) => {
            let label = hash as u32 & 0xf_ffff;
            out.extend([0x86, 0xdd]);
            out.extend((0x6000_0000 | u32::from(tos) << 20 | label).to_be_bytes());
            out.extend(inner_length.to_be_bytes());
            out.extend([inner_protocol, 64]);
            out.extend(source.octets());
            out.extend(backend.octets());
        }
        _ => panic!("an outer header has one family"),
    }
    out.extend(&packet[14..]);
    out
}

/// Sends a packet of family `inner` through a world whose outer headers are of family `outer`, and compares the whole frame.
fn check(world: &mut World, inner: Family, outer: Family, protocol: u8, packet: &[u8]) -> Result<()> {
    let hash = world.hash(client(inner, 40_000), vip(inner, PORT), protocol);
    let backend = backend_address(outer, sole_backend(inner));
    let outcome = world.run("lb_xdp", packet)?;
    assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
    assert_eq!(outcome.frame, expected(packet, our_address(outer), backend, inner, hash));
    Ok(())
}

fn all_protocols(inner: Family, outer: Family) -> Result<()> {
    let mut world = scene::world(outer)?;
    for protocol in PROTOCOLS {
        for payload in [0, 1, 777, 1400] {
            check(&mut world, inner, outer, protocol, &scene::to_service(inner, protocol, payload))?;
        }
    }
    Ok(())
}

#[test]
fn ipv4_leaves_in_ipv4() -> Result<()> {
    need_bpf!();
    all_protocols(V4, V4)
}

#[test]
fn ipv6_leaves_in_ipv6() -> Result<()> {
    need_bpf!();
    all_protocols(V6, V6)
}

#[test]
fn ipv6_leaves_in_ipv4() -> Result<()> {
    need_bpf!();
    all_protocols(V6, V4)
}

#[test]
fn ipv4_leaves_in_ipv6() -> Result<()> {
    need_bpf!();
    all_protocols(V4, V6)
}

#[test]
fn l2_rewrites_the_ethernet_addresses_alone() -> Result<()> {
    need_bpf!();
    for (inner, outer) in [(V4, V4), (V4, V6), (V6, V4), (V6, V6)] {
        let mut world = scene::world(outer)?;
        let number = sole_backend(inner);
        let to = backend_address(outer, number);
        let made = world::backend_by(Kind::L2, our_address(outer), to, inner == V6);
        assert_eq!(made.room, world::MTU);
        world.set_backend(number, made)?;
        for packet in PROTOCOLS.map(|protocol| scene::to_service(inner, protocol, 777)) {
            let outcome = world.run("lb_xdp", &packet)?;
            assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
            assert_eq!(outcome.frame, [&NEXT_HOP_MAC[..], &OUR_MAC, &packet[12..]].concat());
        }
        world.change_backend(number, |backend| backend.room = 100)?;
        let long = world.run("lb_xdp", &scene::to_service(inner, protocol::UDP, 100))?;
        assert_eq!(long.counters, [(Counter::TooBig, 1)]);
    }
    Ok(())
}

/// A world whose backend of the service of family `inner` is reached by GUE.
fn gue(inner: Family, outer: Family) -> Result<World> {
    let mut world = scene::world(outer)?;
    let number = sole_backend(inner);
    let to = backend_address(outer, number);
    world.set_backend(number, world::backend_by(Kind::Gue, our_address(outer), to, inner == V6))?;
    Ok(world)
}

/// The outer UDP header of a frame from `gue`; the rest is checked.
fn outer_udp(world: &mut World, outer: Family, packet: &[u8], hash: u64) -> Result<[u8; 8]> {
    let outcome = world.run("lb_xdp", packet)?;
    assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
    let ip = if outer == V4 { 20 } else { 40 };
    let (head, rest) = outcome.frame[14..].split_at(ip + 8);
    assert_eq!(rest, &packet[14..]);
    assert_eq!(head[if outer == V4 { 9 } else { 6 }], protocol::UDP);
    let length = (8 + packet.len() - 14) as u16;
    let port = 49_152 + (hash % 16_384) as u16;
    assert_eq!(head[ip..ip + 6], [port.to_be_bytes(), 6080_u16.to_be_bytes(), length.to_be_bytes()].concat());
    if outer == V6 && head[ip + 6..] != [0, 0] {
        let pseudo = [&head[8..40], &[0, protocol::UDP], &length.to_be_bytes()].concat();
        let mut whole = [&pseudo, &head[ip..], rest].concat();
        whole.resize(whole.len().next_multiple_of(2), 0);
        assert_eq!(frame::ipv4_checksum(&whole), 0, "the outer checksum verifies");
    }
    Ok(head[ip..].try_into()?)
}

#[test]
fn gue_has_a_port_of_the_flow_and_a_checksum_over_ipv6() -> Result<()> {
    need_bpf!();
    for (inner, outer) in [(V4, V4), (V4, V6), (V6, V4), (V6, V6)] {
        let mut world = gue(inner, outer)?;
        for protocol in PROTOCOLS {
            let hash = world.hash(client(inner, 40_000), vip(inner, PORT), protocol);
            for payload in [0, 1, 777, 1300] {
                let udp = outer_udp(&mut world, outer, &scene::to_service(inner, protocol, payload), hash)?;
                assert_eq!(udp[6..] == [0, 0], outer == V4, "{inner:?} in {outer:?}, {protocol}, {payload}");
            }
        }
    }
    Ok(())
}

#[test]
fn gue_has_no_checksum_where_the_inner_one_does_not_cover_the_packet() -> Result<()> {
    need_bpf!();
    for inner in FAMILIES {
        let mut world = gue(inner, V6)?;
        let hash = world.hash(client(inner, 40_000), vip(inner, PORT), protocol::UDP);
        let whole = scene::to_service(inner, protocol::UDP, 30);
        let udp = 14 + if inner == V4 { 20 } else { 40 };
        let mut without = whole.clone();
        without[udp + 6..udp + 8].fill(0);
        let mut shorter = whole.clone();
        shorter[udp + 5] -= 1;
        let further = match inner {
            V4 => with_options(&whole, 4),
            V6 => extend(&whole, &[options(protocol::HOP_BY_HOP, 1)]),
        };
        for packet in [without, shorter, further] {
            assert_eq!(outer_udp(&mut world, V6, &packet, hash)?[6..], [0, 0]);
        }
        assert_ne!(outer_udp(&mut world, V6, &whole, hash)?[6..], [0, 0]);
    }
    Ok(())
}

#[test]
fn another_library_reads_our_outer_headers() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        for inner in FAMILIES {
            let packet = scene::to_service(inner, protocol::TCP, 100);
            let out = world.run("lb_xdp", &packet)?.frame;
            let sliced = etherparse::LaxSlicedPacket::from_ethernet(&out)?;
            assert!(sliced.stop_err.is_none(), "{:?}", sliced.stop_err);
            match (outer, sliced.net.expect("an IP header")) {
                (V4, etherparse::LaxNetSlice::Ipv4(ip)) => {
                    let header = ip.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    assert!(header.dont_fragment && !header.more_fragments);
                    assert_eq!((header.time_to_live, header.identification), (64, 0));
                    assert_eq!(ip.payload().payload, &packet[14..]);
                }
                (V6, etherparse::LaxNetSlice::Ipv6(ip)) => {
                    assert_eq!(ip.header().hop_limit(), 64);
                    assert_eq!(ip.payload().payload, &packet[14..]);
                }
                (_, other) => panic!("{outer:?} became {other:?}"),
            }
        }
    }
    Ok(())
}

#[test]
fn every_dscp_and_ecn_is_copied_to_the_outer_header() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        for inner in FAMILIES {
            // All four ECN codepoints under the classes in use and the extremes.
            for dscp in [0, 8, 10, 34, 46, 63] {
                for ecn in 0..4 {
                    let tos = dscp << 2 | ecn;
                    let from = client(inner, 40_000);
                    let packet = frame::tcp(from, vip(inner, PORT), Segment::Syn, tos, 0);
                    assert_eq!(frame::tos(&packet), tos);
                    check(&mut world, inner, outer, protocol::TCP, &packet)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_dscp_of_the_service_is_in_the_outer_header_alone() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        for (inner, kind) in FAMILIES.into_iter().flat_map(|inner| [(inner, Kind::Ipip), (inner, Kind::Gue)])
        {
            let (number, source) = (sole_backend(inner), our_address(outer));
            let record = world::backend_by(kind, source, backend_address(outer, number), inner == V6);
            for (dscp, ecn) in [(0, 3), (46, 0), (46, 1), (46, 2), (46, 3), (63, 0)] {
                let tos = 10 << 2 | ecn;
                let fast = frame::tcp(client(inner, 40_000), vip(inner, PORT), Segment::Syn, tos, 10);
                let slow = match inner {
                    V4 => with_options(&fast, 4),
                    V6 => extend(&fast, &[options(protocol::HOP_BY_HOP, 1)]),
                };
                for packet in [fast, slow] {
                    let [copied, mut own] = [record, record.marked(dscp)].map(|record| {
                        world.set_backend(number, record).expect("a record");
                        world.run("lb_xdp", &packet).expect("a run")
                    });
                    assert_eq!(own.counters, [(Counter::ForwardedTx, 1)]);
                    assert_eq!(frame::tos(&copied.frame), tos);
                    assert_eq!(frame::tos(&own.frame), dscp << 2 | ecn, "ECN is copied (RFC 6040, 4.1)");
                    // With the packet's own class nothing else differs.
                    frame::set_tos(&mut own.frame, tos);
                    assert_eq!(own.frame, copied.frame, "{kind:?}: {inner:?} in {outer:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_inner_ttl_is_neither_looked_at_nor_changed() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for inner in FAMILIES {
        for ttl in [0, 1, 255] {
            let mut packet = scene::to_service(inner, protocol::TCP, 0);
            if inner == V4 {
                packet[22] = ttl;
                frame::repair_ipv4_checksum(&mut packet, 14);
            } else {
                packet[21] = ttl;
            }
            check(&mut world, inner, V4, protocol::TCP, &packet)?;
        }
    }
    Ok(())
}

#[test]
fn the_inner_flow_label_does_not_choose_the_outer_one() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    let mut packet = scene::to_service(V6, protocol::TCP, 0);
    packet[15..18].copy_from_slice(&[0x0a, 0xbc, 0xde]);
    check(&mut world, V6, V6, protocol::TCP, &packet)
}

#[test]
fn flows_differ_in_their_outer_flow_label() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    let mut labels = std::collections::BTreeSet::new();
    for port in 1000..1064 {
        let packet = scene::packet(vip(V6, PORT), port, protocol::TCP, 0);
        let out = world.run("lb_xdp", &packet)?.frame;
        assert_eq!(out, world.run("lb_xdp", &packet)?.frame, "a flow keeps its label");
        labels.insert([out[15] & 0x0f, out[16], out[17]]);
    }
    assert!(labels.len() >= 63, "{} labels for 64 flows", labels.len());
    Ok(())
}

#[test]
fn a_fixed_outer_source_is_the_same_for_every_flow() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        for port in 1000..1032 {
            let packet = scene::packet(vip(V4, PORT), port, protocol::UDP, 0);
            let out = world.run("lb_xdp", &packet)?.frame;
            assert_eq!(outer_source(&out), our_address(outer));
        }
    }
    Ok(())
}

#[test]
fn a_spread_outer_source_fills_only_its_prefix() -> Result<()> {
    need_bpf!();
    for (outer, bits) in [(V4, 1), (V4, 8), (V4, 16), (V4, 32), (V6, 1), (V6, 16), (V6, 32)] {
        let mut world = scene::world(outer)?;
        // The prefix: our address with the spread bits set to 0.
        let kept = if bits == 32 { 0 } else { u32::MAX << bits };
        let prefix = last_word(our_address(outer)) & kept;
        world.change_backend(sole_backend(V4), |backend| {
            backend.source_bits = bits;
            // The last word of the address in the template.
            let word = 3;
            backend.outer[word] = prefix.to_be();
            if outer == V4 {
                let sum = backend.outer[..5].iter().map(|word| u64::from(*word)).sum();
                backend.outer[5] = u32::from(lb_common::checksum::fold(sum));
            }
        })?;

        let mut sources = std::collections::BTreeSet::new();
        for port in 1000..1256 {
            let packet = scene::packet(vip(V4, PORT), port, protocol::TCP, 0);
            let out = world.run("lb_xdp", &packet)?.frame;
            let source = outer_source(&out);
            assert_eq!(last_word(source) & kept, prefix, "{source} leaves the prefix");
            assert_eq!(upper(source, outer), upper(our_address(outer), outer));
            let syn = frame::tcp(client(V4, port), vip(V4, PORT), Segment::Syn, 0, 0);
            let other = world.run("lb_xdp", &syn)?.frame;
            assert_eq!(outer_source(&other), source, "a flow keeps its source");
            sources.insert(last_word(source));
        }
        // 256 flows in 2^bits places: both values of one bit; by 8 bits, about 256 × (1 − 1/e) = 162 places.
        let least = match bits {
            1 => 2,
            8 => 120,
            _ => 250,
        };
        assert!(sources.len() >= least, "{outer:?}, {bits} bits: {} sources", sources.len());
    }
    Ok(())
}

fn outer_source(out: &[u8]) -> IpAddr {
    if frame::is_v4(out) {
        IpAddr::from(<[u8; 4]>::try_from(&out[26..30]).expect("four bytes"))
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&out[22..38]).expect("sixteen bytes"))
    }
}

fn last_word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    }
}

fn upper(address: IpAddr, family: Family) -> u128 {
    match (address, family) {
        (IpAddr::V6(v6), V6) => v6.to_bits() >> 32,
        (IpAddr::V4(_), V4) => 0,
        _ => panic!("{address} is not {family:?}"),
    }
}

#[test]
fn the_backend_record_decides_the_ethernet_header() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    let header = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x08, 0x00];
    world.change_backend(sole_backend(V4), |backend| backend.ethernet = header)?;
    let outcome = world.run("lb_xdp", &scene::to_service(V4, protocol::TCP, 3))?;
    assert_eq!(outcome.frame[..14], header);
    assert_eq!(world.tally(lb_common::map::name::BK_TALLY, sole_backend(V4))?, (1, 43, 0));
    Ok(())
}
