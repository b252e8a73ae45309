//! Connections that a server ends by a reset. The server's answers do not come through the balancer, so the records of these
//! connections look like those of silent clients.

use std::io::ErrorKind;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::lab::backend_name;

use crate::{
    Test,
    echo::Connection,
    scene::{Scene, on_usual, until},
};

pub(crate) const TESTS: &[Test] = &[("reset::a_reset_flow_counts_for_no_drain_or_balancing", counts_no_more)];

/// Connections of each of two backends.
const EACH: usize = 8;

const SERVICE: &str = "echo";

fn counts_no_more() -> Result<()> {
    on_usual(|scene| {
        let set = ["service", "set", SERVICE, "--track", "always", "--balance", "least-connections"];
        scene.agent.ctl(&[&set[..], &["--idle-after", "4s"]].concat())?;
        let third = format!("{SERVICE}/{}", backend_name(2));
        scene.agent.ctl(&["backend", "disable", &third])?;
        scene.agent.wait_for_state(&third, "disabled")?;

        let mut held = Vec::new();
        for _ in 0..2 * EACH {
            // A flow counts from its second packet on.
            held.push(spoken(scene)?);
        }
        let (dead, alive) = (backend_name(0), backend_name(1));
        let (reset, mut held): (Vec<Connection>, Vec<Connection>) =
            held.into_iter().partition(|connection| connection.backend == dead);
        // The agent's sweep of the flow table corrects the counts, by one or two while connections come.
        ensure!(reset.len().abs_diff(EACH) <= 2, "{} of {} went to {dead}", reset.len(), 2 * EACH);
        for connection in reset {
            let error = connection.ask_for_reset();
            ensure!(
                error == Some(ErrorKind::ConnectionReset),
                "the server answered {error:?} instead of a reset"
            );
        }

        let object = format!("{SERVICE}/{dead}");
        let output = while_speaking(&mut held, || {
            scene.agent.ctl_output(&[
                "backend",
                "drain",
                &object,
                "--wait",
                "--settle",
                "1s",
                "--timeout",
                "5m",
            ])
        })??;
        ensure!(output.status.code() == Some(0), "the drain waits for what was reset: {output:?}");
        scene.agent.ctl(&["backend", "undrain", &object])?;
        scene.agent.wait_for_state(&object, "up")?;

        // The other backend has all its connections, so new connections go to this one until it has about as many.
        let new = held.len() - 2;
        let mut went = Vec::new();
        for _ in 0..new {
            speak(&mut held)?;
            let connection = spoken(scene)?;
            went.push(connection.backend.clone());
            ensure!(
                went.iter().all(|backend| *backend == dead),
                "{alive} has {} connections: {went:?}",
                new + 2
            );
            held.push(connection);
        }
        until("only live connections are counted", || {
            speak(&mut held)?;
            let count = scene.agent.ctl(&["backend", "show", &object])?["flows"].clone();
            Ok(if count == new { Ok(()) } else { Err(format!("{count}")) })
        })?;
        speak(&mut held)
    })
}

fn spoken(scene: &Scene) -> Result<Connection> {
    let mut connection = Connection::open(&scene.lab, false)?;
    connection.exchange(1)?;
    Ok(connection)
}

/// Checks that every connection still gets its answer.
fn speak(held: &mut [Connection]) -> Result<()> {
    for connection in held {
        connection.exchange(2).with_context(|| format!("a live connection of {}", connection.backend))?;
    }
    Ok(())
}

/// Runs `work`, which takes a while, and lets live connections exchange bytes meanwhile.
fn while_speaking<T: Send>(held: &mut [Connection], work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() {
            speak(held)?;
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        match work.join() {
            Ok(outcome) => Ok(outcome),
            Err(_) => bail!("a thread panicked"),
        }
    })
}
