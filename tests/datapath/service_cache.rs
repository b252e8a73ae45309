//! The table in front of the index: when its answer counts, and that a packet finds its service where a place has no answer.

use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use lb_common::{
    counter::Counter,
    known,
    service::port_protocol,
    service_cache::{Entry, place, shift_for},
    slot::Slot,
    wire::protocol::TCP,
};
use lb_tests::{
    need_bpf,
    world::{Sizes, World, address},
};

use crate::scene::{FAMILIES, Family, PORT, SEED, V4, V6, add_backend, backend_of, packet, stranger, vip};

/// A world with backends 1 to 3 for one family, and no service.
fn world(family: Family) -> Result<World> {
    let mut world = World::new(Sizes::default(), SEED)?;
    for number in 1..=3 {
        add_backend(&mut world, number, family, V4)?;
    }
    Ok(world)
}

fn add(world: &mut World, listen: SocketAddr, backend: u32) -> Result<u32> {
    world.add_service(listen, TCP, &[Slot::stable(backend); 3])
}

/// The backend that a plain packet reaches, or the reason why it reaches none.
fn reached(world: &mut World, to: SocketAddr) -> Result<Result<u32, Counter>> {
    let outcome = world.run("lb_xdp", &packet(to, 40_000, TCP, 0))?;
    Ok(match outcome.verdict() {
        Counter::ForwardedTx => Ok(backend_of(&outcome)),
        other => Err(other),
    })
}

fn place_of(world: &World, listen: SocketAddr) -> usize {
    let shift = shift_for(world.service_cache().len() as u32);
    place(&address(listen.ip()), port_protocol(listen.port(), TCP), shift) as usize
}

/// Changes the entry of a service.
fn change(world: &mut World, listen: SocketAddr, change: impl FnOnce(&mut Entry)) -> Result<()> {
    let mut entries = world.service_cache().to_vec();
    change(&mut entries[place_of(world, listen)]);
    world.set_service_cache(&entries)
}

#[test]
fn a_service_has_its_entry_in_its_place() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let mut world = world(family)?;
        let listen = vip(family, PORT);
        let number = add(&mut world, listen, 2)?;
        let record = world.service(number)?;
        let entry = world.service_cache()[place_of(&world, listen)];
        assert_eq!((entry.number, entry.ring, entry.seed), (number, record.ring, SEED));
        // The entry alone decides, whatever the record and the index say.
        world.ask_index()?;
        world.change_service(number, |service| service.flags = 0)?;
        assert_eq!(reached(&mut world, listen)?, Err(Counter::PassedNotService));
        change(&mut world, listen, |place| *place = entry)?;
        assert_eq!(reached(&mut world, listen)?, Ok(2), "{family:?}");
    }
    Ok(())
}

#[test]
fn no_service_is_believed_only_for_unknown_addresses() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let mut world = world(family)?;
        let listen = vip(family, PORT);
        add(&mut world, listen, 2)?;
        change(&mut world, listen, |entry| entry.key = Entry::NO_SERVICE)?;
        // For a known address the program asks the index all the same.
        assert_eq!(reached(&mut world, listen)?, Ok(2), "{family:?}");
        (0..known::WORDS).try_for_each(|at| world.set_known(at, 0))?;
        assert_eq!(reached(&mut world, listen)?, Err(Counter::PassedNotService), "{family:?}");
        change(&mut world, listen, |entry| entry.key = Entry::MISS)?;
        assert_eq!(reached(&mut world, listen)?, Ok(2), "{family:?}");
    }
    Ok(())
}

#[test]
fn services_that_share_a_place_are_both_found() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let mut world = world(family)?;
        let first = vip(family, PORT);
        let shared = place_of(&world, first);
        let mut others = (1..=65_535).map(|port| vip(family, port)).filter(|other| *other != first);
        let second = others.find(|other| place_of(&world, *other) == shared).context("no such port")?;
        let nobodys = others.find(|other| place_of(&world, *other) == shared).context("no other port")?;
        add(&mut world, first, 1)?;
        add(&mut world, second, 2)?;
        assert_eq!(reached(&mut world, first)?, Ok(1), "{family:?}");
        assert_eq!(reached(&mut world, second)?, Ok(2), "{family:?}");
        assert_eq!(reached(&mut world, nobodys)?, Err(Counter::PassedUnserved), "{family:?}");
    }
    Ok(())
}

/// For an unknown address the program asks nothing else, whatever is in its place; for a known address it asks everything.
#[test]
fn the_place_of_another_service_changes_no_verdict() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let mut world = world(family)?;
        let every = vip(family, 0);
        add(&mut world, every, 1)?;
        let one = |port| SocketAddr::new(stranger(family, 0).ip(), port);
        // About every fourth place is taken then.
        for port in 9_000..9_060 {
            add(&mut world, vip(family, port), 2)?;
        }
        let (mut taken, mut free) = (0, 0);
        for port in 8_000..8_900 {
            let is_taken = world.service_cache()[place_of(&world, one(port))].is_service();
            *if is_taken { &mut taken } else { &mut free } += 1;
            assert_eq!(reached(&mut world, one(port))?, Err(Counter::PassedNotService), "{family:?} {port}");
            assert_eq!(reached(&mut world, vip(family, port))?, Ok(1), "{family:?} {port}");
        }
        assert!(taken > 10 && free > 10, "{taken} places are taken, {free} are not");
    }
    Ok(())
}

/// The key of an entry holds no IPv6 address: the program compares the address separately.
#[test]
fn ipv6_addresses_in_one_place_are_two_services() -> Result<()> {
    need_bpf!();
    let mut world = world(V6)?;
    let first = vip(V6, PORT);
    let shared = place_of(&world, first);
    for lower_half_differs in [true, false] {
        let other = |i: u64| {
            let offset = if lower_half_differs { u128::from(i) } else { u128::from(i) << 64 };
            let SocketAddr::V6(first) = first else { unreachable!("an IPv6 address") };
            SocketAddr::from((Ipv6Addr::from(u128::from(*first.ip()) + offset), PORT))
        };
        let other = (1..100_000).map(other).find(|other| place_of(&world, *other) == shared);
        let other = other.context("no such address")?;
        if lower_half_differs {
            add(&mut world, first, 1)?;
        }
        assert_eq!(reached(&mut world, first)?, Ok(1));
        assert_eq!(reached(&mut world, other)?, Err(Counter::PassedNotService));
        add(&mut world, other, 2)?;
        assert_eq!(reached(&mut world, first)?, Ok(1));
        assert_eq!(reached(&mut world, other)?, Ok(2));
    }
    Ok(())
}

/// Plain packets read the entry, other packets the record: so the agent closes the entry while it changes the record.
#[test]
fn a_closed_entry_leaves_every_packet_to_the_record() -> Result<()> {
    need_bpf!();
    let mut world = world(V4)?;
    let listen = vip(V4, PORT);
    let number = add(&mut world, listen, 1)?;
    let other = world.add_ring(&[Slot::stable(3); 3])?;
    let before = world.service_cache().to_vec();
    world.ask_index()?;
    world.change_service(number, |service| service.ring = other)?;
    world.set_service_cache(&before)?;
    let options = |world: &mut World| -> Result<u32> {
        let mut frame = packet(listen, 40_000, TCP, 0);
        // A header of six words, the last of them four times no-operation (RFC 791, 3.1).
        frame.splice(34..34, [1, 1, 1, 1]);
        frame[14] = 0x46;
        let length = u16::from_be_bytes([frame[16], frame[17]]) + 4;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        let outcome = world.run("lb_xdp", &frame)?;
        assert_eq!(outcome.verdict(), Counter::ForwardedTx);
        Ok(backend_of(&outcome))
    };
    assert_eq!((reached(&mut world, listen)?, options(&mut world)?), (Ok(1), 3));
    change(&mut world, listen, |entry| entry.key = Entry::MISS)?;
    assert_eq!((reached(&mut world, listen)?, options(&mut world)?), (Ok(3), 3));
    Ok(())
}
