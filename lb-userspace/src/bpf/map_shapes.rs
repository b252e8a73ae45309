//! The layout that the maps must have, and whether pinned maps have it. aya reuses a pinned map without checking it, and a map
//! of another layout would be read wrongly. So everything is compared before.

use std::{
    collections::BTreeMap,
    fmt,
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::MapInfo;
use aya_obj::generated::bpf_map_type;
use lb_common::{
    counter, elsewhere,
    flow_table::{self, buckets_for as buckets_for_flows},
    known,
    map::{name, size},
    owner,
    service::buckets_for,
    service_cache,
};

use super::sys;
use crate::{
    config::{spec::Limits, words::plural},
    tables::Sizes,
};

/// Maps that are pinned: all that the balancer and the agent share. The other maps belong to one load of the object.
pub const PINNED: [&str; 21] = [
    name::NODE,
    name::SVC_FRONT,
    name::SVC_INDEX,
    name::SERVICES,
    name::RING,
    name::SLOT_OWNERS,
    name::BACKENDS,
    name::FLOWS,
    name::SLOT_ELSEWHERE,
    name::BK_SERVICE,
    name::COUNTERS,
    name::SVC_TALLY,
    name::BK_TALLY,
    name::LIVE,
    name::KNOWN,
    name::HOST,
    name::INGRESS,
    name::EGRESS,
    name::SVC_META,
    name::BK_META,
    name::CLOCK,
];

/// A map that versions 1 to 4 pinned: the records of SYNs that no segment had continued, and of flows that had their tuple
/// before.
pub(crate) const PENDING: &str = "PENDING";

/// Maps that only earlier versions pinned.
pub(crate) const FORMER: [&str; 2] = [PENDING, "TURNOVER"];

/// `BPF_F_RDONLY_PROG`, which the kernel adds to device maps by itself.
const READ_ONLY_FOR_PROGRAMS: u32 = 1 << 7;

/// The shape of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// `bpf_map_type` as a number.
    pub kind: u32,
    pub key: u32,
    pub value: u32,
    pub entries: u32,
    pub flags: u32,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key, value, entries, flags } = self;
        write!(
            f,
            "type {kind}, keys of {}, values of {}, {}, flags {flags:#x}",
            plural((*key).into(), "byte", "bytes"),
            plural((*value).into(), "byte", "bytes"),
            plural((*entries).into(), "entry", "entries")
        )
    }
}

impl Shape {
    /// Of a map in the kernel.
    pub fn of(info: &MapInfo) -> Self {
        let kind = info.map_type().map_or(u32::MAX, |kind| kind as u32);
        let own =
            if kind == bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH as u32 { READ_ONLY_FOR_PROGRAMS } else { 0 };
        Self {
            kind,
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags() & !own,
        }
    }

    /// Whether programs and agent read both maps in the same way. The number of entries may differ.
    fn reads_like(&self, wanted: &Self) -> bool {
        Self { entries: 0, ..*self } == Self { entries: 0, ..*wanted }
    }
}

/// One map that does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    pub map: String,
    pub found: String,
    pub wanted: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map {}: found {}, wanted {}", self.map, self.found, self.wanted)
    }
}

/// The shapes that the object declares, by map name.
pub fn declared(object: &[u8]) -> Result<BTreeMap<String, Shape>, aya_obj::ParseError> {
    let object = aya_obj::Object::parse(object)?;
    let shape = |map: &aya_obj::Map| Shape {
        kind: map.map_type(),
        key: map.key_size(),
        value: map.value_size(),
        entries: map.max_entries(),
        flags: map.map_flags(),
    };
    Ok(object.maps.iter().map(|(name, map)| (name.clone(), shape(map))).collect())
}

/// Entries of the pinned maps whose sizes are set at load time: those that depend on `limits`, and `EGRESS`.
pub fn entries(limits: &Limits) -> [(&'static str, u32); 15] {
    [
        (name::SVC_FRONT, service_cache::entries_for(limits.services)),
        (name::SVC_INDEX, buckets_for(limits.services)),
        (name::SERVICES, limits.services),
        (name::SVC_META, limits.services),
        (name::SVC_TALLY, limits.services),
        // Entry 0 means no backend.
        (name::BACKENDS, limits.backends.saturating_add(1)),
        (name::BK_META, limits.backends.saturating_add(1)),
        (name::BK_TALLY, limits.backends.saturating_add(1)),
        (name::LIVE, limits.backends.saturating_add(1)),
        (name::BK_SERVICE, limits.backends.saturating_add(1)),
        (name::RING, limits.slots),
        (name::SLOT_OWNERS, owner::words_for(limits.slots)),
        (name::SLOT_ELSEWHERE, elsewhere::entries_for(limits.slots)),
        (name::FLOWS, buckets_for_flows(limits.flows)),
        (name::EGRESS, size::EGRESS),
    ]
}

/// The pinned maps that this build has and an older build of our version may not have had, or only with fewer entries: those
/// that are missing, and counters without the room of ours.
pub(crate) fn lacking(found: &BTreeMap<&'static str, Shape>) -> Vec<&'static str> {
    let lacks = |map: &&str| found.get(*map).is_none_or(|found| *map == name::COUNTERS && is_short(found));
    PINNED.into_iter().filter(lacks).collect()
}

fn is_short(counters: &Shape) -> bool {
    counters.entries < counter::ENTRIES
}

/// Compares pinned maps with the shapes that the object declares. The sizes may be those of other `[limits]`, if they agree
/// with each other. Maps that are [`lacking`] are made to agree with the others, so they are left out. Returns the sizes.
pub fn check(
    found: &BTreeMap<&'static str, Shape>,
    declared: &BTreeMap<String, Shape>,
) -> Result<Sizes, Vec<Mismatch>> {
    let mut mismatches = Vec::new();
    let mut size = BTreeMap::new();
    for (&name, found) in found {
        let Some(wanted) = declared.get(name) else { continue };
        size.insert(name, found.entries);
        if !found.reads_like(wanted) {
            let wanted = Shape { entries: found.entries, ..*wanted };
            mismatches.push(Mismatch {
                map: name.into(),
                found: found.to_string(),
                wanted: wanted.to_string(),
            });
        }
    }
    let of = |name: &str| size.get(name).copied().unwrap_or(0);
    let lacking = lacking(found);
    let is_lacking = |map: &str| lacking.contains(&map);
    let mut agree = |map: &str, wanted: u32| {
        if of(map) != wanted && !is_lacking(map) {
            let [found, wanted] = [of(map), wanted].map(|entries| plural(entries.into(), "entry", "entries"));
            mismatches.push(Mismatch { map: map.into(), found, wanted });
        }
    };
    agree(name::NODE, 1);
    agree(name::CLOCK, 1);
    agree(name::COUNTERS, counter::ENTRIES);
    agree(name::KNOWN, known::WORDS);
    for map in [name::SVC_META, name::SVC_TALLY] {
        agree(map, of(name::SERVICES));
    }
    for map in [name::BK_META, name::BK_TALLY, name::LIVE, name::BK_SERVICE] {
        agree(map, of(name::BACKENDS));
    }
    agree(name::SLOT_OWNERS, owner::words_for(of(name::RING)));
    agree(name::SLOT_ELSEWHERE, elsewhere::entries_for(of(name::RING)));
    let services = of(name::SERVICES);
    let or = |map: &str, entries: u32| if is_lacking(map) { entries } else { of(map) };
    let buckets = or(name::SVC_INDEX, buckets_for(services));
    let service_cache = or(name::SVC_FRONT, service_cache::entries_for(services));
    for (map, entries) in [(name::SVC_INDEX, buckets), (name::SVC_FRONT, service_cache)] {
        if !entries.is_power_of_two() {
            let found = plural(entries.into(), "entry", "entries");
            mismatches.push(Mismatch { map: map.into(), found, wanted: "a power of two".into() });
        }
    }
    if !flow_table::is_size(of(name::FLOWS)) {
        let found = plural(of(name::FLOWS).into(), "entry", "entries");
        mismatches.push(Mismatch {
            map: name::FLOWS.into(),
            found,
            wanted: "5, 10, 20, 40 and so on".into(),
        });
    }
    if !mismatches.is_empty() {
        return Err(mismatches);
    }
    Ok(Sizes {
        services,
        backends: of(name::BACKENDS).saturating_sub(1),
        slots: of(name::RING),
        flows: flow_table::room_of(of(name::FLOWS)),
        egress: of(name::EGRESS),
        buckets,
        service_cache,
    })
}

/// One warning for each running size that differs from `[limits]`, with the reason why it could not be changed.
pub fn other_limits(running: &Sizes, limits: &Limits, why: &str) -> Vec<String> {
    let pairs = [
        ("services", running.services, limits.services),
        ("backends", running.backends, limits.backends),
        ("slots", running.slots, limits.slots),
        // Tables double in size: a table has at least the room that is asked for.
        ("flows", running.flows, flow_table::room_of(buckets_for_flows(limits.flows))),
    ];
    let differ = pairs.into_iter().filter(|(_, running, wanted)| running != wanted);
    differ
        .map(|(name, running, wanted)| {
            format!("limits.{name} = {wanted} is not in force, it is {running} as before: {why}")
        })
        .collect()
}

/// The ABI version in a NODE map of any layout: in all versions it is in the first four bytes.
pub fn abi_version(node: BorrowedFd<'_>, shape: &Shape) -> std::io::Result<u32> {
    let mut value = vec![0; (shape.value as usize).next_multiple_of(8).max(8)];
    sys::lookup(node.as_fd(), &0u32.to_ne_bytes(), &mut value)?;
    Ok(u32::from_ne_bytes([value[0], value[1], value[2], value[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::object::OBJECT;

    const LIMITS: Limits = Limits { services: 10, backends: 20, slots: 1000, flows: 64, pending_flows: None };

    fn pinned(limits: &Limits) -> BTreeMap<&'static str, Shape> {
        let declared = declared(OBJECT).unwrap();
        let mut found: BTreeMap<_, _> = PINNED.iter().map(|name| (*name, declared[*name])).collect();
        for (name, entries) in entries(limits) {
            found.get_mut(name).unwrap().entries = entries;
        }
        found
    }

    #[test]
    fn the_object_declares_every_map_that_is_pinned_or_sized() {
        let declared = declared(OBJECT).unwrap();
        assert!(PINNED.iter().all(|name| declared.contains_key(*name)));
        assert!(entries(&LIMITS).iter().all(|(name, _)| declared.contains_key(*name)));
        assert!(declared.keys().all(|name| name.len() <= 15 || name.starts_with('.')));
    }

    #[test]
    fn maps_of_other_limits_fit_and_say_so() {
        let sizes = check(&pinned(&LIMITS), &declared(OBJECT).unwrap()).unwrap();
        assert_eq!((sizes.services, sizes.backends, sizes.slots), (10, 20, 1000));
        assert_eq!((sizes.buckets, sizes.service_cache), (32, 64));
        assert!(other_limits(&sizes, &LIMITS, "").is_empty());
        let warnings = other_limits(&sizes, &Limits { slots: 2000, ..LIMITS }, "no memory");
        assert_eq!(warnings, ["limits.slots = 2000 is not in force, it is 1000 as before: no memory"]);
    }

    #[test]
    fn maps_that_an_older_build_did_not_have_are_left_out() {
        let declared = declared(OBJECT).unwrap();
        let mut found = pinned(&LIMITS);
        assert!(lacking(&found).is_empty());
        let sizes = check(&found, &declared).unwrap();
        for map in [name::SVC_FRONT, name::SVC_INDEX, name::SLOT_OWNERS, name::BK_SERVICE, name::CLOCK] {
            found.remove(map);
        }
        found.get_mut(name::COUNTERS).unwrap().entries = 35;
        let all = [name::SVC_FRONT, name::SVC_INDEX, name::SLOT_OWNERS, name::BK_SERVICE, name::COUNTERS];
        assert_eq!(lacking(&found), [&all[..], &[name::CLOCK]].concat());
        assert_eq!(check(&found, &declared).unwrap(), sizes);
        // More counters than there is room for are of another layout.
        found.get_mut(name::COUNTERS).unwrap().entries = counter::ENTRIES + 1;
        let mismatches = check(&found, &declared).unwrap_err();
        assert_eq!(mismatches[0].to_string(), "map COUNTERS: found 257 entries, wanted 256 entries");
    }

    #[test]
    fn every_kind_of_difference_is_reported() {
        let declared = declared(OBJECT).unwrap();
        type Change = fn(&mut Shape);
        let changes: [(&str, Change); 7] = [
            (name::BACKENDS, |shape| shape.value = 128),
            (name::FLOWS, |shape| shape.entries = 48),
            (name::RING, |shape| shape.flags = 0),
            (name::SERVICES, |shape| shape.kind = 1),
            (name::SVC_INDEX, |shape| shape.entries = 24),
            (name::SVC_FRONT, |shape| shape.entries = 48),
            (name::BK_META, |shape| shape.entries = 7),
        ];
        let mut all = pinned(&LIMITS);
        for (name, change) in changes {
            let mut one = pinned(&LIMITS);
            change(one.get_mut(name).unwrap());
            let mismatches = check(&one, &declared).unwrap_err();
            assert_eq!(mismatches.len(), 1, "{mismatches:?}");
            assert_eq!(mismatches[0].map, name);
            change(all.get_mut(name).unwrap());
        }
        assert_eq!(check(&all, &declared).unwrap_err().len(), changes.len());
    }
}
