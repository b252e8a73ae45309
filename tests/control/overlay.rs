//! Where run-time changes are kept: they survive a restart, and the agent refuses a change that this place cannot store.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::{
    mount::{MsFlags, mount},
    sys::signal::Signal,
};

use crate::{
    agent::Agent,
    world::{CONFIG, INSTANCE, World, isolated},
};

const SET: [&str; 5] = ["backend", "set", "web/web-1", "--weight", "9"];

fn weight(agent: &Agent<'_>) -> Result<u64> {
    Ok(agent.json(&["backend", "show", "web/web-1"])?["weight"].as_u64().unwrap_or(u64::MAX))
}

/// Mounts a file system of 64 KiB over the state directory.
fn mount_small(world: &World, flags: MsFlags) -> Result<()> {
    let target = world.path("state");
    Ok(mount(Some("tmpfs"), &target, Some("tmpfs"), flags, Some("size=64k,mode=755"))?)
}

#[test]
fn run_time_changes_last_until_they_are_reverted() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.lbctl(&SET)?.done()?;
        agent.end(Signal::SIGKILL)?;
        let agent = world.restart()?;
        ensure!(weight(&agent)? == 9);
        let diff = agent.json(&["config", "diff"])?;
        ensure!(diff["overlay"].as_array().map(Vec::len) == Some(1), "{diff}");
        agent.lbctl(&["config", "revert"])?.done()?;
        ensure!(weight(&agent)? == 100);
        agent.lbctl(&SET)?.done()?;
        agent.lbctl(&["config", "save"])?.done()?;
        ensure!(fs::read_to_string(world.path("lb.toml"))?.contains("weight = 9"));
        ensure!(agent.json(&["status"])?["overlay_changes"] == 0);
        Ok(())
    })
}

#[test]
fn a_read_only_state_directory_refuses_the_change() -> Result<()> {
    isolated(test_name!(), |world| {
        mount_small(world, MsFlags::MS_RDONLY)?;
        let mut agent = world.start(CONFIG)?;
        let before = agent.services()?;
        agent.lbctl(&SET)?.refused(1, &["/run/t/state/", "nothing was changed"]);
        let answer = agent.http("PATCH", "/v1/services/web/backends/web-1", "{\"weight\": 9}")?;
        answer.assert_error(500, "failed");
        agent.unchanged(&before)?;
        ensure!(agent.json(&["status"])?["overlay_changes"] == 0);
        agent.assert_alive()
    })
}

#[test]
fn a_full_state_directory_refuses_the_change() -> Result<()> {
    isolated(test_name!(), |world| {
        mount_small(world, MsFlags::empty())?;
        let agent = world.start(CONFIG)?;
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "7"])?.done()?;
        let filler = world.path("state/filler");
        let full = fs::write(&filler, vec![0; 1 << 20]);
        ensure!(full.is_err(), "64 KiB took 1 MiB");
        let before = agent.services()?;
        agent.lbctl(&SET)?.refused(1, &["/run/t/state/", "nothing was changed"]);
        agent.unchanged(&before)?;
        agent.end(Signal::SIGKILL)?;
        let agent = world.restart()?;
        ensure!(weight(&agent)? == 7, "the change before is lost");
        fs::remove_file(filler)?;
        agent.lbctl(&SET)?.done()?;
        ensure!(weight(&agent)? == 9);
        Ok(())
    })
}

/// Puts the agent's file on a file system of 64 KiB of its own. Returns the path.
fn file_on_its_own_disk(world: &World) -> Result<PathBuf> {
    let directory = world.path("etc");
    fs::create_dir(&directory)?;
    mount(Some("tmpfs"), &directory, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=755"))?;
    fs::write(directory.join("lb.toml"), CONFIG)?;
    symlink(directory.join("lb.toml"), world.path("lb.toml"))?;
    Ok(directory)
}

/// [`CONFIG`] with the weight that a run-time change has given to web-2 already.
fn with_weight(world: &World) -> Result<String> {
    let text = CONFIG.replace("address = \"10.0.0.12\"", "address = \"10.0.0.12\"\nweight = 7");
    Ok(world.write("new.toml", text)?.display().to_string())
}

#[test]
fn a_full_disk_under_the_file_loses_no_run_time_change() -> Result<()> {
    isolated(test_name!(), |world| {
        let directory = file_on_its_own_disk(world)?;
        let agent = world.restart()?;
        agent.lbctl(&["backend", "set", "web/web-2", "--weight", "7"])?.done()?;
        let _full = fs::write(directory.join("filler"), vec![0; 1 << 20]);
        let before = agent.services()?;
        for refused in [&["config", "apply", &with_weight(world)?][..], &["config", "save"]] {
            agent.lbctl(refused)?.refused(1, &["lb.toml", "No space left"]);
        }
        agent.unchanged(&before)?;
        ensure!(fs::read_to_string(world.path("lb.toml"))? == CONFIG, "the file was written to");
        agent.end(Signal::SIGKILL)?;
        let agent = world.restart()?;
        ensure!(agent.json(&["backend", "show", "web/web-2"])?["weight"] == 7, "the change is lost");
        Ok(())
    })
}

#[test]
fn a_full_disk_under_the_overlay_leaves_the_file() -> Result<()> {
    isolated(test_name!(), |world| {
        mount_small(world, MsFlags::empty())?;
        let agent = world.start(CONFIG)?;
        agent.lbctl(&SET)?.done()?;
        agent.lbctl(&["backend", "set", "web/web-2", "--weight", "7"])?.done()?;
        let _full = fs::write(world.path("state/filler"), vec![0; 1 << 20]);
        let before = agent.services()?;
        let file = with_weight(world)?;
        agent.lbctl(&["config", "apply", &file])?.refused(1, &["/run/t/state/", "nothing was changed"]);
        agent.unchanged(&before)?;
        ensure!(fs::read_to_string(world.path("lb.toml"))? == CONFIG, "the file is another one");
        agent.end(Signal::SIGKILL)?;
        let agent = world.restart()?;
        ensure!(weight(&agent)? == 9 && agent.json(&["backend", "show", "web/web-2"])?["weight"] == 7);
        Ok(())
    })
}

#[test]
fn a_corrupt_overlay_refuses_the_start_by_file_and_place() -> Result<()> {
    isolated(test_name!(), |world| {
        world.write("lb.toml", CONFIG)?;
        let name = format!("state/{INSTANCE}.overlay.json");
        for (garbage, place) in [
            ("{\"version\": 1,\n \"changes\": [}", "line 2 column"),
            ("", "line 1 column 0"),
            ("{\"version\": 99}", "version 99"),
            ("{\"version\": 1, \"changes\": [{\"service\": \"web\", \"change\": \"explode\"}]}", "explode"),
        ] {
            let file = world.write(&name, garbage)?.display().to_string();
            world.refused_start()?.refused(2, &[&file, place, "move the file away"]);
            ensure!(fs::read_to_string(&file)? == garbage, "it was written to");
            ensure!(!world.pins().exists());
        }
        fs::remove_file(world.path(&name))?;
        let mut agent = world.restart()?;
        agent.assert_alive()
    })
}
