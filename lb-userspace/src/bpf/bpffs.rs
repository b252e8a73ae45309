//! Chooses the bpf file system for the pins, and finds out whether it outlives the process that pins. `ip netns exec`,
//! `unshare` and containers give a process mounts of its own. A bpf file system that is mounted there disappears with the last
//! process that sees it, and so does every pin and program.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::stat::{major, minor},
};

use super::pin::{BPFFS, PinError, is_bpf};

/// The bpf file system to use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its root, usually `/sys/fs/bpf`.
    pub root: PathBuf,
    /// It is not mounted yet.
    missing: bool,
    /// As far as this process can see, pins stay after the last process of this mount namespace has ended.
    pub lasting: bool,
}

impl Place {
    /// Finds it, and mounts nothing.
    ///
    /// In a mount namespace of our own the file system at the usual place may be hidden, for example by the new `/sys` of
    /// `ip netns exec`. Where the host's bpf file system is also mounted at another place, that place is used.
    pub fn find() -> Result<Self, PinError> {
        let usual = PathBuf::from(BPFFS);
        let there = usual.is_dir() && is_bpf(&usual)?;
        let outside = Outside::look();
        if there {
            let lasting = outside.as_ref().is_none_or(|outside| outside.sees(&usual));
            return Ok(Self { root: usual, missing: false, lasting });
        }
        match outside {
            Some(outside) => {
                let visible = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
                let elsewhere = outside.choose(&parse(&visible), is_reachable);
                Ok(elsewhere.map_or(Self { root: usual, missing: true, lasting: false }, |root| Self {
                    root,
                    missing: false,
                    lasting: true,
                }))
            }
            // Pid 1 here is the first process of a container: the container's mounts disappear with it.
            None => Ok(Self { root: usual, missing: true, lasting: std::process::id() != 1 }),
        }
    }

    /// Where instances have their pins.
    pub fn pins(&self) -> PathBuf {
        self.root.join("lb")
    }

    /// Mounts it where it is missing.
    pub fn mount(&self) -> Result<(), PinError> {
        if !self.missing || !self.root.is_dir() {
            // Without a directory to mount at, creating the pins reports what is missing.
            return Ok(());
        }
        mount(Some("bpf"), &self.root, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|errno| {
            PinError::Io {
                path: self.root.clone(),
                action: "mounting the bpf file system",
                source: errno.into(),
            }
        })?;
        log::info!("mounted the bpf file system at {}", self.root.display());
        Ok(())
    }
}

/// A mounted bpf file system.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mount {
    /// `major:minor`; one bpf file system has the same numbers at all its mount points.
    device: String,
    at: PathBuf,
}

/// The bpf file systems that the host's first process sees, where that process is in another mount namespace than ours.
struct Outside(Vec<Mount>);

impl Outside {
    /// `None` where our mounts are those of the first process, or where we may not read them. Mount numbers are unique in the
    /// kernel, not per namespace, so they show whether two namespaces are the same. Reading them needs fewer privileges than
    /// reading the name of the namespace.
    fn look() -> Option<Self> {
        let theirs = fs::read_to_string("/proc/1/mountinfo").ok()?;
        let ours = fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
        (!same_namespace(&ours, &theirs)).then(|| Self(parse(&theirs)))
    }

    fn sees(&self, root: &Path) -> bool {
        let device = device(root);
        self.0.iter().any(|mount| Some(&mount.device) == device.as_ref())
    }

    /// The place where we see the file system that the host has at the usual place; else the only bpf file system that both the
    /// host and we see.
    fn choose(&self, ours: &[Mount], usable: impl Fn(&Mount) -> bool) -> Option<PathBuf> {
        let both = |ours: &&Mount| usable(ours) && self.0.iter().any(|theirs| theirs.device == ours.device);
        let shared: Vec<&Mount> = ours.iter().filter(both).collect();
        let usual = self.0.iter().find(|theirs| theirs.at == Path::new(BPFFS));
        let same = shared.iter().find(|ours| usual.is_some_and(|usual| usual.device == ours.device));
        match (same, shared.as_slice()) {
            (Some(same), _) => Some(same.at.clone()),
            (None, [only]) => Some(only.at.clone()),
            (None, _) => None,
        }
    }
}

/// Whether the path of a mount leads to this mount: another mount may cover it.
fn is_reachable(mount: &Mount) -> bool {
    device(&mount.at).as_ref() == Some(&mount.device)
}

fn device(path: &Path) -> Option<String> {
    let device = fs::metadata(path).ok()?.dev();
    Some(format!("{}:{}", major(device), minor(device)))
}

/// Whether two `mountinfo` texts are of one mount namespace: only then do they have mounts in common.
fn same_namespace(ours: &str, theirs: &str) -> bool {
    fn numbers(text: &str) -> impl Iterator<Item = &str> {
        text.lines().filter_map(|line| line.split(' ').next())
    }
    let theirs: HashSet<&str> = numbers(theirs).collect();
    numbers(ours).any(|number| theirs.contains(number))
}

/// The bpf file systems of a `mountinfo` (proc_pid_mountinfo(5)) whose root is mounted, not a subdirectory.
fn parse(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (before, behind) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(2);
        let (device, root, at) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted = root == "/" && behind.split(' ').next() == Some("bpf");
        wanted.then(|| Mount { device: device.to_owned(), at: unescape(at).into() })
    };
    text.lines().filter_map(mount).collect()
}

/// `mountinfo` writes space, tab, line feed and backslash as octal numbers.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "\
24 1 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw
31 24 0:29 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700
40 1 0:29 /lb /run/part rw - bpf bpf rw
41 1 0:44 / /run/with\\040space rw - bpf none rw
";

    fn mount(device: &str, at: &str) -> Mount {
        Mount { device: device.to_owned(), at: at.into() }
    }

    #[test]
    fn whole_bpf_file_systems_are_found_in_mountinfo() {
        assert_eq!(parse(INFO), [mount("0:29", "/sys/fs/bpf"), mount("0:44", "/run/with space")]);
        assert_eq!(parse("nonsense\n1 2 3 - bpf\n"), []);
    }

    #[test]
    fn namespaces_are_identified_by_their_mounts() {
        assert!(same_namespace(INFO, INFO));
        assert!(same_namespace(INFO.lines().last().unwrap(), INFO), "a part of it, as after chroot");
        let other = INFO.replace("\n", "\n1").replacen("24", "124", 1);
        assert!(!same_namespace(&other, INFO), "{other}");
        assert!(!same_namespace("", INFO));
    }

    #[test]
    fn the_bpffs_of_the_host_is_used_wherever_mounted() {
        let outside = Outside(vec![mount("0:29", "/sys/fs/bpf"), mount("0:44", "/run/cni")]);
        let all = |_: &Mount| true;
        let both = [mount("0:44", "/run/cni"), mount("0:29", "/run/bpf")];
        assert_eq!(outside.choose(&both, all), Some("/run/bpf".into()));
        assert_eq!(outside.choose(&both[..1], all), Some("/run/cni".into()), "the only one");
        assert_eq!(outside.choose(&both, |_| false), None, "hidden ones");
        assert_eq!(outside.choose(&[mount("0:50", "/run/own")], all), None, "one that goes with us");
        let two = [mount("0:44", "/a"), mount("0:45", "/b")];
        let outside = Outside(two.to_vec());
        assert_eq!(outside.choose(&two, all), None, "no one says which of them");
    }
}
