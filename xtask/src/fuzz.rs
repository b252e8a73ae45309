//! `cargo xtask fuzz` and the tier `fuzz`: the fuzzer is a program of `tests`; here it is built and started.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build, privilege, run,
    setup::{self, Need},
    ui,
};

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct FuzzArgs {
    /// `--target`, `--seconds`, `--seed` and others: `cargo xtask fuzz --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs `fuzz`: built as the user, run with root's rights. Whether nothing was found.
pub fn main(arguments: &FuzzArgs) -> Result<bool> {
    setup::ensure(&[Need::Build])?;
    ui::step("building the fuzzer, optimized");
    let built = build::cargo_build(&["--release", "--package", "lb-tests", "--bin", "fuzz"])?;
    let fuzz = built.iter().find(|executable| executable.name == "fuzz" && executable.kind == "bin");
    let fuzz = fuzz.context("cargo built no fuzzer")?;
    if let privilege::Way::None(why) = privilege::way() {
        bail!("{why}; the fuzzer loads BPF programs. As root, run: {}", fuzz.path.display());
    }
    let status = privilege::command(&fuzz.path).args(&arguments.arguments).status();
    let status = status.with_context(|| format!("cannot start {}", fuzz.path.display()))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("the fuzzer ended with {}", run::ending(status)),
    }
}
