//! The tier of Miri: the tests of `lb-common`, which both halves share, in an interpreter that sees undefined behaviour
//! (reads outside an array, wrong alignment). Slow, so property tests try few cases; without Miri it says so.

use std::process::Command;

use super::{
    programs::{self, Choice},
    reader::Reader,
    report::{Failure, Outcome},
    screen::Log,
};
use crate::{run, workspace};

/// Another toolchain than rustup's nightly.
const VARIABLE: &str = "LB_MIRI_TOOLCHAIN";

/// Cases of a property test; 256 are tried by the tier `unit`.
const CASES: &str = "2";

/// Parts of the names of tests that make ten thousand hashes and more, or histories of hundreds of steps, which takes an
/// interpreter minutes to hours. What they call is called by the property tests, too.
const TOO_LONG: [&str; 3] = ["evenly", "only_the_leading_bits", "histories"];

pub(super) fn run(choice: Choice<'_>, log: &Log<'_>) -> Outcome {
    let toolchain = std::env::var(VARIABLE).unwrap_or_else(|_| "nightly".to_owned());
    if !run::succeeds(Command::new("rustup").args(["run", &toolchain, "cargo", "miri", "--version"])) {
        let how = format!("`rustup component add miri rust-src --toolchain {toolchain}`");
        return Outcome::skipped(
            "all of it",
            format!("toolchain {toolchain} has no Miri; {how} where it is to be had"),
        );
    }
    let mut command = Command::new("rustup");
    command.args(["run", &toolchain, "cargo", "miri", "test", "--package", "lb-common", "--lib"]);
    command.arg("--target-dir").arg(workspace::target().join("miri"));
    command.arg("--").args(TOO_LONG.iter().flat_map(|name| ["--skip", name])).args(choice.arguments());
    // What the cargo that runs us has set is meant for another compiler.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let ours = name.starts_with("CARGO") || name.starts_with("RUST");
        if ours && name != "CARGO_HOME" && name != "RUSTUP_HOME" {
            command.env_remove(&*name);
        }
    }
    // Property tests look for failures of before in the file system.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", CASES);
    command.current_dir(workspace::root());
    let mut reader = Reader::default();
    match programs::stream(&mut command, |line| {
        log.line(line);
        reader.line(line);
    }) {
        Ok(ended) => {
            let outcome =
                reader.finish("lb-common under Miri", ended.ok, |test| programs::again("miri", test));
            Outcome { processor: ended.processor, ..outcome }
        }
        Err(why) => Failure::new("Miri").saying(&why).into(),
    }
}
