//! Length fields that contradict the packet, and frames that end too early.

use anyhow::Result;
use lb_common::{counter::Counter, wire::protocol};
use lb_tests::{
    extension::{extend, options, padded, with_options},
    frame::{self, IP, transport},
    need_bpf,
};

use crate::scene::{self, FAMILIES, Family, PORT, PROTOCOLS, V4, V6, stranger};

/// Bytes of IP header in a plain packet.
fn header(family: Family) -> usize {
    if family == V4 { 20 } else { 40 }
}

/// Bytes of transport header in a plain packet.
fn transport_header(protocol: u8) -> usize {
    if protocol == protocol::TCP { 20 } else { 8 }
}

#[test]
fn a_frame_that_ends_early_is_never_forwarded() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        for family in FAMILIES {
            for protocol in PROTOCOLS {
                let whole = scene::to_service(family, protocol, 12);
                for end in IP..whole.len() {
                    let outcome = world.run("lb_xdp", &whole[..end])?;
                    let verdict =
                        if end < IP + header(family) { Counter::PassedMalformed } else { Counter::BadLength };
                    assert_eq!(outcome.counters, [(verdict, 1)], "{family:?} {protocol} cut at {end}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_short_frame_with_options_is_never_forwarded() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for protocol in PROTOCOLS {
        let v4 = with_options(&scene::to_service(V4, protocol, 12), 6);
        for end in IP..v4.len() {
            let verdict = if end < IP + 20 { Counter::PassedMalformed } else { Counter::BadLength };
            assert_eq!(world.run("lb_xdp", &v4[..end])?.counters, [(verdict, 1)], "cut at {end}");
        }
        let v6 = extend(&scene::to_service(V6, protocol, 12), &[options(protocol::HOP_BY_HOP, 1)]);
        for end in IP..v6.len() {
            let outcome = world.run("lb_xdp", &v6[..end])?;
            let verdict = match end {
                ..54 => Counter::PassedMalformed,
                54..58 => Counter::Truncated,
                _ => Counter::BadLength,
            };
            assert_eq!(outcome.counters, [(verdict, 1)], "cut at {end}");
        }
    }
    Ok(())
}

#[test]
fn an_early_end_in_a_frame_for_somebody_else_passes() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let whole = scene::packet(stranger(family, PORT), 40_000, protocol, 12);
            for end in IP..whole.len() {
                let outcome = world.run("lb_xdp", &whole[..end])?;
                let verdict = if end < IP + header(family) {
                    Counter::PassedMalformed
                } else {
                    Counter::PassedNotService
                };
                assert_eq!(outcome.counters, [(verdict, 1)], "{family:?} {protocol} cut at {end}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_transport_header_cut_short_is_truncated() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let whole = scene::to_service(family, protocol, 0);
            for kept in 0..transport_header(protocol) {
                let mut packet = whole[..IP + header(family) + kept].to_vec();
                frame::set_length(&mut packet, header(family) + kept);
                let outcome = world.run("lb_xdp", &packet)?;
                assert_eq!(
                    outcome.counters,
                    [(Counter::Truncated, 1)],
                    "{family:?} {protocol}: {kept} bytes"
                );
                // The same packet in a frame with enough padding to hold a header: padding is not part of the packet.
                let outcome = world.run("lb_xdp", &padded(&packet, 60))?;
                assert_eq!(
                    outcome.counters,
                    [(Counter::Truncated, 1)],
                    "{family:?} {protocol}: {kept} bytes"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn padding_is_kept_and_not_counted() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        for family in FAMILIES {
            for protocol in PROTOCOLS {
                for count in [1, 6, 46, 200] {
                    let packet = scene::to_service(family, protocol, 2);
                    let before = world.tally(lb_common::map::name::BK_TALLY, scene::sole_backend(family))?;
                    // `World::run` checks with every packet that the outer length leaves the padding out.
                    let outcome = world.run("lb_xdp", &padded(&packet, count))?;
                    assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
                    assert!(outcome.frame.ends_with(&vec![0xee; count]));
                    let after = world.tally(lb_common::map::name::BK_TALLY, scene::sole_backend(family))?;
                    assert_eq!(after.1 - before.1, packet.len() as u64 - IP as u64);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn an_ip_length_beyond_the_frame_is_a_bad_length() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let right = scene::to_service(family, protocol, 12);
            for length in [right.len() - IP + 1, 1500, 0xffff, 0xffff + if family == V6 { 40 } else { 0 }] {
                let mut packet = right.clone();
                frame::set_length(&mut packet, length);
                let outcome = world.run("lb_xdp", &packet)?;
                assert_eq!(outcome.counters, [(Counter::BadLength, 1)], "{family:?} {protocol}: {length}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_ipv4_length_below_the_header_is_a_bad_length() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for words in [0, 4] {
        for length in [0, 1, 19, 19 + usize::from(words) * 4] {
            let mut packet = scene::to_service(V4, protocol::UDP, 12);
            if words > 0 {
                packet = with_options(&packet, words);
            }
            frame::set_length(&mut packet, length);
            assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::BadLength, 1)], "{length}");
        }
    }
    Ok(())
}

#[test]
fn a_smaller_ip_length_leaves_the_frame_whole() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        let mut packet = scene::to_service(family, protocol::TCP, 100);
        frame::set_length(&mut packet, header(family) + 20 + 40);
        let outcome = world.run("lb_xdp", &packet)?;
        assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
        assert_eq!(frame::length(&outcome.frame), 20 + header(family) + 20 + 40);
    }
    Ok(())
}

#[test]
fn payload_length_zero_is_no_jumbogram_of_ours() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    for protocol in PROTOCOLS {
        let mut packet = scene::to_service(V6, protocol, 100);
        frame::set_length(&mut packet, 40);
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::Truncated, 1)]);
        // By RFC 2675: the length is in a hop-by-hop option.
        let mut jumbo = options(protocol::HOP_BY_HOP, 0);
        jumbo.bytes[2..].copy_from_slice(&[0xc2, 4, 0, 1, 0, 0]);
        let mut packet = extend(&scene::to_service(V6, protocol, 100), &[jumbo]);
        frame::set_length(&mut packet, 40);
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::BadLength, 1)]);
    }
    Ok(())
}

#[test]
fn a_wrong_tcp_header_length_is_a_bad_length() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        let payload = 12;
        for words in 0..16 {
            let mut packet = scene::to_service(family, protocol::TCP, payload);
            let at = transport(&packet) + 12;
            packet[at] = (words << 4) as u8;
            // 20 bytes of header and 12 of payload: offsets from 5 to 8 words lie inside.
            let verdict = if (5..=8).contains(&words) { Counter::ForwardedTx } else { Counter::BadLength };
            assert_eq!(world.run("lb_xdp", &packet)?.counters, [(verdict, 1)], "{family:?}: {words} words");
        }
    }
    Ok(())
}

#[test]
fn a_wrong_udp_length_is_a_bad_length() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        let payload = 12;
        for length in [0u16, 1, 7, 8, 19, 20, 21, 1500, 0xffff] {
            let mut packet = padded(&scene::to_service(family, protocol::UDP, payload), 30);
            let at = transport(&packet) + 4;
            packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
            let verdict = if (8..=20).contains(&length) { Counter::ForwardedTx } else { Counter::BadLength };
            assert_eq!(world.run("lb_xdp", &packet)?.counters, [(verdict, 1)], "{family:?}: {length}");
        }
    }
    Ok(())
}

#[test]
fn wrong_lengths_in_packets_for_somebody_else_pass() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        let mut tcp = scene::packet(stranger(family, PORT), 1, protocol::TCP, 12);
        let at = transport(&tcp) + 12;
        tcp[at] = 0;
        let mut udp = scene::packet(stranger(family, PORT), 1, protocol::UDP, 12);
        let at = transport(&udp) + 4;
        udp[at..at + 2].copy_from_slice(&[0, 1]);
        let mut long = scene::packet(stranger(family, PORT), 1, protocol::UDP, 12);
        frame::set_length(&mut long, 5000);
        for packet in [tcp, udp, long] {
            assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedNotService, 1)]);
        }
    }
    Ok(())
}

#[test]
fn wrong_checksums_are_the_backends_business() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        let mut packet = scene::to_service(family, protocol::TCP, 12);
        let at = transport(&packet) + 16;
        packet[at] ^= 0x5a;
        if family == V4 {
            packet[IP + 10] ^= 0x5a;
        }
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::ForwardedTx, 1)]);
    }
    Ok(())
}
