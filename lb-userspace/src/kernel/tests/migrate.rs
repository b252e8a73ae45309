//! Maps of other sizes and of another version, carried over while flows go on; also where the agent is killed meanwhile.

use std::collections::BTreeMap;

use aya::{
    programs::{Xdp, loaded_programs},
    util::nr_cpus,
};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    ABI_VERSION,
    elsewhere::NEVER,
    flow::Record,
    flow_table::{self, Key, Memory as _, Role},
    map::{TrafficCounters, name},
    slot::{Slot, since},
};
use nix::net::if_::if_nametoindex;

use super::{
    image::Image,
    kill::{Fate, begin, flow, send, send_through, wanted},
    past::Past,
    *,
};
use crate::{
    bpf::{link, map_shapes::PINNED, pin::PinDirectory, xdp_netlink::program_on},
    config::spec::AttachMode,
    fault::{self, Kind},
    reconcile::{Desired, Reconciler},
    tables::{Tables, clocks, memory::Packet},
    upgrade::{self, copy, error::OpenError, v1},
};

const UP: (bool, bool) = (true, true);

/// Sizes that all differ from [`LIMITS`].
pub(super) const LARGER: Limits =
    Limits { services: 40, backends: 100, slots: 4096, flows: 65_536, ..LIMITS };

pub(super) fn pins(world: &World) -> PinDirectory {
    PinDirectory::new(world.options().pins)
}

pub(super) fn open_with(world: &World, limits: Limits) -> Result<(Kernel, Opened), OpenError> {
    open(&Options { limits, ..world.options() })
}

/// Two backends, then a third: some slots learn, some flows are recorded.
pub(super) fn lived(world: &World) -> (Kernel, Desired, Vec<(Packet, Fate)>) {
    let mut reconciler = Reconciler::new(world.open().0).unwrap();
    let mut flows = Vec::new();
    let mut last = None;
    for (stage, backends) in (0u32..).zip([&[(1, UP), (2, UP)][..], &[(1, UP), (2, UP), (3, UP)]]) {
        let wanted = wanted(backends, 251);
        let plan = reconciler.plan(&wanted, since(u64::from(stage) * 16)).unwrap();
        reconciler.apply(&plan).unwrap();
        for client in 0..30 {
            let packet = flow(stage * 100 + client, client);
            flows.push((packet, begin(reconciler.tables_mut(), &packet)));
        }
        last = Some(wanted);
    }
    (reconciler.into_tables(), last.unwrap(), flows)
}

/// Checks with `send` that all flows are still at their backends.
pub(super) fn assert_kept(flows: &[(Packet, Fate)], when: &str, mut send: impl FnMut(&Packet) -> Fate) {
    for (packet, fate) in flows {
        assert_eq!(send(packet), *fate, "{when}: {packet:?}");
    }
}

/// The program on an interface, no matter which agent loaded it.
pub(super) fn attached(interface: &str) -> Xdp {
    let present =
        program_on(if_nametoindex(interface).unwrap()).unwrap().expect("a program is on the interface");
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == present.program);
    Xdp::from_program_info(program.unwrap(), "lb_xdp".into(), XdpAttachType::Interface).unwrap()
}

pub(super) fn assert_clean(world: &World) {
    assert!(pins(world).inspect().unwrap().former.is_empty());
    assert!(!exists(pins(world).staging().path()));
    assert!(pins(world).inspect().unwrap().is_complete());
}

/// Backends and flags of the copies of each record, by what tells flows apart and whether it is a flow's.
pub(super) type Records = BTreeMap<(u64, bool), Vec<(u32, u32)>>;

pub(super) fn records(kernel: &Kernel) -> Records {
    let mut records = Records::new();
    kernel.flow_table().walk(0..u32::MAX, 0, |seen| {
        let of = records.entry((seen.tag, seen.role == Role::Flow)).or_default();
        of.push((seen.record.backend, seen.record.flags));
        true
    });
    records
}

#[test]
fn new_limits_apply_at_restart_and_flows_go_on() {
    isolated("new_limits_apply_at_restart_and_flows_go_on", |world| {
        veth("lbt0");
        let (mut kernel, wanted, flows) = lived(world);
        kernel.attach("lbt0", AttachMode::Auto).unwrap();
        let before = (
            kernel.counters().unwrap(),
            kernel.service_tallies().unwrap()[..3].to_vec(),
            kernel.backend_tallies().unwrap()[..7].to_vec(),
            records(&kernel),
        );
        drop(kernel);
        let program = program_on(if_nametoindex("lbt0").unwrap()).unwrap();
        let (mut kernel, opened) = open_with(world, LARGER).unwrap();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
        assert_ne!(program_on(if_nametoindex("lbt0").unwrap()).unwrap(), program, "already swapped");
        assert_eq!(kernel.sizes().as_tuple(), (40, 100, 4096, 65_536));
        // When an interface comes up the host itself sends a few packets, which are not for a service.
        let noise = lb_common::counter::Counter::PassedOtherProtocol as usize;
        let (mut counters, mut counted) = (kernel.counters().unwrap(), before.0);
        assert!(counters[noise] >= counted[noise]);
        (counters[noise], counted[noise]) = (0, 0);
        assert_eq!(counters, counted);
        assert_eq!(kernel.service_tallies().unwrap()[..3], before.1);
        assert_eq!(kernel.backend_tallies().unwrap()[..7], before.2);
        // A table of four times the size has four copies of each record.
        let copied: Records = before.3.iter().map(|(of, records)| (*of, records.repeat(4))).collect();
        assert!(!copied.is_empty());
        assert_eq!(records(&kernel), copied);
        assert_kept(&flows, "after", |packet| send(&mut kernel, packet));
        assert_clean(world);
        // The same configuration needs no writes. Carrying over to the old sizes works as well.
        let mut agent = Reconciler::new(kernel).unwrap();
        assert_eq!(agent.plan(&wanted, since(16)).unwrap().operations, []);
        drop(agent);
        let (mut kernel, opened) = open_with(world, LIMITS).unwrap();
        assert_eq!((opened.warnings.len(), kernel.sizes().slots), (0, LIMITS.slots));
        assert!(
            records(&kernel).values().all(|copies| copies.len() == 1),
            "copies of a record are one again"
        );
        assert_kept(&flows, "back again", |packet| send(&mut kernel, packet));
        assert!(kernel.attach("lbt0", AttachMode::Auto).unwrap().replaced);
    });
}

#[test]
fn limits_below_what_runs_are_refused() {
    isolated("limits_below_what_runs_are_refused", |world| {
        let (kernel, _, _) = lived(world);
        let before = Image::take(&kernel);
        drop(kernel);
        let small = Limits { services: 2, backends: 5, slots: 752, ..LIMITS };
        let (kernel, opened) = open_with(world, small).unwrap();
        assert_eq!(opened.warnings.len(), 3, "{:?}", opened.warnings);
        for part in [
            "limits.slots = 752 is not in force, it is 2048 as before",
            "but 753 slots are in use",
            "limits.services = 2, but number 2 is in use (service dns)",
            "limits.backends = 5, but number",
        ] {
            assert!(opened.warnings[1..].iter().any(|warning| warning.contains(part)), "{part}: {opened:?}");
        }
        assert!(Image::take(&kernel) == before, "the same maps as before");
        assert_clean(world);
    });
}

#[test]
fn version_1_is_carried_over_with_slots_flows_and_traffic() {
    isolated("version_1_is_carried_over", |world| {
        carried_over(world, 1);
    });
}

#[test]
fn version_2_is_carried_over_with_slots_flows_and_traffic() {
    isolated("version_2_is_carried_over", |world| {
        let counters = carried_over(world, 2);
        let number = lb_common::counter::Counter::TrackedBalanced as usize;
        assert_eq!(counters[number], 27 * nr_cpus().unwrap() as u64);
    });
}

#[test]
fn version_3_is_carried_over_with_slots_flows_and_traffic() {
    isolated("version_3_is_carried_over", |world| {
        let counters = carried_over(world, 3);
        let number = lb_common::counter::Counter::Unserved as usize;
        assert_eq!(counters[number], 31 * nr_cpus().unwrap() as u64);
    });
}

#[test]
fn version_4_is_carried_over_with_slots_flows_and_traffic() {
    isolated("version_4_is_carried_over", |world| {
        let counters = carried_over(world, 4);
        let number = lb_common::counter::Counter::MartianSource as usize;
        assert_eq!(counters[number], 32 * nr_cpus().unwrap() as u64);
    });
}

/// Checks that maps of a version are carried over with all their flows. Returns the counters right after that.
fn carried_over(world: &World, version: u32) -> Vec<u64> {
    veth("lbt0");
    let (mut kernel, wanted, flows) = lived(world);
    kernel.attach("lbt0", AttachMode::Auto).unwrap();
    let before = program_on(if_nametoindex("lbt0").unwrap()).unwrap();
    let packets: Vec<Packet> = flows.iter().map(|(packet, _)| *packet).collect();
    let recorded = records(&kernel);
    Past::of(world, &kernel, version, &packets);
    drop(kernel);
    let (mut kernel, opened) = open_with(world, LARGER).unwrap();
    assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
    let backends = |records: Records| -> Vec<_> {
        records.into_iter().map(|(of, records)| (of, records[0].0, records.len())).collect()
    };
    assert_eq!(backends(records(&kernel)), backends(recorded));
    // No record says when it last sent a packet elsewhere: each tracked slot waits for the window.
    for (slot, word) in (0..).zip(kernel.slots()) {
        let is_tracked = Slot(word.load(std::sync::atomic::Ordering::Relaxed)).is_tracked();
        assert!(!is_tracked || clocks::get(kernel.elsewhere(), slot) != NEVER, "slot {slot}");
    }
    let node = kernel.node().unwrap();
    assert_eq!((node.abi_version, node.configuration), (ABI_VERSION, 77));
    assert_ne!(program_on(if_nametoindex("lbt0").unwrap()).unwrap(), before);
    let cpus = nr_cpus().unwrap() as u64;
    let tally = kernel.backend_tallies().unwrap()[3];
    let sum = TrafficCounters {
        packets: 3 * cpus,
        bytes: 30 * cpus,
        new_connections: 300 * cpus,
        ..TrafficCounters::default()
    };
    assert_eq!(tally, sum);
    // In version 1 packets counted for the service, too. Later versions compute the service's traffic from its backends.
    let metas = kernel.backend_metas().unwrap();
    let of_backends: u64 = (0u64..).zip(&metas).filter(|(_, meta)| meta.service == 2).map(|(n, _)| n).sum();
    let counted = if version == 1 { 2 } else { 2 + of_backends };
    assert!(of_backends > 0);
    assert_eq!(kernel.service_tallies().unwrap()[2].packets, counted * cpus);
    let number = lb_common::counter::Counter::TrackedHit as usize;
    let counters = kernel.counters().unwrap();
    assert_eq!(counters[number], 17 * cpus);
    assert_kept(&flows, "through the new program", |packet| send(&mut kernel, packet));
    assert_kept(&flows, "through the interface's", |packet| send_through(&attached("lbt0"), packet));
    assert_clean(world);
    let mut agent = Reconciler::new(kernel).unwrap();
    let plan = agent.plan(&wanted, since(16)).unwrap();
    let reported = "only the configuration's number and what older versions had no place for in services";
    assert!(plan.entries() <= 2 + wanted.services.len() as u64, "{reported}: {:?}", plan.operations);
    agent.apply(&plan).unwrap();
    assert!(agent.mirror().present().all(|(_, record, _)| record.idle_after > 0));
    counters
}

#[test]
fn damaged_maps_are_refused_by_name() {
    isolated("damaged_maps_are_refused_by_name", |world| {
        let (kernel, _, _) = lived(world);
        Past::of(world, &kernel, 1, &[]);
        drop(kernel);
        let options = Options { limits: LARGER, ..world.options() };
        let shapes = crate::bpf::loader::shapes(&pins(world)).unwrap();
        let why = |shapes: &BTreeMap<&'static str, crate::bpf::map_shapes::Shape>| {
            let error = upgrade::migrate(&options, &pins(world), 1, shapes).err().unwrap().to_string();
            assert!(error.contains("lbd --detach"), "{error}");
            error
        };
        let mut missing = shapes.clone();
        missing.remove(name::BACKENDS);
        assert!(why(&missing).contains("its map BACKENDS is damaged: it is missing"));
        let mut wide = shapes.clone();
        wide.get_mut(name::FLOWS).unwrap().value = 32;
        assert!(
            why(&wide)
                .contains("its map FLOWS is damaged: found type 9, keys of 24 bytes, values of 32 bytes")
        );
        // A service whose ring is outside the arena.
        let mut services = vec![v1::Service { flags: 1, ring: 0xffff_ffff_0000_00fb, ..zeroed() }];
        services.resize(LIMITS.services as usize, zeroed());
        Past { world }.array(name::SERVICES, &services);
        assert!(why(&shapes).contains("reaches beyond the arena"));
        assert!(!exists(pins(world).staging().path()));
    });
}

fn zeroed() -> v1::Service {
    v1::Service { address: [0; 4], port_protocol: 0, flags: 0, ring: 0, old_ring: 0, reserved: [0; 6] }
}

#[test]
fn records_made_during_the_copy_follow() {
    isolated("records_made_during_the_copy_follow", |world| {
        let (kernel, _, _) = lived(world);
        drop(kernel);
        let old = world.open().0;
        let source =
            upgrade::old(&pins(world), ABI_VERSION, &crate::bpf::loader::shapes(&pins(world)).unwrap());
        let source = source.unwrap().unwrap();
        let elsewhere = Options { pins: world.base().join("new"), limits: LARGER, bpf_log: None };
        let mut new = open(&elsewhere).unwrap().0;
        let content = source.content().unwrap();
        // A time long ago, and times after it. The table keeps times in steps.
        let began = (old.jiffies().unwrap().now as u32).wrapping_sub(100_000) & !(Record::REFRESH - 1);
        let at = |steps: u32| began.wrapping_add(steps * Record::REFRESH);
        let put = |kernel: &Kernel, n: u64, backend, steps| {
            let record = Record { backend, last_seen: at(steps), ..Record::NONE };
            kernel.flows_for_writing(at(0)).put(hash(n), Role::Flow, &record);
        };
        // These records were copied before. Then the old program updated some of them, and the new program others.
        for n in 1..=3 {
            put(&new, n, 1, 0);
        }
        put(&old, 1, 1, 0);
        put(&old, 2, 2, 5);
        put(&new, 3, 3, 9);
        put(&old, 3, 2, 5);
        // New and old records that the old program wrote.
        put(&old, 4, 2, 5);
        put(&old, 5, 2, 0);
        let lost = copy::rest(&mut new, &content, source.as_ref(), Some(at(2))).unwrap();
        let confirmed = |n| recorded(&new, n, at(9));
        assert_eq!(confirmed(1), Some((1, at(0))));
        assert_eq!(confirmed(2), Some((2, at(5))), "the old program knew better");
        assert_eq!(confirmed(3), Some((3, at(9))), "the new program knows better");
        assert_eq!((confirmed(4), confirmed(5), lost), (Some((2, at(5))), None, 0));
    });
}

/// The hash of a flow.
fn hash(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The backend of a flow, and when it was last seen.
fn recorded(kernel: &Kernel, n: u64, now: u32) -> Option<(u32, u32)> {
    let table = kernel.flow_table();
    let memory = table.with(|_| 0);
    let found = flow_table::find(&memory, &Key::of(hash(n), memory.buckets()), Role::Flow)?;
    let record = found.read(Role::Flow, now);
    Some((record.backend, record.last_seen))
}

#[test]
fn fewer_flows_than_are_recorded_are_refused_with_numbers() {
    isolated("fewer_flows_than_are_recorded_are_refused_with_numbers", |world| {
        let (kernel, _, _) = lived(world);
        let now = kernel.jiffies().unwrap().now as u32;
        let record = Record { backend: 1, last_seen: now, ..Record::NONE };
        let mut flows = kernel.flows_for_writing(now);
        (1..=2000).for_each(|n| flows.put(hash(n), Role::Flow, &record));
        drop(flows);
        drop(kernel);
        let small = Limits { flows: 1024, ..LIMITS };
        let (kernel, opened) = open_with(world, small).unwrap();
        assert_eq!(kernel.sizes().flows, LIMITS.flows);
        let warnings = opened.warnings.join("\n");
        for part in ["limits.flows = 1024, but 20", "connections could be lost", "16384 as before"] {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
        assert!((1..=2000).all(|n| recorded(&kernel, n, now).is_some()));
    });
}

/// Kills the agent that carries maps over before each fault point of the given kinds (every `step`th one), and lets the next
/// agent go on. Returns the number of points of all these kinds.
fn kill_while_migrating(world: &World, step: u64, kinds: &[Kind]) -> u64 {
    let mut killed = 0;
    for point in 0.. {
        if !kinds.is_empty() && point > 400 {
            panic!("it does not end");
        }
        let (mut kernel, _, flows) = lived(world);
        kernel.attach("lbt0", AttachMode::Auto).unwrap();
        drop(kernel);
        fault::arm_for(kinds, point * step);
        let outcome = open_with(world, LARGER);
        fault::disarm();
        let when = format!("killed at {kinds:?} {}", point * step);
        let ended = match outcome {
            Ok((kernel, opened)) => opened.warnings.is_empty() && kernel.sizes().slots == LARGER.slots,
            Err(_) => false,
        };
        assert_kept(&flows, &when, |packet| send_through(&attached("lbt0"), packet));
        // The next agent; every second one wants the old sizes.
        let limits = if point % 2 == 0 { LARGER } else { LIMITS };
        let (mut kernel, opened) = open_with(world, limits).unwrap();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] }, "{when}");
        assert_eq!(kernel.sizes().slots, limits.slots, "{when}");
        assert!(kernel.attach("lbt0", AttachMode::Auto).unwrap().replaced, "{when}");
        assert_kept(&flows, &when, |packet| send(&mut kernel, packet));
        assert_kept(&flows, &when, |packet| send_through(&attached("lbt0"), packet));
        assert_clean(world);
        drop(kernel);
        crate::kernel::detach(&world.options().pins).unwrap();
        if ended {
            return killed;
        }
        killed += 1;
    }
    killed
}

#[test]
fn death_during_migration_moves_no_flow() {
    isolated("death_during_migration_moves_no_flow", |world| {
        veth("lbt0");
        let around = kill_while_migrating(world, 1, &[Kind::Pin, Kind::Link]);
        let stores = kill_while_migrating(world, 151, &[Kind::Map]);
        let _ = writeln!(
            std::io::stderr(),
            "kill points: {around:5} pins and links of a migration, {stores:5} of its stores (every 151st)"
        );
        assert!(around > 2 * PINNED.len() as u64 && stores > 5, "{around} {stores}");
    });
}

#[test]
fn detaching_takes_an_unfinished_migration_off_as_well() {
    isolated("detaching_takes_an_unfinished", |world| {
        drop(lived(world));
        fault::arm_for(&[Kind::Pin], PINNED.len() as u64 + 3);
        assert!(open_with(world, LARGER).is_err());
        fault::disarm();
        assert!(exists(pins(world).staging().path()));
        crate::kernel::detach(&world.options().pins).unwrap();
        assert!(!exists(&world.options().pins));
    });
}

#[test]
fn a_link_in_another_namespace_keeps_its_maps() {
    isolated("a_link_in_another_namespace_keeps_its_maps", |world| {
        veth("lbt0");
        let (mut kernel, _, _) = lived(world);
        kernel.attach("lbt0", AttachMode::Auto).unwrap();
        drop(kernel);
        moved_away("lbt0", || {
            let (kernel, opened) = open_with(world, LARGER).unwrap();
            assert_eq!(kernel.sizes().slots, LIMITS.slots);
            assert!(opened.warnings[0].contains("another network namespace"), "{opened:?}");
            // Check it inside this block, because the interface disappears with the namespace.
            assert!(link::pinned(&pins(world).link("lbt0")).unwrap().unwrap().interface != 0);
        });
    });
}

impl crate::tables::Sizes {
    fn as_tuple(self) -> (u32, u32, u32, u32) {
        (self.services, self.backends, self.slots, self.flows)
    }
}
