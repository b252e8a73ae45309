//! `cargo xtask fuzz`: the fuzzer is a program of `tests`; here it is built and started, by `guided` with libFuzzer
//! around it.

mod guided;

use std::process::Command;

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

/// Runs `fuzz`: built as the user; what loads BPF programs is run with root's rights. Whether nothing was found.
pub fn main(arguments: &FuzzArgs) -> Result<bool> {
    setup::ensure(&[Need::Build])?;
    ui::step("building the fuzzer, optimized");
    let built = build::cargo_build(&["--release", "--package", "lb-tests", "--bin", "fuzz"])?;
    let fuzz = built.iter().find(|executable| executable.name == "fuzz" && executable.kind == "bin");
    let fuzz = fuzz.context("cargo built no fuzzer")?;
    let pure = pure(&arguments.arguments);
    if let Some(Pure { target, seconds, seed }) = pure {
        match guided::build() {
            Ok(guided) => return guided::run(&guided, &fuzz.path, target, seconds, seed),
            Err(why) => eprintln!("{} at random, without libFuzzer: {why:#}", ui::yellow("note:")),
        }
    }
    let mut command = if wants_root(&arguments.arguments) {
        if let privilege::Way::None(why) = privilege::way() {
            bail!("{why}; the fuzzer loads BPF programs. As root, run: {}", fuzz.path.display());
        }
        privilege::command(&fuzz.path)
    } else {
        Command::new(&fuzz.path)
    };
    let status = command.args(&arguments.arguments).status();
    let status = status.with_context(|| format!("cannot start {}", fuzz.path.display()))?;
    match status.code() {
        Some(0) => Ok(true),
        // 2 is clap's word for arguments that are wrong; it has said which.
        Some(1 | 2) => Ok(false),
        _ => bail!("the fuzzer ended with {}", run::ending(status)),
    }
}

/// Only packets need a kernel; help and mistakes need nothing.
fn wants_root(arguments: &[String]) -> bool {
    let named = option(arguments, "--target").flatten();
    named.is_none_or(|target| target == "packet")
        && !arguments.iter().any(|word| word == "--help" || word == "-h")
}

/// A run that libFuzzer can do.
#[derive(Debug, PartialEq, Eq)]
struct Pure {
    target: &'static str,
    seconds: u64,
    seed: u32,
}

/// The run, if these are arguments of one; the fuzzer itself says what is wrong with others.
fn pure(arguments: &[String]) -> Option<Pure> {
    let named = option(arguments, "--target")??;
    let target = guided::TARGETS.into_iter().find(|target| *target == named)?;
    let number = |name: &str, usual: u64| match option(arguments, name) {
        None => Some(usual),
        Some(value) => value?.parse().ok(),
    };
    let now = std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_micros() as u64);
    let (seconds, seed) = (number("--seconds", 30)?, number("--seed", now)?);
    let known = |word: &String| {
        let name = word.split('=').next().unwrap_or_default();
        !word.starts_with('-') || ["--target", "--seconds", "--seed"].contains(&name)
    };
    // libFuzzer takes 32 bits, and 0 for a seed of its own.
    arguments.iter().all(known).then_some(Pure { target, seconds, seed: (seed as u32).max(1) })
}

/// An option's value, as `--name value` or `--name=value`; `Some(None)` = it has none.
fn option<'a>(arguments: &'a [String], name: &str) -> Option<Option<&'a str>> {
    arguments.iter().enumerate().find_map(|(place, word)| {
        if word == name {
            return Some(arguments.get(place + 1).map(String::as_str));
        }
        Some(word.strip_prefix(name)?.strip_prefix('=')).filter(Option::is_some)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn targets_without_a_kernel_are_guided() {
        let found = pure(&words("--target config --seconds=9 --seed 4"));
        assert_eq!(found, Some(Pure { target: "config", seconds: 9, seed: 4 }));
        for text in [
            "",
            "--target packet",
            "--target x",
            "--target",
            "--target ring --seconds x",
            "--target ring --help",
        ] {
            assert_eq!(pure(&words(text)), None, "{text}");
        }
    }

    #[test]
    fn only_packets_need_root() {
        assert!(wants_root(&words("--seconds 3")) && wants_root(&words("--target packet")));
        assert!(!wants_root(&words("--target=ring")) && !wants_root(&words("--help")));
    }
}
