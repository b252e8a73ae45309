//! Maps that are full: refused before anything is written, naming the limit and where it is set.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::Agent,
    world::{CONFIG, backends, isolated},
};

/// `CONFIG` with a limit of another size.
fn with(limit: &str, size: u32) -> String {
    let lines = CONFIG.lines().map(|line| match line.split_once(" = ") {
        Some((key, _)) if key == limit => format!("{limit} = {size}\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

fn services(n: u32) -> String {
    (0..n).fold(String::new(), |mut text, n| {
        let _infallible = write!(
            text,
            "[[service]]\nname = \"more-{n}\"\nlisten = \"udp/198.51.100.{n}:9\"\nmax_backends = 1\n"
        );
        text
    })
}

/// Files that ask for more than their limits.
fn too_much() -> [(&'static str, String); 3] {
    [
        ("limits.services", CONFIG.to_owned() + &services(7)),
        ("limits.backends", CONFIG.replace("max_backends = 2", "max_backends = 10") + &backends(80)),
        ("limits.slots", CONFIG.replace("max_backends = 10", "max_backends = 100")),
    ]
}

/// Fails if the refused command `arguments` changed something.
fn refused(agent: &Agent<'_>, code: i32, arguments: &[&str], words: &[&str], before: &Value) -> Result<()> {
    agent.lbctl(arguments)?.refused(code, words);
    ensure!(agent.services()? == *before, "{arguments:?} changed something");
    ensure!(agent.json(&["status"])?["overlay_changes"] == 0, "{arguments:?} left a run-time change");
    Ok(())
}

#[test]
fn a_file_that_asks_for_more_than_its_limits_is_refused_at_the_start_and_when_applied() -> Result<()> {
    isolated(test_name!(), |world| {
        for (limit, text) in too_much() {
            world.write("lb.toml", text)?;
            world.refused_start()?.refused(2, &["/run/t/lb.toml:", limit]);
            ensure!(!world.pins().exists());
        }
        let agent = world.start(CONFIG)?;
        let before = agent.services()?;
        for (limit, text) in too_much() {
            let file = world.write("more.toml", text)?.display().to_string();
            refused(&agent, 2, &["config", "apply", &file], &[&file, limit], &before)?;
        }
        Ok(())
    })
}

#[test]
fn a_service_or_backend_more_than_fits_is_refused_by_name_of_the_limit() -> Result<()> {
    isolated(test_name!(), |world| {
        let add: [&[&str]; 3] = [
            &["service", "add", "more", "--listen", "tcp/198.51.100.1:1", "--max-backends", "1"],
            &["backend", "add", "web/web-3", "--address", "10.0.0.13"],
            &["service", "set", "web", "--max-backends", "40"],
        ];
        for (limit, size, arguments) in
            [("services", 2, add[0]), ("backends", 3, add[1]), ("slots", 1400, add[2])]
        {
            let agent = world.start(&with(limit, size))?;
            let before = agent.services()?;
            let named = format!("limits.{limit} is {size}");
            refused(&agent, 1, arguments, &[&named], &before)?;
            let json = agent.lbctl(&[&["-o", "json"], arguments].concat())?;
            let error: Value = serde_json::from_str(&json.err)?;
            ensure!(error["code"] == "limit_exceeded", "{error}");
            agent.lbctl(&["detach", "--yes"])?.done()?;
            agent.ended()?;
        }
        Ok(())
    })
}

#[test]
fn raised_limits_hold_after_a_restart_and_are_not_believed_before() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&with("backends", 4))?;
        let before = agent.services()?;
        let text = CONFIG.replace("max_backends = 2", "max_backends = 10") + &backends(6);
        let file = world.write("more.toml", text)?.display().to_string();
        refused(&agent, 1, &["config", "apply", &file], &["limits.backends is 4", "restart lbd"], &before)?;
        std::fs::copy(&file, world.path("lb.toml"))?;
        agent.end(Signal::SIGTERM)?;
        let agent = world.restart()?;
        ensure!(agent.json(&["backend", "list", "dns"])?.as_array().map(Vec::len) == Some(7));
        Ok(())
    })
}

#[test]
fn an_agent_that_starts_right_after_removals_waits_for_the_room_that_its_file_has() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&with("services", 3))?;
        let other = ["--listen", "tcp/198.51.100.1:1", "--max-backends", "1"];
        agent.lbctl(&[&["service", "add", "first"], &other[..]].concat())?.done()?;
        agent.lbctl(&["service", "remove", "first"])?.done()?;
        agent.end(Signal::SIGKILL)?;
        let text = with("services", 3)
            + "[[service]]\nname = \"second\"\nlisten = \"tcp/198.51.100.2:1\"\nmax_backends = 1\n";
        world.write("lb.toml", text)?;
        let agent = world.restart()?;
        ensure!(agent.services()?.as_array().is_some_and(|all| all.len() == 3), "{}", agent.log());
        ensure!(agent.log().contains("waiting until what was removed last"), "{}", agent.log());
        Ok(())
    })
}
