//! Tests with the real kernel: maps, pins, links and packets. Each test has a network and a mount namespace of its own, which
//! disappear with the test however it ends. Tests that may not make namespaces report that and are skipped.

mod adopt;
mod attach;
mod egress;
mod evictions;
mod image;
mod kill;
mod live;
mod migrate;
mod older;
mod others;
mod past;
mod slots;
mod sweep;
mod traffic;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::Kernel;
use crate::{
    config::spec::Limits,
    upgrade::open::{Opened, Options, open},
};

const LIMITS: Limits = Limits { services: 8, backends: 64, slots: 2048, flows: 16_384, pending_flows: None };

/// A test's own namespaces and bpf file system.
struct World {
    directory: tempfile::TempDir,
}

impl World {
    /// The directory with the instances' pin directories.
    fn base(&self) -> PathBuf {
        self.directory.path().join("lb")
    }

    fn options(&self) -> Options {
        Options { pins: self.base().join("main"), limits: LIMITS, bpf_log: None }
    }

    fn open(&self) -> (Kernel, Opened) {
        open(&self.options()).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The mount would disappear with the namespace anyway, but the directory can be removed only without the mount.
        let _ = umount2(self.directory.path(), MntFlags::MNT_DETACH);
    }
}

/// Does `work` while an interface of ours is in another network namespace. The interface disappears with that namespace.
fn moved_away(interface: &str, work: impl FnOnce()) {
    use std::sync::mpsc::channel;
    let ((ready, other), (done, end)) = (channel(), channel::<()>());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(nix::unistd::gettid()).unwrap();
            // This returns when the other side is done, or has failed.
            let _ = end.recv();
        });
        run(&format!("ip link set {interface} netns {}", other.recv().unwrap()));
        work();
        drop(done);
    });
}

/// Runs a test in namespaces with a bpf file system of its own. They belong to a thread and end with it.
fn isolated(name: &str, test: impl FnOnce(&World) + Send + 'static) {
    let said = name.to_owned();
    let run = move || match prepare() {
        Ok(world) => test(&world),
        Err(reason) => {
            // Write past the test harness, which shows only the output of failing tests.
            let _ = writeln!(std::io::stderr(), "SKIP {said}: {reason}");
        }
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn prepare() -> Result<World, String> {
    crate::bpf::capabilities::check().map_err(|error| error.to_string())?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| format!("no namespaces of its own: {error}"))?;
    let failed = |what: &'static str| move |error| format!("{what}: {error}");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(failed("making mounts private"))?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(failed("mounting a bpf file system"))?;
    Ok(World { directory })
}

/// Runs a command in the namespaces of the calling thread.
fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

/// A pair of veth ends, both up: `name` and `name` + "p".
fn veth(name: &str) {
    run(&format!("ip link add {name} type veth peer name {name}p"));
    run(&format!("ip link set {name} up"));
    run(&format!("ip link set {name}p up"));
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}
