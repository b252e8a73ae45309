//! The control socket as a file: made with the right owner and mode from its first moment, a stale one replaced,
//! removed when dropped. What is spoken over it lives in `server`.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
            net,
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket},
        stat::{Mode, fchmod},
    },
    unistd::{Gid, Group, chown},
};
use tokio::net::UnixListener;

/// Only owner and group may connect.
const MODE: u32 = 0o660;
/// Of the directory, where it has to be made.
const DIRECTORY_MODE: u32 = 0o755;
/// `sun_path` with its closing zero byte (unix(7)).
const PATH_MAX_BYTES: usize = 107;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "control socket {path}: the path has {length} bytes, more than the {PATH_MAX_BYTES} a socket may have; choose a shorter one"
    )]
    TooLong { path: PathBuf, length: usize },
    #[error(
        "control socket {path}: an agent answers there already; stop it first, or give this one another instance name"
    )]
    InUse { path: PathBuf },
    #[error("control socket {path}: exists and is not a socket; move it away")]
    NotASocket { path: PathBuf },
    #[error(
        "control socket {path}: there is no group `{group}` on this host; create it (`groupadd {group}`) or change node.socket_group"
    )]
    UnknownGroup { path: PathBuf, group: String },
    #[error("control socket {path}: cannot {action}: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
}

/// A bound control socket. Its file goes away with it, unless another took its place meanwhile.
#[derive(Debug)]
pub struct Socket {
    file: File,
    group: Option<String>,
    listener: UnixListener,
}

/// A socket that was bound, known by its file.
#[derive(Debug)]
pub struct Bound {
    device: u64,
    inode: u64,
    /// The group that may use it.
    group: Option<String>,
}

impl Bound {
    /// Whether the file at `path` is still that of the socket.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode))
    }

    pub fn is_for(&self, group: &str) -> bool {
        self.group.as_deref() == Some(group)
    }

    /// Lets a group use it.
    ///
    /// # Errors
    /// There is no such group, or the file cannot be given to it.
    pub fn give_to(&mut self, path: &Path, group: &str) -> Result<(), SocketError> {
        let gid = gid_of(path, group)?;
        chown(path, None, Some(gid)).map_err(failed(path, "give it to the group"))?;
        self.group = Some(group.to_owned());
        Ok(())
    }
}

fn gid_of(path: &Path, group: &str) -> Result<Gid, SocketError> {
    let found = Group::from_name(group).map_err(failed(path, "look the group up"))?;
    let unknown = || SocketError::UnknownGroup { path: path.into(), group: group.into() };
    found.map(|group| group.gid).ok_or_else(unknown)
}

impl Socket {
    /// Makes the socket at `path`, and its directory (0755) where that is missing. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`SocketError`]; then nothing of ours is left at `path`.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let length = path.as_os_str().as_bytes().len();
        if length > PATH_MAX_BYTES {
            return Err(SocketError::TooLong { path: path.into(), length });
        }
        let gid = group.map(|group| gid_of(path, group)).transpose()?;
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(directory)
                .map_err(failed(path, "make its directory"))?;
        }
        remove_stale(path)?;

        let descriptor = stream_socket().map_err(failed(path, "open a socket"))?;
        // Linux gives the file of a bound socket the socket's own mode (net/unix/af_unix.c, unix_bind_bsd): set before,
        // it is never open to others, and the umask, which the whole process shares, stays as it is.
        fchmod(&descriptor, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed(path, "set its mode"))?;
        let address = UnixAddr::new(path).map_err(failed(path, "use it as an address"))?;
        bind(descriptor.as_raw_fd(), &address).map_err(|errno| match errno {
            Errno::EADDRINUSE => SocketError::InUse { path: path.into() },
            other => failed(path, "bind it")(other),
        })?;
        let file = File::of(path).map_err(failed(path, "look at it"))?;
        if gid.is_some() {
            chown(path, None, gid).map_err(failed(path, "give it to the group"))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed(path, "set its mode"))?;
        listen(&descriptor, Backlog::MAXCONN).map_err(failed(path, "listen at it"))?;
        let listener =
            UnixListener::from_std(net::UnixListener::from(descriptor)).map_err(failed(path, "watch it"))?;
        Ok(Self { file, group: group.map(str::to_owned), listener })
    }

    /// What to know it by later.
    pub fn bound(&self) -> Bound {
        let File { path: _, device, inode } = self.file;
        Bound { device, inode, group: self.group.clone() }
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

/// The socket's name in the file system, remembered with its inode.
#[derive(Debug)]
struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl File {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.into(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // An agent that came after us may have put its own socket there: that one stays.
        let ours = |now: &fs::Metadata| now.dev() == self.device && now.ino() == self.inode;
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn failed<E: Into<io::Error>>(path: &Path, action: &'static str) -> impl Fn(E) -> SocketError {
    move |source| SocketError::Io { path: path.into(), action, source: source.into() }
}

fn stream_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Removes what a killed agent left behind, and refuses whatever is not that.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(path, "look at it")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
    }
    let probe = stream_socket().map_err(failed(path, "open a socket"))?;
    let address = UnixAddr::new(path).map_err(failed(path, "use it as an address"))?;
    match connect(probe.as_raw_fd(), &address) {
        // EAGAIN: somebody listens and has a full queue.
        Ok(()) | Err(Errno::EAGAIN) => Err(SocketError::InUse { path: path.into() }),
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed(path, "remove the stale one")),
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(failed(path, "ask whether an agent answers there")(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_socket_is_for_owner_and_group_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/lb/main.sock");
        let socket = Socket::bind(&path, None).unwrap();
        assert_eq!(mode(&path), 0o660);
        assert_eq!(mode(path.parent().unwrap()), 0o755);
        assert_eq!(socket.path(), path);
        drop(socket);
        assert!(!path.exists(), "removed with the listener");
    }

    #[tokio::test]
    async fn a_group_gets_the_socket_and_an_unknown_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let own = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
        let socket = Socket::bind(&path, Some(&own.name)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().gid(), own.gid.as_raw());
        drop(socket);
        let error = Socket::bind(&path, Some("no-such-group-here")).unwrap_err().to_string();
        assert!(error.contains("no group `no-such-group-here`") && error.contains("socket_group"), "{error}");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_bound_socket_can_get_its_group_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let socket = Socket::bind(&path, None).unwrap();
        let mut bound = socket.bound();
        let own = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap().name;
        assert!(bound.is_at(&path) && !bound.is_for(&own));
        assert!(matches!(bound.give_to(&path, "no-such-group-here"), Err(SocketError::UnknownGroup { .. })));
        bound.give_to(&path, &own).unwrap();
        assert!(bound.is_for(&own));
        fs::remove_file(&path).unwrap();
        assert!(!bound.is_at(&path));
        // The old one lives on: the new one's file cannot be taken for it.
        let _new = Socket::bind(&path, None).unwrap();
        assert!(!bound.is_at(&path));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        // The standard library's listener leaves its file behind, like a killed agent.
        drop(net::UnixListener::bind(&path).unwrap());
        let first = Socket::bind(&path, None).unwrap();
        let error = Socket::bind(&path, None).unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        assert!(path.exists(), "the refused one removed nothing");
        drop(first);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path, None).unwrap_err(), SocketError::NotASocket { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_survives_the_drop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let old = Socket::bind(&path, None).unwrap();
        fs::rename(&path, directory.path().join("aside")).unwrap();
        let _new = Socket::bind(&path, None).unwrap();
        drop(old);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_refused() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        let error = Socket::bind(&path, None).unwrap_err().to_string();
        assert!(error.contains("125 bytes"), "{error}");
    }
}
