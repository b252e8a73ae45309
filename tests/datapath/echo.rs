//! Echo requests to addresses of services: who answers them, and the reply byte for byte.

use anyhow::Result;
use lb_common::{
    counter::Counter::{self, *},
    icmp::Ping,
    map::Node,
    service::Service,
    wire::protocol::DESTINATION_OPTIONS,
};
use lb_tests::{
    control::{checksum, message},
    extension::{extend, fragmented, options, padded, with_options},
    frame::{self, IP, OUR_MAC, ROUTER_MAC},
    need_bpf,
    world::World,
};

use crate::scene::{self, FAMILIES, Family, V4, V6, client, stranger, vip};

const PINGS: [Ping; 4] = [Ping::Host, Ping::Answer, Ping::Healthy, Ping::Drop];

fn world(ping: Ping) -> Result<World> {
    let mut world = scene::world(V4)?;
    world.set_node(|node| node.flags |= Node::ping_flags(ping))?;
    Ok(world)
}

/// The type of a request and of its reply.
fn types(family: Family) -> (u8, u8) {
    if family == V4 { (8, 0) } else { (128, 129) }
}

fn request(family: Family, payload: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..payload).map(|number| number as u8).collect();
    let (from, to) = (client(family, 0).ip(), vip(family, 0).ip());
    message(from, to, (types(family).0, 0), [0x12, 0x34, 0, 7], &bytes)
}

fn ends(world: &mut World, frame: &[u8], verdict: Counter) -> Result<()> {
    assert_eq!(world.run("lb_xdp", frame)?.counters, [(verdict, 1)], "{frame:02x?}");
    Ok(())
}

#[test]
fn a_reply_is_the_request_with_its_ends_exchanged() -> Result<()> {
    need_bpf!();
    let mut world = world(Ping::Answer)?;
    for family in FAMILIES {
        for payload in [0, 1, 2, 3, 56, 57, 1001, 1400, 2500] {
            let request = request(family, payload);
            let outcome = world.run("lb_xdp", &request)?;
            assert_eq!((outcome.action, &outcome.counters[..]), (3, &[(Echo, 1)][..]));
            // A message of the same content in the other direction, with checksums that were computed from the bytes.
            let body = &request[frame::transport(&request) + 8..];
            let (from, to) = (vip(family, 0).ip(), client(family, 0).ip());
            let mut wanted = message(from, to, (types(family).1, 0), [0x12, 0x34, 0, 7], body);
            wanted[..6].copy_from_slice(&ROUTER_MAC);
            wanted[6..12].copy_from_slice(&OUR_MAC);
            if family == V4 {
                wanted[IP + 8] = 64;
                frame::repair_ipv4_checksum(&mut wanted, IP);
            } else {
                wanted[IP + 7] = 64;
            }
            assert_eq!(outcome.frame, wanted, "{payload} bytes");
        }
    }
    Ok(())
}

#[test]
fn the_checksum_of_a_reply_is_right_for_every_checksum_of_a_request() -> Result<()> {
    need_bpf!();
    let mut world = world(Ping::Answer)?;
    for family in FAMILIES {
        // All sums whose carry may be lost, and many others.
        for sum in (0..=0xffff_u32).step_by(251).chain(0xf700..0xf900).chain(0..32).chain(0xfff0..=0xffff) {
            let [high, low] = (sum as u16).to_be_bytes();
            let (from, to) = (client(family, 0).ip(), vip(family, 0).ip());
            let frame = message(from, to, (types(family).0, 0), [high, low, 0, 0], &[]);
            let outcome = world.run("lb_xdp", &frame)?;
            assert_eq!((outcome.verdict(), checksum(&outcome.frame)), (Echo, 0), "{sum:#x}");
        }
    }
    Ok(())
}

#[test]
fn the_node_says_who_answers() -> Result<()> {
    need_bpf!();
    for ping in PINGS {
        let mut world = world(ping)?;
        for family in FAMILIES {
            let verdict = match ping {
                Ping::Host => PassedOtherProtocol,
                Ping::Answer => Echo,
                Ping::Healthy | Ping::Drop => EchoUnanswered,
            };
            ends(&mut world, &request(family, 56), verdict)?;
            // Every service of the address says so, since packets ask any of them.
            for number in 0..4 {
                world.change_service(number, |service| service.flags |= Service::ANSWERS_PING)?;
            }
            let verdict = if ping == Ping::Healthy { Echo } else { verdict };
            ends(&mut world, &request(family, 56), verdict)?;
            for number in 0..4 {
                world.change_service(number, |service| service.flags &= !Service::ANSWERS_PING)?;
            }
        }
    }
    Ok(())
}

#[test]
fn an_address_that_is_not_a_services_is_the_hosts() -> Result<()> {
    need_bpf!();
    for ping in PINGS {
        let mut world = world(ping)?;
        for family in FAMILIES {
            let (from, to) = (client(family, 0).ip(), stranger(family, 0).ip());
            world.add_host(to)?;
            let frame = message(from, to, (types(family).0, 0), [0; 4], &[0; 56]);
            ends(&mut world, &frame, PassedOtherProtocol)?;
        }
    }
    Ok(())
}

#[test]
fn an_unusual_request_is_the_hosts_whatever_the_node_says() -> Result<()> {
    need_bpf!();
    for ping in PINGS {
        let mut world = world(ping)?;
        for family in FAMILIES {
            let plain = request(family, 56);
            let mut coded = plain.clone();
            coded[frame::transport(&plain) + 1] = 1;
            let mut group = plain.clone();
            group[0] |= 1;
            let mut all = vec![coded, group];
            if family == V4 {
                all.extend([
                    with_options(&plain, 1),
                    fragmented(&plain, 0, true),
                    fragmented(&plain, 3, false),
                ]);
            } else {
                all.push(extend(&plain, &[options(DESTINATION_OPTIONS, 0)]));
            }
            for frame in all {
                ends(&mut world, &frame, PassedOtherProtocol)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_request_from_an_address_without_a_client_is_not_answered() -> Result<()> {
    need_bpf!();
    let v4 = ["0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "203.0.113.10"];
    let v6 = ["::", "::1", "ff02::1", "::ffff:192.0.2.1", "2001:db8::10"];
    for ping in [Ping::Answer, Ping::Healthy, Ping::Drop] {
        let mut world = world(ping)?;
        for (family, sources) in [(V4, &v4[..]), (V6, &v6)] {
            for source in sources {
                let to = vip(family, 0).ip();
                let frame = message(source.parse()?, to, (types(family).0, 0), [0; 4], &[0; 20]);
                ends(&mut world, &frame, MartianSource)?;
            }
        }
    }
    Ok(())
}

#[test]
fn padding_travels_back_and_a_length_beyond_the_frame_does_not() -> Result<()> {
    need_bpf!();
    let mut world = world(Ping::Answer)?;
    for family in FAMILIES {
        let frame = padded(&request(family, 4), 20);
        let outcome = world.run("lb_xdp", &frame)?;
        assert_eq!(outcome.counters, [(Echo, 1)]);
        assert_eq!(outcome.frame[frame.len() - 20..], [0xee; 20]);
        let mut longer = request(family, 4);
        let length = longer.len() - IP + 1;
        frame::set_length(&mut longer, length);
        ends(&mut world, &longer, BadLength)?;
    }
    Ok(())
}

#[test]
fn a_wrong_checksum_stays_wrong() -> Result<()> {
    need_bpf!();
    let mut world = world(Ping::Answer)?;
    for family in FAMILIES {
        let mut frame = request(family, 21);
        let last = frame.len() - 1;
        frame[last] ^= 0x40;
        let outcome = world.run("lb_xdp", &frame)?;
        assert_eq!(outcome.counters, [(Echo, 1)]);
        assert_ne!(checksum(&outcome.frame), 0);
    }
    Ok(())
}
