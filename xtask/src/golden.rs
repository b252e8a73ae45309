//! `cargo xtask golden`: the golden captures are kept by a program of `tests`; here it is built and started.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build, privilege, run,
    setup::{self, Need},
};

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct GoldenArgs {
    /// `add`, `play`, `again`: `cargo xtask golden --help` says what they do
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs `golden`: built as the user, run with root's rights. Whether everything was as it should be.
pub fn main(arguments: &GoldenArgs) -> Result<bool> {
    setup::ensure(&[Need::Build])?;
    let built = build::cargo_build(&["--package", "lb-tests", "--bin", "golden"])?;
    let golden = built.iter().find(|executable| executable.name == "golden" && executable.kind == "bin");
    let golden = golden.context("cargo built no program for golden captures")?;
    if let privilege::Way::None(why) = privilege::way() {
        bail!("{why}; golden captures are played by BPF programs. As root, run: {}", golden.path.display());
    }
    let status = privilege::command(&golden.path).args(&arguments.arguments).status();
    let status = status.with_context(|| format!("cannot start {}", golden.path.display()))?;
    match status.code() {
        Some(0) => Ok(true),
        // 2 is clap's word for arguments that are wrong; it has said which.
        Some(1 | 2) => Ok(false),
        _ => bail!("it ended with {}", run::ending(status)),
    }
}
