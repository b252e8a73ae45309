//! `lbctl events`: who changed what, filters, and how a follower continues when the agent restarts.

use std::{
    fs::{self, File},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::{
    sys::signal::Signal,
    unistd::{Pid, setgid, setuid},
};
use serde_json::Value;

use crate::{
    agent::Agent,
    world::{CONFIG, INSTANCE, World, isolated, wait_for},
};

/// The agent's events that these arguments ask for.
fn events(agent: &Agent<'_>, arguments: &[&str]) -> Result<Vec<Value>> {
    let out = agent.lbctl(&[&["-o", "json", "events"], arguments].concat())?.done()?;
    out.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Kind and object of each event.
fn names(events: &[Value]) -> Vec<String> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| format!("{} {}", text(event, "kind"), text(event, "object"))).collect()
}

#[test]
fn a_change_is_an_event_with_object_and_user() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "50"])?.done()?;
        agent.lbctl(&["backend", "set", "web/web-9", "--weight", "50"])?.refused(1, &["web-9"]);
        agent.lbctl(&["backend", "list", "web"])?.done()?;
        let seen = events(&agent, &["--kind", "changed,change_refused"])?;
        ensure!(names(&seen) == ["changed web/web-1", "change_refused web/web-9"], "{seen:?}");
        for event in &seen {
            ensure!(event["by"]["uid"] == 0 && event["by"]["user"] == "root", "{event}");
            ensure!(event["by"]["pid"].as_u64().is_some(), "{event}");
        }
        let message = seen[0]["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains("web/web-1") && message.contains("50") && message.contains("slots changed"),
            "{message}"
        );
        let table = agent.lbctl(&["events", "--kind", "changed"])?.done()?;
        ensure!(table.contains("(by root, uid 0, pid "), "{table}");
        ensure!(agent.log().contains("changed: web/web-1: "), "{}", agent.log());

        // A group whose name this host does not know appears as a number.
        let socket = world.socket();
        std::os::unix::fs::chown(&socket, None, Some(4321))?;
        let lbctl = world.for_everybody("lbctl", &crate::world::binary("lbctl")?, 0o755)?;
        let mut command = world.command(&lbctl.display().to_string())?;
        command.args(["--instance", INSTANCE, "backend", "set", "web/web-1", "--weight", "60"]);
        // SAFETY: two bare system calls, which are fine between fork and exec.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || {
                setgid(4321.into()).and_then(|()| setuid(4321.into())).map_err(Into::into)
            });
        }
        crate::agent::Said::of(&mut command)?.done()?;
        let seen = events(&agent, &["--kind", "changed", "-n", "1"])?;
        ensure!(seen[0]["by"]["uid"] == 4321 && seen[0]["by"].get("user").is_none(), "{seen:?}");
        Ok(())
    })
}

#[test]
fn a_reload_event_names_the_user_or_the_signal() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        world.write("lb.toml", CONFIG.replace("10.0.0.12", "10.0.0.13"))?;
        agent.lbctl(&["config", "apply"])?.done()?;
        world.write("lb.toml", CONFIG)?;
        agent.signal(Signal::SIGHUP)?;
        let seen = wait_for("two changes are events", || {
            let seen = events(&agent, &["--kind", "changed"])?;
            Ok((seen.len() == 2).then_some(seen))
        })?;
        ensure!(seen.iter().all(|event| event["object"] == "/run/t/lb.toml"), "{seen:?}");
        ensure!(seen[0]["by"]["uid"] == 0 && !seen[0]["message"].to_string().contains("SIGHUP"), "{seen:?}");
        ensure!(
            seen[1].get("by").is_none() && seen[1]["message"].to_string().contains("SIGHUP: "),
            "{seen:?}"
        );
        world.write("lb.toml", "nonsense")?;
        agent.lbctl(&["config", "apply"])?.refused(2, &["lb.toml"]);
        let seen = events(&agent, &["--kind", "config_refused"])?;
        ensure!(seen.len() == 1 && seen[0]["by"]["uid"] == 0 && seen[0]["level"] == "error", "{seen:?}");
        Ok(())
    })
}

#[test]
fn filters_choose_and_what_is_mistyped_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        for (backend, verb) in [("web/web-1", "drain"), ("web/web-1", "undrain"), ("web/web-2", "drain")] {
            agent.lbctl(&["backend", verb, backend])?.done()?;
        }
        let asked = |arguments: &[&str]| Ok::<_, anyhow::Error>(names(&events(&agent, arguments)?));
        let of_one = asked(&["--object", "web/web-1"])?;
        let expected = [
            "backend_up web/web-1",
            "backend_draining web/web-1",
            "changed web/web-1",
            "backend_up web/web-1",
            "changed web/web-1",
        ];
        ensure!(of_one == expected, "{of_one:?}");
        let of_service = asked(&["--object", "web", "--kind", "backend_draining"])?;
        ensure!(of_service == ["backend_draining web/web-1", "backend_draining web/web-2"], "{of_service:?}");
        ensure!(asked(&["--object", "we"])?.is_empty());
        ensure!(asked(&["-n", "1"])? == ["changed web/web-2"]);
        ensure!(asked(&["--since", "10m"])? == asked(&[])?);
        ensure!(asked(&["--since", "2999-01-01T00:00:00Z"])?.is_empty());
        let all = events(&agent, &[])?;
        let number = all[1]["number"].to_string();
        ensure!(events(&agent, &["--since", &number])? == all[2..]);

        agent.lbctl(&["events", "--kind", "backend_dwon"])?.refused(2, &["did you mean backend_down?"]);
        agent.lbctl(&["events", "--since", "yesterday"])?.refused(2, &["is not a valid beginning", "10m"]);
        agent.lbctl(&["events", "-n", "some"])?.refused(2, &["--lines", "\"some\" is not a whole number"]);
        Ok(())
    })
}

#[test]
fn a_file_that_changes_a_backend_is_an_event_of_the_backend() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let lighter = CONFIG.replace("address = \"10.0.0.11\"", "address = \"10.0.0.11\"\nweight = 50");
        world.write("lb.toml", &lighter)?;
        agent.lbctl(&["config", "apply"])?.done()?;
        agent.lbctl(&["service", "remove", "web"])?.done()?;
        let seen = events(&agent, &["--object", "web/web-1"])?;
        let messages: Vec<_> = seen.iter().filter_map(|event| event["message"].as_str()).collect();
        ensure!(
            names(&seen) == ["backend_up web/web-1", "changed web/web-1", "changed web/web-1"],
            "{seen:?}"
        );
        let removed = "backend web/web-1 removed: 10.0.0.11, weight 50";
        ensure!(messages[1..] == ["backend web/web-1: weight from 100 to 50", removed], "{messages:?}");
        ensure!(seen[1]["by"]["uid"] == 0, "{seen:?}");
        let other = events(&agent, &["--object", "web/web-2"])?;
        ensure!(names(&other) == ["backend_up web/web-2", "changed web/web-2"], "{other:?}");
        Ok(())
    })
}

#[test]
fn a_backend_tells_its_own_changes_and_no_others() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        for (backend, verb) in [("web/web-1", "drain"), ("web/web-1", "undrain"), ("web/web-2", "drain")] {
            agent.lbctl(&["backend", verb, backend])?.done()?;
        }
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "50"])?.done()?;
        let of = |arguments: &[&str]| -> Result<Vec<Value>> {
            let out = agent.lbctl(&[&["-o", "json", "backend", "events"], arguments].concat())?.done()?;
            out.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
        };
        let all = of(&["web/web-1"])?;
        let kinds: Vec<_> = all.iter().filter_map(|event| event["kind"].as_str()).collect();
        let expected = ["backend_up", "backend_draining", "changed", "backend_up", "changed", "changed"];
        ensure!(kinds == expected && all.iter().all(|event| event["object"] == "web/web-1"), "{all:?}");
        ensure!(all.iter().all(|event| !event["message"].as_str().unwrap_or_default().is_empty()), "{all:?}");
        ensure!(all[5]["message"] == "backend web/web-1: weight from 100 to 50", "{all:?}");
        ensure!(all[5]["by"]["uid"] == 0 && all[5]["at_ms"].as_u64() > Some(0), "{all:?}");
        ensure!(of(&["web", "web-1"])? == all && of(&["web/web-1", "--limit", "2"])? == all[4..]);
        ensure!(names(&of(&["web/web-1", "--kind", "backend_draining"])?) == ["backend_draining web/web-1"]);
        let number = all[3]["number"].to_string();
        ensure!(of(&["web/web-1", "--since", &number])? == all[4..]);
        let table = agent.lbctl(&["backend", "events", "web/web-1", "-n", "1"])?.done()?;
        ensure!(table.contains("weight from 100 to 50 (by root, uid 0, pid "), "{table}");

        agent
            .lbctl(&["backend", "events", "web/web-9"])?
            .refused(1, &["web/web-9", "lbctl backend list web"]);
        agent.lbctl(&["backend", "events", "web"])?.refused(2, &["SERVICE/BACKEND"]);
        agent.lbctl(&["backend", "remove", "web/web-1", "--force"])?.done()?;
        let last = of(&["web/web-1", "-n", "1"])?;
        ensure!(last[0]["message"] == "backend web/web-1 removed: 10.0.0.11, weight 50", "{last:?}");
        Ok(())
    })
}

#[test]
fn one_backend_is_followed_over_a_restart() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let follower = Follower::start(world, &["backend", "events", "web/web-1", "--follow"])?;
        follower.wait("backend_up", "web/web-1", 0)?;
        for backend in ["web/web-2", "web/web-1"] {
            agent.lbctl(&["backend", "set", backend, "--weight", "50"])?.done()?;
        }
        follower.wait("changed", "web/web-1", 0)?;
        agent.end(Signal::SIGTERM)?;
        let before = follower.seen()?.len();
        let agent = world.restart()?;
        follower.wait("backend_up", "web/web-1", before)?;
        agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
        follower.wait("backend_draining", "web/web-1", before)?;
        let seen = follower.seen()?;
        ensure!(seen.iter().all(|event| event["object"] == "web/web-1"), "{seen:?}");
        ensure!(follower.remarks().contains("lbd answers again"), "{}", follower.remarks());
        Ok(())
    })
}

/// `lbctl events --follow`, or of one backend; dropping this ends it.
struct Follower<'a> {
    world: &'a World,
    child: Child,
}

impl<'a> Follower<'a> {
    fn start(world: &'a World, arguments: &[&str]) -> Result<Self> {
        let mut command = world.command("lbctl")?;
        command.args(["--instance", INSTANCE, "-o", "json"]).args(arguments);
        command.stdout(File::create(world.path("followed"))?).stderr(File::create(world.path("remarks"))?);
        let child = command.stdin(Stdio::null()).spawn()?;
        Ok(Self { world, child })
    }

    fn seen(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.world.path("followed"))?;
        // `lbctl` may be in the middle of writing the last line.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    fn remarks(&self) -> String {
        fs::read_to_string(self.world.path("remarks")).unwrap_or_default()
    }

    /// Waits for an event of that kind about that object after the first `from` events.
    fn wait(&self, kind: &str, object: &str, from: usize) -> Result<()> {
        wait_for(&format!("{kind} {object} is followed"), || {
            let seen = self.seen()?;
            let mut behind = seen.iter().skip(from);
            Ok(behind.any(|event| event["kind"] == kind && event["object"] == object).then_some(()))
        })
        .with_context(|| format!("{:?}\n{}", self.seen().map(|seen| names(&seen)), self.remarks()))
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Ends the agent by a signal, starts another one, and follows both. The events that the agents report afterwards must be
/// the events that the follower saw.
fn followed_over(world: &World, signal: Signal) -> Result<()> {
    let agent = world.start(CONFIG)?;
    let follower = Follower::start(world, &["events", "--follow"])?;
    follower.wait("started", INSTANCE, 0)?;
    agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
    follower.wait("changed", "web/web-1", 0)?;
    let first = follower.seen()?;
    agent.end(signal)?;
    wait_for("the follower waits", || Ok(follower.remarks().contains("waiting for it").then_some(())))?;
    if signal == Signal::SIGTERM {
        follower.wait("stopping", INSTANCE, 0)?;
    }
    let before = follower.seen()?;
    ensure!(before[..first.len()] == first[..], "{before:?}\n{first:?}");

    let agent = world.restart()?;
    follower.wait("started", INSTANCE, before.len())?;
    agent.lbctl(&["backend", "undrain", "web/web-1"])?.done()?;
    follower.wait("changed", "web/web-1", before.len())?;
    let all = follower.seen()?;
    // More events may have happened meanwhile.
    let second = events(&agent, &[])?;
    ensure!(second.starts_with(&all[before.len()..]), "lost or doubled:\n{all:?}\n{second:?}");
    let remarks = follower.remarks();
    ensure!(remarks.matches("waiting for it").count() == 1, "{remarks}");
    ensure!(remarks.matches("lbd answers again").count() == 1, "{remarks}");
    Ok(())
}

#[test]
fn a_follower_goes_on_when_the_agent_is_started_again() -> Result<()> {
    isolated(test_name!(), |world| followed_over(world, Signal::SIGTERM))
}

#[test]
fn a_follower_goes_on_behind_an_agent_that_was_killed() -> Result<()> {
    isolated(test_name!(), |world| followed_over(world, Signal::SIGKILL))
}

#[test]
fn a_follower_outlives_a_stopped_agent() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let follower = Follower::start(world, &["events", "--follow", "-n", "0"])?;
        agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
        wait_for("it follows", || {
            if follower.seen()?.is_empty() {
                // The follower may have started after the first change.
                agent.lbctl(&["backend", "undrain", "web/web-1"])?.done()?;
                agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
            }
            Ok((!follower.seen()?.is_empty()).then_some(()))
        })?;
        agent.signal(Signal::SIGSTOP)?;
        wait_for("the follower says so", || Ok(follower.remarks().contains("waiting for it").then_some(())))?;
        agent.signal(Signal::SIGCONT)?;
        agent.lbctl(&["backend", "set", "web/web-2", "--weight", "50"])?.done()?;
        follower.wait("changed", "web/web-2", 0)?;
        let seen = follower.seen()?;
        let numbers: Vec<_> = seen.iter().filter_map(|event| event["number"].as_u64()).collect();
        ensure!(numbers.is_sorted_by(|a, b| a < b), "doubled: {numbers:?}");
        ensure!(seen.iter().all(|event| event["kind"] != "started"), "-n 0 shows what was before: {seen:?}");
        // More events may have happened meanwhile.
        let all = events(&agent, &["--since", &(numbers[0] - 1).to_string()])?;
        ensure!(all.get(..seen.len()) == Some(&seen), "lost:\n{all:?}\n{seen:?}");
        Ok(())
    })
}

#[test]
fn a_watch_goes_on_when_the_agent_is_started_again() -> Result<()> {
    isolated(test_name!(), |world| {
        for view in ["stats", "health"] {
            let agent = world.start(CONFIG)?;
            let mut command = world.command("lbctl")?;
            command.args(["--instance", INSTANCE, "-o", "json", view, "--watch", "--interval", "100ms"]);
            command.stdout(File::create(world.path("watched"))?).stderr(File::create(world.path("remarks"))?);
            let mut child = command.spawn()?;
            let looks = || Ok::<_, anyhow::Error>(fs::read_to_string(world.path("watched"))?.lines().count());
            wait_for("it watches", || Ok((looks()? > 0).then_some(())))?;
            agent.end(Signal::SIGKILL)?;
            let remarks = wait_for("it waits", || {
                let remarks = fs::read_to_string(world.path("remarks"))?;
                Ok(remarks.contains("waiting for it").then_some(remarks))
            })?;
            let before = looks()?;
            let agent = world.restart()?;
            wait_for("it watches the next one", || Ok((looks()? > before + 1).then_some(())))?;
            ensure!(fs::read_to_string(world.path("remarks"))? == remarks, "said more than once");
            nix::sys::signal::kill(Pid::from_raw(child.id().try_into()?), Signal::SIGKILL)?;
            child.wait()?;
            agent.end(Signal::SIGTERM)?;
        }
        Ok(())
    })
}
