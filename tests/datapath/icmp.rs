//! ICMP errors: they go where the flow goes that they quote, and a quote that proves nothing goes nowhere.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_common::{
    counter::Counter::{self, *},
    slot::Slot,
    wire::protocol::{DESTINATION_OPTIONS, TCP},
};
use lb_tests::{
    control::{ERRORS_V4, ERRORS_V6, message, repair_checksum, sent},
    extension::{authentication, extend, fragment, fragmented, options, padded, routing, with_options},
    frame::{self, IP},
    need_bpf,
    world::{Outcome, Sizes, World},
};

use crate::scene::{
    self, FAMILIES, Family, PORT, PROTOCOLS, SEED, V4, V6, add_backend, backend_of, client, stranger, vip,
};

/// Backends of the services in [`spread`].
const BACKENDS: u32 = 5;

/// A router on the way from the service to the client.
pub(crate) fn router(family: Family) -> IpAddr {
    let text = if family == V4 { "192.0.2.77" } else { "2001:db8:77::1" };
    text.parse().expect("an address")
}

/// An error of that kind to the address of the service, which quotes these bytes.
pub(crate) fn error(family: Family, kind: (u8, u8), quote: &[u8]) -> Vec<u8> {
    message(router(family), vip(family, PORT).ip(), kind, [0, 0, 5, 120], quote)
}

/// *Packet too big*.
pub(crate) fn too_big(family: Family) -> (u8, u8) {
    if family == V4 { (3, 4) } else { (2, 0) }
}

/// What a service's backend has sent to the client's port.
pub(crate) fn quote(family: Family, protocol: u8, port: u16, payload: usize) -> Vec<u8> {
    sent(vip(family, PORT), client(family, port), protocol, payload)
}

/// A frame around a packet, for functions that change frames.
fn framed(family: Family, packet: &[u8]) -> Vec<u8> {
    let mut frame = scene::to_service(family, TCP, 0)[..IP].to_vec();
    frame.extend(packet);
    frame
}

/// Four services, whose flows are spread over several backends.
fn spread() -> Result<World> {
    let mut world = World::new(Sizes::default(), SEED)?;
    let slots: Vec<Slot> = (0..31).map(|slot| Slot::stable(slot % BACKENDS + 1)).collect();
    for (first, family) in [(0, V4), (BACKENDS, V6)] {
        for number in 1..=BACKENDS {
            add_backend(&mut world, first + number, family, V4)?;
        }
        let slots: Vec<Slot> = slots.iter().map(|slot| Slot::stable(first + slot.current())).collect();
        for protocol in PROTOCOLS {
            world.add_service(vip(family, PORT), protocol, &slots)?;
        }
    }
    Ok(world)
}

/// The backend of the flow from a client's port, as one of its packets shows.
fn backend(world: &mut World, family: Family, protocol: u8, port: u16) -> Result<u32> {
    let outcome = world.run("lb_xdp", &scene::packet(vip(family, PORT), port, protocol, 10))?;
    assert_eq!(outcome.verdict(), ForwardedTx);
    Ok(backend_of(&outcome))
}

/// Asserts that the error goes to the backend of the flow, whole and unchanged.
fn goes_with_its_flow(world: &mut World, frame: &[u8], protocol: u8, port: u16) -> Result<()> {
    let family = if frame::is_v4(frame) { V4 } else { V6 };
    let wanted = backend(world, family, protocol, port)?;
    let outcome = world.run("lb_xdp", frame)?;
    assert_eq!(outcome.counters, [(ForwardedTx, 1), (IcmpSteered, 1)], "{frame:02x?}");
    assert_eq!(backend_of(&outcome), wanted, "port {port}");
    assert_eq!(outcome.frame[IP + 20..], frame[IP..], "the message as it came");
    Ok(())
}

fn ends(world: &mut World, frame: &[u8], verdict: Counter) -> Result<Outcome> {
    let outcome = world.run("lb_xdp", frame)?;
    assert_eq!(outcome.counters, [(verdict, 1)], "{frame:02x?}");
    Ok(outcome)
}

#[test]
fn an_error_goes_where_its_flow_goes() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for family in FAMILIES {
        let kinds = if family == V4 { &ERRORS_V4[..] } else { &ERRORS_V6 };
        let mut backends = std::collections::BTreeSet::new();
        for protocol in PROTOCOLS {
            for (kind, port) in kinds.iter().cycle().zip(40_000..40_040) {
                let whole = quote(family, protocol, port, 30);
                goes_with_its_flow(&mut world, &error(family, *kind, &whole), protocol, port)?;
                backends.insert(backend(&mut world, family, protocol, port)?);
            }
        }
        assert_eq!(backends.len(), BACKENDS as usize, "flows of all backends were tried");
    }
    Ok(())
}

#[test]
fn eight_bytes_of_the_quoted_segment_suffice_and_so_do_four() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for family in FAMILIES {
        let header = if family == V4 { 20 } else { 40 };
        for protocol in PROTOCOLS {
            for port in 40_000..40_010 {
                let whole = quote(family, protocol, port, 30);
                for kept in [8, 4] {
                    let frame = error(family, too_big(family), &whole[..header + kept]);
                    goes_with_its_flow(&mut world, &frame, protocol, port)?;
                }
            }
            // Less of it ends before the ports, or within the header.
            let whole = quote(family, protocol, 40_000, 30);
            for kept in 0..header + 4 {
                ends(&mut world, &error(family, too_big(family), &whole[..kept]), IcmpQuote)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_quote_may_be_as_large_as_an_error_can_be() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for (family, kept) in [(V4, 548), (V4, 1400), (V6, 1232), (V6, 1400)] {
        let whole = quote(family, TCP, 40_001, 1400);
        goes_with_its_flow(&mut world, &error(family, too_big(family), &whole[..kept]), TCP, 40_001)?;
    }
    Ok(())
}

#[test]
fn options_of_the_quoted_packet_are_skipped() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    let plain = framed(V4, &quote(V4, TCP, 40_002, 30));
    for words in 1..=10 {
        let whole = with_options(&plain, words)[IP..].to_vec();
        let header = 20 + usize::from(words) * 4;
        goes_with_its_flow(&mut world, &error(V4, too_big(V4), &whole[..header + 4]), TCP, 40_002)?;
        for kept in [20, header, header + 3] {
            ends(&mut world, &error(V4, too_big(V4), &whole[..kept]), IcmpQuote)?;
        }
    }
    // Options of the message itself, as in any other packet.
    let frame = with_options(&error(V4, too_big(V4), &plain[IP..]), 3);
    goes_with_its_flow(&mut world, &frame, TCP, 40_002)
}

#[test]
fn up_to_six_extension_headers_of_the_quoted_packet_are_skipped() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    let plain = framed(V6, &quote(V6, TCP, 40_003, 30));
    let all = [
        options(DESTINATION_OPTIONS, 2),
        routing(0, 1),
        fragment(0, true),
        authentication(3),
        options(0, 0),
        options(DESTINATION_OPTIONS, 0),
        options(DESTINATION_OPTIONS, 0),
    ];
    for count in 1..=6 {
        let whole = extend(&plain, &all[..count])[IP..].to_vec();
        let header: usize = 40 + all[..count].iter().map(|one| one.bytes.len()).sum::<usize>();
        goes_with_its_flow(&mut world, &error(V6, too_big(V6), &whole[..header + 4]), TCP, 40_003)?;
        for kept in [header - 1, header, header + 3] {
            ends(&mut world, &error(V6, too_big(V6), &whole[..kept]), IcmpQuote)?;
        }
    }
    ends(&mut world, &error(V6, too_big(V6), &extend(&plain, &all)[IP..]), IcmpQuote)?;
    Ok(())
}

#[test]
fn a_quote_from_another_address_is_forged() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for family in FAMILIES {
        let of = |source: SocketAddr| sent(source, client(family, 40_000), TCP, 20);
        for source in [stranger(family, PORT), client(family, 40_000), client(family, PORT)] {
            ends(&mut world, &error(family, too_big(family), &of(source)), IcmpQuote)?;
        }
        // A quote of the other family, and one of no version.
        let other = if family == V4 { V6 } else { V4 };
        ends(&mut world, &error(family, too_big(family), &quote(other, TCP, 40_000, 40)), IcmpQuote)?;
        ends(&mut world, &error(family, too_big(family), &[0; 60]), IcmpQuote)?;
        // Of the service, but not of a port that it has.
        let unserved = of(vip(family, PORT + 1));
        ends(&mut world, &error(family, too_big(family), &unserved), PassedUnserved)?;
    }
    Ok(())
}

#[test]
fn a_later_fragment_has_no_ports_and_the_first_one_has() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for family in FAMILIES {
        let plain = framed(family, &quote(family, TCP, 40_004, 30));
        for offset in [1, 2, 185, 0x1fff] {
            let later = fragmented(&plain, offset, offset % 2 == 1);
            ends(&mut world, &error(family, too_big(family), &later[IP..]), IcmpQuote)?;
        }
        for more in [true, false] {
            let first = fragmented(&plain, 0, more);
            goes_with_its_flow(&mut world, &error(family, too_big(family), &first[IP..]), TCP, 40_004)?;
        }
    }
    Ok(())
}

#[test]
fn a_quote_of_another_protocol_passes() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for family in FAMILIES {
        for number in [1, 2, 4, 41, 47, 50, 58, 59, 132, 255] {
            let other = frame::ip(vip(family, 0).ip(), client(family, 0).ip(), number, &[0; 20]);
            ends(&mut world, &error(family, too_big(family), &other[IP..]), PassedOtherProtocol)?;
        }
    }
    Ok(())
}

#[test]
fn what_is_neither_an_error_nor_an_echo_request_passes() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for family in FAMILIES {
        let ours: &[u8] = if family == V4 { &[3, 8, 11, 12] } else { &[1, 2, 3, 4, 128] };
        let whole = quote(family, TCP, 40_000, 20);
        // Among them redirects, router and neighbour discovery, and multicast listeners.
        for kind in (0..=255).filter(|kind| !ours.contains(kind)) {
            ends(&mut world, &error(family, (kind, 0), &whole), PassedOtherProtocol)?;
        }
        // Errors for an address that is not a service's.
        let to = stranger(family, 0).ip();
        let frame = message(router(family), to, too_big(family), [0; 4], &whole);
        ends(&mut world, &frame, PassedOtherProtocol)?;
    }
    Ok(())
}

#[test]
fn fragments_and_messages_behind_extension_headers_pass() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    let frame = error(V4, too_big(V4), &quote(V4, TCP, 40_000, 20));
    for (offset, more) in [(0, true), (1, false), (9, true)] {
        ends(&mut world, &fragmented(&frame, offset, more), PassedOtherProtocol)?;
    }
    let frame = error(V6, too_big(V6), &quote(V6, TCP, 40_000, 20));
    ends(&mut world, &extend(&frame, &[options(DESTINATION_OPTIONS, 0)]), PassedOtherProtocol)?;
    ends(&mut world, &fragmented(&frame, 0, true), Fragment)?;
    Ok(())
}

#[test]
fn bytes_behind_the_message_are_no_quote() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for family in FAMILIES {
        let whole = quote(family, TCP, 40_005, 30);
        let header = if family == V4 { 20 } else { 40 };
        let frame = padded(&error(family, too_big(family), &whole[..header + 8]), 40);
        goes_with_its_flow(&mut world, &frame, TCP, 40_005)?;
        // All of the quote is in the frame, but the message ends before.
        let frame = error(family, too_big(family), &whole);
        let at = frame.len() - whole.len() - IP;
        for kept in [0, 8, header - 1, header, header + 3] {
            let mut cut = frame.clone();
            frame::set_length(&mut cut, at + kept);
            ends(&mut world, &cut, IcmpQuote)?;
        }
        // A quoted message is no flow's, wherever it ends, unless its own header is not there.
        let mut other = framed(family, &whole);
        other[IP + if family == V4 { 9 } else { 6 }] = if family == V4 { 1 } else { 58 };
        let mut cut = error(family, too_big(family), &other[IP..]);
        frame::set_length(&mut cut, at + header);
        ends(&mut world, &cut, PassedOtherProtocol)?;
        frame::set_length(&mut cut, at + header - 1);
        ends(&mut world, &cut, IcmpQuote)?;
    }
    Ok(())
}

#[test]
fn a_length_beyond_the_frame_is_wrong_and_one_below_the_header_is_none() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for family in FAMILIES {
        let frame = error(family, too_big(family), &quote(family, TCP, 40_000, 30));
        let (whole, header) = (frame.len() - IP, if family == V4 { 20 } else { 40 });
        for length in [whole + 1, whole + 1000] {
            let mut longer = frame.clone();
            frame::set_length(&mut longer, length);
            ends(&mut world, &longer, BadLength)?;
        }
        for length in [header, header + 7] {
            let mut shorter = frame.clone();
            frame::set_length(&mut shorter, length);
            ends(&mut world, &shorter, PassedOtherProtocol)?;
        }
        for kept in header..header + 8 {
            ends(&mut world, &frame[..IP + kept], PassedOtherProtocol)?;
        }
        ends(&mut world, &frame[..IP + header + 8], BadLength)?;
    }
    Ok(())
}

#[test]
fn the_checksum_is_the_backends_to_check() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    for family in FAMILIES {
        let mut frame = error(family, too_big(family), &quote(family, TCP, 40_006, 30));
        let at = frame::transport(&frame);
        frame[at + 2] ^= 0x55;
        goes_with_its_flow(&mut world, &frame, TCP, 40_006)?;
        repair_checksum(&mut frame);
        goes_with_its_flow(&mut world, &frame, TCP, 40_006)?;
    }
    Ok(())
}

#[test]
fn an_error_that_is_too_big_is_dropped_without_an_answer() -> Result<()> {
    need_bpf!();
    let mut world = spread()?;
    world.set_node(|node| node.flags |= lb_common::map::Node::ANSWER_TOO_BIG)?;
    for family in FAMILIES {
        let whole = quote(family, TCP, 40_007, 1440);
        let mut frame = error(family, too_big(family), &whole);
        if family == V4 {
            frame[IP + 6] |= 0x40;
            frame::repair_ipv4_checksum(&mut frame, IP);
        }
        ends(&mut world, &frame, TooBig)?;
    }
    Ok(())
}
