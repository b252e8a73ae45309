//! How flows spread over backends: exactly as the hash and the ring say.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;
use lb_common::{
    counter::Counter,
    hash::Seed,
    map::name,
    slot::Slot,
    wire::protocol::{TCP, UDP},
};
use lb_tests::{
    frame::{self, Segment},
    need_bpf,
    world::{Sizes, World},
};
use lb_userspace::ring::{Entry, maglev};

use crate::scene::{Family, SEED, V4, V6, add_backend, backend_of, vip};

const LENGTH: u32 = 509;

/// Client `n` of many.
fn client(family: Family, n: u32) -> SocketAddr {
    let port = 1024 + (n * 7 % 60_000) as u16;
    match family {
        V4 => SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + n), port)),
        V6 => SocketAddr::from((Ipv6Addr::from_bits(0x2001_0db8_0001 << 80 | u128::from(n) << 32), port)),
    }
}

/// A ring over backends 1, 2 and 3, as the agent builds it.
fn ring(seed: &Seed) -> Vec<Slot> {
    let entries = ["web-1", "web-2", "web-3"].map(|name| Entry { name, weight: 100 });
    maglev(seed, &entries, LENGTH).into_iter().map(Slot::stable).collect()
}

/// Sends `flows` flows to a service and compares each one's backend with what hash and ring predict.
fn check(family: Family, protocol: u8, flows: u32) -> Result<()> {
    let mut world = World::new(Sizes::default(), SEED)?;
    for number in 1..=3 {
        add_backend(&mut world, number, family, V4)?;
    }
    // Another ring comes first in the arena, so that the offset counts.
    world.add_service("192.0.2.1:1".parse()?, TCP, &[Slot::stable(1); 251])?;
    let slots = ring(&SEED);
    let service = world.add_service(vip(family, 443), protocol, &slots)?;
    let ring = world.service(service)?.ring;

    let mut packets = BTreeMap::new();
    for n in 0..flows {
        let source = client(family, n);
        let packet = if protocol == TCP {
            frame::tcp(source, vip(family, 443), Segment::Data, 0, 0)
        } else {
            frame::udp(source, vip(family, 443), 0, 0)
        };
        let outcome = world.run("lb_xdp", &packet)?;
        assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
        let slot = ring.slot(world.hash(source, vip(family, 443), protocol)) - ring.offset();
        let predicted = slots[slot as usize].current();
        assert_eq!(backend_of(&outcome), predicted, "{source}");
        *packets.entry(predicted).or_insert(0u64) += 1;
    }
    for (backend, count) in &packets {
        assert_eq!(world.tally(name::BK_TALLY, *backend)?.0, *count);
        let share = *count as f64 / f64::from(flows);
        // A third, within five standard deviations of a fair draw, and 1 % for the unevenness of the ring.
        let error = 5.0 * (share * (1.0 - share) / f64::from(flows)).sqrt() + 0.01;
        assert!((share - 1.0 / 3.0).abs() < error, "backend {backend} got {share}");
    }
    assert_eq!(packets.len(), 3);
    Ok(())
}

#[test]
fn ten_thousand_ipv4_flows_go_where_the_ring_says() -> Result<()> {
    need_bpf!();
    check(V4, TCP, 10_000)
}

#[test]
fn ten_thousand_ipv6_flows_go_where_the_ring_says() -> Result<()> {
    need_bpf!();
    check(V6, UDP, 10_000)
}

#[test]
fn every_packet_of_a_flow_goes_to_one_backend() -> Result<()> {
    need_bpf!();
    let mut world = World::new(Sizes::default(), SEED)?;
    for number in 1..=3 {
        add_backend(&mut world, number, V4, V4)?;
    }
    world.add_service(vip(V4, 443), TCP, &ring(&SEED))?;
    for n in 0..50 {
        let source = client(V4, n);
        let mut backends = Vec::new();
        for (segment, tos, payload) in
            [(Segment::Syn, 0, 0), (Segment::Data, 0xb8, 1000), (Segment::Fin, 3, 1), (Segment::Rst, 0, 0)]
        {
            let packet = frame::tcp(source, vip(V4, 443), segment, tos, payload);
            backends.push(backend_of(&world.run("lb_xdp", &packet)?));
        }
        assert!(backends.iter().all(|backend| *backend == backends[0]), "{source}: {backends:?}");
    }
    Ok(())
}

#[test]
fn another_seed_spreads_differently() -> Result<()> {
    need_bpf!();
    let slots = ring(&SEED);
    let mut answers = Vec::new();
    for seed in [SEED, Seed([1, 2])] {
        let mut world = World::new(Sizes::default(), seed)?;
        for number in 1..=3 {
            add_backend(&mut world, number, V4, V4)?;
        }
        world.add_service(vip(V4, 443), TCP, &slots)?;
        let mut backends = Vec::new();
        for n in 0..300 {
            let packet = frame::tcp(client(V4, n), vip(V4, 443), Segment::Syn, 0, 0);
            backends.push(backend_of(&world.run("lb_xdp", &packet)?));
        }
        answers.push(backends);
    }
    let same = answers[0].iter().zip(&answers[1]).filter(|(a, b)| a == b).count();
    // Two independent draws from three agree in a third.
    assert!((60..140).contains(&same), "{same} of 300 flows have the same backend");
    Ok(())
}
