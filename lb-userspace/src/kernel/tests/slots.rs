//! The words of slots, the owners in front of them and their clocks, in the kernel's maps.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapData;
use lb_common::{elsewhere, map::name, owner, ring::Ring, slot::Slot};

use super::{adopt::made, *};
use crate::{
    bpf::pin::PinDirectory,
    tables::{Tables, clocks},
};

/// The owners that belong to the words of a kernel's slots, four in an entry.
fn wanted_owners(kernel: &Kernel) -> Vec<u64> {
    let words = kernel.slots().chunks(4);
    let owner = |word: &AtomicU64| owner::of(Slot(word.load(Ordering::Relaxed)));
    words.map(|four| (0..).zip(four).fold(0, |entry, (i, word)| owner::set(entry, i, owner(word)))).collect()
}

fn owners(kernel: &Kernel) -> Vec<u64> {
    kernel.slots.owners().iter().map(|entry| entry.load(Ordering::Relaxed)).collect()
}

#[test]
fn slot_owners_follow_every_word() {
    isolated("slot_owners_follow", |world| {
        let mut kernel = made(world);
        let words = [
            Slot::stable(1),
            Slot::stable(65_535),
            Slot::stable(65_536),
            Slot::learning(2, 1, 3),
            Slot::remembering(2),
            Slot::stable(2),
            Slot::EMPTY,
        ];
        for at in [0, 1, 2, 3, 5, LIMITS.slots - 1] {
            for word in words {
                kernel.set_slots(&[(at, word.0)]).unwrap();
                assert_eq!(owners(&kernel), wanted_owners(&kernel), "slot {at}: {word:?}");
            }
            kernel.set_slots(&[(at, Slot::stable(at + 1).0)]).unwrap();
        }
        assert!(owners(&kernel).iter().any(|entry| *entry != 0));
    });
}

#[test]
fn adopting_derives_slot_owners_from_the_words() {
    isolated("adopting_derives_slot_owners", |world| {
        let mut kernel = made(world);
        kernel.set_slots(&[(0, Slot::stable(1).0), (1, Slot::stable(2).0)]).unwrap();
        drop(kernel);
        // An agent of a version without owners gave slot 0 to another backend, let slot 1 learn, and made slot 6 stable.
        let pins = PinDirectory::new(world.options().pins);
        let map = aya::maps::Map::Array(MapData::from_pin(pins.map(name::RING)).unwrap());
        let mut ring = aya::maps::Array::<_, u64>::try_from(map).unwrap();
        for (at, word) in [(0, Slot::stable(3)), (1, Slot::learning(3, 2, 1)), (6, Slot::stable(4))] {
            ring.set(at, word.0, 0).unwrap();
        }
        let (kernel, opened) = world.open();
        assert!(opened.adopted);
        assert_eq!(owners(&kernel), wanted_owners(&kernel));
        assert_eq!((owners(&kernel)[0], owners(&kernel)[1]), (3, 4 << 32));
    });
}

#[test]
fn a_tracked_slot_that_changes_its_owner_gets_the_time() {
    isolated("a_tracked_slot_that_changes_its_owner_gets_the_time", |world| {
        let mut kernel = made(world);
        let words = |word: Slot| [(8, word.0), (9, word.0)];
        let clock = |kernel: &Kernel| clocks::get(kernel.elsewhere(), 9);
        for word in [Slot::stable(1), Slot::learning(2, 1, 0), Slot::remembering(2), Slot::stable(2)] {
            kernel.set_slots(&words(word)).unwrap();
            assert_eq!(clock(&kernel), elsewhere::NEVER, "{word:?}: no record disagrees that agreed before");
        }
        kernel.set_slots(&words(Slot::remembering(2))).unwrap();
        let before = elsewhere::at(kernel.jiffies().unwrap().now as u32);
        kernel.set_slots(&words(Slot::remembering(3))).unwrap();
        let after = elsewhere::at(kernel.jiffies().unwrap().now as u32);
        assert!([before, after].contains(&clock(&kernel)));
        assert_eq!(clocks::get(kernel.elsewhere(), 7), elsewhere::NEVER, "its neighbours have their own");
        // Of a whole ring, the tracked slots.
        kernel.set_slots(&[(24, Slot::remembering(1).0), (32, Slot::stable(1).0)]).unwrap();
        kernel.note_elsewhere(Ring::new(16, 24)).unwrap();
        let set: Vec<bool> =
            [16, 24, 32].map(|slot| clocks::get(kernel.elsewhere(), slot) != elsewhere::NEVER).into();
        assert_eq!(set, [false, true, false]);
    });
}
