//! The host changes under a running agent, or is not as the agent expects: interfaces, addresses, neighbours, routes, the
//! bpf file system. `interface` tests interfaces that come and go.

use std::{fs, os::unix::fs::PermissionsExt as _, os::unix::fs::chown};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use xtask::lab::xdp::PassProgram;

use crate::{
    agent::Agent,
    world::{CONFIG, World, isolated, until, wait_for},
};

fn backend(agent: &Agent<'_>) -> Result<Value> {
    agent.json(&["backend", "show", "web/web-1"])
}

/// Waits until `field` of the backend's next hop is `wanted`.
fn wait_for_hop(agent: &Agent<'_>, field: &str, wanted: &Value) -> Result<()> {
    until(&format!("the next hop's {field} is {wanted}"), || {
        let hop = backend(agent)?["next_hop"].take();
        Ok(if hop[field] == *wanted { Ok(()) } else { Err(hop.to_string()) })
    })
}

fn wait_for_state(agent: &Agent<'_>, wanted: &str) -> Result<()> {
    until(&format!("web/web-1 is {wanted}"), || {
        let backend = backend(agent)?;
        Ok(if backend["state"] == wanted { Ok(()) } else { Err(backend.to_string()) })
    })
}

#[test]
fn a_renamed_interface_is_attached_again_under_its_name() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let attached = |agent: &Agent<'_>| -> Result<String> {
            Ok(agent.json(&["status"])?["interfaces"][0]["attached"].as_str().unwrap_or_default().to_owned())
        };
        world.ip("link set lb0 down\nlink set lb0 name other0\nlink set other0 up")?;
        wait_for("the agent says that it is gone", || Ok((attached(&agent)? == "detached").then_some(())))?;
        world.ip("link set other0 down\nlink set other0 name lb0\nlink set lb0 up")?;
        wait_for("it is attached again", || Ok((attached(&agent)? == "native").then_some(())))?;
        agent.assert_alive()
    })
}

#[test]
fn a_change_of_mtu_is_followed() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        wait_for_hop(&agent, "mtu", &1500.into())?;
        world.ip("link set lb0 mtu 1400")?;
        wait_for_hop(&agent, "mtu", &1400.into())?;
        world.ip("link set lb0 mtu 1500")?;
        wait_for_hop(&agent, "mtu", &1500.into())?;
        agent.assert_alive()
    })
}

#[test]
fn a_flapping_neighbour_ends_at_its_last_address() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let before = agent.cost()?;
        let flaps = (0..2000).fold(String::new(), |text, n| {
            let last = n % 250;
            text + &format!(
                "neighbour replace 10.9.0.2 lladdr 02:00:00:00:01:{last:02x} nud permanent dev lb0\n"
            )
        });
        world.ip(&(flaps + "neighbour replace 10.9.0.2 lladdr 02:00:00:00:02:ff nud permanent dev lb0"))?;
        wait_for_hop(&agent, "mac", &"02:00:00:00:02:ff".into())?;
        let after = agent.cost()?;
        ensure!(after.descriptors == before.descriptors, "{before:?} {after:?}");
        agent.assert_alive()
    })
}

#[test]
fn without_a_default_route_backends_are_unresolved() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        wait_for_state(&agent, "up")?;
        world.ip("route delete default")?;
        wait_for_state(&agent, "unresolved")?;
        ensure!(agent.json(&["backend", "show", "dns/dns-1"])?["state"] == "up", "IPv6 has its own route");
        world.ip("route add default via 10.9.0.2")?;
        wait_for_state(&agent, "up")?;
        agent.assert_alive()
    })
}

#[test]
fn a_next_hop_follows_an_address_that_moves() -> Result<()> {
    isolated(test_name!(), |world| {
        world.ip("link add lb1 type veth peer name lb1p\nlink set lb1 up\nlink set lb1p up")?;
        PassProgram::here("lb1p")?;
        let mut agent = world.start(CONFIG)?;
        wait_for_hop(&agent, "interface", &"lb0".into())?;
        world.ip("address delete 10.9.0.1/24 dev lb0\naddress add 10.9.0.1/24 dev lb1\n\
             neighbour add 10.9.0.2 lladdr 02:00:00:00:00:22 nud permanent dev lb1\n\
             route replace default via 10.9.0.2")?;
        wait_for_hop(&agent, "interface", &"lb1".into())?;
        wait_for_hop(&agent, "mac", &"02:00:00:00:00:22".into())?;
        agent.assert_alive()
    })
}

#[test]
fn a_read_only_bpf_file_system_refuses_the_start() -> Result<()> {
    isolated(test_name!(), |world| {
        let none = None::<&str>;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, "/sys/fs/bpf", none, flags, none)?;
        world.write("lb.toml", CONFIG)?;
        world.refused_start()?.refused(1, &["/sys/fs/bpf/lb/t-control", "Read-only"]);
        nothing_is_attached(world)
    })
}

#[test]
fn a_pin_directory_of_another_user_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        world.write("lb.toml", CONFIG)?;
        let lb = world.pins().parent().map(ToOwned::to_owned).unwrap_or_default();
        fs::create_dir_all(world.pins())?;
        for directory in [lb, world.pins()] {
            let path = directory.display().to_string();
            chown(&directory, Some(12345), None)?;
            world.refused_start()?.refused(1, &[&path, "12345", "remove it"]);
            chown(&directory, Some(0), None)?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
            world.refused_start()?.refused(1, &[&path, "chmod"]);
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        }
        ensure!(fs::read_dir(world.pins())?.next().is_none(), "something was pinned there");
        nothing_is_attached(world)?;
        world.restart()?.assert_alive()
    })
}

fn nothing_is_attached(world: &World) -> Result<()> {
    let links = world.command("ip")?.args(["-d", "link", "show", "lb0"]).output()?;
    ensure!(!String::from_utf8_lossy(&links.stdout).contains("prog/xdp"), "a program is attached");
    Ok(())
}
