//! What would make a start fail is refused by check, plan and reload, and found out by a start before it touches the data
//! path. And what waits for a start stays named until then.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    agent::Said,
    world::{CONFIG, INSTANCE, World, isolated},
};

fn with(line: &str) -> String {
    CONFIG.replace("seed =", &format!("{line}\nseed ="))
}

/// What both checks say.
fn checks(world: &World) -> Result<[Said; 2]> {
    let file = world.path("lb.toml").display().to_string();
    Ok([
        world.lbd(&["--check", "--instance", INSTANCE, "--config", &file])?,
        world.lbctl(&["config", "check", &file])?,
    ])
}

fn attached(world: &World) -> Result<bool> {
    Ok(Said::of(world.command("ip")?.args(["-d", "link", "show", "lb0"]))?.done()?.contains("prog/xdp"))
}

/// What no start survives, what it ends with, and what is said of it.
fn impossible(world: &World) -> Result<Vec<(String, i32, Vec<&'static str>)>> {
    let file = world.write("file", "")?.display().to_string();
    let open = world.path("open");
    fs::create_dir(&open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    let state = |path: &str| CONFIG.replace("/run/t/state", path);
    Ok(vec![
        (with("socket_group = \"no-such\""), 1, vec!["no-such", "groupadd"]),
        (with("metrics = \"127.0.0.1:9477\""), 1, vec!["127.0.0.1:9477", "process"]),
        (with("metrics = \"192.0.2.7:9477\""), 1, vec!["192.0.2.7 is not an address of this host"]),
        (state(&file), 2, vec!["state_directory", "is not one"]),
        (state(&open.display().to_string()), 2, vec!["state_directory", "every user may write"]),
    ])
}

#[test]
fn a_start_that_must_fail_leaves_no_program_and_no_pin_and_check_says_it_too() -> Result<()> {
    isolated(test_name!(), |world| {
        let _taken = TcpListener::bind("127.0.0.1:9477")?;
        for (config, code, parts) in impossible(world)? {
            world.write("lb.toml", config)?;
            for said in checks(world)? {
                said.refused(2, &[&["/run/t/lb.toml:"], &parts[..]].concat());
            }
            // For a file of another host nothing is asked of this one.
            let file = world.path("lb.toml").display().to_string();
            world.lbctl(&["config", "check", "--any-host", &file])?.done()?;
            world.refused_start()?.refused(code, &parts);
            ensure!(!attached(world)? && !world.pins().exists(), "{parts:?}: something is left");
        }
        Ok(())
    })
}

#[test]
fn a_start_that_must_fail_leaves_the_program_of_the_agent_before() -> Result<()> {
    isolated(test_name!(), |world| {
        let _taken = TcpListener::bind("127.0.0.1:9477")?;
        let agent = world.start(CONFIG)?;
        let before = agent.services()?;
        agent.end(Signal::SIGTERM)?;
        for (config, code, parts) in impossible(world)? {
            world.write("lb.toml", config)?;
            world.refused_start()?.refused(code, &parts);
            ensure!(attached(world)?, "{parts:?}: the program was taken off");
        }
        let agent = world.start(CONFIG)?;
        ensure!(agent.json(&["status"])?["adopted"] == true && agent.services()? == before);
        Ok(())
    })
}

#[test]
fn reload_and_plan_refuse_what_the_next_start_would_fail_at() -> Result<()> {
    isolated(test_name!(), |world| {
        let _taken = TcpListener::bind("127.0.0.1:9477")?;
        let mut agent = world.start(&with("metrics = \"127.0.0.1:9478\""))?;
        // Where the agent listens itself is no trouble, for check and reload.
        for said in checks(world)? {
            said.done()?;
        }
        agent.lbctl(&["config", "apply"])?.done()?;
        let before = agent.services()?;
        for (config, _, parts) in impossible(world)? {
            let file = world.write("lb.toml", &config)?.display().to_string();
            agent.lbctl(&["config", "apply"])?.refused(2, &parts);
            // Over the socket a state directory cannot change at all.
            let parts = if config.contains("/run/t/state") {
                parts
            } else {
                vec!["cannot be changed over the socket"]
            };
            agent.lbctl(&["plan", &file])?.refused(2, &parts);
            agent.lbctl(&["config", "apply", &file])?.refused(2, &parts);
            ensure!(agent.services()? == before);
        }
        agent.assert_alive()
    })
}

#[test]
fn what_waits_for_a_restart_is_named_by_status_and_diff_until_then() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        world
            .write("lb.toml", with("metrics = \"127.0.0.1:9477\"").replace("flows = 1024", "flows = 2048"))?;
        let said = agent.lbctl(&["config", "apply"])?.done()?;
        ensure!(said.contains("node.metrics takes effect when the agent starts again"), "{said}");
        // Another change after it says nothing of them; they are not forgotten.
        agent.lbctl(&["backend", "drain", "web/web-2"])?.done()?;
        for command in [&["status"][..], &["config", "diff"]] {
            let said = agent.lbctl(command)?.done()?;
            ensure!(said.contains("limits") && said.contains("node.metrics"), "{command:?}: {said}");
            let names = &agent.json(command)?["needs_restart"];
            ensure!(*names == serde_json::json!(["limits", "node.metrics"]), "{command:?}: {names}");
        }
        agent.end(Signal::SIGTERM)?;
        let agent = world.restart()?;
        for command in [&["status"][..], &["config", "diff"]] {
            ensure!(agent.json(command)?["needs_restart"] == serde_json::json!([]), "{command:?}");
        }
        // And what is changed back waits for nothing.
        world.write("lb.toml", CONFIG)?;
        agent.lbctl(&["config", "apply"])?.done()?;
        ensure!(agent.json(&["status"])?["needs_restart"] == serde_json::json!(["limits", "node.metrics"]));
        world
            .write("lb.toml", with("metrics = \"127.0.0.1:9477\"").replace("flows = 1024", "flows = 2048"))?;
        agent.lbctl(&["config", "apply"])?.done()?;
        ensure!(agent.json(&["status"])?["needs_restart"] == serde_json::json!([]));
        Ok(())
    })
}
