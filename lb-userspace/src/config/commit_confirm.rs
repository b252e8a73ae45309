//! The configuration to go back to when the operator does not confirm a new one in time. It is kept in a file of its own, so
//! that an agent that was killed meanwhile still goes back.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    atomic_file,
    diagnostic::{Diagnostic, Kind, Place},
    overlay,
};

/// Version of the format. A file of another version is refused, not guessed at.
const VERSION: u32 = 1;

/// A configuration that waits for its confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unconfirmed {
    version: u32,
    /// The boot of the system in which the deadline was set: the monotonic clock begins again with each boot.
    boot: String,
    /// In milliseconds of the monotonic clock, which no user can set.
    deadline_ms: u64,
    /// The text of the file before the change.
    file: String,
    /// The text of the run-time changes before the change; `None` = there were none.
    overlay: Option<String>,
}

/// The file in which it is kept for an instance.
pub fn path(state_directory: &Path, instance: &str) -> PathBuf {
    state_directory.join(format!("{instance}.unconfirmed.json"))
}

/// The file that keeps the text that was not confirmed: in the directory of the configuration file.
pub fn rejected(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".unconfirmed");
    name.into()
}

impl Unconfirmed {
    /// Prepares to go back to `file` and to the run-time changes that are stored now.
    ///
    /// # Errors
    /// The run-time changes cannot be read.
    pub fn new(file: &str, state_directory: &Path, instance: &str, deadline_ms: u64) -> io::Result<Self> {
        let overlay = match fs::read_to_string(overlay::path(state_directory, instance)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { version: VERSION, boot: boot()?, deadline_ms, file: file.to_owned(), overlay })
    }

    /// The same with another deadline.
    pub fn until(&self, deadline_ms: u64) -> Self {
        Self { deadline_ms, ..self.clone() }
    }

    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// Whether it is time to go back. After a reboot it always is: an operator who had to turn the host off and on was not able
    /// to confirm.
    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.deadline_ms || boot().is_ok_and(|boot| boot != self.boot)
    }

    /// Reads it; `None` = nothing waits.
    ///
    /// # Errors
    /// The file cannot be read, or is not what [`Unconfirmed::store`] wrote.
    pub fn load(path: &Path) -> Result<Option<Self>, Diagnostic> {
        let wrong = |message: String| Diagnostic {
            place: Place::File(path.display().to_string().into()),
            object: String::new(),
            message: format!(
                "{message}; move the file away to keep the configuration that was not confirmed"
            ),
            kind: Kind::Unreadable,
        };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(format!("cannot read what to go back to: {error}"))),
        };
        let unconfirmed: Self = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("this does not say what to go back to: {error}")))?;
        match unconfirmed.version {
            VERSION => Ok(Some(unconfirmed)),
            other => Err(wrong(format!("this is of version {other}, this program reads {VERSION}"))),
        }
    }

    /// Writes it so that a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        atomic_file::write(path, &serde_json::to_vec(self)?, 0o600)
    }

    /// Removes the file: nothing waits for a confirmation any more.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn remove(path: &Path) -> io::Result<()> {
        atomic_file::remove(path)
    }

    /// Puts the file and the run-time changes back as they were, and keeps the text that was not confirmed. It may be repeated
    /// any number of times.
    ///
    /// # Errors
    /// Any error of the file system; the steps done by then are correct and stay.
    pub fn put_back(&self, file: &Path, state_directory: &Path, instance: &str) -> io::Result<()> {
        let overlay = overlay::path(state_directory, instance);
        match &self.overlay {
            Some(text) => atomic_file::write(&overlay, text.as_bytes(), 0o600)?,
            None => atomic_file::remove(&overlay)?,
        }
        let there = fs::read(file)?;
        if there != self.file.as_bytes() {
            atomic_file::write(&rejected(file), &there, 0o640)?;
            atomic_file::write(file, self.file.as_bytes(), 0o640)?;
        }
        Ok(())
    }
}

/// An identifier that is different for every boot of the system.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_put_back_and_the_other_text_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (state, file) = (directory.path().join("state"), directory.path().join("lb.toml"));
        fs::create_dir(&state).unwrap();
        fs::write(&file, "old").unwrap();
        let place = path(&state, "main");
        for overlay in [Some("{}"), None] {
            let _none_may_be_there = fs::remove_file(super::overlay::path(&state, "main"));
            if let Some(text) = overlay {
                fs::write(super::overlay::path(&state, "main"), text).unwrap();
            }
            let unconfirmed = Unconfirmed::new("old", &state, "main", 1000).unwrap();
            unconfirmed.store(&place).unwrap();
            assert_eq!(Unconfirmed::load(&place).unwrap(), Some(unconfirmed.clone()));
            fs::write(&file, "new").unwrap();
            fs::write(super::overlay::path(&state, "main"), "changed since").unwrap();
            for _ in 0..2 {
                unconfirmed.put_back(&file, &state, "main").unwrap();
                assert_eq!(fs::read_to_string(&file).unwrap(), "old");
                assert_eq!(fs::read_to_string(rejected(&file)).unwrap(), "new");
                assert_eq!(fs::read_to_string(super::overlay::path(&state, "main")).ok().as_deref(), overlay);
            }
        }
        Unconfirmed::remove(&place).unwrap();
        assert_eq!(Unconfirmed::load(&place).unwrap(), None);
    }

    #[test]
    fn the_deadline_is_over_when_it_has_passed_and_after_a_boot() {
        let directory = tempfile::tempdir().unwrap();
        let unconfirmed = Unconfirmed::new("", directory.path(), "main", 1000).unwrap();
        assert!(!unconfirmed.is_over(999) && unconfirmed.is_over(1000));
        assert!(!unconfirmed.until(2000).is_over(1000));
        assert!(Unconfirmed { boot: "another".to_owned(), ..unconfirmed }.is_over(0));
    }

    #[test]
    fn garbage_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let place = path(directory.path(), "main");
        for (garbage, expected) in [
            ("", "does not say what to go back to"),
            ("{\"version\": 1}", "missing field"),
            (r#"{"version": 9, "boot": "", "deadline_ms": 0, "file": "", "overlay": null}"#, "version 9"),
        ] {
            fs::write(&place, garbage).unwrap();
            let error = Unconfirmed::load(&place).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("move the file away"), "{error}");
        }
    }
}
