//! A command of the operator's, run once for each probe: its exit code is the answer, and a first line such as `75%` asks for a
//! part of the backend's weight.
//!
//! Nothing of a command is trusted. It runs without a shell, as a user that is not root and cannot become more, in a process group
//! of its own, with an environment of `LB_*` alone. Time, output and the number of commands at once are bounded, and at the end of
//! a run its whole group is killed. What is wrong with the command itself does not count against the backend.
//!
//! A run has a thread of its own: to look up a user, to start a program and to wait for the end of one may each take as long as a
//! file system or a directory service likes.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::{Pid, User},
};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::{
    Budget, Failure, Outcome, Progress,
    words::{quoted, shortened},
};
use crate::{
    config::spec::ExecProbe,
    health::said::{Words, percent},
};

/// Commands at once, over all services.
const AT_ONCE: usize = 32;
static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

/// Bytes that a command may write.
const MOST_OUTPUT: usize = 64 * 1024;
/// Of them those that are kept.
const KEPT: usize = 1024;

/// How soon a run notices that its probe is not wanted any more.
const GLANCE: Duration = Duration::from_millis(100);

/// How long after its time a run may take to kill its command.
const GRACE: Duration = Duration::from_secs(1);

/// Runs the command and judges its end.
pub(super) async fn ask(
    address: SocketAddr,
    probe: &ExecProbe,
    budget: Budget,
    progress: &Progress,
) -> Outcome {
    let local = |words: String| Outcome::Answer(Err(Failure::LocalError(format!("exec: {words}"))));
    let Some(Ok(place)) = budget.within(PLACES.acquire()).await else {
        return local(format!("{AT_ONCE} commands run already"));
    };
    let (answer, ended) = oneshot::channel();
    let run = Run { address, probe: probe.clone(), budget, _place: place };
    let thread = thread::Builder::new().name("lb-exec".into()).spawn(move || {
        let result = run.result(&|| answer.is_closed());
        // Its probe may have been taken away.
        let _ = answer.send(result);
    });
    if let Err(error) = thread {
        return local(format!("no thread: {error}"));
    }
    match tokio::time::timeout_at(budget.deadline + GRACE, ended).await {
        Ok(Ok(Ok(words))) => {
            progress.says(words);
            Outcome::Answer(Ok(()))
        }
        Ok(Ok(Err(failure))) => Outcome::Answer(Err(failure)),
        Ok(Err(_)) => local("the run has failed from within, see the log".to_owned()),
        Err(_) => local("it could not be started, or not be killed, in time".to_owned()),
    }
}

struct Run {
    address: SocketAddr,
    probe: ExecProbe,
    budget: Budget,
    /// Held until the command is gone.
    _place: SemaphorePermit<'static>,
}

/// Why the command is not waited for any longer.
enum End {
    Exited,
    TimeOver,
    /// It wrote too much.
    Flood,
    /// Its probe was taken away.
    Unwanted,
}

impl Run {
    fn result(self, unwanted: &dyn Fn() -> bool) -> Result<Words, Failure> {
        let local = |words: String| Failure::LocalError(format!("exec: {words}"));
        let mut child = self.start().map_err(local)?;
        let mut output = Output::default();
        let end = watch(&mut child, &mut output, self.budget.deadline.into_std(), unwanted);
        // What it left behind in its group goes with it. Until the child is waited for, the number of the group is its own.
        if let Ok(group) = i32::try_from(child.id()) {
            let _gone_already = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let status = child.wait().map_err(|error| local(error.to_string()))?;
        match end.map_err(|error| local(error.to_string()))? {
            End::Exited => judge(status, &output.kept),
            End::TimeOver => {
                Err(Failure::Backend(format!("exec: no end within {} ms", self.budget.milliseconds())))
            }
            End::Flood => Err(local("it has written more than 64 KiB".to_owned())),
            End::Unwanted => Err(local("it is not wanted any more".to_owned())),
        }
    }

    fn start(&self) -> Result<Child, String> {
        let ExecProbe { command, user } = &self.probe;
        let name = shortened(user);
        let user = match User::from_name(user) {
            Ok(Some(user)) if user.uid.is_root() => {
                return Err(format!("user {name} is root: name one that may do little"));
            }
            Ok(Some(user)) => user,
            Ok(None) => return Err(format!("{name} is not a user of this host")),
            Err(errno) => return Err(format!("user {name} cannot be looked up: {errno}")),
        };
        let Some((path, arguments)) = command.split_first() else { return Err("no command".to_owned()) };
        let mut command = Command::new(path);
        command
            .args(arguments)
            .env_clear()
            .env("LB_ADDRESS", self.address.ip().to_string())
            .env("LB_TIMEOUT_MS", self.budget.milliseconds().to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .gid(user.gid.as_raw())
            .uid(user.uid.as_raw());
        if self.address.port() != 0 {
            command.env("LB_PORT", self.address.port().to_string());
        }
        // SAFETY: `confine` only makes system calls, which is allowed between fork and exec, and touches no memory.
        unsafe { command.pre_exec(confine) };
        command.spawn().map_err(|error| {
            let path = shortened(path);
            match error.raw_os_error() {
                Some(libc::EPERM) => {
                    format!("{path} cannot run as {name}: lbd needs CAP_SETUID and CAP_SETGID for that")
                }
                Some(libc::EACCES) => format!("{path} may not be executed by {name}"),
                Some(libc::ENOENT) => format!("{path}, or the interpreter that it names, is not there"),
                _ => format!("{path} cannot be started: {error}"),
            }
        })
    }
}

/// Runs in the child, as its user: it ends with the thread that waits for it, never gets more rights, and has no file of ours.
fn confine() -> io::Result<()> {
    let checked = |result: libc::c_int| match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: `prctl` with these options takes numbers only.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    // SAFETY: as above.
    checked(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    // SAFETY: as above.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // All of ours are closed on exec already; a kernel that does not know the call (before 5.11) leaves it at that.
    // SAFETY: closing on exec changes nothing of this process.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(())
}

/// What a command has written.
#[derive(Default)]
struct Output {
    kept: Vec<u8>,
    length: usize,
}

impl Output {
    /// Reads what lies there. Returns whether more may come.
    fn read(&mut self, from: &mut ChildStdout) -> io::Result<bool> {
        let mut piece = [0; 4096];
        while self.length <= MOST_OUTPUT {
            let length = match from.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let room = KEPT.saturating_sub(self.kept.len());
            self.kept.extend(piece.iter().take(length.min(room)));
            self.length += length;
        }
        Ok(true)
    }
}

/// Reads what the command writes until there is a reason to wait for it no longer.
fn watch(
    child: &mut Child,
    output: &mut Output,
    deadline: Instant,
    unwanted: &dyn Fn() -> bool,
) -> io::Result<End> {
    let ends = process(child)?;
    let mut stdout = child.stdout.take();
    if let Some(stdout) = &stdout {
        fcntl(stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: with nothing left it looks once more.
        let wait = left.min(GLANCE).as_millis() as u16 + u16::from(!left.is_zero());
        let mut files = vec![PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
        files.extend(stdout.as_ref().map(|stdout| PollFd::new(stdout.as_fd(), PollFlags::POLLIN)));
        match poll(&mut files, PollTimeout::from(wait)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let has_ended = files.first().and_then(PollFd::any).unwrap_or(false);
        if let Some(from) = &mut stdout
            && !output.read(from)?
        {
            stdout = None;
        }
        match () {
            () if output.length > MOST_OUTPUT => return Ok(End::Flood),
            () if has_ended => return Ok(End::Exited),
            () if left.is_zero() => return Ok(End::TimeOver),
            () if unwanted() => return Ok(End::Unwanted),
            () => {}
        }
    }
}

/// A file that can be read when the process has ended (Linux 5.3).
fn process(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let file = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let file = i32::try_from(file).unwrap_or(-1);
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// What the end of a command says.
fn judge(status: ExitStatus, output: &[u8]) -> Result<Words, Failure> {
    let line = output.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    match (status.code(), status.signal()) {
        (Some(0), _) => {
            let percent = std::str::from_utf8(line).ok().and_then(percent);
            Ok(Words { percent, ..Words::default() })
        }
        (Some(code), _) => {
            let line = if line.is_empty() { String::new() } else { format!(": {}", quoted(line)) };
            Err(Failure::Backend(format!("exec: exit code {code}{line}")))
        }
        // As when this host is short of memory: not the backend's fault.
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            Err(Failure::LocalError(format!("exec: ended by signal {signal}")))
        }
    }
}

#[cfg(test)]
mod tests;
