//! `lbd decap` on the command line; `datapath` tests what it does to packets.

use std::path::Path;

use anyhow::{Result, ensure};
use lb_tests::test_name;

use crate::{
    agent::Said,
    world::{CONFIG, World, binary, isolated},
};

const ON_LB0: [&str; 2] = ["--interface", "lb0"];

/// Runs `lbd decap` on `lb0` as on a host.
fn decap(world: &World, arguments: &[&str]) -> Result<Said> {
    let lbd = binary("lbd")?.display().to_string();
    world.booted(&[&lbd, "decap"], &[arguments, &ON_LB0[..]].concat())
}

fn attach(world: &World, address: &str) -> Result<Said> {
    decap(world, &["attach", "--address", address])
}

#[test]
fn an_unknown_interface_is_named_and_leaves_no_pin() -> Result<()> {
    isolated(test_name!(), |world| {
        let lbd = binary("lbd")?.display().to_string();
        let arguments = ["decap", "attach", "--interface", "no0", "--address", "10.0.0.1"];
        let said = world.booted(&[&lbd], &arguments)?;
        ensure!((said.code, said.err.as_str()) == (1, "lbd: interface no0: there is no such interface\n"));
        ensure!(!Path::new("/sys/fs/bpf/lb").exists(), "a directory is left");
        Ok(())
    })
}

#[test]
fn taking_off_what_is_not_attached_says_so() -> Result<()> {
    isolated(test_name!(), |world| {
        ensure!(decap(world, &["detach"])?.done()? == "lb0: lb_decap was not attached\n");
        attach(world, "10.0.0.1")?.done()?;
        ensure!(decap(world, &["detach"])?.done()? == "lb0: lb_decap taken off\n");
        ensure!(decap(world, &["detach"])?.done()? == "lb0: lb_decap was not attached\n");
        Ok(())
    })
}

#[test]
fn addresses_are_changed_in_place() -> Result<()> {
    isolated(test_name!(), |world| {
        for address in ["10.0.0.1", "10.0.0.2"] {
            attach(world, address)?.done()?;
            let stats = decap(world, &["stats"])?.done()?;
            ensure!(stats.starts_with(&format!("lb0: addresses {address}\n")), "{stats}");
        }
        Ok(())
    })
}

#[test]
fn what_is_left_of_a_deleted_interface_is_removed() -> Result<()> {
    isolated(test_name!(), |world| {
        decap(world, &["stats"])?.refused(1, &["lb_decap is not attached there"]);
        // The interface goes away and comes back; its program does not come back.
        attach(world, "10.0.0.1")?.done()?;
        world.ip("link delete lb0\nlink add lb0 type veth peer name lb0p")?;
        decap(world, &["stats"])?.refused(1, &["lb0", "deleted or renamed", "lbd decap attach"]);
        let said = decap(world, &["detach"])?.done()?;
        ensure!(said.contains("was not attached any more"), "{said}");
        ensure!(!Path::new("/sys/fs/bpf/lb/decap-lb0").exists(), "pins are left");
        // Attached again over what is left, the program has the new addresses only.
        attach(world, "10.0.0.1")?.done()?;
        world.ip("link delete lb0\nlink add lb0 type veth peer name lb0p")?;
        attach(world, "10.0.0.2")?.done()?;
        ensure!(decap(world, &["stats"])?.done()?.starts_with("lb0: addresses 10.0.0.2\n"));
        Ok(())
    })
}

#[test]
fn our_programs_in_the_way_are_named_with_a_way_out() -> Result<()> {
    isolated(test_name!(), |world| {
        attach(world, "10.0.0.1")?.done()?;
        let agent = world.start(CONFIG)?;
        let status = agent.lbctl(&["status"])?.done()?;
        let decap_off = "`lbd decap detach --interface lb0` takes it off";
        ensure!(status.contains("this host's own `lbd decap`") && status.contains(decap_off), "{status}");
        drop(agent);
        let another = decap(world, &["attach", "--address", "10.0.0.2", "--instance", "b"])?;
        another.refused(1, &[decap_off]);
        ensure!(
            !another.err.contains("--force") && !Path::new("/sys/fs/bpf/lb/decap-lb0@b").exists(),
            "{another:?}"
        );
        decap(world, &["detach"])?.done()?;
        let agent = world.start(CONFIG)?;
        let refused = attach(world, "10.0.0.1")?;
        refused.refused(1, &["it is the balancer", "`lbd --detach --instance t-control`"]);
        ensure!(
            !refused.err.contains("--force") && !Path::new("/sys/fs/bpf/lb/decap-lb0").exists(),
            "{refused:?}"
        );
        drop(agent);
        Ok(())
    })
}
