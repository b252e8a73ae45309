//! What another process breaks while the agent runs, and a file that is broken at the start: the agent repairs or reports it.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    agent::Agent,
    config,
    world::{CONFIG, isolated, until, wait_for},
};

/// Names of the pinned objects.
fn pinned(world: &crate::world::World) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(world.pins()) else { return Ok(Vec::new()) };
    let mut names: Vec<String> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    // Each start makes new counters of losses.
    names.retain(|name| !name.to_lowercase().starts_with("loss"));
    names.sort();
    Ok(names)
}

/// What the configuration says of each backend, and whether the backend has a share of the ring.
fn wanted(agent: &Agent<'_>) -> Result<Vec<String>> {
    let services = agent.services()?;
    let backends =
        services.as_array().into_iter().flatten().filter_map(|service| service["backends"].as_array());
    let one = |backend: &serde_json::Value| {
        let keys = ["service", "name", "address", "admin", "weight", "state", "slots"];
        keys.map(|key| backend[key].to_string()).join(" ")
    };
    Ok(backends.flatten().map(one).collect())
}

fn events(agent: &Agent<'_>, kind: &str) -> Result<String> {
    agent.lbctl(&["events", "--kind", kind])?.done()
}

#[test]
fn removed_pins_are_restored() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let (before, services) = (pinned(world)?, agent.services()?);
        ensure!(
            before.iter().any(|name| name == "link-lb0") && before.iter().any(|name| name == "RING"),
            "{before:?}"
        );
        // One map, then the link, then everything.
        for taken in ["RING", "link-lb0", ""] {
            let path = world.pins().join(taken);
            if taken.is_empty() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
            until(&format!("{taken:?} is put back"), || {
                let now = pinned(world)?;
                Ok(if now == before { Ok(()) } else { Err(format!("{now:?}, not {before:?}")) })
            })?;
        }
        let said = events(&agent, "pins_mended")?;
        ensure!(said.contains("/RING was gone") && said.contains("put back"), "{said}");
        agent.unchanged(&services)?;
        agent.assert_alive()?;
        let metrics = agent.lbctl(&["metrics"])?.done()?;
        let mended = metrics.lines().find_map(|line| line.strip_prefix("lb_pins_mended_total "));
        let mended: usize = mended.context("no metric of pins")?.parse()?;
        // One object, one object, and all except the record of the namespace, which is not a BPF object.
        ensure!(mended > before.len() && metrics.contains("\nlb_pins_trouble 0\n"), "{metrics}");
        // The agent made the directory again: the new one locks other agents out as the first one did.
        let lock = fs::File::open(world.pins())?;
        let locked = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock);
        ensure!(locked.is_err(), "another agent could take the pins");
        agent.end(Signal::SIGKILL)?;
        let mut agent = world.restart()?;
        ensure!(agent.json(&["status"])?["adopted"] == true, "{}", agent.json(&["status"])?);
        agent.assert_alive()
    })
}

#[test]
fn removed_socket_and_lock_file_are_restored() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let (before, pid) = (agent.services()?, agent.pid().to_string());
        let lock = world.socket().with_extension("lock");
        // A second agent finds neither socket nor lock file: the pinned directory locks it out.
        fs::remove_file(world.socket())?;
        fs::remove_file(&lock)?;
        world.refused_start()?.refused(1, &[&pid]);
        let back = |agent: &Agent<'_>, what: &str| {
            until(&format!("{what} is put back"), || {
                let status = agent.json(&["status"]);
                let locked = fs::read_to_string(&lock).unwrap_or_default();
                let is = status.is_ok_and(|status| status["management_trouble"] == 0) && locked.trim() == pid;
                Ok(if is { Ok(()) } else { Err(format!("the lock file says {locked:?}")) })
            })
        };
        back(&agent, "the socket")?;
        world.refused_start()?.refused(1, &["has an agent already", &pid]);
        fs::remove_dir_all(lock.parent().context("no directory")?)?;
        back(&agent, "the directory")?;
        let said = events(&agent, "management_mended")?;
        for what in ["lock file was missing and has been restored", "sock was missing and has been restored"]
        {
            ensure!(said.matches(what).count() >= 2, "{what}: {said}");
        }
        // What another process puts there stays, and the agent reports it.
        fs::remove_file(world.socket())?;
        fs::write(world.socket(), "precious")?;
        wait_for("that is said", || Ok(agent.log().contains("exists and is not a socket").then_some(())))?;
        ensure!(fs::read_to_string(world.socket())? == "precious");
        fs::remove_file(world.socket())?;
        back(&agent, "the socket")?;
        ensure!(events(&agent, "management_trouble")?.contains("exists and is not a socket"));
        agent.unchanged(&before)?;
        agent.assert_alive()?;
        agent.end(Signal::SIGTERM)?;
        ensure!(!world.socket().exists(), "the socket is still there");
        Ok(())
    })
}

#[test]
fn a_broken_file_at_a_start_falls_back() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
        let before = wanted(&agent)?;
        agent.end(Signal::SIGTERM)?;
        let bad = config::all().into_iter().next().context("no bad file")?;
        let file = world.write("lb.toml", &bad.text)?.display().to_string();
        // With the pins as they are, and after a boot, which leaves no pins.
        for boot in [false, true] {
            if boot {
                world.lbd(&["--detach", "--instance", crate::world::INSTANCE])?.done()?;
            }
            world.lbd(&["--check", "--config", &file])?.refused(2, &[&file]);
            let mut agent = world.restart()?;
            let now = wanted(&agent)?;
            ensure!(now == before, "boot: {boot}: {before:?} became {now:?}");
            let status = agent.json(&["status"])?;
            let why = status["fallback"].as_str().unwrap_or_default().to_owned();
            ensure!(why.contains(&file) && why.contains("what was in force last is used"), "{status}");
            let said = agent.lbctl(&["status"])?.done()?;
            ensure!(said.contains("fallback"), "{said}");
            ensure!(events(&agent, "config_fallback")?.contains("the file is refused"));
            let metrics = agent.lbctl(&["metrics"])?.done()?;
            ensure!(metrics.contains("\nlb_config_fallback 1\n"), "{metrics}");
            // Run-time changes still work, and do not repair the file.
            agent.lbctl(&["backend", "set", "web/web-2", "--weight", "50"])?.done()?;
            agent.lbctl(&["backend", "set", "web/web-2", "--weight", "100"])?.done()?;
            ensure!(!agent.json(&["status"])?["fallback"].is_null());
            agent.lbctl(&["config", "apply"])?.refused(2, &[&file]);
            agent.assert_alive()?;
            agent.end(Signal::SIGTERM)?;
        }
        let mut agent = world.restart()?;
        world.write("lb.toml", CONFIG)?;
        agent.signal(Signal::SIGHUP)?;
        wait_for("the file is in force", || {
            Ok(agent.json(&["status"])?["fallback"].is_null().then_some(()))
        })?;
        ensure!(agent.json(&["status"])?["last_error"].is_null());
        agent.assert_alive()
    })
}

#[test]
fn a_first_start_with_a_broken_file_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        let bad = config::all().into_iter().next().context("no bad file")?;
        world.write("lb.toml", &bad.text)?;
        world.refused_start()?.refused(2, &[]);
        world.start(CONFIG)?.end(Signal::SIGTERM)?;
        // The kept state belongs to another file.
        world.write("kept.toml", CONFIG)?;
        let state = fs::read_dir(world.path("state"))?.count();
        ensure!(state > 0, "nothing is kept");
        let kept = world.path("state").join(format!("{}.last.toml", crate::world::INSTANCE));
        let text = fs::read_to_string(&kept)?.replace("/run/t/lb.toml", "/run/t/kept.toml");
        fs::write(&kept, text)?;
        world.write("lb.toml", &bad.text)?;
        world.refused_start()?.refused(2, &[]);
        Ok(())
    })
}
