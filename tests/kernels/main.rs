//! The tests in a virtual machine on a kernel of another age. `cargo xtask kernels` starts this program as the first process:
//! it mounts what a system has, tries everything (`programs`: the verifier; `network`: the load balancer in a lab; `upgrade`:
//! a new agent; `tunnels`: the kernel's tunnel devices as judges; `devices`: VLAN devices and bonds as egress devices), reports
//! the results on the console, and powers off. On a real machine it refuses to run.

mod bpf;
mod devices;
mod doc;
mod network;
mod programs;
mod say;
mod site;
mod tunnels;
mod upgrade;

use std::{env, fs, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use xtask::{
    kernels::{
        self,
        report::{Fact, Group},
    },
    stack, wait,
};

/// How long to wait for an event that must happen. The processor is emulated, and the host may have other work.
const LIMIT: Duration = Duration::from_secs(400);

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    match arguments.next().as_deref() {
        // The lab's own web server, where there is no nginx.
        Some("serve") => {
            stack::serve::main(&<Serve as clap::Parser>::parse_from(env::args().skip(1)).arguments)
        }
        Some("try") => {
            wait::set_limit(LIMIT);
            everything();
            Ok(())
        }
        _ if std::process::id() == 1 => first_process(),
        _ => bail!("this is the first process of a virtual machine; `cargo xtask kernels` starts it"),
    }
}

/// The web server's arguments as a command line of their own.
#[derive(clap::Parser)]
struct Serve {
    #[command(flatten)]
    arguments: stack::serve::ServeArgs,
}

/// Never returns: the kernel panics when its first process ends, and that ends the machine, too.
fn first_process() -> Result<()> {
    let none = None::<&str>;
    let mounts: [(&str, &str); 6] = [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("bpf", "/sys/fs/bpf"),
    ];
    for (kind, place) in mounts {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount {kind} at {place}"))?;
    }
    // The lab starts programs that look for others on PATH.
    // SAFETY: no other thread runs yet.
    unsafe { env::set_var("PATH", "/usr/sbin:/usr/bin") };
    fs::write("/proc/sys/kernel/printk", "1")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    say::fact(&Fact::Kernel(release.trim().to_owned()));
    // A process of its own, so that a panic there does not end the first process.
    let status = Command::new("/proc/self/exe").arg("try").status();
    println!("guest: {status:?}");
    nix::unistd::sync();
    // SAFETY: no memory arguments; it is this machine's own end.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    bail!("the machine did not power off: {}", std::io::Error::last_os_error())
}

fn everything() {
    let wanted = kernels::wanted_groups(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let wants = |group| wanted.contains(&group);
    if wants(Group::Load) {
        programs::check();
    }
    // The upgrade is one of the checks in the lab.
    if wants(Group::Forward) || wants(Group::Upgrade) {
        network::check();
    }
    if wants(Group::Tunnels) {
        tunnels::check();
    }
    if wants(Group::Devices) {
        devices::check();
    }
    say::fact(&Fact::End);
}
