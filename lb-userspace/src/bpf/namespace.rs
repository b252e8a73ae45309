//! Identifies the network namespace. The identity is recorded with the pins: so an agent or `lbd decap` in another namespace
//! that shares the bpf file system can distinguish them from its own pins. [`super::owner`] decides what to do.

use std::{fmt, fs, io, os::unix::fs::MetadataExt as _, path::Path, str::FromStr};

use super::sys;

/// The directory in which `ip netns` keeps named namespaces.
const NAMED: &str = "/run/netns";

/// A network namespace. The kernel never assigns a cookie twice while the host runs (kernel 5.14 and later). The inode number
/// may be used again for another namespace after this one is gone; older kernels have nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Namespace {
    cookie: Option<u64>,
    inode: u64,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        let inode = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(Self { cookie: sys::namespace_cookie().ok(), inode })
    }

    /// Whether both are the same namespace: by the cookies where both have one, else by the inode numbers.
    pub fn is(&self, other: &Self) -> bool {
        match (self.cookie, other.cookie) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.inode == other.inode,
        }
    }

    /// A text for people: the name, where the namespace has one, and the numbers.
    pub fn describe(&self) -> String {
        let name =
            if self.is_of(Path::new("/proc/1/ns/net")) { Some("the host's".to_owned()) } else { self.name() };
        match name {
            Some(name) => format!("{name}, {self}"),
            None => self.to_string(),
        }
    }

    fn name(&self) -> Option<String> {
        let entries = fs::read_dir(NAMED).ok()?;
        let found = entries.flatten().find(|entry| self.is_of(&entry.path()))?;
        Some(format!("named {}", found.file_name().to_string_lossy()))
    }

    fn is_of(&self, file: &Path) -> bool {
        fs::metadata(file).is_ok_and(|metadata| metadata.ino() == self.inode)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cookie {
            Some(cookie) => write!(f, "cookie {cookie}, inode {}", self.inode),
            None => write!(f, "inode {}", self.inode),
        }
    }
}

impl FromStr for Namespace {
    type Err = ();

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: &str, word: &str| part.strip_prefix(word)?.trim().parse().ok();
        let (cookie, inode) = match text.split_once(", ") {
            Some((cookie, inode)) => (Some(number(cookie, "cookie ").ok_or(())?), inode),
            None => (None, text),
        };
        Ok(Self { cookie, inode: number(inode, "inode ").ok_or(())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for namespace in [
            Namespace { cookie: Some(4711), inode: 4_026_531_840 },
            Namespace { cookie: None, inode: 4_026_531_840 },
        ] {
            assert_eq!(namespace.to_string().parse(), Ok(namespace));
        }
        for garbage in ["", "cookie 1", "inode", "inode x", "cookie 1, inode ", "cookie , inode 1"] {
            assert_eq!(garbage.parse::<Namespace>(), Err(()), "{garbage}");
        }
    }

    #[test]
    fn a_reused_namespace_number_differs_by_its_cookie() {
        let first = Namespace { cookie: Some(1), inode: 7 };
        assert!(!first.is(&Namespace { cookie: Some(2), inode: 7 }));
        assert!(first.is(&Namespace { cookie: None, inode: 7 }));
        assert!(!first.is(&Namespace { cookie: None, inode: 8 }));
    }

    #[test]
    fn the_namespace_we_are_in_is_the_same_at_every_look() {
        let here = Namespace::current().unwrap();
        assert!(here.is(&Namespace::current().unwrap()));
    }
}
