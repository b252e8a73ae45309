//! Maps of a build of the same version that is not this one: an older one that did not have all maps and counters yet, or a
//! younger one that has more of them.

use std::{collections::BTreeMap, fs};

use aya::{maps::MapData, programs::loaded_programs, util::nr_cpus};
use lb_common::{
    counter::{self, Counter},
    elsewhere::NEVER,
    map::name,
    slot::{Slot, since},
};
use nix::net::if_::if_nametoindex;

use super::{
    kill::{Fate, flow, send, send_through},
    migrate::{LARGER, assert_clean, assert_kept, attached, lived, open_with, pins, records},
    past::Past,
    *,
};
use crate::{
    bpf::{map_shapes::PINNED, xdp_netlink::program_on},
    config::spec::AttachMode,
    fault::{self, Kind},
    reconcile::{Desired, Reconciler},
    tables::{Tables, clocks, memory::Packet},
};

/// Maps whose content follows from the others.
const DERIVED: [&str; 9] = [
    name::SVC_FRONT,
    name::SVC_INDEX,
    name::SLOT_OWNERS,
    name::LIVE,
    name::SLOT_ELSEWHERE,
    name::BK_SERVICE,
    name::KNOWN,
    name::HOST,
    name::INGRESS,
];

/// The number of counters of the older build.
const FEWER: u64 = 30;

/// The kernel's numbers of the pinned maps.
fn ids(world: &World) -> BTreeMap<&'static str, u32> {
    let id = |map: &'static str| {
        MapData::from_pin(pins(world).map(map)).ok().map(|data| (map, data.info().unwrap().id()))
    };
    PINNED.into_iter().filter_map(id).collect()
}

/// Leaves what an older build would leave: a program on `lbt0` that has fewer counters, and no derived maps. Each counter has
/// counted its own number on each CPU.
fn leave_older(world: &World) -> (Desired, Vec<(Packet, Fate)>) {
    let (kernel, wanted, flows) = lived(world);
    drop(kernel);
    Past { world }.per_cpu(name::COUNTERS, &(0..FEWER).collect::<Vec<u64>>());
    let mut older = Kernel::adopt(&pins(world), None).unwrap();
    older.attach("lbt0", AttachMode::Auto).unwrap();
    assert_eq!(older.counters().unwrap()[FEWER as usize..], [0; Counter::COUNT as usize - FEWER as usize]);
    drop(older);
    for map in DERIVED {
        fs::remove_file(pins(world).map(map)).unwrap();
    }
    (wanted, flows)
}

/// What the older build had counted of a counter before packets came.
fn counted_before(counter: Counter) -> u64 {
    counter as u64 * nr_cpus().unwrap() as u64
}

#[test]
fn what_an_older_build_lacks_is_added_and_nothing_moves() {
    isolated("what_an_older_build_lacks_is_added_and_nothing_moves", |world| {
        veth("lbt0");
        let (wanted, flows) = leave_older(world);
        assert_kept(&flows, "through the older program", |packet| send_through(&attached("lbt0"), packet));
        let before = (ids(world), program_on(if_nametoindex("lbt0").unwrap()).unwrap());
        let (mut kernel, opened) = open_with(world, LIMITS).unwrap();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
        assert_ne!(program_on(if_nametoindex("lbt0").unwrap()).unwrap(), before.1, "swapped in its link");
        let after = ids(world);
        for (map, id) in &before.0 {
            assert_eq!(after[map] == *id, *map != name::COUNTERS, "{map}");
        }
        assert_eq!(kernel.counters.len(), counter::ENTRIES);
        // No record says when it last sent a packet elsewhere: each tracked slot waits for the window.
        for (slot, word) in (0..).zip(kernel.slots()) {
            let is_tracked = Slot(word.load(std::sync::atomic::Ordering::Relaxed)).is_tracked();
            assert!(!is_tracked || clocks::get(kernel.elsewhere(), slot) != NEVER, "slot {slot}");
        }
        assert_kept(&flows, "through the new program", |packet| send(&mut kernel, packet));
        assert_kept(&flows, "through the interface's", |packet| send_through(&attached("lbt0"), packet));
        let forwarded = counted_before(Counter::ForwardedTx) + 3 * flows.len() as u64;
        assert_eq!(kernel.counters().unwrap()[Counter::ForwardedTx as usize], forwarded);
        assert_eq!(kernel.counters().unwrap()[29], counted_before(Counter::ALL[29]));
        assert_clean(world);
        let mut agent = Reconciler::new(kernel).unwrap();
        assert_eq!(agent.plan(&wanted, since(16)).unwrap().operations, []);
        // The next start has nothing to add, and counts go on.
        drop(agent);
        let (kernel, opened) = world.open();
        assert_eq!((opened.warnings.len(), ids(world)), (0, after));
        assert_eq!(kernel.counters().unwrap()[Counter::ForwardedTx as usize], forwarded);
    });
}

#[test]
fn death_while_maps_are_added_moves_no_flow_and_loses_no_count() {
    isolated("death_while_maps_are_added", |world| {
        veth("lbt0");
        let mut killed = 0;
        for (kinds, step) in [(&[Kind::Pin, Kind::Link][..], 1), (&[Kind::Map], 37)] {
            for point in 0.. {
                let (_, flows) = leave_older(world);
                let read = ids(world);
                fault::arm_for(kinds, point * step);
                let ended = open_with(world, LIMITS).is_ok();
                fault::disarm();
                let when = format!("killed at {kinds:?} {}", point * step);
                assert_kept(&flows, &when, |packet| send_through(&attached("lbt0"), packet));
                // The next agent; every second one wants other sizes.
                let limits = if point % 2 == 0 { LIMITS } else { LARGER };
                let (mut kernel, opened) = open_with(world, limits).unwrap();
                assert_eq!(opened, Opened { adopted: true, warnings: vec![] }, "{when}");
                assert_eq!(kernel.sizes().slots, limits.slots, "{when}");
                assert_kept(&flows, &when, |packet| send(&mut kernel, packet));
                assert_kept(&flows, &when, |packet| send_through(&attached("lbt0"), packet));
                let forwarded = counted_before(Counter::ForwardedTx) + 3 * flows.len() as u64;
                assert_eq!(kernel.counters().unwrap()[Counter::ForwardedTx as usize], forwarded, "{when}");
                if limits == LIMITS {
                    let now = ids(world);
                    assert!(read.iter().all(|(map, id)| *map == name::COUNTERS || now[map] == *id), "{when}");
                }
                assert_clean(world);
                drop(kernel);
                crate::kernel::detach(&world.options().pins).unwrap();
                assert!(!exists(&world.options().pins), "{when}");
                if ended {
                    break;
                }
                killed += 1;
            }
        }
        let _ = writeln!(std::io::stderr(), "kill points: {killed:5} while maps are added");
        assert!(killed > 2 * DERIVED.len(), "{killed}");
    });
}

#[test]
fn detaching_takes_maps_that_are_being_added_off_as_well() {
    isolated("detaching_takes_maps_that_are_being_added", |world| {
        veth("lbt0");
        leave_older(world);
        // The new maps are made, and the program is not in its link yet.
        fault::arm_for(&[Kind::Link], 0);
        assert!(open_with(world, LIMITS).is_err());
        fault::disarm();
        let added = pins(world).additions();
        assert_eq!(added.inspect().unwrap().maps.len(), DERIVED.len() + 1, "and the counters");
        crate::kernel::detach(&world.options().pins).unwrap();
        assert!(!exists(&world.options().pins));
    });
}

#[test]
fn maps_may_be_added_where_nothing_is_attached() {
    isolated("maps_may_be_added_where_nothing_is_attached", |world| {
        let (kernel, wanted, flows) = lived(world);
        let recorded = records(&kernel);
        drop(kernel);
        fs::remove_file(pins(world).map(name::SLOT_ELSEWHERE)).unwrap();
        let (mut kernel, opened) = world.open();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
        assert_eq!(records(&kernel), recorded);
        assert_kept(&flows, "after", |packet| send(&mut kernel, packet));
        assert_clean(world);
        assert_eq!(Reconciler::new(kernel).unwrap().plan(&wanted, since(16)).unwrap().operations, []);
    });
}

#[test]
fn other_limits_and_missing_maps_are_one_upgrade() {
    isolated("other_limits_and_missing_maps_are_one_upgrade", |world| {
        veth("lbt0");
        let (_, flows) = leave_older(world);
        let (mut kernel, opened) = open_with(world, LARGER).unwrap();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
        assert_eq!(kernel.sizes().slots, LARGER.slots);
        assert_kept(&flows, "after", |packet| send(&mut kernel, packet));
        let forwarded = counted_before(Counter::ForwardedTx) + flows.len() as u64;
        assert_eq!(kernel.counters().unwrap()[Counter::ForwardedTx as usize], forwarded);
        assert_clean(world);
        drop(kernel);
        // Limits that do not hold what runs: what is lacking is added all the same.
        crate::kernel::detach(&world.options().pins).unwrap();
        let (_, flows) = leave_older(world);
        let (mut kernel, opened) = open_with(world, Limits { slots: 752, ..LIMITS }).unwrap();
        assert_eq!((opened.warnings.len(), kernel.sizes().slots), (1, LIMITS.slots), "{opened:?}");
        assert_kept(&flows, "as before", |packet| send(&mut kernel, packet));
        assert_clean(world);
    });
}

/// Carries maps over to larger ones, and kills the agent when the program uses the new maps and no pin has been moved. Returns
/// flows that lived through that, and flows that began when the agent was dead.
fn die_before_the_pins_move(world: &World) -> Vec<(Packet, Fate)> {
    let (mut kernel, _, mut flows) = lived(world);
    kernel.attach("lbt0", AttachMode::Auto).unwrap();
    drop(kernel);
    // Before these points the new maps are pinned.
    for point in PINNED.len() as u64.. {
        fault::arm_for(&[Kind::Pin], point);
        assert!(open_with(world, LARGER).is_err(), "no such point");
        fault::disarm();
        let program = attached("lbt0");
        let used = program.info().unwrap().map_ids().unwrap().unwrap();
        let node =
            MapData::from_pin(pins(world).staging().map(name::NODE)).map(|map| map.info().unwrap().id());
        if node.is_ok_and(|node| used.contains(&node)) {
            assert_eq!(pins(world).staging().inspect().unwrap().maps.len(), PINNED.len());
            assert_kept(&flows, "while no agent runs", |packet| send_through(&program, packet));
            for client in 0..60 {
                let packet = flow(7_000 + client, client);
                let syn = Packet { syn: packet.protocol == 6, ..packet };
                flows.push((packet, send_through(&program, &syn)));
            }
            assert_kept(&flows, "while no agent runs", |packet| send_through(&program, packet));
            return flows;
        }
    }
    unreachable!("the points end");
}

#[test]
fn an_older_build_that_was_killed_while_it_carried_maps_over_is_continued() {
    isolated("an_older_build_that_was_killed", |world| {
        veth("lbt0");
        let flows = die_before_the_pins_move(world);
        // The older build had fewer maps, and no record of the program.
        let staging = pins(world).staging();
        for map in DERIVED {
            fs::remove_file(staging.map(map)).unwrap();
        }
        staging.forget().unwrap();
        let (mut kernel, opened) = open_with(world, LARGER).unwrap();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
        assert_eq!(kernel.sizes().slots, LARGER.slots);
        assert_kept(&flows, "after", |packet| send(&mut kernel, packet));
        assert_kept(&flows, "after", |packet| send_through(&attached("lbt0"), packet));
        assert_clean(world);
    });
}

#[test]
fn new_maps_in_use_are_known_without_the_privilege_to_list_programs() {
    isolated("new_maps_in_use_are_known", |world| {
        use caps::{CapSet::Effective, Capability::CAP_SYS_ADMIN};
        veth("lbt0");
        let flows = die_before_the_pins_move(world);
        caps::drop(None, Effective, CAP_SYS_ADMIN).unwrap();
        assert!(loaded_programs().next().is_some_and(|program| program.is_err()), "it may list programs");
        let (mut kernel, opened) = open_with(world, LARGER).unwrap();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
        assert_kept(&flows, "after", |packet| send(&mut kernel, packet));
        caps::raise(None, Effective, CAP_SYS_ADMIN).unwrap();
        assert_kept(&flows, "after", |packet| send_through(&attached("lbt0"), packet));
        assert_clean(world);
    });
}

/// Pins an array of one entry, whose name in the kernel may be another one than that of the pin.
fn pin_array(world: &World, pin: &str, named: &str) {
    let map = aya_obj::Map::new_from_params(2, 4, 8, 1, 0);
    MapData::create(map, named, None).unwrap().pin(pins(world).map(pin)).unwrap();
}

#[test]
fn maps_of_a_younger_build_are_removed_and_others_stay() {
    isolated("maps_of_a_younger_build_are_removed_and_others_stay", |world| {
        veth("lbt0");
        let (mut kernel, wanted, flows) = lived(world);
        kernel.attach("lbt0", AttachMode::Auto).unwrap();
        let counted = kernel.counters().unwrap()[Counter::ForwardedTx as usize];
        drop(kernel);
        let before = ids(world);
        pin_array(world, "YOUNGER_MAP", "YOUNGER_MAP");
        pin_array(world, "ANOTHER", "not_this");
        pin_array(world, "theirs", "theirs");
        let (mut kernel, opened) = world.open();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
        assert_eq!(ids(world), before, "the same maps as before");
        let there = |pin| exists(&pins(world).map(pin));
        assert_eq!(["YOUNGER_MAP", "ANOTHER", "theirs"].map(there), [false, true, true]);
        assert_kept(&flows, "after", |packet| send(&mut kernel, packet));
        assert_eq!(kernel.counters().unwrap()[Counter::ForwardedTx as usize], counted + flows.len() as u64);
        let mut agent = Reconciler::new(kernel).unwrap();
        assert_eq!(agent.plan(&wanted, since(16)).unwrap().operations, []);
        drop(agent);
        // What an agent of the younger build leaves is taken off, too.
        pin_array(world, "YOUNGER_MAP", "YOUNGER_MAP");
        crate::kernel::detach(&world.options().pins).unwrap();
        let left: Vec<_> =
            fs::read_dir(&world.options().pins).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    });
}
