//! One node of the lab: a network namespace, and how to be in it.
//!
//! Programs enter with `setns` between fork and exec, threads for themselves alone. `ip netns exec` would mount a fresh
//! `/sys` and hide the pins in bpffs.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::PathBuf,
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result};

/// Where iproute2 keeps named namespaces.
pub(super) const DIRECTORY: &str = "/run/netns";

/// A node that exists.
#[derive(Clone, Debug)]
pub struct Node {
    /// `client`, `router`, `balancer`, `backend-1`, …
    pub name: String,
    /// `<prefix>-<name>`
    pub namespace: String,
    handle: Arc<File>,
}

impl Node {
    /// Opens a namespace that exists.
    pub fn open(name: &str, namespace: &str) -> Result<Self> {
        let path = PathBuf::from(DIRECTORY).join(namespace);
        let handle = File::open(&path)
            .with_context(|| format!("node {name}: cannot open {}; is the lab up?", path.display()))?;
        Ok(Self { name: name.to_owned(), namespace: namespace.to_owned(), handle: Arc::new(handle) })
    }

    /// The namespace's number, as in `/proc/<pid>/ns/net`.
    pub fn inode(&self) -> Result<u64> {
        Ok(self.handle.metadata()?.ino())
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.place(&mut command);
        command
    }

    /// Makes a command run inside.
    pub fn place(&self, command: &mut Command) {
        let handle = Arc::clone(&self.handle);
        // SAFETY: setns is a plain system call, which is all a forked child may do before exec; the descriptor is
        // owned by the closure.
        unsafe {
            command.pre_exec(move || set_namespace(handle.as_raw_fd()));
        }
    }

    /// Runs `work` on a thread of its own that is inside. Programs that thread starts are inside too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let handle = &self.handle;
        let entered = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    set_namespace(handle.as_raw_fd())?;
                    Ok::<T, io::Error>(work())
                })
                .join()
        });
        match entered {
            Ok(result) => result.with_context(|| format!("node {}: cannot enter its namespace", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Moves the calling thread inside, for the rest of its life.
    pub fn move_thread(&self) -> Result<()> {
        set_namespace(self.handle.as_raw_fd())
            .with_context(|| format!("node {}: cannot enter its namespace", self.name))
    }
}

fn set_namespace(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns has no memory arguments; it changes the calling thread only.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
