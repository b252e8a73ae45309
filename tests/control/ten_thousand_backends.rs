//! 10,000 backends in one service.

use std::time::Instant;

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    agent::Agent,
    world::{CONFIG, backends, isolated, wait_for},
};

/// Applies the configuration that is in force already.
fn unchanged(agent: &Agent<'_>, who: &str) -> Result<()> {
    let begun = Instant::now();
    let changed = agent.json(&["config", "apply"])?;
    eprintln!("{who}: applied without a change in {} ms", begun.elapsed().as_millis());
    ensure!(changed["writes"] == 0 && changed["slots_changed"] == 0, "{changed}");
    Ok(())
}

#[test]
fn all_get_their_slots_and_are_written_once() -> Result<()> {
    isolated(test_name!(), |world| {
        let config =
            CONFIG.replace("backends = 64", "backends = 16384").replace("slots = 4096", "slots = 1048576")
                + "[[service]]\nname = \"large\"\nlisten = \"tcp/203.0.113.99:0\"\nmax_backends = 10000\n"
                + &backends(10_000);
        let begun = Instant::now();
        let agent = world.start(&config)?;
        wait_for("all backends are in the ring", || {
            let status = agent.json(&["status"])?;
            let mut services = status["services"].as_array().into_iter().flatten();
            let large = services.find(|service| service["name"] == "large").cloned().unwrap_or_default();
            Ok((large["backends_in_ring"] == 10_000).then_some(()))
        })?;
        eprintln!("10,000 backends are in the ring {} ms after the start", begun.elapsed().as_millis());
        unchanged(&agent, "the first agent")?;
        let slots = agent.json(&["service", "show", "large"])?["slots"].clone();
        ensure!(slots == 1_000_003, "{slots}");
        agent.end(Signal::SIGTERM)?;
        unchanged(&world.restart()?, "its successor")
    })
}
