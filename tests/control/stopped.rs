//! `lbctl` when the agent is stopped, or busy.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::world::{CONFIG, isolated};

/// A limit for commands that do not wait for an answer: far below the time that a client waits for a slow answer.
const SOON: Duration = Duration::from_secs(25);

#[test]
fn a_stopped_agent_is_named_with_its_state() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        agent.signal(Signal::SIGSTOP)?;
        let pid = agent.pid();
        let (begun, parts) =
            (Instant::now(), [format!("lbd (pid {pid}) is stopped (state T)"), format!("kill -CONT {pid}")]);
        for command in [&["status"][..], &["events", "--follow"], &["backend", "drain", "web/web-1"]] {
            agent.lbctl(command)?.refused(4, &parts.each_ref().map(String::as_str));
        }
        ensure!(begun.elapsed() < SOON, "three commands took {:?}", begun.elapsed());
        agent.signal(Signal::SIGCONT)?;
        agent.lbctl(&["status"])?.done()?;
        agent.assert_alive()
    })
}

#[test]
fn a_stopped_agent_with_a_full_queue_is_named() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.signal(Signal::SIGSTOP)?;
        let mut waiting = Vec::new();
        loop {
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Unix,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::SOCK_NONBLOCK,
                None,
            )?;
            let address = nix::sys::socket::UnixAddr::new(&world.socket())?;
            match nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address) {
                Ok(()) => waiting.push(socket),
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        let parts = format!("lbd (pid {}) is stopped", agent.pid());
        agent.lbctl(&["status"])?.refused(4, &["its queue is full", &parts]);
        agent.signal(Signal::SIGCONT)
    })
}
