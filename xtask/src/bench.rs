//! `cargo xtask bench`: the benchmark is a program of `tests`; here it is built, with the agent it measures, and started.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build, privilege, run,
    setup::{self, Need},
    ui,
};

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct BenchArgs {
    /// `--quick`, `--rows`, `--json` and others: `cargo xtask bench --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs `bench`: built as the user, run with root's rights. Whether `--check` found nothing.
pub fn main(arguments: &BenchArgs) -> Result<bool> {
    setup::ensure(&[Need::Build])?;
    ui::step("building the benchmark and the agent, optimized");
    let packages = ["--package", "lb-userspace", "--package", "lb-tests"];
    let binaries = ["--bin", "lbd", "--bin", "lbctl", "--bin", "bench"];
    let built = build::cargo_build(&[["--release"].as_slice(), &packages, &binaries].concat())?;
    let bench = built.iter().find(|executable| executable.name == "bench" && executable.kind == "bin");
    let bench = bench.context("cargo built no benchmark")?;
    if let privilege::Way::None(why) = privilege::way() {
        bail!("{why}; the benchmark loads BPF programs. As root, run: {}", bench.path.display());
    }
    let status = privilege::command(&bench.path).args(&arguments.arguments).status();
    let status = status.with_context(|| format!("cannot start {}", bench.path.display()))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("the benchmark ended with {}", run::ending(status)),
    }
}
