//! Small hash tables of plain values that the agent fills and packets read.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
};

use super::map_io::{failed, os_error};
use crate::{
    fault::{self, Kind},
    tables::TableError,
};

/// All keys.
pub(super) fn keys<K: Pod + Ord>(
    map: &'static str,
    table: &HashMap<MapData, K, u32>,
) -> Result<BTreeSet<K>, TableError> {
    let failed = || failed(map, "reading the keys");
    table.keys().map(|key| key.map_err(os_error).map_err(failed())).collect()
}

/// All entries.
pub(super) fn all<K: Pod + Ord>(
    map: &'static str,
    table: &HashMap<MapData, K, u32>,
) -> Result<BTreeMap<K, u32>, TableError> {
    let failed = || failed(map, "reading the entries");
    table.iter().map(|entry| entry.map_err(os_error).map_err(failed())).collect()
}

/// Writes an entry, whether or not the key has one.
pub(super) fn put<K: Pod>(
    map: &'static str,
    table: &mut HashMap<MapData, K, u32>,
    key: &K,
    value: u32,
) -> Result<(), TableError> {
    let failed = || failed(map, "writing an entry");
    fault::point(Kind::Map).map_err(failed())?;
    table.insert(key, value, 0).map_err(os_error).map_err(failed())
}

/// Removes an entry; a missing entry is not an error.
pub(super) fn remove<K: Pod>(
    map: &'static str,
    table: &mut HashMap<MapData, K, u32>,
    key: &K,
) -> Result<(), TableError> {
    let failed = || failed(map, "removing an entry");
    fault::point(Kind::Map).map_err(failed())?;
    match table.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(error) => Err(failed()(os_error(error))),
    }
}
