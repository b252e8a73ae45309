//! The agent at the other end of a connection, as the kernel knows it. A stopped process takes connections and never
//! answers, and so does a busy one for a while; what it is said to be in tells one from the other, so that a long request
//! may take its time and a stopped agent costs three seconds.

use std::{fs, path::Path, time::Duration};

use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};

use super::exit::Failure;

/// How long an agent must have been stopped without a break before it is said.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(250);

/// A process that was listening; `None` = in another pid namespace, where it is not to be seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(Option<u32>);

impl Peer {
    /// Who listens at the other end (SO_PEERCRED: the process that called listen(2)).
    pub(super) fn of(stream: &UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        Self(pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0))
    }

    /// The process that a lock file next to the socket names.
    pub(super) fn locking(socket: &Path) -> Self {
        Self(crate::instance::lock::holder(&socket.with_extension("lock")))
    }

    /// What `work` comes to, or that the agent cannot answer.
    pub(super) async fn guard<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            outcome = work => outcome,
            why = self.silent() => Err(Failure::Unreachable(why)),
        }
    }

    /// Ends when the process has been stopped for [`SILENCE`].
    async fn silent(&self) -> String {
        let mut since = Instant::now();
        loop {
            sleep(LOOK).await;
            match self.stopped() {
                Some(why) if since.elapsed() >= SILENCE => return why,
                Some(_) => {}
                None => since = Instant::now(),
            }
        }
    }

    /// Why the process cannot answer, with the way out; `None` = it can, or it is not known.
    pub(super) fn stopped(&self) -> Option<String> {
        let pid = self.0?;
        let state = state(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        match state {
            'T' => Some(format!("lbd (pid {pid}) is stopped (state T): `kill -CONT {pid}` lets it go on")),
            't' => Some(format!("lbd (pid {pid}) is stopped by a debugger (state t)")),
            _ if is_frozen(pid) => Some(format!(
                "lbd (pid {pid}) is frozen by its control group: `systemctl thaw` of its unit lets it go on"
            )),
            _ => None,
        }
    }
}

/// The state in a line of `/proc/PID/stat` (proc_pid_stat(5)), behind the name, which may have anything in it.
fn state(line: &str) -> Option<char> {
    line.rsplit_once(") ")?.1.chars().next()
}

/// Whether the process's control group of version 2 is frozen, itself or one above it.
fn is_frozen(pid: u32) -> bool {
    let group = || {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
        fs::read_to_string(Path::new("/sys/fs/cgroup").join(group).join("cgroup.events")).ok()
    };
    group().is_some_and(|events| events.lines().any(|line| line == "frozen 1"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::*;

    #[test]
    fn the_state_is_found_behind_every_name() {
        assert_eq!(state("4711 (lbd) S 1 2"), Some('S'));
        assert_eq!(state("4711 (a) T (b)) R 1"), Some('R'));
        assert_eq!(state("garbage"), None);
    }

    /// Work that ends after a while, while there is a process that is stopped or is not.
    fn guarded(stopped: bool, work: Duration) -> Result<(), Failure> {
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        if stopped {
            kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGSTOP).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(Peer(Some(child.id())).guard(async {
            sleep(work).await;
            Ok(())
        }));
        child.kill().unwrap();
        child.wait().unwrap();
        outcome
    }

    #[test]
    fn a_stopped_process_is_named_and_a_busy_one_waited_for() {
        let Err(Failure::Unreachable(why)) = guarded(true, Duration::from_secs(600)) else {
            panic!("a stopped process answered")
        };
        assert!(why.contains("is stopped (state T)") && why.contains("kill -CONT"), "{why}");
        assert_eq!(guarded(false, SILENCE + Duration::from_secs(1)), Ok(()));
    }
}
