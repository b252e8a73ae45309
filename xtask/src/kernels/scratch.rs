//! A directory of one run's own: several runs of one checkout do not write into each other's images. It goes with the run;
//! what a killed run left goes with the next.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// How their names begin.
const PREFIX: &str = "run-";
/// Held by the run whose directory it is.
const LOCK: &str = "lock";

pub(super) struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes one in `parent`, and takes those away whose run is over.
    pub(super) fn new(parent: &Path) -> Result<Self> {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        // Two runs that begin at once: neither takes the other's away before its lock is held.
        let all = File::create(parent.join(LOCK))?;
        all.lock().with_context(|| format!("cannot lock {}", parent.display()))?;
        for entry in fs::read_dir(parent)?.flatten() {
            let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            let over = || File::open(entry.path().join(LOCK)).map_or(true, |lock| lock.try_lock().is_ok());
            if is_ours && over() {
                fs::remove_dir_all(entry.path()).ok();
            }
        }
        let numbers = 0..;
        let free = numbers.map(|number: u32| parent.join(format!("{PREFIX}{number}")));
        let path = free.into_iter().find(|path| !path.exists()).context("no free name")?;
        let made = fs::create_dir(&path).and_then(|()| File::create(path.join(LOCK)));
        let lock = made.with_context(|| format!("cannot make {}", path.display()))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_have_two_directories_and_each_goes_with_its_run() {
        let parent = tempfile::tempdir().unwrap();
        let (one, other) = (Scratch::new(parent.path()).unwrap(), Scratch::new(parent.path()).unwrap());
        assert_ne!(one.path(), other.path());
        fs::write(one.path().join("image"), "x").unwrap();
        let gone = one.path().to_owned();
        drop(one);
        assert!(!gone.exists() && other.path().exists());
    }

    #[test]
    fn directory_of_a_killed_run_is_removed_by_the_next() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("run-0");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join("image"), "x").unwrap();
        fs::write(parent.path().join("5.10.log"), "kept").unwrap();
        let _run = Scratch::new(parent.path()).unwrap();
        assert!(!left.join("image").exists());
        assert!(parent.path().join("5.10.log").exists());
    }
}
