//! A refused configuration: by `--check`, at the start, by `config apply` and by SIGHUP. A running agent keeps the
//! configuration that it had.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    config,
    world::{CONFIG, INSTANCE, isolated, wait_for},
};

#[test]
fn check_lists_every_error_and_ends_with_2() -> Result<()> {
    isolated(test_name!(), |world| {
        for bad in config::all() {
            let file = world.write("bad.toml", &bad.text)?.display().to_string();
            let said = world.lbd(&["--check", "--config", &file])?;
            said.refused(2, &[]);
            bad.assert_all_said(&said.err, &file);
            let said = world.lbctl(&["config", "check", &file])?;
            said.refused(2, &[]);
            bad.assert_all_said(&said.err, &file);
        }
        Ok(())
    })
}

#[test]
fn check_accepts_a_good_file_and_needs_no_agent() -> Result<()> {
    isolated(test_name!(), |world| {
        let file = world.write("lb.toml", CONFIG)?.display().to_string();
        let said = world.lbd(&["--check", "--config", &file])?.done()?;
        ensure!(said.contains("ok, 2 services, 3 backends"), "{said}");
        ensure!(!world.pins().exists(), "--check made pins");
        Ok(())
    })
}

#[test]
fn check_shows_where_an_unknown_interface_is_named() -> Result<()> {
    isolated(test_name!(), |world| {
        let file = world.write("lb.toml", CONFIG.replace("\"lb0\"", "[\"lb0\", \"lb7\"]"))?;
        let file = file.display().to_string();
        let place = format!("{file}:4:21: node: there is no interface lb7");
        world.lbd(&["--check", "--config", &file])?.refused(2, &[&place]);
        Ok(())
    })
}

#[test]
fn check_of_a_file_that_is_not_there_names_it() -> Result<()> {
    isolated(test_name!(), |world| {
        world.lbd(&["--check", "--config", "/run/t/none.toml"])?.refused(2, &["/run/t/none.toml"]);
        Ok(())
    })
}

#[test]
fn a_bad_file_refuses_the_start_with_every_error() -> Result<()> {
    isolated(test_name!(), |world| {
        for bad in config::all() {
            let file = world.write("lb.toml", &bad.text)?.display().to_string();
            let said = world.refused_start()?;
            said.refused(2, &[]);
            bad.assert_all_said(&said.err, &file);
            ensure!(!world.pins().exists() && !world.socket().exists(), "{} left something", bad.name);
        }
        Ok(())
    })
}

#[test]
fn applying_a_bad_file_is_refused_and_changes_nothing() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let before = agent.services()?;
        for bad in config::all() {
            let file = world.write("bad.toml", &bad.text)?.display().to_string();
            let said = agent.lbctl(&["config", "apply", &file])?;
            said.refused(2, &[]);
            bad.assert_all_said(&said.err, &file);
            agent.unchanged(&before).with_context(|| format!("{} changed something", bad.name))?;
            ensure!(fs::read_to_string(world.path("lb.toml"))? == CONFIG, "the file was replaced");
        }
        agent.assert_alive()
    })
}

#[test]
fn reloading_a_bad_file_is_refused_and_changes_nothing() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let before = agent.services()?;
        for bad in config::all() {
            let file = world.write("lb.toml", &bad.text)?.display().to_string();
            let applied = agent.json(&["status"])?["applied_at"].clone();
            agent.signal(Signal::SIGHUP)?;
            let (_, words) = bad.errors[0];
            wait_for("the refusal is in the log", || Ok(agent.log().contains(words).then_some(())))?;
            let error = agent.json(&["status"])?["last_error"].as_str().unwrap_or_default().to_owned();
            bad.assert_all_said(&error, &file);
            let said = agent.lbctl(&["config", "apply"])?;
            said.refused(2, &[]);
            bad.assert_all_said(&said.err, &file);
            agent.unchanged(&before).with_context(|| format!("{} changed something", bad.name))?;
            ensure!(agent.json(&["status"])?["applied_at"] == applied, "{} counts as applied", bad.name);
        }
        world.write("lb.toml", CONFIG)?;
        agent.signal(Signal::SIGHUP)?;
        wait_for("the good file is applied", || {
            Ok(agent.json(&["status"])?["last_error"].is_null().then_some(()))
        })?;
        agent.assert_alive()
    })
}

#[test]
fn a_misspelt_interface_is_not_applied() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let text = CONFIG.replace("\"lb0\"", "\"bl0\"");
        let file = world.write("new.toml", &text)?.display().to_string();
        let said = agent.lbctl(&["config", "apply", &file])?;
        said.refused(2, &[&format!("{file}:4:13: node: there is no interface bl0")]);
        let interfaces = agent.json(&["status"])?["interfaces"].clone();
        ensure!(interfaces[0]["name"] == "lb0" && interfaces[0]["attached"] == "native", "{interfaces}");
        agent.assert_alive()
    })
}

#[test]
fn sighup_applies_what_the_file_says_now() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        world.write("lb.toml", CONFIG.replace("10.0.0.12", "10.0.0.13"))?;
        agent.signal(Signal::SIGHUP)?;
        wait_for("the new address", || {
            let backend = agent.json(&["backend", "show", "web/web-2"])?;
            Ok((backend["address"] == "10.0.0.13" && backend["state"] == "up").then_some(()))
        })?;
        ensure!(agent.json(&["status"])?["instance"] == INSTANCE);
        Ok(())
    })
}
