//! Applying the configuration that is in force already writes nothing.

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::world::{CONFIG, isolated};

#[test]
fn an_unchanged_configuration_writes_no_entry() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let apply = |agent: &crate::agent::Agent<'_>| agent.json(&["config", "apply"]);
        let changed = apply(&agent)?;
        ensure!(changed["writes"] == 0 && changed["slots_changed"] == 0, "{changed}");
        agent.end(Signal::SIGTERM)?;
        let agent = world.restart()?;
        ensure!(agent.log().contains("2 services, 0 entries written"), "{}", agent.log());
        let changed = apply(&agent)?;
        ensure!(changed["writes"] == 0 && changed["slots_changed"] == 0, "{changed}");
        Ok(())
    })
}

#[test]
fn comments_and_the_order_of_services_are_no_change() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let (head, services) = CONFIG.split_at(CONFIG.find("[[service]]").unwrap_or(0));
        let second = services.rfind("[[service]]\n").unwrap_or(0);
        let (web, dns) = services.split_at(second);
        world.write("lb.toml", format!("# another order\n{head}{dns}{web}"))?;
        let changed = agent.json(&["config", "apply"])?;
        ensure!(changed["writes"] == 0, "{changed}");
        Ok(())
    })
}
