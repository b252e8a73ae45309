//! How a packet finds its service: exact ports, any port, and the index with its buckets.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use lb_common::{
    counter::Counter,
    map::Node,
    service::{ANY_SERVICE, Bucket, Service, hash, port_protocol},
    slot::Slot,
    wire::protocol::{TCP, UDP},
};
use lb_tests::{
    extension::fragmented,
    need_bpf,
    world::{Sizes, World, address},
};

use crate::scene::{FAMILIES, PORT, PROTOCOLS, SEED, V4, V6, add_backend, backend_of, packet, vip};

/// A world with backends 1 to `backends` and no service.
fn world(backends: u32) -> Result<World> {
    let mut world = World::new(Sizes { backends: 128, ..Sizes::default() }, SEED)?;
    for number in 1..=backends {
        add_backend(&mut world, number, V4, V4)?;
    }
    Ok(world)
}

/// A service whose every flow goes to `backend`.
fn add(world: &mut World, listen: SocketAddr, protocol: u8, backend: u32) -> Result<u32> {
    world.add_service(listen, protocol, &[Slot::stable(backend); 3])
}

/// The backend that a packet to `to` reaches; `None` when the packet passes because no service takes it.
fn reached(world: &mut World, to: SocketAddr, protocol: u8) -> Result<Option<u32>> {
    let outcome = world.run("lb_xdp", &packet(to, 40_000, protocol, 0))?;
    Ok(match outcome.verdict() {
        Counter::ForwardedTx => Some(backend_of(&outcome)),
        Counter::PassedNotService | Counter::PassedUnserved => None,
        other => panic!("{}", other.name()),
    })
}

#[test]
fn a_service_on_port_0_takes_every_port() -> Result<()> {
    need_bpf!();
    let mut world = world(1)?;
    for family in FAMILIES {
        if family == V6 {
            add_backend(&mut world, 1, V6, V4)?;
        }
        for protocol in PROTOCOLS {
            add(&mut world, vip(family, 0), protocol, 1)?;
            for port in [0, 1, 443, 65_535] {
                assert_eq!(reached(&mut world, vip(family, port), protocol)?, Some(1), "{family:?} {port}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_exact_port_wins_over_any_port() -> Result<()> {
    need_bpf!();
    let mut world = world(2)?;
    add(&mut world, vip(V4, 0), TCP, 1)?;
    add(&mut world, vip(V4, 443), TCP, 2)?;
    assert_eq!(reached(&mut world, vip(V4, 443), TCP)?, Some(2));
    assert_eq!(reached(&mut world, vip(V4, 444), TCP)?, Some(1));
    Ok(())
}

#[test]
fn any_port_takes_only_its_own_protocol() -> Result<()> {
    need_bpf!();
    for (own, other) in [(TCP, UDP), (UDP, TCP)] {
        let mut world = world(1)?;
        add(&mut world, vip(V4, 0), own, 1)?;
        assert_eq!(reached(&mut world, vip(V4, 443), own)?, Some(1));
        assert_eq!(reached(&mut world, vip(V4, 443), other)?, None);
    }
    Ok(())
}

#[test]
fn tcp_and_udp_of_one_port_are_two_services() -> Result<()> {
    need_bpf!();
    let mut world = world(2)?;
    add(&mut world, vip(V4, 53), TCP, 1)?;
    assert_eq!(reached(&mut world, vip(V4, 53), UDP)?, None);
    add(&mut world, vip(V4, 53), UDP, 2)?;
    assert_eq!(reached(&mut world, vip(V4, 53), TCP)?, Some(1));
    assert_eq!(reached(&mut world, vip(V4, 53), UDP)?, Some(2));
    Ok(())
}

#[test]
fn any_port_is_searched_only_where_the_node_has_one() -> Result<()> {
    need_bpf!();
    let mut world = world(1)?;
    add(&mut world, vip(V4, 0), TCP, 1)?;
    world.set_node(|node| node.flags &= !Node::ANY_PORT)?;
    assert_eq!(reached(&mut world, vip(V4, 443), TCP)?, None);
    Ok(())
}

#[test]
fn a_full_index_leads_everybody_to_the_right_service() -> Result<()> {
    need_bpf!();
    let mut world = world(64)?;
    // 64 services: 40 ports of one address, both protocols of 8 ports of another, 8 addresses with one port.
    let other = |last| SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 80));
    let mut services: Vec<(SocketAddr, u8)> = (1..=40).map(|port| (vip(V4, port), TCP)).collect();
    for port in 1..=8 {
        services.extend([
            (SocketAddr::new(other(1).ip(), port), TCP),
            (SocketAddr::new(other(1).ip(), port), UDP),
        ]);
    }
    services.extend((2..=9).map(|last| (other(last), TCP)));
    assert_eq!(services.len(), 64);
    for (backend, (listen, protocol)) in (1..).zip(&services) {
        add(&mut world, *listen, *protocol, backend)?;
    }
    for (backend, (listen, protocol)) in (1..).zip(&services) {
        assert_eq!(reached(&mut world, *listen, *protocol)?, Some(backend), "{listen}");
    }
    assert_eq!(reached(&mut world, vip(V4, 41), TCP)?, None);
    assert_eq!(reached(&mut world, vip(V4, 1), UDP)?, None);
    assert_eq!(reached(&mut world, other(10), TCP)?, None);
    Ok(())
}

/// A world with one service that the index does not have yet, the hash of its key, and the word that leads to the service.
fn unindexed() -> Result<(World, u64, u64)> {
    let mut world = world(1)?;
    let service = world.add_unindexed_service(vip(V4, PORT), TCP, &[Slot::stable(1); 3])?;
    let hash = hash(&address(vip(V4, PORT).ip()), port_protocol(PORT, TCP));
    Ok((world, hash, Bucket::word(hash, service)))
}

/// A word for another key that leads to `service`.
fn decoy(hash: u64, n: u64, service: u32) -> u64 {
    Bucket::word(hash ^ n << 32, service)
}

#[test]
fn every_place_of_two_buckets_is_searched() -> Result<()> {
    need_bpf!();
    let (mut world, hash, word) = unindexed()?;
    let full = Bucket { words: std::array::from_fn(|i| decoy(hash, i as u64 + 1, 0)) };
    for bucket in 0..2 {
        for place in 0..Bucket::WORDS {
            let mut buckets = [full, full];
            buckets[bucket].words[place] = word;
            buckets[bucket].words[place + 1..].fill(Bucket::EMPTY);
            for (at, bucket) in world.places(hash).into_iter().zip(buckets) {
                world.set_bucket(at, bucket)?;
            }
            let to = vip(V4, PORT);
            assert_eq!(reached(&mut world, to, TCP)?, Some(1), "bucket {bucket}, place {place}");
        }
    }
    Ok(())
}

#[test]
fn the_index_begins_again_behind_its_last_bucket() -> Result<()> {
    need_bpf!();
    let mut world = world(1)?;
    let mask = world.node().index_mask;
    // A port whose key has its home in the last bucket.
    let port = (1..=65_535)
        .find(|port| world.places(hash(&address(vip(V4, 0).ip()), port_protocol(*port, TCP))) == [mask, 0])
        .expect("one of 65,535 ports falls into one of 128 buckets");
    let service = world.add_unindexed_service(vip(V4, port), TCP, &[Slot::stable(1); 3])?;
    let hash = hash(&address(vip(V4, 0).ip()), port_protocol(port, TCP));
    world.set_bucket(mask, Bucket { words: std::array::from_fn(|i| decoy(hash, i as u64 + 1, 0)) })?;
    let mut first = Bucket::default();
    first.words[0] = Bucket::word(hash, service);
    world.set_bucket(0, first)?;
    assert_eq!(reached(&mut world, vip(V4, port), TCP)?, Some(1));
    Ok(())
}

#[test]
fn the_search_ends_at_the_first_empty_word() -> Result<()> {
    need_bpf!();
    let (mut world, hash, word) = unindexed()?;
    let [home, next] = world.places(hash);
    let mut behind_a_gap = Bucket::default();
    behind_a_gap.words[1] = word;
    world.set_bucket(home, behind_a_gap)?;
    assert_eq!(reached(&mut world, vip(V4, PORT), TCP)?, None);

    // A home bucket that is not full has no overflow bucket.
    world.set_bucket(home, Bucket::default())?;
    let mut overflow = Bucket::default();
    overflow.words[0] = word;
    world.set_bucket(next, overflow)?;
    assert_eq!(reached(&mut world, vip(V4, PORT), TCP)?, None);
    Ok(())
}

#[test]
fn the_search_goes_on_behind_tombstones() -> Result<()> {
    need_bpf!();
    let (mut world, hash, word) = unindexed()?;
    let [home, next] = world.places(hash);
    world.set_bucket(home, Bucket { words: [Bucket::TOMBSTONE; Bucket::WORDS] })?;
    let mut overflow = Bucket { words: [Bucket::TOMBSTONE; Bucket::WORDS] };
    overflow.words[7] = word;
    world.set_bucket(next, overflow)?;
    assert_eq!(reached(&mut world, vip(V4, PORT), TCP)?, Some(1));
    Ok(())
}

#[test]
fn two_full_buckets_end_the_search() -> Result<()> {
    need_bpf!();
    let (mut world, hash, word) = unindexed()?;
    let [home, next] = world.places(hash);
    world.set_bucket(home, Bucket { words: [Bucket::TOMBSTONE; Bucket::WORDS] })?;
    world.set_bucket(next, Bucket { words: std::array::from_fn(|i| decoy(hash, i as u64 + 1, 0)) })?;
    let mut third = Bucket::default();
    third.words[0] = word;
    world.set_bucket((next + 1) & world.node().index_mask, third)?;
    assert_eq!(reached(&mut world, vip(V4, PORT), TCP)?, None, "a key has two buckets and no third");
    Ok(())
}

#[test]
fn the_same_tag_of_another_key_is_not_taken_for_ours() -> Result<()> {
    need_bpf!();
    let mut world = world(3)?;
    let others = [
        add(&mut world, vip(V4, PORT + 1), TCP, 2)?,
        add(&mut world, vip(V4, PORT), UDP, 3)?,
        add(&mut world, "192.0.2.1:443".parse()?, TCP, 3)?,
    ];
    let service = world.add_unindexed_service(vip(V4, PORT), TCP, &[Slot::stable(1); 3])?;
    let hash = hash(&address(vip(V4, PORT).ip()), port_protocol(PORT, TCP));
    let [home, _] = world.places(hash);
    // Words with our tag that lead to other services, to a record that is not in use, and to a place without a record.
    let mut bucket = Bucket::default();
    for (word, leads_to) in bucket.words.iter_mut().zip(others.into_iter().chain([63, 1_000_000, service])) {
        *word = Bucket::word(hash, leads_to);
    }
    world.set_bucket(home, bucket)?;
    assert_eq!(reached(&mut world, vip(V4, PORT), TCP)?, Some(1));
    Ok(())
}

#[test]
fn a_record_that_is_not_present_is_no_service() -> Result<()> {
    need_bpf!();
    let mut world = world(1)?;
    let service = add(&mut world, vip(V4, PORT), TCP, 1)?;
    world.change_service(service, |service| service.flags &= !Service::PRESENT)?;
    assert_eq!(reached(&mut world, vip(V4, PORT), TCP)?, None);
    // Its address is not ours any more, either.
    let fragment = fragmented(&packet(vip(V4, PORT), 1, TCP, 64), 0, true);
    assert_eq!(world.run("lb_xdp", &fragment)?.counters, [(Counter::PassedNotService, 1)]);
    Ok(())
}

#[test]
fn an_address_is_ours_through_any_of_its_services() -> Result<()> {
    need_bpf!();
    let mut world = world(1)?;
    let fragment = fragmented(&packet(vip(V4, 1), 1, TCP, 64), 0, true);
    for port in [1000, 1001] {
        add(&mut world, vip(V4, port), UDP, 1)?;
    }
    assert_eq!(world.run("lb_xdp", &fragment)?.counters, [(Counter::Fragment, 1)]);
    // The address's word leads to the first service; when that service is gone, another word must lead to the second one.
    world.change_service(0, |service| service.flags = 0)?;
    assert_eq!(world.run("lb_xdp", &fragment)?.counters, [(Counter::PassedNotService, 1)]);
    world.add_word(&address(vip(V4, 0).ip()), ANY_SERVICE, 1)?;
    assert_eq!(world.run("lb_xdp", &fragment)?.counters, [(Counter::Fragment, 1)]);
    Ok(())
}
