//! The cost of a process: its memory and its descriptors, as the kernel counts them.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};

use crate::agent::Agent;

/// The cost at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// The process's own resident memory in KiB: without file pages, which include the maps of the data path.
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
}

impl Agent<'_> {
    /// The cost now: the least of several looks, because a sweep of the flow tables takes a thread and two descriptors
    /// for a moment.
    pub(crate) fn cost(&self) -> Result<Cost> {
        let mut least = self.cost_at_once()?;
        for _ in 0..4 {
            sleep(Duration::from_millis(70));
            let Cost { memory, descriptors, threads } = self.cost_at_once()?;
            least = Cost {
                memory: least.memory.min(memory),
                descriptors: least.descriptors.min(descriptors),
                threads: least.threads.min(threads),
            };
        }
        Ok(least)
    }

    /// proc(5), `/proc/pid/status` and `/proc/pid/fd`.
    fn cost_at_once(&self) -> Result<Cost> {
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
