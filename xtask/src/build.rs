//! Building: one cargo call for everything that the tests, the demo and people use, so that nothing is compiled twice
//! with other features. `cargo xtask build` prints where it went.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{
    children::Child,
    run,
    setup::{self, Need},
    ui, workspace,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cargo xtask build\n  cargo xtask build --release")]
pub struct BuildArgs {
    /// Only what one installs, lbd and lbctl: optimized and stripped
    #[arg(long)]
    release: bool,
}

/// The workspace but for the BPF half, which the build script of `lb-userspace` builds for its own target.
pub const HOST: [&str; 3] = ["--workspace", "--exclude", "lb-ebpf"];

/// A small test program. With a test among what is asked for, cargo gives dependencies the features that tests have them
/// with; without one, each of these would be compiled a second time.
pub const AS_TESTS: [&str; 2] = ["--test", "command"];

/// What is copied to a host that runs it. `strip` for it is in the workspace's profile.
const INSTALLED: [&str; 7] = ["--release", "--package", "lb-userspace", "--bin", "lbd", "--bin", "lbctl"];

/// Something cargo made that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// The package it is of.
    pub package: String,
    /// `lbd`, or the name of a test target.
    pub name: String,
    /// `lib`, `bin` or `test`.
    pub kind: String,
    /// Whether it runs tests: a `lib` or `bin` is then its unit tests.
    pub test: bool,
    /// The package's directory, which tests run in.
    pub directory: PathBuf,
    pub path: PathBuf,
}

impl Executable {
    /// Package and name, for people.
    pub fn shown(&self) -> String {
        format!("{}/{}", self.package, self.name)
    }
}

/// Runs `build`.
pub fn main(arguments: &BuildArgs) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let started = Instant::now();
    let built = if arguments.release {
        ui::step("building what one installs, optimized");
        cargo_build(&INSTALLED)?
    } else {
        ui::step("building everything");
        cargo_build(&[HOST.as_slice(), &["--bins"], &AS_TESTS].concat())?
    };
    let mut rows = Vec::new();
    for executable in built.iter().filter(|executable| executable.kind == "bin") {
        let bytes = std::fs::metadata(&executable.path)
            .with_context(|| format!("cannot look at {}", executable.path.display()))?
            .len();
        let size = format!("{:.1} MB", bytes as f64 / 1e6);
        rows.push(vec![format!("  {}", executable.name), size, executable.path.display().to_string()]);
    }
    rows.sort();
    print!("{}", ui::table(&rows));
    println!("built in {}", ui::duration(started.elapsed()));
    Ok(())
}

/// `cargo build` with cargo's own progress and messages on our error output; what can be run of what it made.
pub fn cargo_build(arguments: &[&str]) -> Result<Vec<Executable>> {
    cargo_build_timed(arguments).map(|(built, _)| built)
}

/// The same, and the processor time it took.
pub fn cargo_build_timed(arguments: &[&str]) -> Result<(Vec<Executable>, Duration)> {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).arg("build").args(arguments);
    command.args(["--message-format", "json-render-diagnostics"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Child::spawn(&mut command).context("cannot start cargo")?;
    let mut built = Vec::new();
    if let Some(output) = child.stdout() {
        for line in BufReader::new(output).lines() {
            built.extend(executable(&line?));
        }
    }
    let ended = child.wait()?;
    if !ended.status.success() {
        bail!("`cargo build` ended with {}", run::ending(ended.status));
    }
    Ok((built, ended.processor))
}

/// One of cargo's messages; most are about other things.
fn executable(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let target = &message["target"];
    let directory = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    Some(Executable {
        package: directory.file_name()?.to_string_lossy().into_owned(),
        name: target["name"].as_str()?.to_owned(),
        kind: target["kind"][0].as_str()?.to_owned(),
        test: message["profile"]["test"].as_bool()?,
        path: PathBuf::from(message["executable"].as_str()?),
        directory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_read_from_cargos_message() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/x/lb-userspace/Cargo.toml",
            "target":{"kind":["bin"],"name":"lbd"},"profile":{"test":false},"executable":"/x/target/debug/lbd"}"#;
        let built = executable(line).unwrap();
        assert_eq!((built.package.as_str(), built.name.as_str(), built.test), ("lb-userspace", "lbd", false));
    }

    #[test]
    fn what_cannot_be_run_is_passed_over() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/x/lb-common/Cargo.toml",
            "target":{"kind":["lib"],"name":"lb_common"},"profile":{"test":false},"executable":null}"#;
        assert_eq!(executable(line), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("warning: not JSON"), None);
    }
}
