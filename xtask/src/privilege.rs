//! Root where it is needed and nowhere else. cargo never runs as root on behalf of an ordinary user, or the target
//! directory would be full of files that user cannot replace; what cargo built may.

use std::{
    io::{IsTerminal, stdin},
    os::unix::process::CommandExt,
    process::Command,
    sync::OnceLock,
};

use anyhow::{Result, bail};

use crate::run;

/// How this process gets root's rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It has them.
    Root,
    /// Through sudo, which will ask for nothing or can ask on this terminal.
    Sudo,
    /// Not at all; the text says why.
    None(&'static str),
}

/// Found out once; may run `sudo -n true`.
pub fn way() -> Way {
    static WAY: OnceLock<Way> = OnceLock::new();
    *WAY.get_or_init(|| {
        if nix::unistd::geteuid().is_root() {
            Way::Root
        } else if run::find("sudo").is_none() {
            Way::None("needs root, and there is no sudo")
        } else if run::succeeds(Command::new("sudo").args(["-n", "true"])) || stdin().is_terminal() {
            Way::Sudo
        } else {
            Way::None("needs root, and sudo would ask for a password without a terminal to ask on")
        }
    })
}

/// A command that runs `program` as root; a failure to become root shows when it is started.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    match way() {
        Way::Root | Way::None(_) => Command::new(program),
        Way::Sudo => {
            let mut command = Command::new("sudo");
            command.arg("--").arg(program);
            command
        }
    }
}

/// Lets sudo ask for the password now, where it has to: later it would ask in the middle of other output.
pub fn ask() {
    if way() == Way::Sudo {
        Command::new("sudo").arg("-v").status().ok();
    }
}

/// Continues as root: returns when this process is root already, otherwise replaces it by
/// `sudo <this program> <arguments>`.
pub fn become_root(arguments: &[String]) -> Result<()> {
    match way() {
        Way::Root => Ok(()),
        Way::None(why) => bail!("{why}; run it as root or install and configure sudo"),
        Way::Sudo => {
            let this = run::this_program()?;
            let error = Command::new("sudo").arg("--").arg(this).args(arguments).exec();
            bail!("cannot start sudo: {error}")
        }
    }
}
