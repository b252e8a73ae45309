//! Whether a configuration file can be trusted: the agent does as root what the file says, and the file holds the seed. So a
//! file that every user may change does not come into force, no matter whether a user can write into it or replace it.
//!
//! Write permission for a group is the operator's choice, like `node.socket_group`: the group's members have root's power over
//! the balancer.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

const OTHERS_WRITE: u32 = 0o002;
/// In a sticky directory a user can remove and rename only the user's own files.
const STICKY: u32 = 0o1000;

/// Why an open file cannot be trusted, and what to do; `None` = it can.
pub(super) fn refusal(path: &Path, file: &File) -> io::Result<Option<String>> {
    let shown = |path: &Path| path.display().to_string();
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if !kind.is_file() && !kind.is_fifo() {
        return Ok(None);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Ok(Some(format!(
            "every user may change this file (mode {mode:04o}), and the agent does as root what it says: \
             chmod o-w {}",
            shown(path)
        )));
    }
    let open = |metadata: &Metadata| metadata.mode() & OTHERS_WRITE != 0 && metadata.mode() & STICKY == 0;
    // For a symbolic link both directories count: that of the link, and that of its target.
    let named = fs::canonicalize(path).ok().filter(|_| kind.is_file());
    for path in named.into_iter().flat_map(|target| [path.to_owned(), target]) {
        let directory = directory(&path);
        let metadata = fs::metadata(&directory)?;
        if metadata.is_dir() && open(&metadata) {
            return Ok(Some(format!(
                "every user may put another file in its place ({} has mode {:04o}): chmod o-w {}",
                shown(&directory),
                metadata.mode() & 0o7777,
                shown(&directory)
            )));
        }
    }
    Ok(None)
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn refused(path: &Path) -> Option<String> {
        refusal(path, &File::open(path).unwrap()).unwrap()
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_world_writable_file_is_refused_with_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lb.toml");
        fs::write(&file, "").unwrap();
        for (bits, wrong) in [(0o600, false), (0o640, false), (0o664, false), (0o666, true), (0o602, true)] {
            mode(&file, bits);
            assert_eq!(refused(&file).is_some(), wrong, "{bits:o}");
        }
        let why = refused(&file).unwrap();
        assert!(why.contains("mode 0602") && why.contains("chmod o-w /"), "{why}");
    }

    #[test]
    fn a_replaceable_file_is_refused_behind_a_link_too() {
        let (safe, open) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (file, link) = (open.path().join("lb.toml"), safe.path().join("lb.toml"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!((refused(&file), refused(&link)), (None, None));
        mode(open.path(), 0o777);
        for path in [&file, &link] {
            assert!(refused(path).unwrap().contains("put another file in its place"));
        }
        mode(open.path(), 0o1777);
        assert_eq!(refused(&link), None, "only its owner may");
    }
}
