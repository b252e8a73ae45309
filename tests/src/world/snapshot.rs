//! What all maps hold, byte for byte, so that a test can say which of them a packet changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Map, MapData, MapType},
    util::nr_cpus,
};

use super::World;

/// Commands of `enum bpf_cmd` (linux/bpf.h).
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_GET_NEXT_KEY: libc::c_long = 4;

/// What a map holds: its entries by key.
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// All maps of a world by name.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, Entries>);

impl Snapshot {
    /// Names of the maps that differ.
    pub fn changed(&self, after: &Self) -> BTreeSet<String> {
        let names = self.0.keys().chain(after.0.keys());
        names.filter(|name| self.0.get(*name) != after.0.get(*name)).cloned().collect()
    }
}

impl World {
    /// Reads all maps. The rings and the log of the program are not read: they are no memory.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut all = BTreeMap::new();
        for (name, map) in self.ebpf.maps() {
            let Some(data) = data(map) else { continue };
            all.insert(name.to_owned(), entries(data).with_context(|| format!("reading map {name}"))?);
        }
        // A snapshot without the flow table would say that nothing changed there.
        for name in [lb_common::map::name::FLOWS, lb_common::map::name::COUNTERS] {
            ensure!(all.contains_key(name), "map {name} was not read");
        }
        Ok(Snapshot(all))
    }
}

/// The map, where it has entries that can be read.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data) | Map::PerCpuArray(data) | Map::HashMap(data) | Map::LruHashMap(data) => Some(data),
        _ => None,
    }
}

/// The part of `union bpf_attr` (linux/bpf.h) that the commands on one entry have.
#[repr(C)]
struct Entry {
    map_fd: u32,
    padding: u32,
    key: u64,
    /// The value, or the next key.
    value: u64,
    flags: u64,
}

/// Runs a command on one entry: `false` = there is no such entry, or no further one.
fn on_entry(command: libc::c_long, fd: RawFd, key: Option<&[u8]>, out: &mut [u8]) -> Result<bool> {
    let mut entry = Entry {
        map_fd: fd as u32,
        padding: 0,
        key: key.map_or(0, |key| key.as_ptr().expose_provenance() as u64),
        value: out.as_mut_ptr().expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads a key and writes a value or a key, for which the caller has made room by the map's own
    // sizes; both buffers outlive the call.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut entry, size_of::<Entry>()) };
    let error = io::Error::last_os_error();
    match outcome {
        0 => Ok(true),
        _ if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        _ => Err(error.into()),
    }
}

fn entries(map: &MapData) -> Result<Entries> {
    let info = map.info()?;
    let fd = map.fd().as_fd().as_raw_fd();
    let is_per_cpu = matches!(info.map_type()?, MapType::PerCpuArray);
    let cpus = if is_per_cpu { nr_cpus().map_err(|(_, error)| error)? } else { 1 };
    // Values of CPUs lie next to each other, each rounded up to 8 bytes.
    let size = if is_per_cpu { info.value_size().next_multiple_of(8) } else { info.value_size() } as usize;
    let mut all = Entries::new();
    let mut next = vec![0; info.key_size() as usize];
    let mut key: Option<Vec<u8>> = None;
    while on_entry(MAP_GET_NEXT_KEY, fd, key.as_deref(), &mut next)? {
        let mut value = vec![0; size * cpus];
        if on_entry(MAP_LOOKUP_ELEM, fd, Some(&next), &mut value)? && value.iter().any(|byte| *byte != 0) {
            all.insert(next.clone(), value);
        }
        key = Some(next.clone());
    }
    Ok(all)
}
