//! All counters in one system call. With one call for each counter a run of one packet would take a hundred times as long as
//! the packet itself, and aya has no batches.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{IterableMap, PerCpuArray},
    util::nr_cpus,
};
use lb_common::{counter::Counter, map::name};

use super::World;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (linux/bpf.h); for per-CPU arrays since kernel 5.13.
const MAP_LOOKUP_BATCH: libc::c_long = 24;

/// The `batch` member of `union bpf_attr` (linux/bpf.h).
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl World {
    /// Every counter, summed over the CPUs, in the order of their numbers.
    pub fn counters(&mut self) -> Result<Vec<u64>> {
        let map: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.ebpf.map(name::COUNTERS).context("no counters")?)?;
        let cpus = nr_cpus().map_err(|(_, error)| error).context("the number of CPUs")?;
        let mut next = 0u32;
        let mut keys = vec![0u32; Counter::COUNT as usize];
        let mut values = vec![0u64; Counter::COUNT as usize * cpus];
        let mut batch = Batch {
            in_batch: 0,
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: Counter::COUNT,
            map_fd: map.map().fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes one u32, `count` keys and `count` values for every possible CPU, for all of which
        // the buffers have room; they live until after the call.
        let outcome =
            unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        // At the end of the map the kernel answers ENOENT, and has copied everything.
        let error = io::Error::last_os_error();
        if outcome != 0 && error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error).context("reading the counters");
        }
        ensure!(batch.count == Counter::COUNT, "{} counters of {}", batch.count, Counter::COUNT);
        Ok(values.chunks(cpus).map(|counter| counter.iter().sum()).collect())
    }
}
