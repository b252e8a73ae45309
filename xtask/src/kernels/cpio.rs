//! Initial file systems for kernels: a cpio archive in the form "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst), made of files in memory and on this host.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Component, Path},
};

/// Types of files in a mode (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Writes one archive.
pub(crate) struct Cpio<W: Write> {
    out: W,
    /// What is in it: a name is written once.
    known: BTreeSet<String>,
    inode: u32,
}

impl<W: Write> Cpio<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, known: BTreeSet::new(), inode: 0 }
    }

    /// A directory, with those it lies in.
    pub(crate) fn directory(&mut self, path: &Path) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    pub(crate) fn symlink(&mut self, path: &Path, to: &str) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK | 0o777, (0, 0), to.as_bytes())
    }

    /// A character device by its numbers.
    pub(crate) fn device(&mut self, path: &Path, numbers: (u32, u32)) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, CHARACTER | 0o600, numbers, &[])
    }

    /// A file of that content.
    pub(crate) fn text(&mut self, path: &Path, content: &str) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, REGULAR | 0o644, (0, 0), content.as_bytes())
    }

    /// A file of this host under a name of its own, links followed.
    pub(crate) fn file(&mut self, path: &Path, source: &Path) -> io::Result<()> {
        self.parents(path)?;
        let mode = fs::metadata(source)?.permissions().mode() & 0o777;
        self.entry(path, REGULAR | mode, (0, 0), &fs::read(source)?)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.header("TRAILER!!!", 0, (0, 0), 0)?;
        self.out.flush()
    }

    fn parents(&mut self, path: &Path) -> io::Result<()> {
        let ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
        for ancestor in ancestors.into_iter().rev().filter(|path| path.components().any(is_name)) {
            self.entry(ancestor, DIRECTORY | 0o755, (0, 0), &[])?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let name = path.to_string_lossy().trim_start_matches('/').to_owned();
        if !self.known.insert(name.clone()) {
            return Ok(());
        }
        self.header(&name, mode, device, content.len())?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn header(&mut self, name: &str, mode: u32, device: (u32, u32), length: usize) -> io::Result<()> {
        self.inode += 1;
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        // inode, mode, owner, group, links, time, length, device, device of a device file, length of the name, check
        let fields = [self.inode, mode, 0, 0, 1, 0, length, 0, 0, device.0, device.1, name_size, 0]
            .map(|f| format!("{f:08x}"));
        let header = format!("070701{}{name}\0", fields.concat());
        self.out.write_all(header.as_bytes())?;
        self.pad(header.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..length.next_multiple_of(4) - length])
    }
}

fn is_name(component: Component<'_>) -> bool {
    matches!(component, Component::Normal(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(fill: impl FnOnce(&mut Cpio<&mut Vec<u8>>) -> io::Result<()>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut cpio = Cpio::new(&mut bytes);
        fill(&mut cpio).unwrap();
        cpio.finish().unwrap();
        bytes
    }

    #[test]
    fn a_file_is_written_after_its_directory_and_everything_begins_at_a_word() {
        let bytes = made(|cpio| cpio.text(Path::new("/etc/passwd"), "root"));
        assert_eq!(bytes.len() % 4, 0);
        let names: Vec<usize> = ["etc\0", "etc/passwd\0", "root", "TRAILER!!!\0"]
            .map(|name| find(&bytes, name.as_bytes()))
            .into();
        assert!(names.is_sorted(), "{names:?}");
        for (at, _) in bytes.windows(6).enumerate().filter(|(_, window)| window == b"070701") {
            assert_eq!(at % 4, 0);
        }
    }

    fn find(bytes: &[u8], name: &[u8]) -> usize {
        bytes.windows(name.len()).position(|window| window == name).unwrap()
    }

    #[test]
    fn a_name_is_written_once() {
        let once = made(|cpio| cpio.directory(Path::new("/a/b")));
        let twice = made(|cpio| {
            cpio.directory(Path::new("/a/b"))?;
            cpio.directory(Path::new("/a/b"))
        });
        assert_eq!(once, twice);
    }
}
