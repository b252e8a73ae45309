//! Mount namespaces that a process has for itself, as `ip netns exec` makes them: a bpf file system that is mounted in one
//! goes away with it.

use std::process::Stdio;

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    agent::Said,
    world::{CONFIG, World, binary, isolated, wait_for},
};

const ATTACH: [&str; 6] = ["decap", "attach", "--interface", "lb0", "--address", "10.0.0.1"];

fn program_on(world: &World) -> Result<bool> {
    Ok(Said::of(world.command("ip")?.args(["-d", "link", "show", "lb0"]))?.done()?.contains("prog/xdp"))
}

#[test]
fn decap_that_loses_its_pins_needs_the_foreground() -> Result<()> {
    isolated(test_name!(), |world| {
        // The test's own mounts are such a namespace.
        world.lbd(&ATTACH)?.refused(1, &["--foreground", "nsenter --net="]);
        ensure!(!program_on(world)?, "it was attached all the same");
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut child =
                world.command("lbd")?.args(ATTACH).arg("--foreground").stdout(Stdio::null()).spawn()?;
            wait_for("it is attached", || Ok(program_on(world)?.then_some(())))?;
            kill(Pid::from_raw(child.id().try_into()?), signal)?;
            let ended = wait_for("it ends", || Ok(child.try_wait()?))?;
            ensure!(ended.success(), "{ended}");
            ensure!(!program_on(world)?, "it is still attached");
        }
        Ok(())
    })
}

#[test]
fn under_ip_netns_exec_another_mount_of_the_host_is_used() -> Result<()> {
    isolated(test_name!(), |world| {
        world.ip("netns add other\nlink add lb0 netns other type veth peer name lb0p netns other")?;
        let lbd = binary("lbd")?.display().to_string();
        let there = |arguments: &[&str]| world.booted(&["ip", "netns", "exec", "other", &lbd], arguments);
        there(&ATTACH)?.refused(1, &["--foreground"]);
        let none = None::<&str>;
        let bound = world.path("bpf");
        std::fs::create_dir(&bound)?;
        nix::mount::mount(Some("/sys/fs/bpf"), &bound, none, nix::mount::MsFlags::MS_BIND, none)?;
        there(&ATTACH)?.done()?;
        ensure!(bound.join("lb/decap-lb0").exists(), "it is pinned elsewhere");
        ensure!(there(&["decap", "detach", "--interface", "lb0"])?.done()? == "lb0: lb_decap taken off\n");
        Ok(())
    })
}

#[test]
fn an_agent_says_that_the_data_path_ends_with_it() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        ensure!(agent.log().contains("maps and program go with its last process"), "{}", agent.log());
        let status = agent.lbctl(&["status"])?.done()?;
        ensure!(status.contains("maps and program go with its last process"), "{status}");
        agent.signal(Signal::SIGTERM)?;
        wait_for("it says what becomes of the data path", || {
            Ok(agent
                .log()
                .contains("only as long as another process is in this mount namespace")
                .then_some(()))
        })?;
        ensure!(!agent.log().contains("goes on forwarding"), "{}", agent.log());
        agent.ended()
    })
}
