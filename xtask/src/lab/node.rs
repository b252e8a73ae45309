//! One node of the lab: a network namespace and a bpffs of its own, and how to be in them.
//!
//! Programs enter between fork and exec: the network namespace, and a mount namespace of their own in which the node's
//! bpffs lies at `/sys/fs/bpf`. So nodes see each other's pins as little as hosts do, and the host's are left alone.
//! Threads enter the network namespace only.

use std::{
    ffi::{CStr, CString, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result};

/// Where programs expect bpffs.
const PLACE: &CStr = c"/sys/fs/bpf";

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
    bpffs: Arc<CString>,
}

impl Node {
    /// Opens a node that exists.
    pub fn open(name: &str, namespace: &str, bpffs: &Path) -> Result<Self> {
        let path = PathBuf::from(DIRECTORY).join(namespace);
        let handle = File::open(&path)
            .with_context(|| format!("node {name}: cannot open {}; is the lab up?", path.display()))?;
        let bpffs = CString::new(bpffs.as_os_str().as_encoded_bytes())?;
        Ok(Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            handle: Arc::new(handle),
            bpffs: Arc::new(bpffs),
        })
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
        let (handle, bpffs) = (Arc::clone(&self.handle), Arc::clone(&self.bpffs));
        // SAFETY: what is called are plain system calls, which is all a forked child may do before exec; descriptor and
        // path are owned by the closure.
        unsafe {
            command.pre_exec(move || {
                unblock_signals()?;
                set_namespace(handle.as_raw_fd())?;
                set_bpffs(&bpffs)
            });
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

/// Programs inherit the mask of the process that starts them, and `interrupt` blocks signals that are to end them.
fn unblock_signals() -> io::Result<()> {
    nix::sys::signal::SigSet::empty().thread_set_mask().map_err(io::Error::from)
}

fn set_namespace(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns has no memory arguments; it changes the calling thread only.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A mount namespace of the calling process's own, with `bpffs` at the usual place. The place may not exist, in a
/// container say; then there is nothing to hide there either, and the command that needs it will say so.
fn set_bpffs(bpffs: &CStr) -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: unshare has no memory arguments; the strings given to mount are terminated and live until it returns.
    let mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
            && libc::mount(bpffs.as_ptr(), PLACE.as_ptr(), none, libc::MS_BIND, none.cast()) == 0
    };
    let error = io::Error::last_os_error();
    if mounted || error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
}
