//! The owners in front of slot words: a plain packet goes to the owner, and asks the word where the owner is 0.

use anyhow::Result;
use lb_common::{counter::Counter, map::name, owner, ring::Ring, slot::Slot, wire::protocol::TCP};
use lb_tests::{
    need_bpf,
    world::{Sizes, World},
};

use crate::scene::{FAMILIES, Family, PORT, SEED, V4, add_backend, backend_of, packet, vip};

const SLOTS: u32 = 7;

/// A service in which every slot has this word, with three backends.
fn world(family: Family, word: Slot) -> Result<(World, Ring)> {
    let mut world = World::new(Sizes::default(), SEED)?;
    for number in 1..=3 {
        add_backend(&mut world, number, family, V4)?;
    }
    let service = world.add_service(vip(family, PORT), TCP, &[word; SLOTS as usize])?;
    let ring = world.service(service)?.ring;
    Ok((world, ring))
}

/// Writes the same owner in front of every slot, whatever the words say.
fn set_owners(world: &mut World, ring: Ring, to: u16) -> Result<()> {
    let mut owners = world.array::<u64>(name::SLOT_OWNERS)?;
    for slot in ring.offset()..ring.offset() + ring.length() {
        let entry = owners.get(&owner::word(slot), 0)?;
        owners.set(owner::word(slot), owner::set(entry, slot, to), 0)?;
    }
    Ok(())
}

/// Where packets of 100 clients go, each destination once: `Err` is the reason why a packet went nowhere.
fn reached(world: &mut World, family: Family) -> Result<Vec<Result<u32, Counter>>> {
    let mut all = Vec::new();
    for port in 40_000..40_100 {
        let outcome = world.run("lb_xdp", &packet(vip(family, PORT), port, TCP, 0))?;
        let to = match outcome.verdict() {
            Counter::ForwardedTx => Ok(backend_of(&outcome)),
            other => Err(other),
        };
        if !all.contains(&to) {
            all.push(to);
        }
    }
    Ok(all)
}

#[test]
fn plain_packets_go_by_the_owner() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let (mut world, ring) = world(family, Slot::stable(1))?;
        // No agent writes this pair: it shows which of the two a packet reads.
        set_owners(&mut world, ring, 2)?;
        assert_eq!(reached(&mut world, family)?, [Ok(2)], "{family:?}");
    }
    Ok(())
}

#[test]
fn an_owner_of_zero_asks_the_word() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        for (word, wanted) in [
            (Slot::stable(3), Ok(3)),
            (Slot::remembering(2), Ok(2)),
            (Slot::learning(2, 1, 5), Ok(1)),
            (Slot::EMPTY, Err(Counter::NoBackend)),
        ] {
            let (mut world, ring) = world(family, word)?;
            set_owners(&mut world, ring, 0)?;
            assert_eq!(reached(&mut world, family)?, [wanted], "{family:?} {word:?}");
        }
    }
    Ok(())
}

#[test]
fn each_slot_has_an_owner_of_its_own() -> Result<()> {
    need_bpf!();
    for family in FAMILIES {
        let (mut world, ring) = world(family, Slot::EMPTY)?;
        for slot in ring.offset()..ring.offset() + ring.length() {
            set_owners(&mut world, ring, 0)?;
            let mut owners = world.array::<u64>(name::SLOT_OWNERS)?;
            let entry = owners.get(&owner::word(slot), 0)?;
            owners.set(owner::word(slot), owner::set(entry, slot, 1), 0)?;
            // The program forwards flows of this slot, and drops the flows of all other slots.
            let mut found = reached(&mut world, family)?;
            found.sort_by_key(Result::is_err);
            assert_eq!(found, [Ok(1), Err(Counter::NoBackend)], "{family:?} slot {slot}");
        }
    }
    Ok(())
}
