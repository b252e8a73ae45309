//! `lbctl config apply --confirm`: the agent takes a change back that no one confirms, also after it was killed meanwhile.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::{
    mount::{MsFlags, mount},
    sys::signal::Signal,
};
use serde_json::Value;

use crate::{
    agent::Agent,
    world::{CONFIG, World, isolated, until, wait_for},
};

/// Writes [`CONFIG`] with another weight of web-2 next to the agent's file, and returns the name.
fn lighter(world: &World) -> Result<String> {
    let text = CONFIG.replace("address = \"10.0.0.12\"", "address = \"10.0.0.12\"\nweight = 7");
    Ok(world.write("new.toml", text)?.display().to_string())
}

fn weight(agent: &Agent<'_>) -> Result<Value> {
    Ok(agent.json(&["backend", "show", "web/web-2"])?["weight"].clone())
}

fn waits(agent: &Agent<'_>) -> Result<Option<u64>> {
    Ok(agent.json(&["status"])?["rolls_back_in"].as_u64())
}

fn wait_for_the_rollback(world: &World, agent: &Agent<'_>) -> Result<()> {
    until("the rollback", || {
        let weight = weight(agent)?;
        Ok(if weight == 100 { Ok(()) } else { Err(format!("weight {weight}, {:?} s left", waits(agent)?)) })
    })?;
    ensure!(fs::read_to_string(world.path("lb.toml"))? == CONFIG, "the file is not the one before");
    let kept = fs::read_to_string(world.path("lb.toml.unconfirmed"))?;
    ensure!(kept.contains("weight = 7"), "{kept}");
    ensure!(waits(agent)?.is_none());
    Ok(())
}

#[test]
fn the_agent_rolls_back_what_is_not_confirmed() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let fingerprint = agent.json(&["status"])?["fingerprint"].clone();
        let said = agent.lbctl(&["config", "apply", &lighter(world)?, "--confirm", "20s"])?.done()?;
        ensure!(said.contains("rolls back in 20 s unless"), "{said}");
        ensure!(weight(&agent)? == 7 && waits(&agent)?.is_some());
        let status = agent.lbctl(&["status"])?.done()?;
        ensure!(status.contains("not confirmed") && status.contains("lbctl config confirm"), "{status}");
        wait_for_the_rollback(world, &agent)?;
        ensure!(agent.json(&["status"])?["fingerprint"] == fingerprint);
        ensure!(agent.log().contains("config_rolled_back"), "{}", agent.log());
        agent.lbctl(&["config", "confirm"])?.refused(1, &["no configuration waits", "lbctl events"]);
        agent.assert_alive()
    })
}

#[test]
fn a_confirmed_change_survives_sigkill() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.lbctl(&["config", "apply", &lighter(world)?, "--confirm", "15s"])?.done()?;
        agent.lbctl(&["config", "confirm"])?.done()?;
        agent.end(Signal::SIGKILL)?;
        sleep(Duration::from_secs(15));
        let agent = world.restart()?;
        ensure!(weight(&agent)? == 7 && waits(&agent)?.is_none());
        ensure!(!world.path("lb.toml.unconfirmed").exists());
        Ok(())
    })
}

#[test]
fn the_next_agent_rolls_back_in_time() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.lbctl(&["config", "apply", &lighter(world)?, "--confirm", "25s"])?.done()?;
        agent.end(Signal::SIGKILL)?;
        let agent = world.restart()?;
        let left = waits(&agent)?;
        ensure!(weight(&agent)? == 7 && left.is_some_and(|left| left <= 25), "{left:?}");
        wait_for_the_rollback(world, &agent)
    })
}

#[test]
fn a_late_start_uses_the_configuration_before() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.lbctl(&["config", "apply", &lighter(world)?, "--confirm", "1s"])?.done()?;
        agent.end(Signal::SIGKILL)?;
        sleep(Duration::from_secs(1));
        let agent = world.restart()?;
        wait_for_the_rollback(world, &agent)?;
        ensure!(agent.log().contains("the configuration was not confirmed in time"), "{}", agent.log());
        let events = agent.lbctl(&["events"])?.done()?;
        ensure!(events.contains("config_rolled_back"), "{events}");
        Ok(())
    })
}

#[test]
fn other_changes_are_refused_meanwhile_or_rolled_back() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        agent.lbctl(&["config", "apply", &lighter(world)?, "--confirm", "1h"])?.done()?;
        for refused in [&["config", "apply"][..], &["config", "save"], &["config", "revert"]] {
            agent.lbctl(refused)?.refused(1, &["waits", "lbctl config confirm", "lbctl config rollback"]);
        }
        agent.signal(Signal::SIGHUP)?;
        wait_for("the refusal is in the log", || Ok(agent.log().contains("config_refused").then_some(())))?;
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "9"])?.done()?;
        agent.lbctl(&["config", "rollback"])?.done()?;
        ensure!(weight(&agent)? == 100);
        ensure!(agent.json(&["backend", "show", "web/web-1"])?["weight"] == 100);
        ensure!(agent.json(&["status"])?["overlay_changes"] == 0);
        agent.assert_alive()
    })
}

#[test]
fn an_invalid_time_is_refused_before_applying() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let file = lighter(world)?;
        for bad in ["0s", "1500ms", "25h", "60", "soon"] {
            agent.lbctl(&["config", "apply", &file, "--confirm", bad])?.refused(2, &["--confirm"]);
        }
        ensure!(weight(&agent)? == 100 && waits(&agent)?.is_none());
        Ok(())
    })
}

#[test]
fn a_full_disk_refuses_what_could_not_be_undone() -> Result<()> {
    isolated(test_name!(), |world| {
        let state = world.path("state");
        mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=755"))?;
        let mut agent = world.start(CONFIG)?;
        let filler = state.join("filler");
        // More than the file system holds, so that it is full.
        let _full = fs::write(&filler, vec![0; 1 << 20]);
        let file = lighter(world)?;
        let said = agent.lbctl(&["config", "apply", &file, "--confirm", "60s"])?;
        said.refused(1, &["/run/t/state/", "No space left", "nothing was changed"]);
        ensure!(weight(&agent)? == 100 && waits(&agent)?.is_none());
        ensure!(fs::read_to_string(world.path("lb.toml"))? == CONFIG, "the file was replaced");
        fs::remove_file(filler)?;
        agent.lbctl(&["config", "apply", &file, "--confirm", "60s"])?.done()?;
        agent.lbctl(&["config", "confirm"])?.done()?;
        ensure!(weight(&agent)? == 7);
        agent.assert_alive()
    })
}
