//! Services without a usable backend, and a node that no agent has configured.

use anyhow::Result;
use lb_common::{counter::Counter, map::name, ring::Ring, slot::Slot, wire::protocol::TCP};
use lb_tests::{extension::fragmented, frame, need_bpf, world::World};

use crate::scene::{self, FAMILIES, PROTOCOLS, V4, service, sole_backend};

/// Asserts that packets to the IPv4 TCP service are dropped under `no_backend` and counted for no backend.
fn assert_no_backend(world: &mut World) -> Result<()> {
    let packet = scene::to_service(V4, TCP, 0);
    let outcome = world.run("lb_xdp", &packet)?;
    assert_eq!(outcome.counters, [(Counter::NoBackend, 1)]);
    assert_eq!(outcome.frame, packet, "what does not go is left as it was");
    assert_eq!(world.tally(name::BK_TALLY, sole_backend(V4))?, (0, 0, 0));
    Ok(())
}

#[test]
fn a_slot_without_an_owner_drops() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    world.set_slots(service(V4, TCP), Slot::EMPTY)?;
    assert_no_backend(&mut world)
}

#[test]
fn an_empty_slot_leaves_the_others_alone() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    let ring = world.service(service(V4, TCP))?.ring;
    let hash = world.hash(scene::client(V4, 40_000), scene::vip(V4, scene::PORT), TCP);
    for slot in 0..ring.length() {
        let mut slots = vec![Slot::stable(sole_backend(V4)); ring.length() as usize];
        slots[slot as usize] = Slot::EMPTY;
        world.write_ring(ring, &slots)?;
        let ours = ring.slot(hash) == ring.offset() + slot;
        let verdict = if ours { Counter::NoBackend } else { Counter::ForwardedTx };
        let outcome = world.run("lb_xdp", &scene::to_service(V4, TCP, 0))?;
        assert_eq!(outcome.counters, [(verdict, 1)], "slot {slot}");
    }
    Ok(())
}

#[test]
fn a_service_without_a_ring_drops_as_no_backend() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for ring in [Ring::NONE, Ring::new(3, 0)] {
        world.change_service(service(V4, TCP), |service| service.ring = ring)?;
        assert_no_backend(&mut world)?;
    }
    Ok(())
}

#[test]
fn a_ring_outside_the_arena_drops_as_no_backend() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for ring in [Ring::new(4096, 7), Ring::new(u32::MAX - 7, 7), Ring::new(u32::MAX, u32::MAX)] {
        world.change_service(service(V4, TCP), |service| service.ring = ring)?;
        assert_no_backend(&mut world)?;
    }
    Ok(())
}

#[test]
fn a_slot_with_a_number_outside_the_table_drops() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for number in [64, lb_common::slot::MAX_BACKEND] {
        world.set_slots(service(V4, TCP), Slot::stable(number))?;
        assert_no_backend(&mut world)?;
    }
    Ok(())
}

#[test]
fn a_backend_whose_record_is_empty_has_no_next_hop() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    world.set_slots(service(V4, TCP), Slot::stable(63))?;
    let outcome = world.run("lb_xdp", &scene::to_service(V4, TCP, 0))?;
    assert_eq!(outcome.counters, [(Counter::NoNextHop, 1)]);
    Ok(())
}

/// ARP, fragments, packets that are cut off, and packets that a ready node forwards.
fn all_sorts() -> Vec<Vec<u8>> {
    let mut packets = vec![frame::arp([203, 0, 113, 10])];
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let packet = scene::to_service(family, protocol, 20);
            packets.push(fragmented(&packet, 0, true));
            packets.push(packet[..40].to_vec());
            packets.push(packet[..packet.len() - 1].to_vec());
            packets.push(packet);
        }
    }
    packets
}

#[test]
fn a_node_without_configuration_passes_everything() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    world.set_node(|node| node.abi_version = 0)?;
    for packet in all_sorts() {
        assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedNotReady, 1)]);
    }
    Ok(())
}

#[test]
fn maps_of_another_version_are_not_read() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for version in [lb_common::ABI_VERSION + 1, lb_common::ABI_VERSION - 1, u32::MAX] {
        world.set_node(|node| node.abi_version = version)?;
        for packet in all_sorts() {
            assert_eq!(world.run("lb_xdp", &packet)?.counters, [(Counter::PassedNotReady, 1)]);
        }
    }
    world.set_node(|node| node.abi_version = lb_common::ABI_VERSION)?;
    let outcome = world.run("lb_xdp", &scene::to_service(V4, TCP, 0))?;
    assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
    Ok(())
}
