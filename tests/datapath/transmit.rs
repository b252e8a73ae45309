//! Which interface a packet leaves by, and what prevents sending.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lb_common::{counter::Counter, wire::protocol};
use lb_tests::{
    frame::{self, Segment},
    need_bpf,
    privilege::{may_make_namespaces, skip},
    test_name,
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

use crate::scene::{self, FAMILIES, PORT, V4, V6, client, sole_backend, vip};

/// An interface number that no host reaches.
const NOWHERE: u32 = 0x7fff_0000;

#[test]
fn the_interface_it_came_in_on_is_left_by_tx() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    let outcome = world.run("lb_xdp", &scene::to_service(V4, protocol::TCP, 0))?;
    assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
    Ok(())
}

#[test]
fn another_interface_is_reached_by_redirect() -> Result<()> {
    need_bpf!();
    if !may_make_namespaces() {
        skip(test_name!(), "needs root (CAP_SYS_ADMIN) for a network namespace");
        return Ok(());
    }
    // A thread of its own: its namespace, and the devices in it, go away with the thread.
    std::thread::spawn(redirect_in_a_namespace).join().expect("the thread ends by itself")
}

fn redirect_in_a_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    let output =
        Command::new("ip").args(["link", "add", "out", "type", "veth", "peer", "name", "far"]).output();
    let output = output.context("ip (package iproute2)")?;
    ensure!(output.status.success(), "no veth pair: {}", String::from_utf8_lossy(&output.stderr));
    let out = if_nametoindex("out")?;

    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        world.add_egress(out)?;
        for inner in FAMILIES {
            let packet = scene::to_service(inner, protocol::UDP, 20);
            let back = world.run("lb_xdp", &packet)?.frame;
            world.change_backend(sole_backend(inner), |backend| backend.interface = out)?;
            let outcome = world.run("lb_xdp", &packet)?;
            assert_eq!(outcome.counters, [(Counter::ForwardedRedirect, 1)]);
            assert_eq!(outcome.frame, back, "the bytes do not depend on the interface");
        }
    }
    Ok(())
}

#[test]
fn an_interface_outside_the_device_map_is_no_egress() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for inner in FAMILIES {
        world.change_backend(sole_backend(inner), |backend| backend.interface = NOWHERE)?;
        let outcome = world.run("lb_xdp", &scene::to_service(inner, protocol::TCP, 0))?;
        assert_eq!(outcome.counters, [(Counter::NoEgress, 1)]);
    }
    assert_eq!(world.tally(lb_common::map::name::BK_TALLY, sole_backend(V4))?, (0, 0, 0));
    Ok(())
}

#[test]
fn an_unknown_next_hop_drops_as_no_next_hop() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    for inner in FAMILIES {
        world.change_backend(sole_backend(inner), |backend| backend.interface = 0)?;
        let outcome = world.run("lb_xdp", &scene::to_service(inner, protocol::TCP, 0))?;
        assert_eq!(outcome.counters, [(Counter::NoNextHop, 1)]);
    }
    Ok(())
}

#[test]
fn one_byte_above_the_mtu_is_too_big() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        let overhead: u16 = if outer == V4 { 20 } else { 40 };
        for inner in FAMILIES {
            let header = if inner == V4 { 20 } else { 40 };
            for mtu in [1280u16, 1500, 2000] {
                world.change_backend(sole_backend(inner), |backend| backend.room = mtu - overhead)?;
                let fits = usize::from(mtu - overhead) - header - 8;
                for (payload, verdict) in [
                    (fits - 1, Counter::ForwardedTx),
                    (fits, Counter::ForwardedTx),
                    (fits + 1, Counter::TooBig),
                ] {
                    let packet = scene::to_service(inner, protocol::UDP, payload);
                    let outcome = world.run("lb_xdp", &packet)?;
                    assert_eq!(
                        outcome.counters,
                        [(verdict, 1)],
                        "{inner:?} in {outer:?}, {payload} of {mtu}"
                    );
                    if verdict == Counter::TooBig {
                        assert_eq!(outcome.frame, packet, "what does not go is left as it was");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn padding_behind_a_packet_does_not_make_it_too_big() -> Result<()> {
    need_bpf!();
    let mut world = scene::world(V4)?;
    world.change_backend(sole_backend(V4), |backend| backend.room = 20 + 8 + 4)?;
    let packet = lb_tests::extension::padded(&scene::to_service(V4, protocol::UDP, 4), 100);
    assert_eq!(world.run("lb_xdp", &packet)?.verdict(), Counter::ForwardedTx);
    Ok(())
}

#[test]
fn a_driver_without_headroom_drops_as_no_headroom() -> Result<()> {
    need_bpf!();
    for outer in FAMILIES {
        let mut world = scene::world(outer)?;
        let packet = frame::tcp(client(V6, 1), vip(V6, PORT), Segment::Syn, 0, 0);
        // Metadata takes its room from the 256 bytes in front of the frame, of which the kernel needs about 40.
        let outcome = world.run_with_metadata("lb_xdp", &packet, 208)?;
        assert_eq!(outcome.counters, [(Counter::NoHeadroom, 1)]);
        assert_eq!(outcome.frame, packet);
        let outcome = world.run_with_metadata("lb_xdp", &packet, 32)?;
        assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
    }
    Ok(())
}
