//! Files that are written whole or not at all, and are still there after the power was lost.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
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

/// In the same directory, since rename(2) does not cross file systems.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
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
    fn what_is_not_there_is_removed_already() {
        let directory = tempfile::tempdir().unwrap();
        remove(&directory.path().join("nothing")).unwrap();
    }
}
