//! Full maps: the agent refuses a change before it writes anything, and names the limit and where it is set.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::Agent,
    world::{CONFIG, World, backends, isolated, until},
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

/// Files that ask for more than their limits allow.
fn too_much() -> [(&'static str, String); 3] {
    [
        ("limits.services", CONFIG.to_owned() + &services(7)),
        ("limits.backends", CONFIG.replace("max_backends = 2", "max_backends = 10") + &backends(80)),
        ("limits.slots", CONFIG.replace("max_backends = 10", "max_backends = 100")),
    ]
}

/// Fails if the command `arguments`, which the agent refuses, changed something.
fn refused(agent: &Agent<'_>, code: i32, arguments: &[&str], words: &[&str], before: &Value) -> Result<()> {
    agent.lbctl(arguments)?.refused(code, words);
    agent.unchanged(before).with_context(|| format!("{arguments:?} changed something"))?;
    ensure!(agent.json(&["status"])?["overlay_changes"] == 0, "{arguments:?} left a run-time change");
    Ok(())
}

#[test]
fn a_file_above_its_limits_is_refused() -> Result<()> {
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
fn one_more_than_fits_is_refused_by_the_limits_name() -> Result<()> {
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
fn raised_limits_hold_only_after_a_restart() -> Result<()> {
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

/// The file with another backend address. It needs every number, and so does the file before it.
fn replaced(text: &str, old: &str, new: &str) -> String {
    text.replace(&format!("address = \"{old}\""), &format!("address = \"{new}\""))
}

/// What the agent must say of a backend that waits for one of three numbers.
const WAITS: &str = "waits for a free number: limits.backends = 3";

/// Whether one of several messages contains these words.
fn says(list: &Value, words: &str) -> bool {
    list.as_array()
        .is_some_and(|all| all.iter().any(|one| one.as_str().is_some_and(|one| one.contains(words))))
}

fn wait_for_up(agent: &Agent<'_>, backend: &str, address: &str) -> Result<()> {
    until(&format!("{backend} is up at {address}"), || {
        let found = agent.json(&["backend", "show", backend])?;
        let is = found["state"] == "up" && found["address"] == address && found["slots"].as_u64() > Some(0);
        Ok(if is {
            Ok(())
        } else {
            Err(format!("{} at {}: {}", found["state"], found["address"], found["reason"]))
        })
    })
}

#[test]
fn a_backend_replaced_at_the_limit_waits() -> Result<()> {
    isolated(test_name!(), |world| {
        let text = with("backends", 3);
        let agent = world.start(&text)?;
        let file = world.write("lb.toml", replaced(&text, "10.0.0.12", "10.0.0.13"))?.display().to_string();

        let plan = agent.json(&["plan", &file])?;
        ensure!(says(&plan["warnings"], WAITS), "{plan}");
        let before = agent.json(&["backend", "show", "web/web-2"])?;
        ensure!(
            before["address"] == "10.0.0.12" && before["state"] == "up",
            "a plan changes nothing: {before}"
        );

        let answer = agent.lbctl(&["config", "apply"])?;
        ensure!(answer.code == 0 && (answer.out.clone() + &answer.err).contains(WAITS), "{answer:?}");
        let waiting = agent.json(&["backend", "show", "web/web-2"])?;
        ensure!(waiting["state"] == "waiting" && waiting["slots"] == 0, "{waiting}");
        ensure!(waiting["reason"].as_str().is_some_and(|why| why.contains(WAITS)), "{waiting}");
        let other = agent.json(&["backend", "show", "web/web-1"])?;
        ensure!(other["state"] == "up", "{other}");
        ensure!(agent.lbctl(&["backend", "list"])?.done()?.contains("waits for a free number"));
        let status = agent.json(&["status"])?;
        ensure!(says(&status["services"][1]["notes"], "1 backend waits"), "{status}");
        wait_for_up(&agent, "web/web-2", "10.0.0.13")?;

        // The way back is a change like any other.
        agent.lbctl(&["backend", "remove", "web/web-2", "--force"])?.done()?;
        agent.lbctl(&["backend", "add", "web/web-3", "--address", "10.0.0.12"])?.done()?;
        wait_for_up(&agent, "web/web-3", "10.0.0.12")?;
        Ok(())
    })
}

#[test]
fn a_start_that_replaces_a_backend_at_the_limit_waits() -> Result<()> {
    isolated(test_name!(), |world| {
        let text = with("backends", 3);
        let agent = world.start(&text)?;
        agent.end(Signal::SIGKILL)?;
        world.write("lb.toml", replaced(&text, "10.0.0.12", "10.0.0.13"))?;
        let agent = world.restart()?;
        ensure!(agent.log().contains(&format!("backend web/web-2 {WAITS}")), "{}", agent.log());
        wait_for_up(&agent, "web/web-2", "10.0.0.13")?;
        // Without an earlier state to go on with, the agent refuses a backend that can never get a number, not one that waits.
        agent.end(Signal::SIGTERM)?;
        std::fs::remove_dir_all(world.path("state"))?;
        world.write("lb.toml", text + &backends(1))?;
        world.refused_start()?.refused(2, &["/run/t/lb.toml:", "limits.backends is 3"]);
        Ok(())
    })
}

/// Replaces a service, and with it each kind of object whose map may be full.
fn service_replaced(world: &World, text: &str) -> Result<()> {
    let other = |name: &str, port: u16| {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = \"tcp/198.51.100.1:{port}\"\nmax_backends = 10\n\
             [[service.backend]]\nname = \"a\"\naddress = \"10.0.0.14\"\n"
        )
    };
    let agent = world.start(&(text.to_owned() + &other("first", 1)))?;
    let file = world.write("lb.toml", text.to_owned() + &other("second", 2))?.display().to_string();
    ensure!(says(&agent.json(&["plan", &file])?["warnings"], "service second waits for "));
    agent.lbctl(&["config", "apply"])?.done()?;
    ensure!(agent.json(&["backend", "show", "second/a"])?["state"] == "waiting", "{}", agent.log());
    wait_for_up(&agent, "second/a", "10.0.0.14")?;
    agent.end(Signal::SIGKILL)?;
    world.write("lb.toml", text.to_owned() + &other("third", 3))?;
    let agent = world.restart()?;
    wait_for_up(&agent, "third/a", "10.0.0.14")?;
    agent.lbctl(&["detach", "--yes"])?.done()?;
    agent.ended()?;
    Ok(())
}

#[test]
fn a_service_replaced_at_the_limit_waits() -> Result<()> {
    isolated(test_name!(), |world| {
        service_replaced(world, &with("services", 3))?;
        // Rings of 1009, 211 and 1009 slots.
        service_replaced(world, &with("slots", 2300))
    })
}

#[test]
fn a_start_after_removals_has_the_room_of_its_file() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&with("services", 3))?;
        let other = ["--listen", "tcp/198.51.100.1:1", "--max-backends", "1"];
        agent.lbctl(&[&["service", "add", "first"], &other[..]].concat())?.done()?;
        agent.lbctl(&["service", "remove", "first"])?.done()?;
        agent.end(Signal::SIGKILL)?;
        let text = with("services", 3)
            + "[[service]]\nname = \"second\"\nlisten = \"tcp/198.51.100.2:1\"\nmax_backends = 1\n\
               [[service.backend]]\nname = \"a\"\naddress = \"10.0.0.14\"\n";
        world.write("lb.toml", text)?;
        let agent = world.restart()?;
        wait_for_up(&agent, "second/a", "10.0.0.14")
    })
}

/// What the agent must say of a service that waits for the room of a ring that gets shorter.
const NO_ROOM: &str = "service second waits for room: limits.slots = 18000 has no 2039 free at a stretch until rings that became \
                       too long are shorter";

#[test]
fn a_new_service_waits_for_a_shrinking_ring() -> Result<()> {
    isolated(test_name!(), |world| {
        let short = with("slots", 18_000).replace("name = \"web\"", "name = \"web\"\ntrack_window = \"1s\"");
        let long = short.replace("max_backends = 10", "max_backends = 100");
        let agent = world.start(&long)?;
        agent.end(Signal::SIGKILL)?;
        // The flow tables that an agent adopts may have flows in every slot, so the new ring learns from the long one.
        world.write("lb.toml", &short)?;
        let agent = world.restart()?;
        let second = "[[service]]\nname = \"second\"\nlisten = \"tcp/198.51.100.2:1\"\nmax_backends = 20\n\
                      [[service.backend]]\nname = \"a\"\naddress = \"10.0.0.14\"\n";
        let file = world.write("lb.toml", short + second)?.display().to_string();
        let plan = agent.json(&["plan", &file])?;
        ensure!(says(&plan["warnings"], NO_ROOM), "{plan}");
        let answer = agent.lbctl(&["config", "apply"])?;
        ensure!(answer.code == 0 && (answer.out.clone() + &answer.err).contains(NO_ROOM), "{answer:?}");
        let status = agent.json(&["status"])?;
        let notes =
            status["services"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "second"));
        let note = NO_ROOM.trim_start_matches("service second ");
        ensure!(notes.is_some_and(|one| says(&one["notes"], note)), "{status}");
        wait_for_up(&agent, "second/a", "10.0.0.14")
    })
}
