//! Where maps and links are pinned, and the states in which a pin directory can be.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt, symlink},
    },
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use lb_common::map::name;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{
    map_shapes::{FORMER, PINNED},
    namespace::Namespace,
    sys::{self, XdpLinkInfo},
};
use crate::fault::{self, Kind};

/// The usual mount point of the bpf file system.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// The record of the network namespace that the pins belong to.
const NAMESPACE: &str = "netns";

/// Before its number, the record of a program that uses new maps.
const PROGRAM: &str = "program-";

/// Maps of ours that do not belong to the layout that the balancer and the agent share.
const APART: [&str; 3] = [name::LOSSES, name::LOSS_PROGRAMS, name::DECAP];

/// Errors with files of the bpf file system.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("{path}: {action} failed: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error(
        "{path} is not on a bpf file system, so nothing would outlive the agent there; \
         mount one: mount -t bpf bpf {BPFFS}"
    )]
    NotBpf { path: PathBuf },
    #[error(
        "{path} belongs to user {owner}, who could change what is pinned there at any time; \
         if no one needs it, remove it: rm -r {path}"
    )]
    Foreign { path: PathBuf, owner: u32 },
    #[error(
        "{path}: {} uses these pins, from another container or mount namespace; stop it, or give this one \
         another --instance",
        .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "{path} has mode {mode:o}, so others could change what is pinned there at any time; \
         if no one did: chmod 0700 {path}"
    )]
    Writable { path: PathBuf, mode: u32 },
}

/// Fails if a user other than us and root could change the content of this directory. Every user may make a directory in the
/// bpf file system, whose root has mode 1777.
fn only_ours(path: &Path) -> Result<(), PinError> {
    let data = fs::metadata(path).map_err(failed(path, "looking at the directory"))?;
    let (owner, mode) = (data.uid(), data.mode() & 0o7777);
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(PinError::Foreign { path: path.to_owned(), owner });
    }
    if mode & 0o022 != 0 {
        return Err(PinError::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Whether this directory is the root of the bpf file system: the directory above is then on another file system.
fn is_root_of_bpf(path: &Path) -> bool {
    path.parent().is_none_or(|above| !is_bpf(above).unwrap_or(false))
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Io { path, action, source }
}

/// The pin directory of one instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinDirectory(PathBuf);

/// The content of a pin directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Names of the pinned maps that are ours ([`PINNED`]).
    pub maps: Vec<&'static str>,
    /// The same of maps that only earlier versions pinned ([`FORMER`]).
    pub former: Vec<&'static str>,
    /// Paths of pinned links of the balancer's program.
    pub links: Vec<PathBuf>,
    /// Paths of pinned links of `lb_pass`.
    pub passes: Vec<PathBuf>,
    /// Numbers of the programs that use the maps here, as far as they were recorded.
    pub programs: Vec<u32>,
}

impl Found {
    pub fn is_empty(&self) -> bool {
        self.maps.is_empty() && self.links.is_empty()
    }

    /// Whether all maps are there.
    pub fn is_complete(&self) -> bool {
        self.maps.len() == PINNED.len()
    }
}

impl PinDirectory {
    /// `path` is the instance's directory itself, for example `/sys/fs/bpf/lb/main`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of the new maps while the content of these is carried over.
    pub(crate) fn staging(&self) -> Self {
        Self(self.0.join("next"))
    }

    /// The directory of single new maps that are added to the others.
    pub(crate) fn additions(&self) -> Self {
        Self(self.0.join("added"))
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The pin of the link that holds the balancer's program on an interface.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.0.join(format!("link-{}", escape(interface)))
    }

    /// The pin of the link that holds `lb_pass` on an interface.
    pub fn pass(&self, interface: &str) -> PathBuf {
        self.0.join(format!("pass-{}", escape(interface)))
    }

    /// The pin of the link that counts losses at a tracepoint.
    pub fn loss(&self, tracepoint: &str) -> PathBuf {
        self.0.join(format!("loss-{tracepoint}"))
    }

    /// Interfaces that hold `lb_pass` by a pinned link.
    pub fn passing(&self) -> Result<Vec<String>, PinError> {
        let name = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?.strip_prefix("pass-")?;
            Some(unescape(name))
        };
        Ok(self.inspect()?.passes.iter().filter_map(name).collect())
    }

    /// The network namespace that this thread is in.
    pub(crate) fn here(&self) -> Result<Namespace, PinError> {
        Namespace::current().map_err(failed(&self.0, "asking which network namespace this is"))
    }

    /// The network namespace that is recorded here; `None` = there is no record, as with pins of earlier versions.
    pub(crate) fn namespace(&self) -> Result<Option<Namespace>, PinError> {
        match fs::read_link(self.0.join(NAMESPACE)) {
            Ok(text) => Ok(text.to_str().and_then(|text| text.parse().ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&self.0.join(NAMESPACE), "reading the record")(error)),
        }
    }

    /// Records that these pins belong to this network namespace. The bpf file system has no text files, but it has symbolic
    /// links, and the target of a link can be any text.
    pub(crate) fn record(&self) -> Result<(), PinError> {
        let (here, path) = (self.here()?, self.0.join(NAMESPACE));
        if self.namespace()?.is_some_and(|recorded| recorded == here) {
            return Ok(());
        }
        fault::point(Kind::Pin).map_err(failed(&path, "recording the network namespace"))?;
        self.unlink(NAMESPACE)?;
        symlink(here.to_string(), &path).map_err(failed(&path, "recording the network namespace"))
    }

    /// Records that a program uses the maps here, or is about to. The kernel tells which maps a program uses only where the
    /// agent has CAP_SYS_ADMIN.
    pub(crate) fn record_program(&self, number: u32) -> Result<(), PinError> {
        let path = self.0.join(format!("{PROGRAM}{number}"));
        fault::point(Kind::Pin).map_err(failed(&path, "recording the program"))?;
        symlink("uses", &path).map_err(failed(&path, "recording the program"))
    }

    /// Removes the records; missing ones are not an error.
    pub(crate) fn forget(&self) -> Result<(), PinError> {
        self.inspect()?.programs.iter().try_for_each(|number| self.unlink(&format!("{PROGRAM}{number}")))?;
        self.unlink(NAMESPACE)
    }

    fn unlink(&self, record: &str) -> Result<(), PinError> {
        let path = self.0.join(record);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(&path, "removing the record")(error))
            }
            _ => Ok(()),
        }
    }

    /// Keeps other processes from using these pins while the lock lives. This includes processes in other containers, which see
    /// neither our lock file nor our process. `None` = there is no such directory.
    pub fn lock(&self) -> Result<Option<Flock<File>>, PinError> {
        loop {
            let directory = match File::open(&self.0) {
                Ok(directory) => directory,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(&self.0, "opening the directory")(error)),
            };
            let inode = |data: fs::Metadata| (data.dev(), data.ino());
            let ours =
                directory.metadata().map(inode).map_err(failed(&self.0, "looking at the directory"))?;
            let lock = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(PinError::Locked { path: self.0.clone(), pid: locked_by(ours.1) });
                }
                Err((_, errno)) => return Err(failed(&self.0, "locking the directory")(errno.into())),
            };
            // The previous holder may have removed the directory, and another process may have made it again: then this lock is
            // on a directory that no longer has this path.
            if fs::metadata(&self.0).map(inode).is_ok_and(|now| now == ours) {
                return Ok(Some(lock));
            }
        }
    }

    /// The content of the directory. It is empty when the directory does not exist.
    pub fn inspect(&self) -> Result<Found, PinError> {
        let mut found = Found::default();
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(failed(&self.0, "reading the directory")(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed(&self.0, "reading the directory"))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(map) = PINNED.iter().find(|map| **map == name) {
                found.maps.push(map);
            } else if let Some(map) = FORMER.iter().find(|map| **map == name) {
                found.former.push(map);
            } else if name.starts_with("link-") {
                found.links.push(entry.path());
            } else if name.starts_with("pass-") {
                found.passes.push(entry.path());
            } else if let Some(number) = name.strip_prefix(PROGRAM).and_then(|number| number.parse().ok()) {
                found.programs.push(number);
            }
        }
        found.links.sort();
        found.passes.sort();
        Ok(found)
    }

    /// Makes the directory, and mounts the bpf file system at its usual place where it is missing.
    pub fn create(&self) -> Result<(), PinError> {
        let existing = self.0.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        if !is_bpf(existing)? {
            if existing != Path::new(BPFFS) {
                return Err(PinError::NotBpf { path: self.0.clone() });
            }
            mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
                .map_err(|errno| failed(existing, "mounting the bpf file system")(errno.into()))?;
            log::info!("mounted the bpf file system at {BPFFS}");
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.0).map_err(failed(&self.0, "making the directory"))?;
        // Check the outermost directory first: the others are not safe while another user can replace an outer one.
        let below: Vec<&Path> = self.0.ancestors().take_while(|path| !is_root_of_bpf(path)).collect();
        below.into_iter().rev().try_for_each(only_ours)
    }

    /// Takes every program off its interface, removes every pin and the directory. A missing directory is not an error. Files
    /// that are not ours stay, and so does the directory then. Returns the numbers of links and maps that there were.
    pub fn remove(&self) -> Result<(usize, usize), PinError> {
        let counts = self.empty()?;
        self.forget()?;
        match fs::remove_dir(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                log::warn!("{} holds pins that are not ours; they are left", self.0.display());
            }
            Err(error) => return Err(failed(&self.0, "removing the directory")(error)),
        }
        Ok(counts)
    }

    /// The same, but the directory stays, with its lock and the record of its network namespace.
    pub(crate) fn empty(&self) -> Result<(usize, usize), PinError> {
        let found = self.inspect()?;
        for link in found.links.iter().chain(&found.passes) {
            remove_link(link)?;
        }
        self.remove_losses()?;
        // New maps of an unfinished start: they were not in force yet, or not all of them were moved.
        for unfinished in [self.staging(), self.additions()] {
            if unfinished.0.is_dir() {
                unfinished.remove()?;
            }
        }
        self.remove_unknown()?;
        // `NODE` shows whether the other maps are valid, so it is removed last.
        let (last, first): (Vec<_>, Vec<_>) = found.maps.iter().partition(|map| **map == name::NODE);
        for map in found.former.iter().chain(first).chain(last) {
            let path = self.map(map);
            fault::point(Kind::Pin).map_err(failed(&path, "removing the pin"))?;
            fs::remove_file(&path).map_err(failed(&path, "removing the pin"))?;
        }
        Ok((found.links.len(), found.maps.len()))
    }
}

impl PinDirectory {
    /// Removes the pins of maps that only earlier versions pinned.
    pub(crate) fn remove_former(&self) -> Result<(), PinError> {
        for map in self.inspect()?.former {
            let path = self.map(map);
            fault::point(Kind::Pin).map_err(failed(&path, "removing the pin"))?;
            fs::remove_file(&path).map_err(failed(&path, "removing the pin"))?;
        }
        Ok(())
    }

    /// Removes the pins of maps that only a younger build of our version has. These follow from the other maps, by the rule
    /// of [`lb_common::ABI_VERSION`], and are not kept in step by an agent that does not know them: that build makes them again.
    pub(crate) fn remove_unknown(&self) -> Result<(), PinError> {
        for path in self.unknown()? {
            log::info!("{}: the map of a younger build is removed, which makes it again", path.display());
            fault::point(Kind::Pin).map_err(failed(&path, "removing the pin"))?;
            fs::remove_file(&path).map_err(failed(&path, "removing the pin"))?;
        }
        Ok(())
    }

    /// Pinned maps under their own names, where the name is of the form of ours and none that this build knows. What else is
    /// in the directory is not ours.
    fn unknown(&self) -> Result<Vec<PathBuf>, PinError> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed(&self.0, "reading the directory"))?,
        };
        let mut unknown = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed(&self.0, "reading the directory"))?;
            let (name, path) = (entry.file_name(), entry.path());
            let Some(name) = name.to_str() else { continue };
            let is_ours = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            let is_known = [&PINNED[..], &FORMER, &APART].iter().any(|maps| maps.contains(&name));
            if is_known || !name.bytes().all(is_ours) {
                continue;
            }
            let info = MapData::from_pin(&path).and_then(|map| map.info());
            if info.is_ok_and(|info| info.name_as_str() == Some(name)) {
                unknown.push(path);
            }
        }
        Ok(unknown)
    }

    /// Takes off the programs that count losses, and removes the counts. Not an error when there are none.
    pub(crate) fn remove_losses(&self) -> Result<(), PinError> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed(&self.0, "reading the directory"))?,
        };
        for entry in entries {
            let entry = entry.map_err(failed(&self.0, "reading the directory"))?;
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            if name.starts_with("loss-") || name == name::LOSSES || name == name::LOSS_PROGRAMS {
                fault::point(Kind::Pin).map_err(failed(&path, "removing the pin"))?;
                fs::remove_file(&path).map_err(failed(&path, "removing the pin"))?;
            }
        }
        Ok(())
    }
}

/// The process that has locked a file; `None` = this process cannot see it.
fn locked_by(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 4711 00:1d:5678 0 EOF`
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, "FLOCK", _, _, pid, file, ..] = words.as_slice() else { return None };
        let of_file = file.rsplit(':').next()?.parse() == Ok(inode);
        pid.parse().ok().filter(|pid| of_file && *pid > 0)
    };
    locks.lines().find_map(holder)
}

/// The name of the pin directory in `base` whose link holds a program on an interface.
pub(crate) fn holder(base: &Path, wanted: XdpLinkInfo) -> Option<String> {
    let directories = fs::read_dir(base).ok()?.flatten();
    let holds = |pins: &PinDirectory| {
        let links = pins.inspect().map(|found| found.links).unwrap_or_default();
        links.iter().any(|link| {
            let info = sys::open_pin(link).and_then(|link| sys::xdp_link_info(link.as_fd()));
            info.is_ok_and(|info| info == Some(wanted))
        })
    };
    let found = directories.map(|entry| entry.path()).find(|path| holds(&PinDirectory::new(path)))?;
    Some(found.file_name()?.to_string_lossy().into_owned())
}

/// Takes a link off its interface and removes its pin.
pub fn remove_link(path: &Path) -> Result<(), PinError> {
    let link = sys::open_pin(path).map_err(failed(path, "opening the pinned link"))?;
    fault::point(Kind::Link).map_err(failed(path, "detaching the link"))?;
    // Detach explicitly: an agent that still runs holds the link open, so removing the pin would not detach it.
    match sys::detach_link(link.as_fd()) {
        Ok(()) => {}
        // The interface is gone, or the kernel is older than 5.9: the link disappears with its last holder.
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOLINK | nix::libc::EINVAL)) => {}
        Err(error) => log::debug!("{}: detaching the link: {error}", path.display()),
    }
    fault::point(Kind::Pin).map_err(failed(path, "removing the pin"))?;
    fs::remove_file(path).map_err(failed(path, "removing the pin"))
}

pub(crate) fn is_bpf(path: &Path) -> Result<bool, PinError> {
    let statistics =
        statfs(path).map_err(|errno| failed(path, "asking for the file system")(errno.into()))?;
    Ok(statistics.filesystem_type() == BPF_FS_MAGIC)
}

/// Escapes an interface name for a pin: the bpf file system refuses dots in names, and VLAN interfaces have dots.
pub(crate) fn escape(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn unescape(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_vlan_interfaces_can_be_pinned_and_stay_distinct() {
        let pins = PinDirectory::new("/sys/fs/bpf/lb/main");
        assert_eq!(pins.link("eth0"), Path::new("/sys/fs/bpf/lb/main/link-eth0"));
        assert_eq!(pins.link("eth0.7"), Path::new("/sys/fs/bpf/lb/main/link-eth0%2e7"));
        assert_ne!(pins.link("eth0.7"), pins.link("eth0%2e7"));
        for name in ["eth0", "eth0.7", "eth0%2e7", "a%25b"] {
            assert_eq!(unescape(&escape(name)), name);
        }
    }

    #[test]
    fn what_does_not_exist_is_empty_and_removed_already() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(directory.path().join("none"));
        assert!(pins.inspect().unwrap().is_empty());
        assert_eq!(pins.remove().unwrap(), (0, 0));
    }

    #[test]
    fn another_file_system_is_refused_with_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let error = PinDirectory::new(directory.path().join("lb/main")).create().unwrap_err();
        assert!(error.to_string().contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
    }
}
