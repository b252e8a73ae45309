//! The first fill of a service, and the state of that fill after a restart.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    agent::Agent,
    world::{CONFIG, isolated, wait_for},
};

fn learning(agent: &Agent<'_>) -> Result<u64> {
    agent.json(&["service", "show", "web"])?["slot_states"]["learning"].as_u64().context("no count of slots")
}

/// Adds one more backend, which takes slots.
fn add(agent: &Agent<'_>, number: u8) -> Result<()> {
    let (name, address) = (format!("web/more-{number}"), format!("10.0.0.{}", 100 + number));
    agent.lbctl(&["backend", "add", &name, "--address", &address])?.done()?;
    wait_for("the new backend owns slots", || {
        Ok(agent.json(&["backend", "show", &name])?["slots"].as_u64().filter(|slots| *slots > 0))
    })?;
    Ok(())
}

#[test]
fn a_new_service_without_traffic_does_not_learn() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        add(&agent, 1)?;
        // The window of this service lasts hours.
        wait_for("no slot learns", || Ok((learning(&agent)? == 0).then_some(())))?;
        agent.end(Signal::SIGTERM)?;
        let mut agent = world.restart()?;
        add(&agent, 2)?;
        let begun = learning(&agent)?;
        ensure!(begun > 0, "what was forwarded before is not known");
        for _ in 0..4 {
            // Each of these changes makes the agent sweep the flow tables.
            std::thread::sleep(Duration::from_millis(600));
            ensure!(learning(&agent)? == begun);
        }
        agent.assert_alive()
    })
}
