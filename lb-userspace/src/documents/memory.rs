//! What the maps take of the kernel's memory, reckoned from their shapes as kernels from 6.4 on account them
//! (`map_mem_usage`), and the sentences that name it.

use aya_obj::generated::bpf_map_type::{
    self, BPF_MAP_TYPE_ARRAY as ARRAY, BPF_MAP_TYPE_HASH as HASH, BPF_MAP_TYPE_LRU_HASH as LRU_HASH,
    BPF_MAP_TYPE_PERCPU_ARRAY as PERCPU_ARRAY,
};
use lb_common::map::name;

use super::claims::says;
use crate::{
    bpf::{
        map_shapes::{PINNED, Shape, declared, entries},
        object::OBJECT,
    },
    config::{
        spec::Limits,
        testing::{SMALL, spec},
    },
};

/// Of the machine of the figures.
const PROCESSORS: u64 = 2;
/// `struct htab_elem` in front of key and value, and `struct bucket`.
const ELEMENT: u64 = 48;
const BUCKET: u64 = 16;
/// `BPF_F_NO_PREALLOC`: takes memory for what is in it.
const NO_PREALLOC: u32 = 1;

fn bytes(shape: &Shape) -> u64 {
    let entries = u64::from(shape.entries);
    let [key, value] = [shape.key, shape.value].map(|size| u64::from(size).next_multiple_of(8));
    let is = |kind: bpf_map_type| shape.kind == kind as u32;
    if is(ARRAY) {
        entries * value
    } else if is(PERCPU_ARRAY) {
        // A pointer, and a copy for each processor.
        entries * (8 + PROCESSORS * value)
    } else if is(LRU_HASH) || is(HASH) {
        let elements = if shape.flags & NO_PREALLOC == 0 { entries } else { 0 };
        elements * (ELEMENT + key + value) + entries.next_power_of_two() * BUCKET
    } else {
        // Interfaces to send over: some kilobytes.
        entries.next_power_of_two() * 8
    }
}

/// Of each pinned map.
fn all(limits: &Limits) -> Vec<(&'static str, u64)> {
    let declared = declared(OBJECT).expect("the object has maps");
    let sized = entries(limits);
    let of = |name: &'static str| {
        let shape = declared[name];
        let entries = sized.iter().find(|(sized, _)| *sized == name).map_or(shape.entries, |(_, n)| *n);
        (name, bytes(&Shape { entries, ..shape }))
    };
    PINNED.into_iter().map(of).collect()
}

#[test]
fn documented_map_memory_matches_the_map_shapes() {
    let limits = spec(SMALL).limits;
    let all = all(&limits);
    let share = |maps: &[&str], among: u32| {
        let bytes: u64 = all.iter().filter(|(name, _)| maps.contains(name)).map(|(_, bytes)| bytes).sum();
        (bytes as f64 / f64::from(among)).round()
    };
    let service = share(
        &[name::SERVICES, name::SVC_FRONT, name::SVC_INDEX, name::SVC_TALLY, name::SVC_META],
        limits.services,
    );
    let backend = share(
        &[name::BACKENDS, name::BK_TALLY, name::BK_META, name::LIVE, name::BK_SERVICE],
        limits.backends,
    );
    let slot = share(&[name::RING, name::SLOT_OWNERS, name::SLOT_ELSEWHERE], limits.slots);
    let flow = share(&[name::FLOWS], limits.flows);
    says(
        "lb-ebpf/doc/performance.md",
        &format!(
            "| maps, as the kernel accounts them: a service, a backend, a slot, a flow (two processors) | {service}, \
             {backend}, {slot}, {flow} bytes |"
        ),
    );
    let mebibytes = all.iter().map(|(_, bytes)| bytes).sum::<u64>() as f64 / f64::from(1 << 20);
    says(
        "lb-ebpf/doc/performance.md",
        &format!("| all maps at the default limits | {} MiB |", mebibytes.round()),
    );
    says("lb-userspace/doc/configuration.md", &format!("Slots of all rings together, {slot} bytes each."));
}
