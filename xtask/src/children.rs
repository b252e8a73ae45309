//! Programs that end with us. Those that run for long are known here by their number, so that a signal that ends this
//! process ends them first; what they started themselves is theirs to end. Handlers, unlike a mask of blocked signals, are
//! not inherited: the programs take signals as usual.

use std::{
    io::{self, Read as _, pipe},
    os::{
        fd::{AsRawFd as _, IntoRawFd as _},
        unix::process::ExitStatusExt as _,
    },
    process::{Command, ExitStatus},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use crate::run;

/// How long programs may take to end: a lab has to be taken away.
const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    pids: Vec<Pid>,
    /// Nothing is started any more.
    ending: bool,
}

static RUNNING: Mutex<Running> = Mutex::new(Running { pids: Vec::new(), ending: false });

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a signal is ending everything.
pub fn is_ending() -> bool {
    running().ending
}

/// Goes no further when a signal is ending everything: what failed because it was ended is no news.
pub fn stay_if_ending() {
    while is_ending() {
        thread::park();
    }
}

/// A program that ends with us, and also when this goes before it was waited for.
pub struct Child {
    child: std::process::Child,
    waited: bool,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub status: ExitStatus,
    /// Processor time of it and of all that it waited for.
    pub processor: Duration,
}

impl Child {
    /// Starts it; an error when everything is being ended.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut running = running();
        if running.ending {
            return Err(io::Error::other("a signal is ending everything"));
        }
        let child = command.spawn()?;
        running.pids.push(pid(&child));
        Ok(Self { child, waited: false })
    }

    /// What it prints, where that is piped.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Its error output, where that is piped.
    pub fn stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> io::Result<Ended> {
        self.reap()
    }

    fn reap(&mut self) -> io::Result<Ended> {
        self.waited = true;
        let pid = pid(&self.child);
        // The number stays its own until it is taken off the list: a signal never meets another process.
        while let Err(errno) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            if errno != Errno::EINTR {
                return Err(errno.into());
            }
        }
        let mut running = running();
        running.pids.retain(|known| *known != pid);
        let mut status = 0;
        // SAFETY: all bits 0 is a valid rusage, which is plain numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to variables of this function.
        if unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let time = |time: libc::timeval| {
            Duration::new(time.tv_sec.unsigned_abs(), time.tv_usec.unsigned_abs() as u32 * 1000)
        };
        Ok(Ended {
            status: ExitStatus::from_raw(status),
            processor: time(usage.ru_utime) + time(usage.ru_stime),
        })
    }

    /// Asks it to end, and makes it end after 5 s. It is still to be waited for.
    pub fn end(&self) {
        end(&[pid(&self.child)], Duration::from_secs(5));
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.waited {
            self.end();
            self.reap().ok();
        }
    }
}

fn pid(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// SIGTERM to those that are still on the list, SIGKILL when the time is over. sudo hands the first on, which it could not
/// do with the second.
fn end(pids: &[Pid], patience: Duration) {
    let deadline = Instant::now() + patience;
    signal(pids, Signal::SIGTERM);
    while running().pids.iter().any(|pid| pids.contains(pid) && is_alive(*pid)) {
        if Instant::now() >= deadline {
            signal(pids, Signal::SIGKILL);
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether one of our programs has not ended. Its number is on the list, so it is not waited for yet.
fn is_alive(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    waitid(Id::Pid(pid), flags) == Ok(WaitStatus::StillAlive)
}

fn signal(pids: &[Pid], signal: Signal) {
    let mut foreign = Vec::new();
    {
        // Held meanwhile, so that the numbers stay theirs.
        let running = running();
        for pid in pids.iter().filter(|pid| running.pids.contains(pid)) {
            if kill(*pid, signal) == Err(Errno::EPERM) {
                foreign.push(pid.to_string());
            }
        }
    }
    if !foreign.is_empty() {
        // What sudo runs is root's.
        let name = format!("-{}", signal as i32);
        run::succeeds(Command::new("sudo").args(["-n", "kill", &name]).args(&foreign));
    }
}

/// Ends all programs that run.
pub fn end_all() {
    let pids = running().pids.clone();
    end(&pids, PATIENCE);
}

/// Where the handler writes the number of a signal.
static WRITER: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: libc::c_int) {
    let errno = Errno::last_raw();
    let byte = signal as u8;
    // SAFETY: write is one of the calls that a handler may make; the byte outlives it.
    unsafe { libc::write(WRITER.load(Ordering::Relaxed), (&raw const byte).cast(), 1) };
    Errno::set_raw(errno);
}

/// From now on SIGINT, SIGTERM and SIGHUP end the programs that run, then this process with the exit code of a shell.
/// `last` is called in between. A signal that is ignored stays so (`nohup`, a shell's background jobs).
pub fn end_with_us(last: impl FnOnce(Signal) + Send + 'static) -> Result<()> {
    let (mut reader, writer) = pipe().context("no pipe")?;
    // A handler must never wait.
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    debug_assert!(writer.as_raw_fd() > 2);
    WRITER.store(writer.into_raw_fd(), Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler makes one call that is allowed there, and keeps errno.
        let before = unsafe { sigaction(signal, &action) }?;
        if matches!(before.handler(), SigHandler::SigIgn) {
            // SAFETY: as it was before.
            unsafe { sigaction(signal, &before) }?;
        }
    }
    thread::spawn(move || {
        let mut byte = [0];
        if reader.read_exact(&mut byte).is_err() {
            return;
        }
        let Ok(signal) = Signal::try_from(i32::from(byte[0])) else { return };
        running().ending = true;
        eprintln!("\n{signal}: ending what runs");
        end_all();
        last(signal);
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn the_end_and_the_processor_time_of_a_program_are_known() {
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 3"]);
        let ended = Child::spawn(&mut command).unwrap().wait().unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.processor > Duration::ZERO, "{ended:?}");
    }

    #[test]
    fn program_that_is_ended_says_by_which_signal() {
        let child = Child::spawn(Command::new("sleep").arg("60").stdin(Stdio::null())).unwrap();
        let known = pid(&child.child);
        child.end();
        assert!(running().pids.contains(&known));
        assert_eq!(child.wait().unwrap().status.signal(), Some(libc::SIGTERM));
        assert!(!running().pids.contains(&known));
    }

    #[test]
    fn program_ends_when_its_value_goes() {
        let child = Child::spawn(Command::new("sleep").arg("60").stdin(Stdio::null())).unwrap();
        let known = pid(&child.child);
        drop(child);
        assert!(!running().pids.contains(&known));
        assert_eq!(kill(known, None), Err(Errno::ESRCH));
    }
}
