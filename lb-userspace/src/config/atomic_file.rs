//! Files that are written whole or not at all, and that survive a power loss.

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

/// Replaces the file at `path`; where `path` is a symbolic link, its target. Owner and mode stay; a new file gets `mode`.
///
/// The new contents are written to a temporary file in the same directory, synced, and renamed over the file. Then the
/// directory is synced: rename(2) replaces atomically, but only the directory's fsync makes the rename durable.
pub(super) fn write(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let path = &target(path)?;
    let temporary = temporary_name(path)?;
    let result = write_new(&temporary, path, contents, mode)
        .and_then(|()| fault::point(Kind::File))
        .and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // Report the first error, not one of this cleanup.
        let _ = fs::remove_file(&temporary);
    }
    result?;
    sync_directory(path)
}

/// Removes a file durably. A file that does not exist is not an error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    fault::point(Kind::File)?;
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

fn write_new(temporary: &Path, path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    // A temporary file of an earlier process with our pid, which was killed.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for left in left_behind(path) {
        // A file that stays does no harm; the next write tries again.
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

/// The temporary file: in the same directory, since rename(2) does not cross file systems. Its name has the pid, so that two
/// processes do not write the same file.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no file name"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}{TEMPORARY}", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// The suffix of temporary files.
const TEMPORARY: &str = ".tmp";

/// Temporary files of processes that are gone: a process that is killed between two steps does not remove its file.
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
    fn no_temporary_file_is_left_after_crash_or_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(temporary_name(&file).unwrap(), "left behind").unwrap();
        write(&file, b"one", 0o600).unwrap();
        // rename(2) cannot replace a directory by a file.
        let taken = directory.path().join("taken");
        fs::create_dir_all(taken.join("full")).unwrap();
        assert!(write(&taken, b"two", 0o600).is_err());
        let names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn only_temporary_files_of_dead_processes_are_removed() {
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
