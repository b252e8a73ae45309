//! What a process costs: its memory and its descriptors, as the kernel counts them.

use std::fs;

use anyhow::{Context as _, Result};

use crate::agent::Agent;

/// At one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Resident memory of its own in KiB: without the pages of files, of which the maps of the data path are some.
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
}

impl Agent<'_> {
    /// What it costs now (proc(5), `/proc/pid/status` and `/proc/pid/fd`).
    pub(crate) fn cost(&self) -> Result<Cost> {
        let pid = self.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        Ok(Cost {
            memory: field("RssAnon").context("the kernel does not tell RssAnon")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            threads: field("Threads").context("the kernel does not tell Threads")?,
        })
    }
}
