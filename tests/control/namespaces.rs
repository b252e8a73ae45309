//! Two network namespaces that share a bpf file system: an agent in one of them does not show, change or remove what an
//! agent in the other one has pinned.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    agent::Said,
    world::{CONFIG, INSTANCE, World, binary, isolated, wait_for},
};

/// A second network namespace with an interface of the same name.
fn other(world: &World) -> Result<()> {
    world.ip("netns add other\nlink add lb0 netns other type veth peer name lb0p netns other")
}

/// A command in the other namespace that keeps our mounts.
fn there(world: &World, program: &str) -> Result<Command> {
    let mut command = world.command("nsenter")?;
    command.args(["--net=/run/netns/other", "--"]).arg(binary(program)?);
    Ok(command)
}

fn lbd_there(world: &World, arguments: &[&str]) -> Result<Said> {
    Said::of(there(world, "lbd")?.args(arguments))
}

fn start_there(world: &World) -> Result<Said> {
    Said::of(there(world, "lbd")?.args(["--instance", INSTANCE, "--config"]).arg(world.path("lb.toml")))
}

fn program_on(world: &World, interface: &str) -> Result<String> {
    let said = Said::of(world.command("ip")?.args(["-d", "link", "show", interface]))?.done()?;
    Ok(said.lines().find(|line| line.contains("prog/xdp")).unwrap_or_default().to_owned())
}

#[test]
fn an_agent_of_another_namespace_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        other(world)?;
        let agent = world.start(CONFIG)?;
        let before = agent.services()?;
        agent.end(Signal::SIGTERM)?;
        let program = program_on(world, "lb0")?;
        ensure!(!program.is_empty(), "no program is attached");
        start_there(world)?
            .refused(1, &["belongs to another network namespace", "--instance", "--detach --force"]);
        // Earlier versions left no record of the namespace; the link shows it all the same.
        fs::remove_file(world.pins().join("netns"))?;
        start_there(world)?.refused(1, &["belongs to another network namespace", "an earlier version"]);
        lbd_there(world, &["--detach", "--instance", INSTANCE])?
            .refused(1, &["another network namespace", "--force"]);
        ensure!(program_on(world, "lb0")? == program, "the program was touched");
        let agent = world.restart()?;
        ensure!(agent.json(&["status"])?["adopted"] == true);
        agent.unchanged(&before).context("the maps were touched")?;
        agent.end(Signal::SIGTERM)?;
        lbd_there(world, &["--detach", "--force", "--instance", INSTANCE])?.done()?;
        ensure!(program_on(world, "lb0")?.is_empty() && !world.pins().exists());
        Ok(())
    })
}

#[test]
fn pins_of_a_namespace_that_is_gone_are_taken_over() -> Result<()> {
    isolated(test_name!(), |world| {
        other(world)?;
        world.write("lb.toml", CONFIG)?;
        // As a container whose pins outlive it.
        let mut first = there(world, "lbd")?
            .args(["--instance", INSTANCE, "--config"])
            .arg(world.path("lb.toml"))
            .spawn()?;
        wait_for("the first agent has attached", || {
            Ok(world.pins().join("link-lb0").exists().then_some(()))
        })?;
        first.kill()?;
        first.wait()?;
        world.ip("netns delete other")?;
        let last = std::cell::RefCell::new(String::new());
        let agent = wait_for("its interface is gone and the pins are taken over", || match world.restart() {
            Ok(agent) => Ok(Some(agent)),
            Err(error) => {
                last.replace(error.to_string());
                Ok(None)
            }
        })
        .map_err(|error| error.context(last.take()))?;
        ensure!(agent.json(&["status"])?["adopted"] == true);
        ensure!(agent.log().contains("taken over from another network namespace"), "{}", agent.log());
        Ok(())
    })
}

#[test]
fn a_second_agent_without_our_lock_file_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let hidden = format!(
            "mount -t tmpfs tmpfs /run/lb && exec {} --instance {INSTANCE} --config {}",
            binary("lbd")?.display(),
            world.path("lb.toml").display()
        );
        let said = Said::of(world.command("unshare")?.args(["--mount", "sh", "-c", &hidden]))?;
        said.refused(1, &[&format!("process {}", agent.pid()), "uses these pins", "--instance"]);
        agent.assert_alive()
    })
}

#[test]
fn decap_of_another_namespace_is_left_alone() -> Result<()> {
    isolated(test_name!(), |world| {
        other(world)?;
        let attach = |address| ["decap", "attach", "--interface", "lb0", "--address", address];
        let booted = |arguments: &[&str]| world.booted(&[&binary("lbd")?.display().to_string()], arguments);
        let there = |arguments: &[&str]| {
            let lbd = binary("lbd")?.display().to_string();
            world.booted(&["nsenter", "--net=/run/netns/other", "--", &lbd], arguments)
        };
        booted(&attach("10.0.0.1"))?.done()?;
        there(&attach("10.0.0.2"))?.refused(1, &["belongs to another network namespace", "--instance"]);
        for command in ["stats", "detach"] {
            let said = there(&["decap", command, "--interface", "lb0"])?;
            said.refused(1, &["belongs to another network namespace"]);
        }
        ensure!(booted(&["decap", "stats", "--interface", "lb0"])?.done()?.contains("addresses 10.0.0.1\n"));
        // An instance of another name is independent, in whichever namespace the command is typed.
        there(&[&attach("10.0.0.2")[..], &["--instance", "b"]].concat())?.done()?;
        let stats = there(&["--instance", "b", "decap", "stats", "--interface", "lb0"])?.done()?;
        ensure!(stats.contains("addresses 10.0.0.2\n"), "{stats}");
        let detached = there(&["decap", "--instance", "b", "detach", "--interface", "lb0"])?.done()?;
        ensure!(detached == "lb0: lb_decap taken off\n", "{detached}");
        ensure!(booted(&["decap", "detach", "--interface", "lb0"])?.done()? == "lb0: lb_decap taken off\n");
        Ok(())
    })
}
