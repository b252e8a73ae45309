//! Programs the lab and the tests start, and the packages they come in.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{privilege, run, ui};

/// A program and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    /// Debian's and Ubuntu's package.
    pub package: &'static str,
    /// Without it the lab and the demo do not run; without the others single tests are skipped.
    pub essential: bool,
    pub purpose: &'static str,
}

const fn program(
    name: &'static str,
    package: &'static str,
    essential: bool,
    purpose: &'static str,
) -> Program {
    Program { name, package, essential, purpose }
}

/// All of them.
pub const ALL: &[Program] = &[
    program("ip", "iproute2", true, "makes the lab's namespaces and cables"),
    program("ethtool", "ethtool", true, "switches offloads off in the lab"),
    program("curl", "curl", true, "the lab's client"),
    program("nginx", "nginx", false, "the lab's web server; without it our own small one serves"),
    program("iperf3", "iperf3", false, "throughput through the lab"),
    program("tcpdump", "tcpdump", false, "looking at the lab's packets"),
    program("bpftool", "bpftool", false, "looking at programs and maps"),
];

/// What runs other kernels in virtual machines; without them that is skipped.
pub const KERNELS: &[Program] = &[
    program(
        "qemu-system-x86_64",
        "qemu-system-x86",
        false,
        "runs other kernels; without it the tier `kernels` is skipped",
    ),
    program("depmod", "kmod", false, "finds what a kernel's modules need"),
    program("sysctl", "procps", false, "sets what a backend needs"),
    program("nft", "nftables", false, "a backend's firewall rules"),
];

/// Programs that are not ours and judge our packets; without them that is skipped.
pub const JUDGES: &[Program] = &[program("tshark", "tshark", false, "reads the golden captures")];

/// Those of a list that are not there.
pub fn missing(list: &[Program]) -> Vec<Program> {
    list.iter().copied().filter(|program| run::find(program.name).is_none()).collect()
}

/// How packages get onto this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installer {
    Apt,
    /// No package manager we know, or no rights; the text says which.
    None(&'static str),
}

pub fn installer() -> Installer {
    if !Path::new("/usr/bin/apt-get").exists() {
        return Installer::None("no apt-get on this system");
    }
    match privilege::way() {
        privilege::Way::None(why) => Installer::None(why),
        privilege::Way::Root | privilege::Way::Sudo => Installer::Apt,
    }
}

/// The command line that installs packages, to be shown and to be run as root. It never removes a package.
pub fn install_line(packages: &[&str]) -> Vec<String> {
    let words = ["apt-get", "install", "-y", "--no-install-recommends", "--no-remove"];
    words.iter().chain(packages).map(|word| (*word).to_owned()).collect()
}

/// Installs packages; fetches the package lists first when the installation fails without. What cannot be had, or would take
/// another package off, is not in the way of the others; the error names it.
pub fn install(packages: &[&str]) -> Result<()> {
    let line = install_line(packages);
    match installer() {
        Installer::None(why) => bail!("{why}; as root, run: {}", line.join(" ")),
        Installer::Apt => {}
    }
    ui::step(&format!("installing {} with apt", packages.join(", ")));
    if run::run(&mut as_root(&line)).is_ok() {
        return Ok(());
    }
    ui::step("fetching the package lists and trying again");
    run::run(&mut as_root(&["apt-get".to_owned(), "update".to_owned()]))?;
    if run::run(&mut as_root(&line)).is_ok() {
        return Ok(());
    }
    let mut left = packages.to_vec();
    if left.len() > 1 {
        ui::step("trying each of them alone");
        left.retain(|package| run::run(&mut as_root(&install_line(&[package]))).is_err());
    }
    if left.is_empty() {
        return Ok(());
    }
    bail!(
        "apt did not install {}; why is said above. Where another package would have to go for it, that is yours to \
         decide: `apt-get install --no-install-recommends {}`",
        left.join(", "),
        left.join(" "),
    )
}

fn as_root(line: &[String]) -> Command {
    let mut command = privilege::command("env");
    command.arg("DEBIAN_FRONTEND=noninteractive").args(line);
    command
}
