//! What keeps an agent from starting, with messages that say the way out; and what does not keep it.

use std::{fs, os::unix::process::CommandExt};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
};

use crate::{
    agent::Said,
    world::{CONFIG, INSTANCE, binary, isolated},
};

/// The user id of the unprivileged user that every system has.
const UNPRIVILEGED: u32 = 65_534;

#[test]
fn a_second_agent_is_refused_with_the_pid_of_the_first() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let pid = format!("pid {}", agent.pid());
        world.refused_start()?.refused(1, &[&format!("instance {INSTANCE} has an agent already"), &pid]);
        agent.assert_alive()
    })
}

#[test]
fn detach_is_refused_while_an_agent_runs() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let pid = format!("pid {}", agent.pid());
        world.lbd(&["--detach", "--instance", INSTANCE])?.refused(1, &[&pid]);
        ensure!(world.pins().join("NODE").exists());
        agent.assert_alive()
    })
}

#[test]
fn missing_capabilities_are_named() -> Result<()> {
    isolated(test_name!(), |world| {
        let lbd = world.for_everybody("lbd", &binary("lbd")?, 0o755)?;
        let file = world.write("source.toml", CONFIG)?;
        let file = world.for_everybody("lb.toml", &file, 0o644)?;
        let config = file.display().to_string();
        for arguments in [vec!["--config", &config], vec!["--detach"]] {
            let mut command = world.command(&lbd.display().to_string())?;
            command.args(["--instance", INSTANCE]).args(&arguments).uid(UNPRIVILEGED).gid(UNPRIVILEGED);
            let said = Said::of(&mut command)?;
            said.refused(
                1,
                &["missing privileges", "CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "run as root"],
            );
        }
        let mut check = world.command(&lbd.display().to_string())?;
        Said::of(check.args(["--check", "--config"]).arg(&file).uid(UNPRIVILEGED).gid(UNPRIVILEGED))?
            .done()?;
        Ok(())
    })
}

#[test]
fn a_missing_bpf_file_system_is_mounted() -> Result<()> {
    isolated(test_name!(), |world| {
        while umount2("/sys/fs/bpf", MntFlags::MNT_DETACH).is_ok() {}
        let mut agent = world.start(CONFIG)?;
        ensure!(agent.log().contains("mounted the bpf file system at /sys/fs/bpf"), "{}", agent.log());
        ensure!(world.pins().join("NODE").exists());
        agent.assert_alive()
    })
}

#[test]
fn a_file_that_is_no_socket_in_its_place_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        world.write("lb.toml", CONFIG)?;
        fs::create_dir_all("/run/lb")?;
        fs::write(world.socket(), "precious")?;
        world.refused_start()?.refused(1, &["exists and is not a socket"]);
        ensure!(fs::read_to_string(world.socket())? == "precious");
        Ok(())
    })
}

#[test]
fn an_unknown_socket_group_is_refused_by_name() -> Result<()> {
    isolated(test_name!(), |world| {
        world.write("lb.toml", CONFIG.replace("seed =", "socket_group = \"no-such\"\nseed ="))?;
        world.refused_start()?.refused(1, &["no-such", "groupadd"]);
        Ok(())
    })
}

#[test]
fn restart_adopts_pinned_maps() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let before = agent.services()?;
        agent.end(Signal::SIGKILL)?;
        ensure!(world.socket().exists(), "the socket of a killed agent stays");
        let mut agent = world.restart()?;
        ensure!(agent.json(&["status"])?["adopted"] == true);
        agent.unchanged(&before)?;
        agent.assert_alive()
    })
}
