//! The agent under a service manager: sd_notify(3) speaks to a socket of the test.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::{
    agent::Agent,
    world::{CONFIG, World, isolated, wait_for},
};

/// The service manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn listen(world: &World) -> Result<Self> {
        let socket = UnixDatagram::bind(world.path("notify"))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, heard: Vec::new() })
    }

    /// Runs the agent under this manager.
    fn run<'a>(&self, world: &'a World, arguments: &[&str], watchdog: Option<Duration>) -> Result<Agent<'a>> {
        let mut command = world.command("lbd")?;
        command.args(arguments).env("NOTIFY_SOCKET", world.path("notify"));
        if let Some(time) = watchdog {
            command.env("WATCHDOG_USEC", time.as_micros().to_string());
        }
        Agent::run(world, &mut command)
    }

    /// The words that have come since the last call, each a line.
    fn listen_on(&mut self) -> Result<Vec<String>> {
        let (mut words, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    words.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(ToOwned::to_owned));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.heard.extend(words.clone());
        Ok(words)
    }

    /// Waits for a word that `fits` accepts.
    fn wait(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> Result<String> {
        wait_for(what, || Ok(self.listen_on()?.into_iter().find(|word| fits(word))))
            .with_context(|| format!("heard: {:#?}", self.heard))
    }

    fn has_heard(&self, word: &str) -> bool {
        self.heard.iter().any(|heard| heard == word)
    }
}

#[test]
fn ready_means_attached_and_status_follows() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut manager = Manager::listen(world)?;
        world.write("lb.toml", CONFIG)?;
        let agent = manager.run(world, &[], None)?;
        manager.wait("ready", |word| word == "READY=1")?;
        let line = manager.heard.iter().find(|word| word.starts_with("STATUS=")).context("no status")?;
        ensure!(line.contains("2 services, 3 of 3 backends usable at lb0"), "{line}");
        ensure!(!manager.has_heard("WATCHDOG=1"), "it was not asked for");
        agent.lbctl(&["service", "remove", "dns"])?.done()?;
        manager.wait("the line is current", |word| word.contains("1 service, 2 of 2 backends usable"))?;
        world.ip("link del lb0\n")?;
        manager.wait("what is missing comes first", |word| word.starts_with("STATUS=interface lb0: "))?;
        agent.end(Signal::SIGTERM)?;
        manager.wait("the end", |word| word == "STOPPING=1")?;
        Ok(())
    })
}

/// Puts a program on the interface that belongs to no agent: an agent does not replace it.
fn occupy(world: &World) -> Result<()> {
    world.lbd(&["dev", "xdp-pass", "--interface", "lb0"])?.done()?;
    Ok(())
}

#[test]
fn a_start_that_cannot_attach_is_not_ready() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut manager = Manager::listen(world)?;
        world.write("lb.toml", CONFIG)?;
        occupy(world)?;
        let mut agent = manager.run(world, &[], None)?;
        ensure!(agent.serves()?.is_none(), "{}", agent.log());
        manager.wait("what is missing", |word| word.starts_with("STATUS=interface lb0: "))?;
        manager.wait("more time", |word| word.starts_with("EXTEND_TIMEOUT_USEC="))?;
        ensure!(!manager.has_heard("READY=1"), "{:?}", manager.heard);
        world.ip("link set dev lb0 xdp off\n")?;
        manager.wait("ready", |word| word == "READY=1")?;
        agent.assert_alive()
    })
}

#[test]
fn a_reload_is_announced_from_begin_to_end() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut manager = Manager::listen(world)?;
        world.write("lb.toml", CONFIG)?;
        let agent = manager.run(world, &[], None)?;
        manager.wait("ready", |word| word == "READY=1")?;
        let mut reloaded = |by_signal: bool| -> Result<Vec<String>> {
            manager.listen_on()?;
            manager.heard.clear();
            if by_signal {
                agent.signal(Signal::SIGHUP)?;
            } else {
                agent.lbctl(&["config", "apply"])?;
            }
            wait_for("the reload ends", || {
                manager.listen_on()?;
                Ok(manager.has_heard("READY=1").then_some(manager.heard.clone()))
            })
        };
        for by_signal in [true, false] {
            let heard = reloaded(by_signal)?;
            ensure!(heard[0] == "RELOADING=1" && heard[1].starts_with("MONOTONIC_USEC="), "{heard:?}");
        }
        world.write("lb.toml", "nonsense")?;
        let heard = reloaded(true)?;
        if !heard.iter().any(|word| word.starts_with("STATUS=refused: ")) {
            manager.wait("the line says that it was refused", |word| word.starts_with("STATUS=refused: "))?;
        }
        // The unit file runs this command: a failed reload shows in its exit code.
        agent.lbctl(&["config", "apply"])?.refused(2, &["lb.toml"]);
        Ok(())
    })
}

#[test]
fn require_attach_ends_a_start_that_cannot_attach() -> Result<()> {
    isolated(test_name!(), |world| {
        world.write("lb.toml", CONFIG)?;
        occupy(world)?;
        let said = crate::agent::Said::of(
            world.command("timeout")?.arg("60").arg(crate::world::binary("lbd")?).args([
                "--instance",
                crate::world::INSTANCE,
                "--config",
                "/run/t/lb.toml",
                "--require-attach",
            ]),
        )?;
        said.refused(1, &["--require-attach", "interface lb0"]);
        ensure!(!world.pins().exists(), "pins were left");
        Ok(())
    })
}

/// The thread of a process that has this name.
fn thread(pid: u32, name: &str) -> Result<i32> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("comm"))?.trim_end() == name {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    anyhow::bail!("process {pid} has no thread {name}")
}

/// Stops one thread of a process for as long as this value exists, by ptrace(2): the other threads go on.
struct Stopped(i32);

impl Stopped {
    fn new(thread: i32) -> Result<Self> {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: neither request reads or writes memory of ours.
        let outcome = unsafe {
            let seized = libc::ptrace(libc::PTRACE_SEIZE, thread, null, null);
            if seized == 0 { libc::ptrace(libc::PTRACE_INTERRUPT, thread, null, null) } else { seized }
        };
        Errno::result(outcome)?;
        waitpid(Pid::from_raw(thread), Some(WaitPidFlag::__WALL))?;
        Ok(Self(thread))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the request has no memory arguments; of a thread that is gone it is refused.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, null, null) };
    }
}

/// The watchdog of the tests: half of it is the time between two signs of life.
const WATCHDOG: Duration = Duration::from_millis(500);

/// Checks that no sign of life comes for several times that period, after those that were under way.
fn is_silent(manager: &mut Manager) -> Result<()> {
    manager.listen_on()?;
    std::thread::sleep(WATCHDOG);
    manager.listen_on()?;
    let end = Instant::now() + 6 * WATCHDOG;
    while Instant::now() < end {
        let words = manager.listen_on()?;
        ensure!(!words.contains(&"WATCHDOG=1".to_owned()), "a sign of life: {words:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn watchdog_needs_the_process_its_loop_and_its_checks() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut manager = Manager::listen(world)?;
        // With checks and without: the thread of the checks gives signs of life also while it has nothing to do.
        for config in [CONFIG.to_owned(), CONFIG.replace("health = false", "health = { kind = \"tcp\" }")] {
            world.write("lb.toml", config)?;
            let agent = manager.run(world, &[], Some(WATCHDOG))?;
            manager.heard.clear();
            manager.wait("a sign of life", |word| word == "WATCHDOG=1")?;
            manager.wait("another", |word| word == "WATCHDOG=1")?;

            agent.signal(Signal::SIGSTOP)?;
            is_silent(&mut manager)?;
            agent.signal(Signal::SIGCONT)?;
            manager.wait("a sign of life of a process that goes on", |word| word == "WATCHDOG=1")?;

            for name in ["lb-health", "lbd"] {
                let stopped = Stopped::new(thread(agent.pid(), name)?)?;
                is_silent(&mut manager).with_context(|| format!("while {name} is stopped"))?;
                drop(stopped);
                manager.wait("a sign of life of a thread that goes on", |word| word == "WATCHDOG=1")?;
            }
            let complaints = agent.log().matches("the health checks have been stuck").count();
            ensure!(complaints >= 1, "{}", agent.log());
            agent.end(Signal::SIGTERM)?;
        }
        Ok(())
    })
}
