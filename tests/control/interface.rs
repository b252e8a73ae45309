//! Interfaces that are taken, missing, or come and go.

use anyhow::{Result, ensure};
use lb_tests::test_name;
use serde_json::Value;

use crate::{
    agent::Agent,
    world::{CONFIG, isolated, wait_for},
};

fn interface(agent: &Agent<'_>, name: &str) -> Result<Value> {
    let status = agent.json(&["status"])?;
    let mut found = status["interfaces"].as_array().into_iter().flatten();
    Ok(found.find(|interface| interface["name"] == name).cloned().unwrap_or_default())
}

fn wait_until(agent: &Agent<'_>, name: &str, attached: &str) -> Result<()> {
    wait_for(attached, || Ok((interface(agent, name)?["attached"] == attached).then_some(())))
}

#[test]
fn an_interface_with_another_program_is_left_alone_until_that_is_off() -> Result<()> {
    isolated(test_name!(), |world| {
        world.lbd(&["dev", "xdp-pass", "--interface", "lb0"])?.done()?;
        let mut agent = world.start(CONFIG)?;
        let found = interface(&agent, "lb0")?;
        ensure!(found["attached"] == "detached", "{found}");
        ensure!(found["note"].as_str().is_some_and(|note| note.contains("lb_pass")), "{found}");
        ensure!(agent.log().contains("lb_pass"), "{}", agent.log());
        agent.assert_alive()?;
        world.ip("link set dev lb0 xdp off")?;
        wait_until(&agent, "lb0", "native")
    })
}

#[test]
fn an_agent_starts_with_the_interfaces_there_are_and_attaches_the_missing_one_when_it_comes() -> Result<()> {
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
fn an_interface_that_goes_is_told_and_attached_again_when_it_is_back() -> Result<()> {
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
fn an_interface_that_a_reload_brings_is_attached_and_one_it_leaves_out_is_freed() -> Result<()> {
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
