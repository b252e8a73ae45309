//! The file that says before which write an agent kills itself: `lb-userspace/src/fault/kill.rs` reads it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::PathBuf,
};

use anyhow::Result;

use crate::world::World;

/// The kinds of writes before which the agent died, in the order of their numbers.
pub(super) const KINDS: [&str; 4] = ["map", "file", "pin", "link"];

pub(super) struct Fault {
    file: File,
    pub(super) path: PathBuf,
}

impl Fault {
    /// A file that lets the agent live.
    pub(super) fn new(world: &World) -> Result<Self> {
        let path = world.path("fault");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let fault = Self { file, path };
        fault.put(0, 0)?;
        fault.put(2, 0)?;
        fault.spare()?;
        Ok(fault)
    }

    fn get(&self, word: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, word * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn put(&self, word: u64, value: u64) -> Result<()> {
        Ok(self.file.write_all_at(&value.to_ne_bytes(), word * 8)?)
    }

    /// Writes so far.
    pub(super) fn passed(&self) -> Result<u64> {
        self.get(0)
    }

    /// Kills the agent after so many more writes.
    pub(super) fn kill_after(&self, writes: u64) -> Result<()> {
        self.put(1, self.passed()?.saturating_add(writes))
    }

    /// Lets the agent live.
    pub(super) fn spare(&self) -> Result<()> {
        self.put(1, u64::MAX)
    }

    /// The kind of write before which the agent died.
    pub(super) fn kind(&self) -> Result<&'static str> {
        Ok(KINDS.get(self.get(2)? as usize).copied().unwrap_or("unknown"))
    }
}
