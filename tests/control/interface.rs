//! Interfaces that are in use, missing, or come and go.

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::{Agent, Said},
    foreign_xdp,
    world::{CONFIG, World, isolated, until, wait_for},
};

fn interface(agent: &Agent<'_>, name: &str) -> Result<Value> {
    let status = agent.json(&["status"])?;
    let mut found = status["interfaces"].as_array().into_iter().flatten();
    Ok(found.find(|interface| interface["name"] == name).cloned().unwrap_or_default())
}

fn wait_until(agent: &Agent<'_>, name: &str, attached: &str) -> Result<()> {
    until(&format!("{name} is {attached}"), || {
        let found = interface(agent, name)?;
        Ok(if found["attached"] == attached { Ok(()) } else { Err(found.to_string()) })
    })
}

#[test]
fn a_foreign_program_is_left_alone_until_it_is_off() -> Result<()> {
    isolated(test_name!(), |world| {
        foreign_xdp::attach(world, "lb0", "stranger")?;
        let mut agent = world.start(CONFIG)?;
        let found = interface(&agent, "lb0")?;
        ensure!(found["attached"] == "detached", "{found}");
        let note = found["note"].as_str().unwrap_or_default();
        ensure!(note.contains("stranger") && note.contains("take it off first"), "{found}");
        ensure!(agent.log().contains("stranger"), "{}", agent.log());
        agent.assert_alive()?;
        world.ip("link set dev lb0 xdp off")?;
        wait_until(&agent, "lb0", "native")
    })
}

#[test]
fn force_leaves_a_program_of_others_alone() -> Result<()> {
    isolated(test_name!(), |world| {
        foreign_xdp::attach(world, "lb0", "stranger")?;
        let agent = world.start_with(CONFIG, &["--force"])?;
        ensure!(interface(&agent, "lb0")?["attached"] == "detached");
        ensure!(programs_on(world, "lb0")?.contains("stranger"), "it was taken off");
        Ok(())
    })
}

#[test]
fn force_replaces_the_program_of_another_instance() -> Result<()> {
    isolated(test_name!(), |world| {
        let file = world.write("other.toml", CONFIG)?.display().to_string();
        let mut other = world.command("lbd")?.args(["--instance", "other", "--config", &file]).spawn()?;
        // Only what is pinned stays after the agent has ended.
        let pin = world.pins().with_file_name("other").join("link-lb0");
        wait_for("the other instance has attached", || Ok(pin.exists().then_some(())))?;
        ensure!(programs_on(world, "lb0")?.contains("lb_xdp"), "it has not");
        // The other instance is gone, and its program is still there.
        other.kill()?;
        other.wait()?;
        let agent = world.start(CONFIG)?;
        let found = interface(&agent, "lb0")?;
        ensure!(found["attached"] == "detached", "{found}");
        ensure!(found["note"].as_str().is_some_and(|note| note.contains("lbd --force")), "{found}");
        agent.end(Signal::SIGTERM)?;
        let mut agent = world.start_with(CONFIG, &["--force"])?;
        ensure!(interface(&agent, "lb0")?["attached"] == "native");
        ensure!(agent.log().contains("is taken off, as --force asks"), "{}", agent.log());
        agent.assert_alive()
    })
}

#[test]
fn a_program_taken_by_another_instance_is_reported() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        ensure!(interface(&agent, "lb0")?["attached"] == "native");
        let file = world.write("other.toml", CONFIG)?.display().to_string();
        let mut other =
            world.command("lbd")?.args(["--instance", "other", "--config", &file, "--force"]).spawn()?;
        wait_until(&agent, "lb0", "detached")?;
        let note = wait_for("it names who has the interface", || {
            let note = interface(&agent, "lb0")?["note"].as_str().unwrap_or_default().to_owned();
            Ok(note.contains("instance other").then_some(note))
        })?;
        ensure!(note.contains("lbd --force"), "{note}");
        ensure!(agent.log().contains("interface_lost: lb0"), "{}", agent.log());
        // The agent recovers by itself when the other instance is gone.
        other.kill()?;
        other.wait()?;
        world.lbd(&["--detach", "--instance", "other"])?.done()?;
        wait_until(&agent, "lb0", "native")
    })
}

#[test]
fn force_replaces_our_program_attached_by_hand() -> Result<()> {
    isolated(test_name!(), |world| {
        world.lbd(&["dev", "xdp-pass", "--interface", "lb0"])?.done()?;
        let agent = world.start_with(CONFIG, &["--force"])?;
        ensure!(interface(&agent, "lb0")?["attached"] == "native");
        ensure!(agent.log().contains("lb_pass"), "{}", agent.log());
        Ok(())
    })
}

/// What `ip` says of an interface's XDP program.
fn programs_on(world: &World, interface: &str) -> Result<String> {
    Said::of(world.command("ip")?.args(["-d", "link", "show", interface]))?.done()
}

#[test]
fn a_missing_interface_is_attached_when_it_comes() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&CONFIG.replace("\"lb0\"", "[\"lb0\", \"lb1\"]"))?;
        ensure!(interface(&agent, "lb0")?["attached"] == "native");
        let missing = interface(&agent, "lb1")?;
        ensure!(missing["attached"] == "detached" && missing["note"].is_string(), "{missing}");
        ensure!(agent.log().contains("lb1"), "{}", agent.log());
        world.ip("link add lb1 type veth peer name lb1p\nlink set lb1 up")?;
        wait_until(&agent, "lb1", "native")
    })
}

#[test]
fn an_interface_that_vanishes_is_reported_and_reattached() -> Result<()> {
    isolated(test_name!(), |world| {
        world.ip("link add lb1 type veth peer name lb1p\nlink set lb1 up")?;
        let mut agent = world.start(&CONFIG.replace("\"lb0\"", "[\"lb0\", \"lb1\"]"))?;
        wait_until(&agent, "lb1", "native")?;
        world.ip("link delete lb1")?;
        wait_until(&agent, "lb1", "detached")?;
        ensure!(interface(&agent, "lb0")?["attached"] == "native");
        world.ip("link add lb1 type veth peer name lb1p\nlink set lb1 up")?;
        wait_until(&agent, "lb1", "native")?;
        agent.assert_alive()
    })
}

#[test]
fn a_reload_attaches_and_frees_interfaces() -> Result<()> {
    isolated(test_name!(), |world| {
        world.ip("link add lb1 type veth peer name lb1p\nlink set lb1 up")?;
        let agent = world.start(CONFIG)?;
        world.write("lb.toml", CONFIG.replace("\"lb0\"", "[\"lb0\", \"lb1\"]"))?;
        agent.lbctl(&["config", "apply"])?.done()?;
        wait_until(&agent, "lb1", "native")?;
        world.write("lb.toml", CONFIG)?;
        agent.lbctl(&["config", "apply"])?.done()?;
        ensure!(interface(&agent, "lb1")?.is_null());
        ensure!(!world.pins().join("link-lb1").exists(), "the program is still there");
        Ok(())
    })
}
