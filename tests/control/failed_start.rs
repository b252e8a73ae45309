//! What would make a start fail: check, plan and reload refuse it, and a start finds it before it touches the data path.
//! The agent also keeps naming the changes that wait for a restart.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    agent::Said,
    world::{CONFIG, INSTANCE, World, isolated, until},
};

fn with(line: &str) -> String {
    CONFIG.replace("seed =", &format!("{line}\nseed ="))
}

/// The results of both checks.
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

/// Configurations with which no first start succeeds, each with its exit code and its message. Exit code 1 is for the ways to
/// reach the agent, and for what this host lacks for them.
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
fn a_failed_start_leaves_no_program_and_no_pin() -> Result<()> {
    isolated(test_name!(), |world| {
        let _taken = TcpListener::bind("127.0.0.1:9477")?;
        for (config, code, parts) in impossible(world)? {
            world.write("lb.toml", config)?;
            for said in checks(world)? {
                said.refused(2, &[&["/run/t/lb.toml:"], &parts[..]].concat());
            }
            // For the file of another host the checker asks nothing of this host.
            let file = world.path("lb.toml").display().to_string();
            world.lbctl(&["config", "check", "--any-host", &file])?.done()?;
            world.refused_start()?.refused(code, &parts);
            ensure!(!attached(world)? && !world.pins().exists(), "{parts:?}: something is left");
        }
        Ok(())
    })
}

#[test]
fn a_failed_start_leaves_the_program_that_runs() -> Result<()> {
    isolated(test_name!(), |world| {
        let _taken = TcpListener::bind("127.0.0.1:9477")?;
        let agent = world.start(CONFIG)?;
        let before = agent.services()?;
        agent.end(Signal::SIGTERM)?;
        for (config, code, parts) in impossible(world)?.into_iter().filter(|(_, code, _)| *code == 2) {
            world.write("lb.toml", config)?;
            world.refused_start()?.refused(code, &parts);
            ensure!(attached(world)?, "{parts:?}: the program was taken off");
        }
        let agent = world.start(CONFIG)?;
        ensure!(agent.json(&["status"])?["adopted"] == true);
        agent.unchanged(&before)?;
        Ok(())
    })
}

/// What an agent answers to a scrape of this address.
fn scraped(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: lb\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn management_trouble_does_not_prevent_a_restart() -> Result<()> {
    isolated(test_name!(), |world| {
        let taken = TcpListener::bind("127.0.0.1:9477")?;
        let agent = world.start(CONFIG)?;
        let before = agent.services()?;
        agent.end(Signal::SIGTERM)?;
        let lacking: Vec<_> = impossible(world)?.into_iter().filter(|(_, code, _)| *code == 1).collect();
        // With the pins as they are, and after a boot, which leaves no pins.
        for boot in [false, true] {
            for (config, _, parts) in &lacking {
                if boot {
                    world.lbd(&["--detach", "--instance", INSTANCE])?.done()?;
                }
                let mut agent = world.start(config)?;
                ensure!(attached(world)?, "{parts:?}");
                agent.unchanged(&before).with_context(|| format!("{parts:?}"))?;
                let status = agent.json(&["status"])?;
                ensure!(status["management_trouble"] == 1, "{status}");
                let said = agent.lbctl(&["status"])?.done()?;
                let events = agent.lbctl(&["events", "--kind", "management_trouble"])?.done()?;
                for part in parts {
                    ensure!(said.contains(part) && events.contains(part), "{part}: {said}{events}");
                }
                let metrics = agent.lbctl(&["metrics"])?.done()?;
                ensure!(metrics.contains("\nlb_management_trouble 1\n"), "{metrics}");
                for said in checks(world)? {
                    said.refused(2, &["/run/t/lb.toml:"]);
                }
                agent.assert_alive()?;
                agent.end(Signal::SIGTERM)?;
            }
        }
        // The address becomes free while the agent runs.
        let mut agent = world.start(&with("metrics = \"127.0.0.1:9477\""))?;
        ensure!(agent.json(&["status"])?["management_trouble"] == 1);
        drop(taken);
        until("metrics are served", || {
            let status = agent.json(&["status"])?["management_trouble"].clone();
            let scraped = scraped("127.0.0.1:9477").unwrap_or_default();
            let served = status == 0 && scraped.contains("\nlb_management_mended_total 1\n");
            Ok(if served { Ok(()) } else { Err(format!("{status}: {scraped}")) })
        })?;
        let events = agent.lbctl(&["events", "--kind", "management_mended"])?.done()?;
        ensure!(events.contains("no longer so: cannot listen for metrics on 127.0.0.1:9477"), "{events}");
        agent.assert_alive()
    })
}

#[test]
fn reload_and_plan_refuse_what_a_start_would_refuse() -> Result<()> {
    isolated(test_name!(), |world| {
        let _taken = TcpListener::bind("127.0.0.1:9477")?;
        let mut agent = world.start(&with("metrics = \"127.0.0.1:9478\""))?;
        // An address on which the agent itself listens is no trouble for check and reload.
        for said in checks(world)? {
            said.done()?;
        }
        agent.lbctl(&["config", "apply"])?.done()?;
        let before = agent.services()?;
        for (config, _, parts) in impossible(world)? {
            let file = world.write("lb.toml", &config)?.display().to_string();
            agent.lbctl(&["config", "apply"])?.refused(2, &parts);
            // A request over the socket cannot change the state directory at all.
            let parts = if config.contains("/run/t/state") {
                parts
            } else {
                vec!["cannot be changed over the socket"]
            };
            agent.lbctl(&["plan", &file])?.refused(2, &parts);
            agent.lbctl(&["config", "apply", &file])?.refused(2, &parts);
            agent.unchanged(&before)?;
        }
        agent.assert_alive()
    })
}

#[test]
fn settings_that_wait_for_a_restart_are_listed() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        world
            .write("lb.toml", with("metrics = \"127.0.0.1:9477\"").replace("flows = 1024", "flows = 2048"))?;
        let said = agent.lbctl(&["config", "apply"])?.done()?;
        ensure!(said.contains("node.metrics takes effect when the agent starts again"), "{said}");
        // The answer to another change does not name them; the agent still remembers them.
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
        // A key that has its old value again waits for nothing.
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
