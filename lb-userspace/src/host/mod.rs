//! What a configuration needs of this host: interfaces, the group of the socket, a directory that can be written, an
//! address to listen at, files of certificates, and that no service takes the host's own addresses. The checker asks the host
//! through [`OnHost`], and so does the agent before it touches the data path. So `--check`, plan and reload refuse what would
//! fail at a start or in a check of a backend.

pub mod check;
mod listener;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, Group, User, faccessat, geteuid},
};

use crate::{
    config::{host::OnHost, value_tree::quote},
    health::probe::tls,
    net::own,
};

/// See [`ThisHost::command`].
type Commands<'a> = dyn Fn(&[String], &str) -> Vec<(&'static str, String)> + 'a;

/// The host that this process runs on.
pub struct ThisHost<'a> {
    pub interface_exists: &'a dyn Fn(&str) -> bool,
    /// The answer about a state directory: the function [`state_directory`] where every question about the host is allowed.
    pub state_directory: &'a dyn Fn(&Path) -> Result<(), String>,
    /// The address at which the agent listens already.
    pub listens: Option<SocketAddr>,
    /// What is wrong with a command of a check: the function [`command`] where every question about the host is allowed.
    pub command: &'a Commands<'a>,
    /// The agent's process, which may itself hold the address in question.
    pub agent: Option<u32>,
}

impl OnHost for ThisHost<'_> {
    fn interface(&self, name: &str) -> bool {
        (self.interface_exists)(name)
    }

    fn group(&self, name: &str) -> Result<(), String> {
        match Group::from_name(name) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(format!(
                "{} is not a group of this host: create it (`groupadd {name}`), or name another",
                quote(name)
            )),
            Err(errno) => Err(format!("{} cannot be looked up: {errno}", quote(name))),
        }
    }

    fn state_directory(&self, path: &Path) -> Result<(), String> {
        (self.state_directory)(path)
    }

    fn certificates(&self, file: &Path) -> Result<(), String> {
        certificates(file)
    }

    fn command(&self, command: &[String], user: &str) -> Vec<(&'static str, String)> {
        (self.command)(command, user)
    }

    fn listen(&self, address: IpAddr) -> Result<(), String> {
        listen(address)
    }

    fn metrics(&self, address: SocketAddr) -> Result<(), String> {
        if self.listens == Some(address) {
            return Ok(());
        }
        let Err(error) = TcpListener::bind(address) else { return Ok(()) };
        let holder = || listener::holder(address).map(|holder| holder.pid);
        let ours = || holder() == self.agent;
        match error.kind() {
            // This process may not bind to the port, but the agent can: it runs as root.
            io::ErrorKind::PermissionDenied if !geteuid().is_root() => Ok(()),
            io::ErrorKind::AddrInUse if self.agent.is_some() && ours() => Ok(()),
            // The kernel shows the listening process only to root and its own user: the process may well be the agent.
            io::ErrorKind::AddrInUse
                if self.agent.is_some() && !geteuid().is_root() && holder().is_none() =>
            {
                Ok(())
            }
            _ => Err(format!("{address} cannot be listened at: {}", cannot_listen(address, &error))),
        }
    }
}

fn certificates(file: &Path) -> Result<(), String> {
    match tls::readable(file) {
        // The agent, as root, may.
        Err(error) if error.is_forbidden() && !geteuid().is_root() => Ok(()),
        Err(error) => Err(format!("{} {error}", quote(&file.to_string_lossy()))),
        Ok(()) => Ok(()),
    }
}

/// What is wrong with a command and the user that is to run it: the key of the health check, and why.
pub fn command(command: &[String], user: &str) -> Vec<(&'static str, String)> {
    let path = command.first().map_or("", String::as_str);
    let program = program(path).err().map(|why| ("command", why));
    program.into_iter().chain(runner(user).err().map(|why| ("user", why))).collect()
}

/// Whether a file can be a command. Whether its user may execute it shows when it is run.
fn program(path: &str) -> Result<(), String> {
    let shown = quote(path);
    match fs::metadata(path) {
        // The agent, as root, may look.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !geteuid().is_root() => Ok(()),
        Err(error) => Err(format!("{shown} cannot be run: {error}")),
        Ok(file) if !file.is_file() => Err(format!("{shown} cannot be run: it is not a file")),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => {
            Err(format!("{shown} is not executable: `chmod a+x {path}`"))
        }
        Ok(_) => Ok(()),
    }
}

/// Whether a user may run commands of checks.
fn runner(name: &str) -> Result<(), String> {
    match User::from_name(name) {
        Ok(Some(user)) if user.uid.is_root() => {
            Err(format!("{} is root: name a user that may do nothing else on this host", quote(name)))
        }
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(format!(
            "{} is not a user of this host: create it (`useradd -r {name}`), or name another",
            quote(name)
        )),
        Err(errno) => Err(format!("{} cannot be looked up: {errno}", quote(name))),
    }
}

fn listen(address: IpAddr) -> Result<(), String> {
    own::speaks_from(address).map_or(Ok(()), |speaks| Err(speaks.refusal(address)))
}

/// Why the agent cannot listen at an address, and what to do.
pub fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => match listener::holder(address) {
            Some(holder) => {
                format!(
                    "process {} ({}) listens there: stop it, or choose another port",
                    holder.pid, holder.name
                )
            }
            None => "another process listens there: stop it, or choose another port".to_owned(),
        },
        io::ErrorKind::AddrNotAvailable => format!(
            "{} is not an address of this host: add it first, or listen at {}:{}",
            address.ip(),
            if address.is_ipv4() { "0.0.0.0" } else { "[::]" },
            address.port()
        ),
        _ => error.to_string(),
    }
}

/// Why a directory cannot keep the run-time changes.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The directory is read-only: every change at run time will be refused; everything else works.
    #[error("{0}")]
    ReadOnly(String),
    #[error("{0}")]
    Wrong(String),
}

/// Whether this process can write files below `path`, and no other user can. `path` need not exist yet.
///
/// # Errors
/// Why not, as a text that continues `state_directory`.
pub fn state_directory(path: &Path) -> Result<(), String> {
    fit(path).map_err(|unfit| unfit.to_string())
}

/// The same, but it distinguishes a read-only file system (a disk that was remounted after a fault, for example): an agent
/// can start in spite of that.
///
/// # Errors
/// [`Unfit`].
pub fn fit(path: &Path) -> Result<(), Unfit> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let shown = quote(&path.to_string_lossy());
    let metadata =
        fs::metadata(there).map_err(|error| Unfit::Wrong(format!("{shown} cannot be looked at: {error}")))?;
    if !metadata.is_dir() {
        return Err(Unfit::Wrong(format!("{shown} cannot be a directory: {} is not one", there.display())));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o002 != 0 && (there == path || mode & 0o1000 == 0) {
        return Err(Unfit::Wrong(format!(
            "{shown} is not a safe place for run-time changes: every user may write in {} (mode {mode:04o}); choose another, \
             or `chmod o-w {}`",
            there.display(),
            there.display()
        )));
    }
    let access = AccessFlags::W_OK | AccessFlags::X_OK;
    match faccessat(AT_FDCWD, there, access, AtFlags::AT_EACCESS) {
        // The agent, as root, may.
        Err(Errno::EACCES) if !geteuid().is_root() => Ok(()),
        Err(errno) => {
            let why = format!("{shown} cannot be written: {}: {}", there.display(), errno.desc());
            Err(if there == path && errno == Errno::EROFS { Unfit::ReadOnly(why) } else { Unfit::Wrong(why) })
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(agent: Option<u32>, listens: Option<SocketAddr>) -> ThisHost<'static> {
        let (state_directory, command) = (&state_directory, &command);
        ThisHost { interface_exists: &|_| true, state_directory, command, listens, agent }
    }

    #[test]
    fn a_missing_group_is_refused_with_the_fix() {
        host(None, None).group("root").unwrap();
        let why = host(None, None).group("no-such-group").unwrap_err();
        assert!(why.starts_with("\"no-such-group\" is not a group") && why.contains("groupadd"), "{why}");
    }

    #[test]
    fn a_command_must_be_there_and_its_user_must_not_be_root() {
        let asked = |path: &str, user: &str| host(None, None).command(&[path.to_owned()], user);
        assert_eq!(asked("/bin/sh", "daemon"), []);
        let both = asked("/no/such", "root");
        assert_eq!(both.iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["command", "user"], "{both:?}");
        assert!(both[1].1.starts_with("\"root\" is root"), "{both:?}");
        let unknown = asked("/bin/sh", "no-such-user");
        assert!(unknown[0].1.contains("useradd -r no-such-user"), "{unknown:?}");
        assert!(asked("/etc", "daemon")[0].1.ends_with("it is not a file"));
        assert!(asked("/etc/passwd", "daemon")[0].1.contains("chmod a+x /etc/passwd"));
    }

    #[test]
    fn a_directory_need_not_exist_and_a_file_is_none() {
        let directory = tempfile::tempdir().unwrap();
        state_directory(&directory.path().join("not/yet")).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let why = state_directory(&path).unwrap_err();
            assert!(why.contains("is not one"), "{why}");
        }
    }

    #[test]
    fn a_world_writable_directory_is_always_refused() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o1777] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            let why = state_directory(directory.path()).unwrap_err();
            assert!(why.contains("every user may write"), "{why}");
        }
        state_directory(&directory.path().join("below")).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        state_directory(&directory.path().join("below")).unwrap_err();
    }

    #[test]
    fn an_address_in_use_is_refused_unless_by_the_agent() {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = there.local_addr().unwrap();
        let us = std::process::id();
        let why = host(None, None).metrics(address).unwrap_err();
        assert!(why.contains(&format!("process {us} (")), "{why}");
        host(Some(us), None).metrics(address).unwrap();
        host(None, Some(address)).metrics(address).unwrap();
        host(Some(1), None).metrics(address).unwrap_err();
        drop(there);
        host(None, None).metrics(address).unwrap();
    }

    #[test]
    fn a_foreign_address_is_refused_by_name() {
        let why = host(None, None).metrics("192.0.2.1:9100".parse().unwrap()).unwrap_err();
        assert!(why.contains("192.0.2.1 is not an address of this host"), "{why}");
    }
}
