//! What a lab leaves on disk under `/run/<prefix>`: a lock that says who works on it, and a record of what was
//! started, so that the next command can end it, also after the one before was killed.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{process::Process, topology::Config};

/// The record of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub config: Config,
    /// Seconds since 1970.
    pub made_at: u64,
    /// Left standing on purpose.
    pub kept: bool,
    pub processes: Vec<Process>,
}

/// The lab's directory.
pub fn directory(prefix: &str) -> PathBuf {
    PathBuf::from("/run").join(prefix)
}

/// Where a node's bpffs is mounted.
pub fn bpffs(prefix: &str, node: &str) -> PathBuf {
    directory(prefix).join("bpf").join(node)
}

impl Record {
    fn path(directory: &Path) -> PathBuf {
        directory.join("lab.json")
    }

    /// `None` when there is none.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = Self::path(directory);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| {
                format!("{} is not a lab's record; `cargo xtask lab down` removes it", path.display())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Written to another file and renamed: never half a record.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = Self::path(directory);
        let draft = directory.join("lab.json.new");
        fs::write(&draft, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Held while a process works on the lab; the kernel drops it with the process.
#[derive(Debug)]
pub struct Lock {
    directory: PathBuf,
    _file: File,
}

impl Lock {
    /// Makes the lab's directory and locks it. Refused at once, naming the pid, when another process has it.
    pub fn take(directory: &Path) -> Result<Self> {
        loop {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
            let path = directory.join("lock");
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = match opened {
                Ok(file) => file,
                // The one before has just removed the directory.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
            };
            // SAFETY: flock takes a descriptor, which `file` keeps open, and flags.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                let mut holder = String::new();
                file.read_to_string(&mut holder).ok();
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                bail!(
                    "a lab is in use by process {holder}; wait for it, or end it and run `cargo xtask lab down`"
                );
            }
            // A lock on a file that was removed in between locks nothing.
            if path.metadata().is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino())) {
                file.set_len(0)?;
                file.rewind()?;
                write!(file, "{}", std::process::id())?;
                return Ok(Self { directory: directory.to_owned(), _file: file });
            }
        }
    }

    /// Removes the directory with the lock in it, as the last act on a lab.
    pub fn remove_directory(&self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_naming_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::take(directory.path()).unwrap();
        let error = Lock::take(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {};", std::process::id())), "{error}");
        drop(first);
        Lock::take(directory.path()).unwrap();
    }

    #[test]
    fn a_removed_directory_can_be_locked_again() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("lab");
        let first = Lock::take(&place).unwrap();
        first.remove_directory();
        assert!(!place.exists());
        let _second = Lock::take(&place).unwrap();
        drop(first);
        assert!(Lock::take(&place).is_err());
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(directory.path()).unwrap(), None);
        let process = Process { pid: 7, started: 8, node: "client".into(), name: "curl".into() };
        let record = Record { config: Config::default(), made_at: 9, kept: true, processes: vec![process] };
        record.write(directory.path()).unwrap();
        assert_eq!(Record::read(directory.path()).unwrap(), Some(record));
    }

    #[test]
    fn a_broken_record_says_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("lab.json"), "{").unwrap();
        let error = Record::read(directory.path()).unwrap_err().to_string();
        assert!(error.contains("lab down"), "{error}");
    }
}
