//! `hash = "source"`: the client's address, or the first bits of it, chooses the slot, and nothing else does.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use lb_common::{
    backend::Backend,
    counter::Counter::{self, FlowInserted, TrackedCurrent, TrackedHit, TrackedPrevious},
    hash, mapped,
    slot::Slot,
    wire::protocol::{TCP, UDP},
};
use lb_tests::{
    frame::{self, Segment},
    need_bpf,
    world::{self, Outcome, Sizes, World},
};

use crate::{
    scene::{FAMILIES, Family, PORT, SEED, V4, V6, add_backend, backend_address, backend_of, service, vip},
    slots::{A, B, LENGTH, Slots, TCP_SERVICE},
};

/// The number of slots, each with a backend of its own.
const SLOTS: u32 = 13;

/// Services of both families and protocols, whose slots depend on the first `bits` of the client's address.
fn world(bits: [u8; 2]) -> Result<World> {
    let mut world = World::new(Sizes::default(), SEED)?;
    for (family, bits) in FAMILIES.into_iter().zip(bits) {
        let first = if family == V4 { 1 } else { 1 + SLOTS };
        for number in first..first + SLOTS {
            add_backend(&mut world, number, family, V4)?;
        }
        let slots: Vec<_> = (first..first + SLOTS).map(Slot::stable).collect();
        for protocol in [TCP, UDP] {
            let number = world.add_service(vip(family, PORT), protocol, &slots)?;
            world.change_service(number, |service| service.ring = service.ring.with_source_prefix(bits))?;
        }
    }
    Ok(world)
}

fn client(family: Family, number: u32, port: u16) -> SocketAddr {
    let address: IpAddr = match family {
        V4 => IpAddr::from((0x0a00_0000 + number).to_be_bytes()),
        V6 => Ipv6Addr::from_bits((0x2001_0db8 << 96) + (u128::from(number) << 64) + 7).into(),
    };
    SocketAddr::new(address, port)
}

fn send(world: &mut World, source: SocketAddr, protocol: u8) -> Result<Outcome> {
    let destination = vip(if source.is_ipv4() { V4 } else { V6 }, PORT);
    let packet = if protocol == TCP {
        frame::tcp(source, destination, Segment::Data, 0, 0)
    } else {
        frame::udp(source, destination, 0, 10)
    };
    let outcome = world.run("lb_xdp", &packet)?;
    assert_eq!(outcome.verdict(), Counter::ForwardedTx);
    Ok(outcome)
}

#[test]
fn all_flows_of_a_client_go_to_one_backend() -> Result<()> {
    need_bpf!();
    let mut world = world([32, 128])?;
    for family in FAMILIES {
        let mut used = std::collections::BTreeSet::new();
        for number in 0..40 {
            let first = backend_of(&send(&mut world, client(family, number, 1), TCP)?);
            for port in [2, 3, 40_000] {
                for protocol in [TCP, UDP] {
                    let outcome = send(&mut world, client(family, number, port), protocol)?;
                    assert_eq!(backend_of(&outcome), first, "{family:?} client {number}");
                    assert!(outcome.events().is_empty());
                }
            }
            used.insert(first);
        }
        assert!(used.len() > 8, "{family:?}: clients spread over {used:?}");
    }
    Ok(())
}

#[test]
fn a_network_of_clients_has_one_backend() -> Result<()> {
    need_bpf!();
    // The client's number is in bits 1 to 24 from the right (IPv4), or from the 64th bit on (IPv6).
    let mut world = world([24, 56])?;
    for family in FAMILIES {
        let mut used = std::collections::BTreeSet::new();
        for network in 0..30_u32 {
            let mut backend = |host| -> Result<u32> {
                Ok(backend_of(&send(&mut world, client(family, network * 256 + host, 9), TCP)?))
            };
            let first = backend(0)?;
            for host in [1, 127, 255] {
                assert_eq!(backend(host)?, first, "{family:?} network {network}");
            }
            used.insert(first);
        }
        assert!(used.len() > 6, "{family:?}: networks spread over {used:?}");
    }
    Ok(())
}

#[test]
fn the_slot_follows_the_published_hash_of_the_prefix() -> Result<()> {
    need_bpf!();
    for (v4, v6) in [(1, 1), (8, 31), (17, 33), (31, 64), (32, 65), (32, 127), (32, 128)] {
        let mut world = world([v4, v6])?;
        for number in [0, 1, 77, 0x00ff_ffff] {
            let v4_source = 0x0a00_0000_u32 + number;
            let ring = world.service(service(V4, TCP))?.ring;
            let kept = (v4_source & !(u32::MAX.checked_shr(v4.into()).unwrap_or(0))).to_be();
            let slot = ring.slot(hash::flow(&SEED, &mapped(kept), &mapped(0), 0, 0)) - ring.offset();
            assert_eq!(backend_of(&send(&mut world, client(V4, number, 5), TCP)?), 1 + slot, "/{v4}");

            let IpAddr::V6(address) = client(V6, number, 5).ip() else { unreachable!() };
            let ring = world.service(service(V6, TCP))?.ring;
            let kept = address.to_bits() & !(u128::MAX.checked_shr(v6.into()).unwrap_or(0));
            let words = [96, 64, 32, 0].map(|shift| ((kept >> shift) as u32).to_be());
            let slot = ring.slot(hash::flow(&SEED, &words, &[0; 4], 0, 0)) - ring.offset();
            assert_eq!(backend_of(&send(&mut world, client(V6, number, 5), TCP)?), 1 + SLOTS + slot, "/{v6}");
        }
    }
    Ok(())
}

#[test]
fn the_outer_source_is_spread_by_the_whole_flow() -> Result<()> {
    need_bpf!();
    let mut world = world([32, 128])?;
    for number in 1..=SLOTS {
        let source = IpAddr::from([10, 9, 0, 0]);
        let backend = world::backend(source, backend_address(V4, number), false);
        world.set_backend(number, Backend { source_bits: 16, ..backend })?;
    }
    let mut sources = std::collections::BTreeSet::new();
    for port in 1..=20 {
        let outcome = send(&mut world, client(V4, 1, port), TCP)?;
        sources.insert(outcome.frame[26..30].to_vec());
    }
    assert!(sources.len() > 15, "one client's flows share a queue of the backend: {sources:?}");
    Ok(())
}

#[test]
fn an_old_ring_is_asked_by_its_own_hash() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::stable(A))?;
    let old_words = [Slot::stable(A), Slot::stable(B), Slot::stable(A), Slot::stable(B), Slot::stable(A)];
    for (new_bits, old_bits) in [(32, 0), (0, 24), (24, 32)] {
        let new = slots.world.add_ring(&[Slot::after_resize(B, 0); LENGTH])?.with_source_prefix(new_bits);
        let old = slots.world.add_ring(&old_words)?.with_source_prefix(old_bits);
        slots.world.forget_flows()?;
        slots.world.change_service(TCP_SERVICE, |service| {
            service.ring = new;
            service.old_ring = old;
        })?;
        for port in 1..=20 {
            let source = crate::scene::client(V4, port);
            let destination = vip(V4, PORT);
            let IpAddr::V4(address) = source.ip() else { unreachable!() };
            let hash = match u32::from(old_bits) {
                0 => slots.world.hash(source, destination, TCP),
                bits => hash::source_v4(&SEED, u32::from_ne_bytes(address.octets()), bits),
            };
            let owner = old_words[(old.slot(hash) - old.offset()) as usize].current();
            let event = if owner == B { TrackedCurrent } else { TrackedPrevious };
            assert_eq!(
                slots.tcp(port, Segment::Data)?,
                (owner, vec![event, FlowInserted]),
                "{new_bits} {old_bits}"
            );
            assert_eq!(slots.tcp(port, Segment::Data)?, (owner, vec![TrackedHit]));
        }
    }
    Ok(())
}
