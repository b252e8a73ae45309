//! Traffic of backends; the traffic of a service is the sum over its backends.

use anyhow::Result;
use lb_common::{
    counter::Counter,
    map::name,
    slot::Slot,
    wire::protocol::{TCP, UDP},
};
use lb_tests::{
    frame::{self, Segment},
    need_bpf,
};

use crate::scene::{self, FAMILIES, PORT, V4, V6, client, packet, service, sole_backend, vip};

#[test]
fn packets_bytes_and_new_connections_add_up() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        for family in FAMILIES {
            let header = if family == V4 { 20 } else { 40 };
            let send = [
                (Segment::Syn, 0),
                (Segment::Data, 0),
                (Segment::Data, 1000),
                (Segment::Fin, 0),
                (Segment::Rst, 0),
                (Segment::Syn, 0),
            ];
            let mut bytes = 0;
            for (segment, payload) in send {
                let packet = frame::tcp(client(family, 1), vip(family, PORT), segment, 0, payload);
                world.run("lb_xdp", &packet)?;
                // From the inner IP header on: neither Ethernet nor the outer header.
                bytes += header + 20 + payload as u64;
            }
            assert_eq!(world.tally(name::BK_TALLY, sole_backend(family))?, (6, bytes, 2));
        }
    }
    Ok(())
}

#[test]
fn an_answer_to_a_syn_is_no_new_connection() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    let mut packet = frame::tcp(client(V4, 1), vip(V4, PORT), Segment::Syn, 0, 0);
    let at = frame::transport(&packet) + 13;
    packet[at] |= 0x10; // ACK
    world.run("lb_xdp", &packet)?;
    assert_eq!(world.tally(name::BK_TALLY, sole_backend(V4))?, (1, 40, 0));
    Ok(())
}

#[test]
fn udp_has_no_connections() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for port in 1..=5 {
        world.run("lb_xdp", &packet(vip(V6, PORT), port, UDP, 12))?;
    }
    assert_eq!(world.tally(name::BK_TALLY, sole_backend(V6))?, (5, 300, 0));
    Ok(())
}

#[test]
fn each_backend_counts_its_own() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    scene::add_backend(&mut world, 9, V4, V4)?;
    world.set_slots(service(V4, UDP), Slot::stable(9))?;
    for port in 1..=3 {
        world.run("lb_xdp", &packet(vip(V4, PORT), port, TCP, 0))?;
    }
    world.run("lb_xdp", &packet(vip(V4, PORT), 1, UDP, 0))?;
    assert_eq!(world.tally(name::BK_TALLY, sole_backend(V4))?, (3, 120, 0));
    assert_eq!(world.tally(name::BK_TALLY, 9)?, (1, 28, 0));
    Ok(())
}

#[test]
fn what_is_not_forwarded_is_nobodys_traffic() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    world.change_backend(sole_backend(V4), |backend| backend.room = 80)?;
    let big = world.run("lb_xdp", &scene::to_service(V4, TCP, 500))?;
    assert_eq!(big.verdict(), Counter::TooBig);
    world.run("lb_xdp", &packet(vip(V4, PORT + 1), 1, TCP, 0))?;
    assert_eq!(world.tally(name::BK_TALLY, sole_backend(V4))?, (0, 0, 0));
    Ok(())
}
