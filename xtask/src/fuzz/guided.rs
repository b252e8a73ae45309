//! libFuzzer over the targets that need no kernel: built with the coverage it is guided by, started, and what it finds
//! handed to the fuzzer of `tests`, which makes it small and keeps it. Needs a C++ compiler; no nightly.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{build, run, ui, workspace};

/// The targets, as `--target` names them.
pub(super) const TARGETS: [&str; 3] = ["config", "socket", "ring"];

/// What the compiler puts into the code so that libFuzzer sees where bytes lead, as its documentation asks for; and the
/// checks that a release otherwise leaves out.
const FLAGS: &str = "\"-Cpasses=sancov-module\",\"-Cllvm-args=-sanitizer-coverage-level=4\",\
    \"-Cllvm-args=-sanitizer-coverage-inline-8bit-counters\",\"-Cllvm-args=-sanitizer-coverage-pc-table\",\
    \"-Cllvm-args=-sanitizer-coverage-trace-compares\",\"-Cdebug-assertions=on\",\"-Coverflow-checks=on\"";

/// The longest input, in bytes; seconds one may take; MiB of memory.
const LIMITS: [&str; 3] = ["-max_len=8192", "-timeout=20", "-rss_limit_mb=2048"];

/// Builds it. An error says why it is not to be had here.
pub(super) fn build() -> Result<PathBuf> {
    if run::find("c++").is_none() {
        bail!("there is no C++ compiler (package g++)");
    }
    // With a target named, the flags are not for build scripts and macros, which run in the compiler.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let directory = workspace::target().join("guided");
    let flags = format!("build.rustflags=[{FLAGS}]");
    ui::step("building the targets for libFuzzer, optimized (minutes, the first time)");
    let built = build::cargo_build(&[
        "--release",
        "--package",
        "lb-tests",
        "--bin",
        "guided",
        "--features",
        "guided",
        "--config",
        &flags,
        "--target",
        &triple,
        "--target-dir",
        &directory.display().to_string(),
    ])?;
    let guided = built.into_iter().find(|executable| executable.name == "guided");
    Ok(guided.context("cargo built nothing for libFuzzer")?.path)
}

/// Runs a target; `fuzz` is the fuzzer of `tests`. Whether nothing was found.
pub(super) fn run(guided: &Path, fuzz: &Path, target: &str, seconds: u64, seed: u32) -> Result<bool> {
    let home = workspace::target().join("guided").join(target);
    let (corpus, seeds, found) = (home.join("corpus"), home.join("seeds"), home.join("found"));
    fs::remove_dir_all(&found).ok();
    for directory in [&corpus, &seeds, &found] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let fuzzer = |option: &str, directory: &Path| {
        let mut command = Command::new(fuzz);
        command.args(["--target", target, option]).arg(directory);
        command
    };
    run::run(&mut fuzzer("--seeds", &seeds))?;
    println!("fuzz: {target}, guided by coverage, seed {seed}");
    let mut command = Command::new(guided);
    command.env("LB_FUZZ_TARGET", target).args([&corpus, &seeds]).args(LIMITS).stdin(Stdio::null());
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-seed={seed}"));
    command.arg(format!("-artifact_prefix={}/", found.display())).arg("-print_final_stats=1");
    let mut child = command.stderr(Stdio::piped()).spawn().context("cannot start libFuzzer")?;
    let mut seen = Seen::default();
    let mut last = Vec::new();
    for line in BufReader::new(child.stderr.take().context("no output")?).lines() {
        let line = line?;
        seen.line(&line);
        last.push(line);
        if last.len() > 40 {
            last.remove(0);
        }
    }
    let status = child.wait()?;
    let files = fs::read_dir(&found)?.count();
    let mut good = true;
    if files > 0 {
        run::run(&mut fuzzer("--replay", &found)).ok();
        good = false;
    } else if !status.success() {
        bail!("libFuzzer ended with {}\n{}", run::ending(status), last.join("\n"));
    }
    println!(
        "fuzzed {target}: {} inputs guided by coverage, {} places of the code reached, {} findings",
        seen.inputs, seen.places, files
    );
    Ok(good)
}

/// What libFuzzer says of its work.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    inputs: u64,
    places: u64,
}

impl Seen {
    fn line(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            let into = match word {
                "cov:" => &mut self.places,
                "stat::number_of_executed_units:" => &mut self.inputs,
                _ => continue,
            };
            if let Some(number) = words.next().and_then(|number| number.parse().ok()) {
                *into = number;
            }
        }
        // Said with every input that led somewhere new; where it finds something there is no statistics at the end.
        let count = line.strip_prefix('#').and_then(|line| line.split_whitespace().next());
        self.inputs = self.inputs.max(count.and_then(|count| count.parse().ok()).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libfuzzers_lines_are_read() {
        let mut seen = Seen::default();
        seen.line("#1024\tNEW    cov: 731 ft: 1043 corp: 12/345b lim: 4 exec/s: 512 rss: 40Mb");
        assert_eq!(seen, Seen { inputs: 1024, places: 731 });
        seen.line("stat::number_of_executed_units: 2048");
        seen.line("INFO: Loaded 1 modules");
        assert_eq!(seen, Seen { inputs: 2048, places: 731 });
    }
}
