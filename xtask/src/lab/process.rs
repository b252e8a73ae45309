//! Processes of the lab: recorded by pid and start time, and ended through a pidfd, so that a number the kernel has
//! given to somebody else in the meantime is never hit.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// A process as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks between boot and its start: with the pid, it names one process for good.
    pub started: u64,
    pub node: String,
    /// What it is for: `nginx`, `lbd`.
    pub name: String,
}

impl Process {
    /// The record of a running process; `None` when it is gone.
    pub fn of(pid: i32, node: &str, name: &str) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)?, node: node.to_owned(), name: name.to_owned() })
    }

    /// Whether it is still that process and not a zombie.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Sends a signal; `false` when the process is gone.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        match self.open()? {
            Some(handle) => send(&handle, signal).map(|()| true),
            None => Ok(false),
        }
    }

    /// SIGTERM, then SIGKILL to one that is still there after `patience`. `false` when it was gone before.
    pub fn end(&self, patience: Duration) -> io::Result<bool> {
        let Some(handle) = self.open()? else { return Ok(false) };
        send(&handle, libc::SIGTERM)?;
        if !gone(&handle, patience) {
            send(&handle, libc::SIGKILL)?;
            gone(&handle, Duration::from_secs(2));
        }
        Ok(true)
    }

    /// Waits until it has ended: until then the kernel keeps its sockets open, also those that listen, whatever signal it
    /// was sent. An error when it is still there after `patience`.
    pub fn wait(&self, patience: Duration) -> io::Result<()> {
        match self.open()? {
            Some(handle) if !gone(&handle, patience) => {
                let Self { pid, name, node, .. } = self;
                Err(io::Error::other(format!("process {pid} ({name} on {node}) does not end")))
            }
            _ => Ok(()),
        }
    }

    /// A handle on exactly this process.
    fn open(&self) -> io::Result<Option<OwnedFd>> {
        // SAFETY: pidfd_open takes a pid and flags and returns a descriptor or -1 (Linux 5.3).
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        let Ok(fd) = i32::try_from(fd) else { return Ok(None) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
        }
        // SAFETY: the kernel has just given us this descriptor and no other code knows it.
        let handle = unsafe { OwnedFd::from_raw_fd(fd) };
        // Compared after the handle was made: if it still is that process now, the handle is of that process.
        Ok(self.is_alive().then_some(handle))
    }
}

fn send(handle: &OwnedFd, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a valid pidfd, no siginfo, no flags.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal, none, 0) };
    let error = io::Error::last_os_error();
    if done == 0 || error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

/// Waits until the process has ended (it may still be a zombie) or the time is over.
fn gone(handle: &OwnedFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd { fd: handle.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one initialised pollfd, and the count says so.
        let ready = unsafe { libc::poll(&raw mut poll, 1, timeout) };
        if ready > 0 {
            return true;
        }
        if left.is_zero() {
            return false;
        }
    }
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); `None` when there is no such process or it is a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses itself; the last one ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Processes whose network namespace is one of `inodes`, except ourselves.
pub(super) fn in_namespaces(inodes: &[(u64, String)]) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(namespace) = fs::read_link(entry.path().join("ns/net")) else { continue };
        let Some(inode) = namespace_inode(&namespace.to_string_lossy()) else { continue };
        let Some((_, node)) = inodes.iter().find(|(number, _)| *number == inode) else { continue };
        if i64::from(pid) == i64::from(std::process::id()) {
            continue;
        }
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        found.extend(Process::of(pid, node, name.trim()));
    }
    found
}

/// The number in `net:[4026531840]`.
fn namespace_inode(link: &str) -> Option<u64> {
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn running_process_is_alive_and_ends_on_demand() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id().cast_signed(), "node", "sleep").unwrap();
        assert!(process.is_alive());
        assert!(process.end(Duration::from_secs(5)).unwrap());
        assert!(!process.is_alive());
        child.wait().unwrap();
        assert!(!process.end(Duration::ZERO).unwrap());
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let mut child =
            Command::new("sh").args(["-c", "trap '' TERM; while :; do sleep 0.05; done"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let process = Process::of(child.id().cast_signed(), "node", "sh").unwrap();
        assert!(process.end(Duration::from_millis(100)).unwrap());
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn a_killed_process_is_gone_when_it_was_waited_for() {
        for _ in 0..20 {
            // A grandchild: no process here waits for it, as none does for a server's workers.
            let mut command = Command::new("sh");
            command.args(["-c", "sleep 60 >/dev/null & echo $!"]).stdout(std::process::Stdio::piped());
            let output = command.spawn().unwrap().wait_with_output().unwrap();
            let pid = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            let process = Process::of(pid, "node", "sleep").unwrap();
            assert!(process.signal(libc::SIGKILL).unwrap());
            process.wait(Duration::from_secs(5)).unwrap();
            assert!(!process.is_alive());
            assert!(!process.signal(libc::SIGKILL).unwrap());
            process.wait(Duration::ZERO).unwrap();
        }
    }

    #[test]
    fn another_process_with_the_same_number_is_left_alone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id().cast_signed(), "node", "sleep").unwrap();
        let other = Process { started: process.started + 1, ..process.clone() };
        assert!(!other.end(Duration::ZERO).unwrap());
        assert!(process.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn namespace_numbers_are_read_from_proc() {
        assert_eq!(namespace_inode("net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(namespace_inode("mnt:[1]"), None);
    }
}
