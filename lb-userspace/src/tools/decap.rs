//! Attaches `lb_decap` on a backend without a tunnel device, with the addresses at which it removes outer headers.
//! Needs no agent: the program stays attached, and later calls find it by its pins.

use std::{
    collections::BTreeMap,
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
    encap::Kind,
    map::{name, size},
};
use nix::net::if_::if_nametoindex;

use crate::{
    bpf::{
        capabilities,
        link::{self, AttachError, Attached, Purpose},
        loader::{self, LoadError, typed},
        map_shapes::{self, Mismatch, Shape},
        minimal_load,
        object::OBJECT,
        owner::{self, OtherNamespace, Owner, OwnerError},
        pin::{self, PinDirectory, PinError, remove_link},
    },
    config::spec::AttachMode,
    instance::paths::{DECAP_PREFIX, DEFAULT_INSTANCE},
    tables::address,
};

/// Identifies one `lb_decap`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At<'a> {
    pub interface: &'a str,
    pub instance: &'a str,
}

/// Maps that are pinned next to the link.
const PINNED: [&str; 2] = [name::DECAP, name::COUNTERS];

/// Counters that `lb_decap` writes.
pub const COUNTERS: [Counter; 4] =
    [Counter::Decapsulated, Counter::PassedNotTunnel, Counter::DecapMalformed, Counter::DecapEcn];

/// Why an operation on `lb_decap` failed.
#[derive(Debug, thiserror::Error)]
pub enum DecapError {
    #[error("interface {interface}: {source}")]
    Attach { interface: String, source: AttachError },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Open(#[from] LoadError),
    #[error("no address is given at which outer headers are to be taken off")]
    NoAddress,
    #[error("{wanted} addresses are too many, {} are possible", size::DECAP)]
    TooMany { wanted: usize },
    #[error(
        "{pins}: pinned by another version of this program ({}); detach it first",
        .mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Layout { pins: PathBuf, mismatches: Vec<Mismatch> },
    #[error("{0}; give this one another --instance, or detach it there")]
    Other(OtherNamespace),
    #[error(transparent)]
    Owner(#[from] OwnerError),
    #[error("interface {0}: lb_decap is not attached there")]
    NotAttached(String),
    #[error(
        "interface {0}: lb_decap was attached there, but the interface was deleted or renamed since, or the program taken \
         off; `lbd decap attach` attaches it again, `lbd decap detach` removes what is left of it"
    )]
    Gone(String),
    #[error("map {map}: {source}")]
    Map { map: &'static str, source: MapError },
}

/// The directory of one instance's `lb_decap` on one interface. For the default instance it has the interface's name only.
fn pins(base: &Path, at: At<'_>) -> PinDirectory {
    let interface = pin::escape(at.interface).replace('@', "%40");
    let name = match at.instance {
        DEFAULT_INSTANCE => format!("{DECAP_PREFIX}{interface}"),
        instance => format!("{DECAP_PREFIX}{interface}@{instance}"),
    };
    PinDirectory::new(base.join(name))
}

/// Attaches `lb_decap` to an interface, or replaces it in place, for exactly these addresses and kinds. `base` is the directory with
/// the instances' pin directories, for example `/sys/fs/bpf/lb`. All checks that may refuse it run before anything is written.
pub fn attach(
    base: &Path,
    at: At<'_>,
    addresses: &[IpAddr],
    kinds: &[Kind],
    mode: AttachMode,
) -> Result<Attached, DecapError> {
    if addresses.is_empty() {
        return Err(DecapError::NoAddress);
    }
    let kinds = kinds.iter().fold(0, |bits, kind| bits | kind.decap_bit());
    let wanted: BTreeMap<Address, u32> = addresses.iter().map(|a| (address::to_wire(*a), kinds)).collect();
    if wanted.len() > size::DECAP as usize {
        return Err(DecapError::TooMany { wanted: wanted.len() });
    }
    let failed = |source| DecapError::Attach { interface: at.interface.into(), source };
    let pins = pins(base, at);
    let link = pins.link(at.interface);
    if !pins.path().exists() {
        // There are no pins of ours: another program on the interface, or no such interface, must be an error before a
        // directory is made.
        link::is_replaced(at.interface, &link, Purpose::Decap).map_err(failed)?;
    }
    pins.create()?;
    let _lock = pins.lock()?;
    let fresh = match owner::look(&pins)? {
        Owner::Us => false,
        Owner::Left(_) => true,
        Owner::Other(other) => return Err(DecapError::Other(other)),
    };
    let replaced = link::is_replaced(at.interface, &link, Purpose::Decap).map_err(failed)?;
    if fresh {
        // The pins hold addresses and counters of another namespace, where nothing is attached any more.
        remove(&pins, &link)?;
        pins.create()?;
    }
    pins.record()?;
    capabilities::raise_locked_memory();
    let outcome = attach_pinned(&pins, at.interface, &wanted, mode, replaced);
    if outcome.is_err() && !replaced {
        // Nothing is attached, so no pins must stay. Report the first error, not one of this cleanup.
        remove(&pins, &link).ok();
    }
    outcome
}

fn attach_pinned(
    pins: &PinDirectory,
    interface: &str,
    wanted: &BTreeMap<Address, u32>,
    mode: AttachMode,
    replaced: bool,
) -> Result<Attached, DecapError> {
    check(pins)?;
    let paths = PINNED.map(|map| (map, pins.map(map)));
    let mut ebpf = minimal_load::load(&paths, &[(name::DECAP, size::DECAP)])?;
    // Load the program first: it needs the maps' descriptors, and a map that is taken out of `ebpf` takes its descriptor along.
    minimal_load::program(&mut ebpf, "lb_decap")?;
    let map: HashMap<MapData, Address, u32> = typed(&mut ebpf, name::DECAP)?;
    // A running program gets its new addresses after the last step that can fail. A new program has them from its first packet.
    let (before, behind) = if replaced { (None, Some(map)) } else { (Some(map), None) };
    if let Some(map) = before {
        set_addresses(map, wanted)?;
    }
    let program = loader::program(&mut ebpf, "lb_decap")?;
    let attached = link::attach(program, interface, mode, &pins.link(interface), Purpose::Decap);
    let (attached, _link): (_, FdLink) =
        attached.map_err(|source| DecapError::Attach { interface: interface.into(), source })?;
    if let Some(map) = behind {
        set_addresses(map, wanted)?;
    }
    Ok(attached)
}

/// Adds new addresses before it removes old ones: in between, both are served.
fn set_addresses(
    mut map: HashMap<MapData, Address, u32>,
    wanted: &BTreeMap<Address, u32>,
) -> Result<(), DecapError> {
    let failed = |source| DecapError::Map { map: name::DECAP, source };
    let present: BTreeMap<Address, u32> = map.iter().collect::<Result<_, _>>().map_err(failed)?;
    for (address, kinds) in wanted.iter().filter(|(address, kinds)| present.get(*address) != Some(*kinds)) {
        map.insert(address, kinds, 0).map_err(failed)?;
    }
    for address in present.keys().filter(|address| !wanted.contains_key(*address)) {
        match map.remove(address) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Pinned maps must have the shapes that the object declares.
fn check(pins: &PinDirectory) -> Result<(), DecapError> {
    let declared = map_shapes::declared(OBJECT).map_err(|error| LoadError::Load(error.to_string()))?;
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

/// Whether a pinned map can be used. A version that has other counters in addition to those of `lb_decap` has the counters of
/// `lb_decap` at the same numbers.
fn fits(map: &str, found: &Shape, wanted: &Shape) -> bool {
    let enough = COUNTERS.iter().all(|counter| (*counter as u32) < found.entries);
    *found == *wanted
        || map == name::COUNTERS && enough && Shape { entries: wanted.entries, ..*found } == *wanted
}

/// What [`detach`] took off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detached {
    TakenOff,
    /// The interface or the program was gone; the pins have been removed.
    Rests,
    Nothing,
}

/// Takes `lb_decap` off an interface and removes its pins; not an error when there is none.
pub fn detach(base: &Path, at: At<'_>) -> Result<Detached, DecapError> {
    let pins = pins(base, at);
    let Some(_lock) = pins.lock()? else { return Ok(Detached::Nothing) };
    if let Owner::Other(other) = owner::look(&pins)? {
        return Err(DecapError::Other(other));
    }
    let link = pins.link(at.interface);
    let attached = |source| DecapError::Attach { interface: at.interface.into(), source };
    let there = link::pinned(&link).map_err(attached)?;
    remove(&pins, &link)?;
    Ok(match there {
        Some(info) if info.interface != 0 => Detached::TakenOff,
        _ => Detached::Rests,
    })
}

/// Removes everything that [`attach`] has pinned, and by that the program.
fn remove(pins: &PinDirectory, link: &Path) -> Result<(), DecapError> {
    if link.exists() {
        remove_link(link)?;
    }
    for map in PINNED {
        let path = pins.map(map);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(PinError::Io { path, action: "removing", source }.into());
            }
            _ => {}
        }
    }
    // Only the directory is left, with the record of its network namespace.
    pins.remove()?;
    Ok(())
}

/// The counters and addresses of `lb_decap` on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    /// In the order of [`COUNTERS`].
    pub counters: Vec<(Counter, u64)>,
    /// The addresses at which it removes outer headers, sorted.
    pub addresses: Vec<IpAddr>,
    /// The kinds that it takes off at any of them.
    pub kinds: Vec<Kind>,
}

/// The counters of `lb_decap` on an interface, and the addresses that it serves.
pub fn stats(base: &Path, at: At<'_>) -> Result<Stats, DecapError> {
    let pins = pins(base, at);
    let link = pins.link(at.interface);
    let failed = |source| DecapError::Attach { interface: at.interface.into(), source };
    let Some(there) = link::pinned(&link).map_err(failed)? else {
        return Err(DecapError::NotAttached(at.interface.into()));
    };
    if let Owner::Other(other) = owner::look(&pins)? {
        return Err(DecapError::Other(other));
    }
    // The interface may have been deleted or renamed, or another process may have taken the program off.
    let here = there.interface != 0
        && if_nametoindex(at.interface).is_ok_and(|index| index == there.interface)
        && link::is_here(there).map_err(failed)?;
    if !here {
        return Err(DecapError::Gone(at.interface.into()));
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
    let found: Result<Vec<(Address, u32)>, _> = addresses.iter().collect();
    let found = found.map_err(failed(name::DECAP))?;
    let mut addresses: Vec<_> = found.iter().map(|(address, _)| address::from_wire(address)).collect();
    addresses.sort();
    let bits = found.iter().fold(0, |all, (_, bits)| all | bits);
    let kinds = Kind::ALL.into_iter().filter(|kind| bits & kind.decap_bit() != 0).collect();
    Ok(Stats { counters: counted, addresses, kinds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_counters_of_another_version_are_used() {
        let shape = |entries| Shape { kind: 6, key: 4, value: 8, entries, flags: 0 };
        let last = Counter::DecapEcn as u32;
        for (entries, fits_in) in [(last, false), (last + 1, true), (Counter::COUNT, true), (1000, true)] {
            assert_eq!(fits(name::COUNTERS, &shape(entries), &shape(Counter::COUNT)), fits_in, "{entries}");
        }
        assert!(!fits(name::COUNTERS, &Shape { value: 16, ..shape(28) }, &shape(Counter::COUNT)));
        assert!(!fits(name::DECAP, &shape(63), &shape(64)) && fits(name::DECAP, &shape(64), &shape(64)));
    }
}
