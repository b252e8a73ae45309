//! Fragments: their ports are unknown, so the program drops those to a virtual address and passes all others.

use anyhow::Result;
use lb_common::{counter::Counter, wire::protocol};
use lb_tests::{
    extension::{authentication, extend, fragment, fragmented, options},
    frame::{self, IP},
    need_bpf,
};

use crate::scene::{self, FAMILIES, PORT, PROTOCOLS, V4, V6, client, stranger, vip};

/// First, middle and last: offset in units of 8 bytes, and whether more follow.
const PLACES: [(u16, bool); 4] = [(0, true), (1, true), (185, true), (8191, false)];

#[test]
fn fragments_to_a_virtual_address_are_dropped() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            // Also on a port that no service has: the program cannot know the port.
            for port in [PORT, 1] {
                for (offset, more) in PLACES {
                    let packet = scene::packet(vip(family, port), 40_000, protocol, 64);
                    let packet = fragmented(&packet, offset, more);
                    let outcome = world.run("lb_xdp", &packet)?;
                    assert_eq!(outcome.counters, [(Counter::Fragment, 1)], "{family:?} {offset} {more}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn fragments_to_somebody_else_pass() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for (offset, more) in PLACES {
                let packet = scene::packet(stranger(family, PORT), 40_000, protocol, 64);
                let packet = fragmented(&packet, offset, more);
                assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedNotService, 1)]);
            }
        }
    }
    Ok(())
}

#[test]
fn fragments_of_other_protocols_pass_in_ipv4() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for (offset, more) in PLACES {
        let packet = frame::ip(client(V4, 0).ip(), vip(V4, 0).ip(), protocol::ICMP, &[0; 64]);
        let packet = fragmented(&packet, offset, more);
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedOtherProtocol, 1)]);
    }
    Ok(())
}

#[test]
fn dont_fragment_and_the_reserved_bit_make_no_fragment() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for flags in [0x00, 0x40, 0x80, 0xc0] {
        let mut packet = scene::to_service(V4, protocol::TCP, 0);
        packet[IP + 6] = flags;
        frame::repair_ipv4_checksum(&mut packet, IP);
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::ForwardedTx, 1)], "{flags:02x}");
    }
    Ok(())
}

#[test]
fn an_atomic_fragment_is_a_fragment() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    // Offset 0 and none to follow (RFC 6946); hosts no longer send them (RFC 8021).
    let packet = extend(&scene::to_service(V6, protocol::TCP, 0), &[fragment(0, false)]);
    assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::Fragment, 1)]);
    Ok(())
}

#[test]
fn a_fragment_header_is_found_behind_other_headers() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V6)?;
    let packet = scene::to_service(V6, protocol::UDP, 64);
    let chain = [
        options(protocol::HOP_BY_HOP, 1),
        options(protocol::DESTINATION_OPTIONS, 0),
        authentication(3),
        fragment(3, true),
    ];
    assert_eq!(world.run("lb_xdp", &extend(&packet, &chain))?.counters, [(Counter::Fragment, 1)]);
    Ok(())
}

#[test]
fn a_fragment_with_a_wrong_length_is_a_fragment() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for family in FAMILIES {
        let mut packet = fragmented(&scene::to_service(family, protocol::UDP, 64), 0, true);
        frame::set_length(&mut packet, 1400);
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::Fragment, 1)], "{family:?}");
    }
    Ok(())
}
