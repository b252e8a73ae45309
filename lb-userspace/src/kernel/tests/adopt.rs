//! Making, adopting, refusing and removing pinned maps.

use std::{collections::BTreeSet, fs};

use aya::maps::MapData;
use lb_common::{
    ABI_VERSION,
    map::{Node, name},
};

use super::*;
use crate::{
    bpf::{loader::LoadError, map_shapes::PINNED, pin::PinDirectory},
    kernel::detach,
    tables::Tables,
    upgrade::error::OpenError,
};

/// Opens the data path and declares the maps valid, as the first plan does.
pub(super) fn made(world: &World) -> Kernel {
    let (mut kernel, opened) = world.open();
    assert_eq!(opened, Opened::default());
    kernel.set_node(&Node { abi_version: ABI_VERSION, configuration: 42, ..Node::default() }).unwrap();
    kernel
}

/// Puts another map in the place of a pinned one.
fn put_in_place_of(world: &World, name: &str, kind: u32, key: u32, value: u32, entries: u32) {
    let path = PinDirectory::new(world.options().pins).map(name);
    fs::remove_file(&path).unwrap();
    let map = aya_obj::Map::new_from_params(kind, key, value, entries, 0);
    MapData::create(map, name, None).unwrap().pin(path).unwrap();
}

fn refused(world: &World) -> OpenError {
    match open(&world.options()) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[test]
fn maps_outlive_the_agent_and_are_adopted() {
    isolated("maps_outlive_the_agent_and_are_adopted", |world| {
        let mut kernel = made(world);
        assert!(kernel.memory().iter().all(|(_, bytes)| *bytes > 0), "{:?}", kernel.memory());
        kernel.set_slots(&[(7, 0x1234)]).unwrap();
        assert!(kernel.set_slots(&[(LIMITS.slots, 1)]).is_err());
        drop(kernel);
        let (kernel, opened) = world.open();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
        assert_eq!(kernel.node().unwrap().configuration, 42);
        assert_eq!(kernel.slots()[7].load(std::sync::atomic::Ordering::Relaxed), 0x1234);
        assert_eq!(kernel.sizes().backends, LIMITS.backends);
    });
}

#[test]
fn every_table_says_what_was_written() {
    isolated("every_table_says_what_was_written", |world| {
        use lb_common::{
            backend::Backend, hash::Seed, map::NameRecord, ring::Ring, service::Service, service_cache::Entry,
        };
        let mut kernel = made(world);
        let service = Service { address: [1, 2, 3, 4], ring: Ring::new(5, 6), ..Service::default() };
        let backend = Backend { interface: 9, room: 1480, outer: [7; 8], ..Backend::default() };
        let meta = NameRecord { name: [b'x'; NameRecord::NAME], flags: NameRecord::USED, ..NameRecord::FREE };
        kernel.set_service(LIMITS.services - 1, &service).unwrap();
        kernel.set_service_meta(3, &meta).unwrap();
        kernel.set_backend(LIMITS.backends, &backend).unwrap();
        kernel.set_backend_meta(4, &meta).unwrap();
        kernel.set_index(11, 77).unwrap();
        let entry = Entry::of(&[1, 2, 3, 4], 6 << 16 | 443, Ring::new(5, 6), Seed([7, 8]), 9);
        kernel.set_service_cache(31, &entry).unwrap();
        kernel.set_service_cache(30, &entry).unwrap();
        kernel.set_cache_key(30, Entry::NO_SERVICE).unwrap();
        assert!(kernel.set_service_cache(32, &entry).is_err());
        assert!(kernel.set_cache_key(32, 0).is_err());
        assert!(kernel.set_service(LIMITS.services, &service).is_err());
        assert!(kernel.set_backend(LIMITS.backends + 1, &backend).is_err());
        assert!(kernel.set_backend_meta(LIMITS.backends + 1, &meta).is_err());
        assert_eq!(kernel.services().unwrap()[LIMITS.services as usize - 1], service);
        assert_eq!(kernel.service_metas().unwrap()[3], meta);
        let closed = Entry { key: Entry::NO_SERVICE, ..entry };
        assert_eq!(kernel.service_cache().unwrap()[30..], [closed, entry]);
        assert_eq!(kernel.backends().unwrap()[LIMITS.backends as usize], backend);
        let metas = kernel.backend_metas().unwrap();
        assert_eq!((metas.len(), metas[4]), (LIMITS.backends as usize + 1, meta));
        assert_eq!(kernel.index()[11].load(std::sync::atomic::Ordering::Relaxed), 77);
    });
}

#[test]
fn the_device_map_drops_vanished_interfaces() {
    isolated("the_device_map_drops_vanished_interfaces", |world| {
        veth("lbt0");
        let index = nix::net::if_::if_nametoindex("lbt0").unwrap();
        let mut kernel = made(world);
        kernel.add_egress(1).unwrap();
        kernel.add_egress(index).unwrap();
        assert!(kernel.add_egress(9999).is_err());
        let egress: BTreeSet<u32> = kernel.egress().unwrap().into_iter().collect();
        assert_eq!(egress, BTreeSet::from([1, index]));
        run("ip link del lbt0");
        kernel.remove_egress(index).unwrap();
        kernel.remove_egress(1).unwrap();
        kernel.remove_egress(1).unwrap();
        assert!(kernel.egress().unwrap().is_empty());
    });
}

#[test]
fn a_map_of_another_layout_is_refused_by_name() {
    isolated("a_map_of_another_layout_is_refused_by_name", |world| {
        drop(made(world));
        put_in_place_of(world, name::BACKENDS, 2, 4, 128, 65);
        put_in_place_of(world, name::FLOWS, 9, 28, 16, 64);
        let error = refused(world);
        let OpenError::Load(LoadError::Layout { mismatches, .. }) = &error else { panic!("{error}") };
        let maps: BTreeSet<_> = mismatches.iter().map(|m| m.map.as_str()).collect();
        assert_eq!(maps, BTreeSet::from([name::BACKENDS, name::FLOWS]));
        assert!(error.to_string().contains("values of 128 bytes"), "{error}");
        assert!(error.to_string().contains("lbd --detach"), "{error}");
        assert!(PINNED.iter().all(|map| exists(&PinDirectory::new(world.options().pins).map(map))));
    });
}

#[test]
fn another_version_is_refused_naming_both() {
    isolated("another_version", |world| {
        let mut kernel = made(world);
        kernel.set_node(&Node { abi_version: ABI_VERSION + 1, ..Node::default() }).unwrap();
        drop(kernel);
        let error = refused(world).to_string();
        assert!(
            error.contains(&format!("version {}, this agent speaks version {ABI_VERSION}", ABI_VERSION + 1))
        );
        // The version is also found where the node record itself is larger.
        put_in_place_of(world, name::NODE, 2, 4, 128, 1);
        let path = PinDirectory::new(world.options().pins).map(name::NODE);
        let mut value = [0u64; 16];
        value[0] = 77;
        let map = aya::maps::Map::Array(MapData::from_pin(path).unwrap());
        let mut array = aya::maps::Array::<_, [u64; 16]>::try_from(map).unwrap();
        array.set(0, value, 0).unwrap();
        assert!(matches!(refused(world), OpenError::Version { found: 77, .. }));
    });
}

#[test]
fn unfinished_maps_of_a_dead_agent_are_removed() {
    isolated("unfinished_maps_of_a_dead_agent_are_removed", |world| {
        // The agent died before the first plan declared the maps valid.
        let (mut kernel, _) = world.open();
        kernel.set_slots(&[(1, 99)]).unwrap();
        drop(kernel);
        let (kernel, opened) = world.open();
        assert!(!opened.adopted && opened.warnings.len() == 1, "{opened:?}");
        assert_eq!(kernel.slots()[1].load(std::sync::atomic::Ordering::Relaxed), 0);
        drop(kernel);
        // The agent died before all maps were pinned.
        let pins = PinDirectory::new(world.options().pins);
        for map in [name::CLOCK, name::RING] {
            fs::remove_file(pins.map(map)).unwrap();
        }
        assert!(!world.open().1.adopted);
        assert!(pins.inspect().unwrap().is_complete());
    });
}

#[test]
fn missing_maps_under_an_attached_program_are_refused() {
    isolated("missing_maps_under_an_attached_program_are_refused", |world| {
        let mut kernel = made(world);
        kernel.attach("lo", crate::config::spec::AttachMode::Generic).unwrap();
        drop(kernel);
        fs::remove_file(PinDirectory::new(world.options().pins).map(name::RING)).unwrap();
        let error = refused(world);
        assert!(
            matches!(&error, OpenError::Incomplete { missing, .. } if missing == &[name::RING]),
            "{error}"
        );
    });
}

#[test]
fn detaching_is_idempotent_and_allows_a_new_start() {
    isolated("detaching_is_idempotent_and_allows_a_new_start", |world| {
        let mut kernel = made(world);
        kernel.attach("lo", crate::config::spec::AttachMode::Generic).unwrap();
        // The agent still runs.
        assert_eq!(detach(&world.options().pins).unwrap(), (1, PINNED.len()));
        assert_eq!(crate::bpf::xdp_netlink::program_on(1).unwrap(), None);
        drop(kernel);
        assert!(!exists(&world.options().pins));
        assert_eq!(detach(&world.options().pins).unwrap(), (0, 0));
        assert!(!world.open().1.adopted);
    });
}

#[test]
fn a_missing_bpffs_is_mounted_at_the_usual_place() {
    isolated("a_missing_bpffs_is_mounted_at_the_usual_place", |_| {
        let _ = nix::mount::umount("/sys/fs/bpf");
        let pins = PinDirectory::new("/sys/fs/bpf/lb/test");
        pins.create().unwrap();
        assert!(pins.inspect().unwrap().is_empty());
        assert_eq!(pins.remove().unwrap(), (0, 0));
        nix::mount::umount("/sys/fs/bpf").unwrap();
    });
}

#[test]
fn the_programs_log_can_be_switched_on() {
    isolated("the_programs_log", |world| {
        let options = Options { bpf_log: Some(::log::Level::Debug), ..world.options() };
        open(&options).unwrap();
    });
}

#[test]
fn a_services_traffic_outlives_its_backends_and_the_agent() {
    isolated("a_services_traffic_outlives", |world| {
        use lb_common::map::{NameRecord, TrafficCounters};
        let used = |service| NameRecord { flags: NameRecord::USED, service, ..NameRecord::FREE };
        let counted =
            |packets| TrafficCounters { packets, bytes: 60 * packets, ..TrafficCounters::default() };
        let packets = |kernel: &Kernel| {
            let services: Vec<u64> =
                kernel.service_tallies().unwrap()[..2].iter().map(|tally| tally.packets).collect();
            for (number, packets) in (0..).zip(&services) {
                assert_eq!(kernel.service_packets(number).unwrap(), *packets);
            }
            let backends =
                kernel.backend_tallies().unwrap()[1..4].iter().map(|tally| tally.packets).collect();
            (services, backends)
        };
        let mut kernel = made(world);
        for (number, service, traffic) in [(1, 0, 5), (2, 0, 7), (3, 1, 11)] {
            kernel.reset_backend_tally(number).unwrap();
            kernel.set_backend_meta(number, &used(service)).unwrap();
            kernel.put_backend_tally(number, &counted(traffic)).unwrap();
        }
        assert_eq!(packets(&kernel), (vec![12, 11], vec![5, 7, 11]));
        // The backend is removed from the configuration and its number is still kept; then the number is free; then another
        // service has it.
        kernel.set_backend_meta(1, &NameRecord { flags: NameRecord::RETIRED, ..used(0) }).unwrap();
        assert_eq!(packets(&kernel), (vec![12, 11], vec![5, 7, 11]));
        kernel.set_backend_meta(1, &NameRecord::FREE).unwrap();
        assert_eq!(packets(&kernel), (vec![12, 11], vec![0, 7, 11]));
        kernel.reset_backend_tally(1).unwrap();
        kernel.set_backend_meta(1, &used(1)).unwrap();
        kernel.put_backend_tally(1, &counted(1)).unwrap();
        assert_eq!(packets(&kernel), (vec![12, 12], vec![1, 7, 11]));
        // Another agent adopts the maps.
        drop(kernel);
        let (mut kernel, _) = world.open();
        assert_eq!(packets(&kernel), (vec![12, 12], vec![1, 7, 11]));
        // The number of a service goes to another service while a backend of the first one still has its number.
        kernel.reset_service_tally(0).unwrap();
        assert_eq!(packets(&kernel), (vec![0, 12], vec![1, 7, 11]));
        kernel.set_backend_meta(2, &NameRecord::FREE).unwrap();
        assert_eq!(packets(&kernel), (vec![0, 12], vec![1, 0, 11]));
        // A backend that comes back before its number is free counts from 0 again; its service does not.
        kernel.reset_backend_tally(3).unwrap();
        assert_eq!(packets(&kernel), (vec![0, 12], vec![1, 0, 0]));
    });
}
