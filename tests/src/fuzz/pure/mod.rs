//! Fuzzing without a kernel: a target is a function of bytes that panics where a promise is broken.
//!
//! `config`, `socket` and `ring` are the targets. `run` tries random bytes, `shrink` makes a finding small and writes it to
//! a file. The program `guided` gives the same functions to libFuzzer, which sees the code that the bytes reach.

mod config;
mod ring;
mod run;
mod shrink;
mod socket;

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
};

use anyhow::{Context as _, Result};

pub use run::{Plan, Report, run};
pub use shrink::keep;

/// The target of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Configuration files.
    Config,
    /// Requests to the control socket, and the changes that they ask for.
    Socket,
    /// Slot words, and tables that an agent finds pinned.
    Ring,
}

impl Target {
    pub const ALL: [Self; 3] = [Self::Config, Self::Socket, Self::Ring];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Socket => "socket",
            Self::Ring => "ring",
        }
    }

    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    /// Tries some bytes.
    ///
    /// # Panics
    /// Where a promise is broken; libFuzzer notices the panic.
    pub fn judge(self, bytes: &[u8]) {
        match self {
            Self::Config => config::judge(bytes),
            Self::Socket => socket::judge(bytes),
            Self::Ring => ring::judge(bytes),
        }
    }

    /// The same for callers that continue afterwards: the message of the panic, `None` = nothing is wrong.
    pub fn verdict(self, bytes: &[u8]) -> Option<String> {
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| self.judge(bytes)));
        let payload = outcome.err()?;
        let text = payload.downcast_ref::<String>().map(String::as_str);
        Some(text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
    }

    /// The inputs that a run starts from.
    pub fn seeds(self) -> Vec<Vec<u8>> {
        match self {
            Self::Config => config::seeds(),
            Self::Socket => socket::seeds(),
            Self::Ring => ring::seeds(),
        }
    }

    /// Words that occur in inputs of this target.
    fn words(self) -> Vec<String> {
        match self {
            Self::Config | Self::Socket => config::words(),
            Self::Ring => Vec::new(),
        }
    }

    /// The directory of the target's findings, one file each.
    pub fn directory(self) -> PathBuf {
        super::sequence::directory().join(self.name())
    }

    /// Earlier findings, by name.
    pub fn fixtures(self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut all = Vec::new();
        let entries = match fs::read_dir(self.directory()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
            Err(error) => return Err(error).context("cannot list what was found"),
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push((name, fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?));
        }
        all.sort();
        Ok(all)
    }
}

/// Prints no panics while bytes are tried that may cause some.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = work();
    panic::set_hook(hook);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_findings_of_fuzzing_do_not_come_back() -> Result<()> {
        for target in Target::ALL {
            for (name, bytes) in target.fixtures()? {
                assert_eq!(target.verdict(&bytes), None, "{}/{name}", target.name());
            }
        }
        Ok(())
    }

    #[test]
    fn nothing_is_wrong_with_the_seeds() {
        for target in Target::ALL {
            assert!(!target.seeds().is_empty());
            for (number, seed) in target.seeds().iter().enumerate() {
                assert_eq!(target.verdict(seed), None, "{}: seed {number}", target.name());
            }
        }
    }
}
