//! `lb_decap` on a backend without a tunnel device: attached, with the addresses at which it takes outer headers off.
//! Needs no agent: what is attached here stays, and is found again by its pins.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::{
    maps::{HashMap, MapData, MapError, PerCpuArray},
    programs::links::FdLink,
};
use lb_common::{
    Address,
    counter::Counter,
    map::{name, size},
};

use super::{
    kernel::{self, OpenError, typed},
    layout::{self, Mismatch, Shape},
    link::{self, AttachError, Attached},
    pin::{PinDirectory, PinError, remove_link},
    privileges, small,
};
use crate::{config::spec::AttachMode, object::OBJECT, reconcile::address};

/// Maps that are pinned beside the link.
const PINNED: [&str; 2] = [name::DECAP, name::COUNTERS];

/// Counters that `lb_decap` writes.
pub const COUNTERS: [Counter; 4] =
    [Counter::Decapsulated, Counter::PassedNotTunnel, Counter::DecapMalformed, Counter::DecapEcn];

/// Why it does not work.
#[derive(Debug, thiserror::Error)]
pub enum DecapError {
    #[error("interface {interface}: {source}")]
    Attach { interface: String, source: AttachError },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("no address is given at which outer headers shall be taken off")]
    NoAddress,
    #[error("{wanted} addresses are too many, {} are possible", size::DECAP)]
    TooMany { wanted: usize },
    #[error(
        "{pins}: pinned by another version of this program ({}); detach it first",
        .mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Layout { pins: PathBuf, mismatches: Vec<Mismatch> },
    #[error("interface {0}: lb_decap is not attached there")]
    NotAttached(String),
    #[error("map {map}: {source}")]
    Map { map: &'static str, source: MapError },
}

fn pins(base: &Path, interface: &str) -> PinDirectory {
    // The link's name is escaped as the file system needs it; the directory's must be, too.
    let link = PinDirectory::new("").link(interface);
    let name = link.to_string_lossy().replacen("link-", "decap-", 1);
    PinDirectory::new(base.join(name))
}

/// Attaches `lb_decap` to an interface, or renews it in place, for exactly these addresses. `base` is where instances
/// have their pin directories, for example `/sys/fs/bpf/lb`.
pub fn attach(
    base: &Path,
    interface: &str,
    addresses: &[IpAddr],
    mode: AttachMode,
) -> Result<Attached, DecapError> {
    if addresses.is_empty() {
        return Err(DecapError::NoAddress);
    }
    let wanted: BTreeSet<Address> = addresses.iter().map(|a| address::to_wire(*a)).collect();
    if wanted.len() > size::DECAP as usize {
        return Err(DecapError::TooMany { wanted: wanted.len() });
    }
    privileges::raise_locked_memory();
    let pins = pins(base, interface);
    let fresh = !pins.path().exists();
    pins.create()?;
    let outcome = attach_pinned(&pins, interface, &wanted, mode);
    if outcome.is_err() && fresh {
        // Nothing is attached: nothing stays. What went wrong is what there is to say, not whether this works.
        detach(base, interface).ok();
    }
    outcome
}

fn attach_pinned(
    pins: &PinDirectory,
    interface: &str,
    wanted: &BTreeSet<Address>,
    mode: AttachMode,
) -> Result<Attached, DecapError> {
    check(pins)?;
    let paths = PINNED.map(|map| (map, pins.map(map)));
    let mut ebpf = small::load(&paths, &[(name::DECAP, size::DECAP)])?;
    // The program first: it is loaded with the maps' descriptors, which go when a map is taken out.
    small::program(&mut ebpf, "lb_decap")?;
    let map: HashMap<MapData, Address, u32> = typed(&mut ebpf, name::DECAP)?;
    set_addresses(map, wanted)?;
    let program = kernel::program(&mut ebpf, "lb_decap")?;
    let attached = link::attach(program, interface, mode, &pins.link(interface), false);
    let (attached, _link): (_, FdLink) =
        attached.map_err(|source| DecapError::Attach { interface: interface.into(), source })?;
    Ok(attached)
}

/// New addresses before old ones go.
fn set_addresses(
    mut map: HashMap<MapData, Address, u32>,
    wanted: &BTreeSet<Address>,
) -> Result<(), DecapError> {
    let failed = |source| DecapError::Map { map: name::DECAP, source };
    let present: BTreeSet<Address> = map.keys().collect::<Result<_, _>>().map_err(failed)?;
    for address in wanted.difference(&present) {
        map.insert(address, 1, 0).map_err(failed)?;
    }
    for address in present.difference(wanted) {
        match map.remove(address) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Pinned maps must be those that the object declares.
fn check(pins: &PinDirectory) -> Result<(), DecapError> {
    let declared = layout::declared(OBJECT).map_err(|error| OpenError::Load(error.to_string()))?;
    let mut mismatches = Vec::new();
    for map in PINNED {
        let path = pins.map(map);
        if !path.exists() {
            continue;
        }
        let failed = |source| DecapError::Map { map, source };
        let found = Shape::of(&MapData::from_pin(&path).map_err(failed)?.info().map_err(failed)?);
        let wanted = declared.get(map).copied();
        if wanted.is_none_or(|wanted| !fits(map, &found, &wanted)) {
            mismatches.push(Mismatch {
                map: map.into(),
                found: found.to_string(),
                wanted: wanted.map_or_else(String::new, |wanted| wanted.to_string()),
            });
        }
    }
    if mismatches.is_empty() {
        Ok(())
    } else {
        Err(DecapError::Layout { pins: pins.path().into(), mismatches })
    }
}

/// Whether a pinned map can be used. A version that knows other counters beside those of `lb_decap` counts these alike.
fn fits(map: &str, found: &Shape, wanted: &Shape) -> bool {
    let enough = COUNTERS.iter().all(|counter| (*counter as u32) < found.entries);
    *found == *wanted
        || map == name::COUNTERS && enough && Shape { entries: wanted.entries, ..*found } == *wanted
}

/// Takes `lb_decap` off an interface and removes its pins; not an error when there is none. Returns whether there was.
pub fn detach(base: &Path, interface: &str) -> Result<bool, DecapError> {
    let pins = pins(base, interface);
    let link = pins.link(interface);
    let there = link.exists();
    if there {
        remove_link(&link)?;
    }
    let removal = |path: PathBuf, outcome: io::Result<()>| match outcome {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PinError::Io { path, action: "removing", source })
        }
        _ => Ok(()),
    };
    for map in PINNED {
        let path = pins.map(map);
        removal(path.clone(), std::fs::remove_file(&path))?;
    }
    removal(pins.path().into(), std::fs::remove_dir(pins.path()))?;
    Ok(there)
}

/// What `lb_decap` does on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    /// In the order of [`COUNTERS`].
    pub counters: Vec<(Counter, u64)>,
    /// Where it takes outer headers off, sorted.
    pub addresses: Vec<IpAddr>,
}

/// What `lb_decap` has counted on an interface, and the addresses it serves.
pub fn stats(base: &Path, interface: &str) -> Result<Stats, DecapError> {
    let pins = pins(base, interface);
    if !pins.link(interface).exists() {
        return Err(DecapError::NotAttached(interface.into()));
    }
    check(&pins)?;
    let open = |map: &'static str| {
        MapData::from_pin(pins.map(map)).map_err(|source| DecapError::Map { map, source })
    };
    let failed = |map| move |source| DecapError::Map { map, source };
    let counters = PerCpuArray::<_, u64>::try_from(aya::maps::Map::PerCpuArray(open(name::COUNTERS)?))
        .map_err(failed(name::COUNTERS))?;
    let mut counted = Vec::new();
    for counter in COUNTERS {
        let values = counters.get(&(counter as u32), 0).map_err(failed(name::COUNTERS))?;
        counted.push((counter, values.iter().sum()));
    }
    let addresses = HashMap::<_, Address, u32>::try_from(aya::maps::Map::HashMap(open(name::DECAP)?))
        .map_err(failed(name::DECAP))?;
    let addresses: Result<Vec<_>, _> = addresses.keys().collect();
    let mut addresses: Vec<_> =
        addresses.map_err(failed(name::DECAP))?.iter().map(address::from_wire).collect();
    addresses.sort();
    Ok(Stats { counters: counted, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_another_version_are_used_where_they_hold_those_of_lb_decap() {
        let shape = |entries| Shape { kind: 6, key: 4, value: 8, entries, flags: 0 };
        let last = Counter::DecapEcn as u32;
        for (entries, fits_in) in [(last, false), (last + 1, true), (Counter::COUNT, true), (1000, true)] {
            assert_eq!(fits(name::COUNTERS, &shape(entries), &shape(Counter::COUNT)), fits_in, "{entries}");
        }
        assert!(!fits(name::COUNTERS, &Shape { value: 16, ..shape(28) }, &shape(Counter::COUNT)));
        assert!(!fits(name::DECAP, &shape(63), &shape(64)) && fits(name::DECAP, &shape(64), &shape(64)));
    }
}
