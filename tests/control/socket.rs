//! The control socket as a file, and what a stop of the agent does to it.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::{sys::signal::Signal, unistd::Group};

use crate::world::{CONFIG, INSTANCE, isolated};

#[test]
fn only_root_and_its_group_may_use_it() -> Result<()> {
    isolated(test_name!(), |world| {
        let _agent = world.start(CONFIG)?;
        let metadata = fs::symlink_metadata(world.socket())?;
        ensure!(metadata.file_type().is_socket());
        ensure!(metadata.mode() & 0o7777 == 0o660, "{:o}", metadata.mode());
        ensure!((metadata.uid(), metadata.gid()) == (0, 0));
        Ok(())
    })
}

#[test]
fn it_is_given_to_socket_group() -> Result<()> {
    isolated(test_name!(), |world| {
        let Some(group) = Group::from_name("daemon")? else {
            lb_tests::privilege::skip("socket::it_is_given_to_socket_group", "there is no group daemon");
            return Ok(());
        };
        let _agent = world.start(&CONFIG.replace("seed =", "socket_group = \"daemon\"\nseed ="))?;
        let metadata = fs::symlink_metadata(world.socket())?;
        ensure!(metadata.mode() & 0o7777 == 0o660, "{:o}", metadata.mode());
        ensure!((metadata.uid(), metadata.gid()) == (0, group.gid.as_raw()));
        Ok(())
    })
}

#[test]
fn sigterm_removes_it_and_keeps_program_and_maps() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.end(Signal::SIGTERM)?;
        ensure!(!world.socket().exists(), "the socket is still there");
        ensure!(world.pins().join("NODE").exists() && world.pins().join("link-lb0").exists());
        world.lbd(&["--detach", "--instance", INSTANCE])?.done()?;
        ensure!(!world.pins().exists(), "pins are still there");
        // To have nothing to do is not a failure.
        world.lbd(&["--detach", "--instance", INSTANCE])?.done()?;
        Ok(())
    })
}

#[test]
fn lbctl_detach_removes_everything_and_ends_the_agent() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.lbctl(&["detach"])?.refused(2, &["--yes"]);
        ensure!(world.pins().exists());
        agent.lbctl(&["detach", "--yes"])?.done()?;
        agent.ended()?;
        ensure!(!world.pins().exists() && !world.socket().exists(), "something is left");
        Ok(())
    })
}
