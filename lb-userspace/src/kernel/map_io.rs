//! Reads and writes whole maps and single entries, with errors that name the map and the action.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Pod,
    maps::{Array, IterableMap, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use lb_common::map::NameRecord;

use crate::{
    bpf::{mmap_array::Mapped, sys},
    fault::{self, Kind},
    tables::TableError,
};

/// The number of entries of other maps that are read at once.
const BATCH: usize = 1024;

pub(super) fn failed(map: &'static str, action: impl Into<String>) -> impl FnOnce(io::Error) -> TableError {
    let action = action.into();
    move |source| TableError::Map { map, action, source }
}

pub(super) fn out_of_range(map: &'static str, entry: u32, size: u32) -> TableError {
    TableError::OutOfRange { map, entry: entry.into(), size: size.into() }
}

/// The kernel's answer inside aya's error.
pub(super) fn os_error(error: MapError) -> io::Error {
    let code = match &error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    code.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
}

pub(super) fn fd<K: Pod, V, M: IterableMap<K, V>>(map: &M) -> BorrowedFd<'_> {
    map.map().fd().as_fd()
}

pub(super) fn read_all<T: Pod>(
    map: &'static str,
    mapped: &Mapped,
    entries: u32,
) -> Result<Vec<T>, TableError> {
    (0..entries).map(|entry| mapped.read(entry as usize).ok_or(out_of_range(map, entry, entries))).collect()
}

pub(super) fn metas(
    map: &'static str,
    array: &Array<MapData, NameRecord>,
    entries: u32,
) -> Result<Vec<NameRecord>, TableError> {
    let mut all = Vec::with_capacity(entries as usize);
    let mut visit = |_: &[u32], metas: &[NameRecord]| {
        all.extend_from_slice(metas);
        Ok(())
    };
    let batched =
        sys::lookup_batches(fd(array), 1, BATCH, &mut visit).map_err(failed(map, "reading all entries"))?;
    if !batched {
        for entry in 0..entries {
            let meta = array.get(&entry, 0).map_err(os_error).map_err(failed(map, "reading an entry"))?;
            all.push(meta);
        }
    }
    Ok(all)
}

/// Values of a per-CPU array, summed over CPUs.
pub(super) fn sums<V: Pod + Default>(
    map: &'static str,
    array: &PerCpuArray<MapData, V>,
    entries: u32,
    add: impl Fn(&mut V, &V),
) -> Result<Vec<V>, TableError> {
    let cpus = cpus(map)?;
    let mut all = Vec::with_capacity(entries as usize);
    let sum = |values: &[V]| {
        let mut sum = V::default();
        values.iter().for_each(|value| add(&mut sum, value));
        sum
    };
    let mut visit = |_: &[u32], values: &[V]| {
        all.extend(values.chunks(cpus).map(sum));
        Ok(())
    };
    let batched = sys::lookup_batches(fd(array), cpus, BATCH, &mut visit)
        .map_err(failed(map, "reading all entries"))?;
    if !batched {
        // Kernels before 5.13 have no batches for per-CPU arrays.
        for entry in 0..entries {
            let values = array.get(&entry, 0).map_err(os_error).map_err(failed(map, "reading an entry"))?;
            all.push(sum(&values));
        }
    }
    Ok(all)
}

pub(super) fn cpus(map: &'static str) -> Result<usize, TableError> {
    nr_cpus().map_err(|(what, error)| failed(map, format!("counting CPUs ({what})"))(error))
}

/// The result of a write into a mapped array.
pub(super) fn written(
    map: &'static str,
    entry: u32,
    size: u32,
    outcome: io::Result<bool>,
) -> Result<(), TableError> {
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(out_of_range(map, entry, size)),
        Err(error) => Err(failed(map, format!("writing entry {entry}"))(error)),
    }
}

/// Sets an entry to a value on the first CPU, and to 0 on the other CPUs.
pub(super) fn put<V: Pod + Default>(
    map: &'static str,
    array: &mut PerCpuArray<MapData, V>,
    number: u32,
    value: &V,
) -> Result<(), TableError> {
    let failed = || failed(map, format!("setting entry {number}"));
    let mut values = vec![V::default(); cpus(map)?];
    if let Some(first) = values.first_mut() {
        *first = *value;
    }
    let values = PerCpuValues::try_from(values).map_err(failed())?;
    fault::point(Kind::Map).map_err(failed())?;
    array.set(number, values, 0).map_err(os_error).map_err(failed())
}
