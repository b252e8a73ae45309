//! Files that are written whole or not at all, and are still there after the power was lost.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use crate::fault::{self, Kind};

/// Replaces what is at `path`, a link's target where it is one. Owner and mode stay; a new file gets `mode`.
///
/// The new contents are written beside the file, synced, and renamed over it, and the directory is synced
/// (rename(2) replaces atomically; only the directory's fsync makes it last).
pub(super) fn write(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let path = &target(path)?;
    let temporary = beside(path)?;
    let result = write_new(&temporary, path, contents, mode)
        .and_then(|()| fault::point(Kind::File))
        .and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // It is the first error that counts.
        let _ = fs::remove_file(&temporary);
    }
    result?;
    sync_directory(path)
}

/// Takes a file away for good; one that is not there is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    fault::point(Kind::File)?;
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

fn write_new(temporary: &Path, path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    // What a process of our number left behind when it was killed.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for left in left_behind(path) {
        // It is in nobody's way; the next write tries again.
        let _ = fs::remove_file(left);
    }
    fault::point(Kind::File)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    fault::point(Kind::File)?;
    file.write_all(contents)?;
    fault::point(Kind::File)?;
    match fs::metadata(path) {
        Ok(old) => {
            let new = file.metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Err(error) => return Err(error),
    }
    file.sync_all()
}

fn target(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(path.to_owned()),
        other => other,
    }
}

/// In the same directory, since rename(2) does not cross file systems. Named after the process, so that two do not meet.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no file name"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}{TEMPORARY}", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// What the names of such files end in.
const TEMPORARY: &str = ".tmp";

/// Such files of processes that are gone: one that is killed between two steps takes nothing away.
fn left_behind(path: &Path) -> Vec<PathBuf> {
    let (Some(name), Some(directory)) = (path.file_name(), path.parent()) else { return Vec::new() };
    let process = |entry: &OsStr| -> Option<u32> {
        let entry = entry.as_bytes().strip_prefix(b".")?.strip_prefix(name.as_bytes())?.strip_prefix(b".")?;
        str::from_utf8(entry.strip_suffix(TEMPORARY.as_bytes())?).ok()?.parse().ok()
    };
    let gone = |process: u32| !Path::new(&format!("/proc/{process}")).exists();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| process(&entry.file_name()).is_some_and(gone)).map(|entry| entry.path()).collect()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fault::point(Kind::File)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_replaced_and_mode_and_link_stay() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let link = directory.path().join("link");
        write(&file, b"one", 0o640).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        fs::set_permissions(&file, Permissions::from_mode(0o604)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"two", 0o640).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o604);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn nothing_is_left_beside_the_file_even_from_a_crash_or_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(beside(&file).unwrap(), "left behind").unwrap();
        write(&file, b"one", 0o600).unwrap();
        // A directory in the file's place cannot be renamed over.
        let taken = directory.path().join("taken");
        fs::create_dir_all(taken.join("full")).unwrap();
        assert!(write(&taken, b"two", 0o600).is_err());
        let names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn what_killed_processes_left_beside_the_file_is_taken_away_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        // The largest number a process may have is 2^22 (proc(5), pid_max).
        let (dead, living) =
            (".file.99999999.tmp", format!(".file.{}.tmp", std::os::unix::process::parent_id()));
        let others =
            [living.as_str(), ".file.x.tmp", ".files.99999999.tmp", "file.99999999.tmp", ".file.99999999"];
        for name in others.iter().chain([&dead]) {
            fs::write(directory.path().join(name), "left behind").unwrap();
        }
        write(&file, b"one", 0o600).unwrap();
        assert!(!directory.path().join(dead).exists());
        for name in others {
            assert!(directory.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_removed_already() {
        let directory = tempfile::tempdir().unwrap();
        remove(&directory.path().join("nothing")).unwrap();
    }
}
