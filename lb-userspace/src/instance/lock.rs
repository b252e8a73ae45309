//! One agent for an instance: a lock file that is locked for as long as the agent lives. It holds the agent's pid.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "instance {instance} has an agent already, pid {pid}; stop that one, or give this one another --instance"
    )]
    Held { instance: String, pid: String },
    #[error("lock file {path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

/// The lock. It is released when it is dropped; if the process dies in any way, the kernel releases it.
#[derive(Debug)]
pub struct Lock {
    /// Kept open, because closing the file releases the lock.
    file: Flock<File>,
    path: PathBuf,
    instance: String,
}

impl Lock {
    /// Takes the lock of an instance without waiting. The file stays when the lock is released: if it were removed, two agents
    /// could lock two files of the same name.
    pub fn take(path: &Path, instance: &str) -> Result<Self, LockError> {
        let error = |source| LockError::File { path: path.into(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(error)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let file = options.open(path).map_err(error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(error)?;
                file.rewind().map_err(error)?;
                writeln!(file, "{}", std::process::id()).map_err(error)?;
                Ok(Self { file, path: path.into(), instance: instance.into() })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(error)?;
                let pid = match pid.trim() {
                    "" => "unknown".to_owned(),
                    pid => pid.to_owned(),
                };
                Err(LockError::Held { instance: instance.into(), pid })
            }
            Err((_, errno)) => Err(error(errno.into())),
        }
    }

    /// Makes sure that the file at the lock's path is the locked file. Returns whether the file had to be made again. Otherwise
    /// the next agent would lock another file of the same name.
    ///
    /// # Errors
    /// As [`Self::take`]; the old file stays locked.
    pub fn mend(&mut self) -> Result<bool, LockError> {
        let error = |source| LockError::File { path: self.path.clone(), source };
        let ours = self.file.metadata().map_err(error)?;
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(false),
            Ok(_) => self.take_again(),
            Err(why) if why.kind() == io::ErrorKind::NotFound => self.take_again(),
            Err(why) => Err(error(why)),
        }
    }

    fn take_again(&mut self) -> Result<bool, LockError> {
        *self = Self::take(&self.path, &self.instance)?;
        Ok(true)
    }
}

/// The process of an instance's agent, from its lock file; the process may have ended since.
pub fn holder(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_waits_and_learns_the_pid_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/main.lock");
        let first = Lock::take(&path, "main").unwrap();
        let error = Lock::take(&path, "main").unwrap_err();
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(&path, "main").unwrap();
    }

    #[test]
    fn a_lock_file_that_is_replaced_is_locked_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/main.lock");
        let mut lock = Lock::take(&path, "main").unwrap();
        assert!(!lock.mend().unwrap(), "it is there");
        fs::remove_file(&path).unwrap();
        assert!(lock.mend().unwrap());
        assert!(Lock::take(&path, "main").unwrap_err().to_string().contains("has an agent already"));
        fs::write(directory.path().join("other"), "x").unwrap();
        fs::rename(directory.path().join("other"), &path).unwrap();
        assert!(lock.mend().unwrap() && holder(&path) == Some(std::process::id()));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(lock.mend().unwrap() && path.exists(), "with its directory");
        // Another agent that started meanwhile keeps its lock.
        fs::remove_file(&path).unwrap();
        let other = Lock::take(&path, "main").unwrap();
        assert!(matches!(lock.mend().unwrap_err(), LockError::Held { .. }));
        drop(other);
        assert!(lock.mend().unwrap());
        assert!(Lock::take(&path, "main").is_err());
    }

    #[test]
    fn what_is_wrong_with_the_file_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let error = Lock::take(directory.path(), "main").unwrap_err();
        assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    }
}
