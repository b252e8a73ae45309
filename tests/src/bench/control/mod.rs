//! The rows of the control plane, in this process and by the wall clock: `rings` builds rings, `lengths` compares them by
//! their lengths, `tables` plans and writes, `sweep` sweeps flow tables, and `memory` asks the kernel for the size of the maps.

mod lengths;
mod memory;
mod rings;
mod sweep;
mod tables;

use std::{collections::BTreeSet, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use lb_userspace::{
    config::spec::Limits,
    kernel::{self, Kernel},
    upgrade::open,
};

use super::{
    Settings,
    row::{Definition, Samples},
};

/// The directory in which instances pin.
const PINS: &str = "/sys/fs/bpf/lb";

/// Runs of a row that takes milliseconds.
const ROUNDS: u32 = 5;

pub(super) fn definitions() -> Vec<Definition> {
    let rows = [
        rings::definitions(),
        lengths::definitions(),
        tables::definitions(),
        sweep::definitions(),
        memory::definitions(),
    ];
    rows.concat()
}

/// Measures the wanted rows.
pub(super) fn measure(settings: &Settings, wanted: &BTreeSet<String>, samples: &mut Samples) -> Result<()> {
    let rounds = settings.rounds.min(ROUNDS);
    let mut sheet = Sheet { wanted, samples };
    rings::measure(rounds, &mut sheet);
    lengths::measure(&mut sheet);
    tables::measure(rounds, &mut sheet)?;
    sweep::measure(rounds, &mut sheet)?;
    memory::measure(&mut sheet)
}

/// The rows that are wanted, and the samples so far.
struct Sheet<'a> {
    wanted: &'a BTreeSet<String>,
    samples: &'a mut Samples,
}

impl Sheet<'_> {
    /// Whether a row whose id begins like this is wanted.
    fn wants(&self, begin: &str) -> bool {
        self.wanted.iter().any(|id| id.starts_with(begin))
    }

    fn add(&mut self, id: &str, value: f64) {
        self.samples.entry(id.to_owned()).or_default().push(value);
    }

    /// Milliseconds since `begun`.
    fn add_time(&mut self, id: &str, begun: Instant) {
        self.add(id, begun.elapsed().as_secs_f64() * 1e3);
    }
}

/// Pins of the benchmark, removed when the benchmark ends.
struct Pins(PathBuf);

impl Pins {
    /// Makes and pins maps for `limits`.
    fn open(purpose: &str, limits: Limits) -> Result<(Self, Kernel)> {
        let pins = Self(format!("{PINS}/bench-{}-{purpose}", std::process::id()).into());
        let options = open::Options { pins: pins.0.clone(), limits, bpf_log: None };
        let (kernel, _) = open::open(&options).context("making maps for the benchmark")?;
        Ok((pins, kernel))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = kernel::detach(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Removes what killed runs have pinned.
pub(super) fn sweep() {
    for entry in std::fs::read_dir(PINS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !runs(pid)) {
            drop(Pins(entry.path()));
        }
    }
}

/// Whether a process runs, and is a benchmark (proc(5), `/proc/<pid>/stat`). A killed benchmark may still wait for its parent
/// as a zombie, and another process may have its number by now.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((name, rest)) = stat.rsplit_once(')') else { return false };
    name.ends_with("(bench") && !rest.trim_start().starts_with(['Z', 'X'])
}

/// The process that made pins of this name, if that process was a benchmark.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("bench-")?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn pins_tell_whose_they_are() {
        assert_eq!(owner("bench-4711-plan"), Some(4711));
        assert_eq!(
            (owner("bench"), owner("bench-x-1"), owner("main"), owner("bench-4711")),
            (None, None, None, None)
        );
    }
}
