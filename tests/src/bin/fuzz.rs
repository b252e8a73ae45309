//! `cargo xtask fuzz`: random input until a time is over, the seed that decides it, and the findings.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use lb_common::counter::Counter;
use lb_tests::fuzz::{
    packet::{self, Plan, Report},
    pure, sequence,
};

/// Random input of a seed, until a time is over.
///
/// The target `packet` holds the loaded programs against the model by BPF_PROG_TEST_RUN; it needs root, attaches nothing,
/// sends nothing. The others need no kernel: `config` reads configuration files, `socket` requests to the control socket,
/// `ring` slot words and tables that an agent finds pinned. `cargo xtask fuzz` has libFuzzer guide them by the code they
/// reach, where a C++ compiler is there to build it.
#[derive(Parser)]
#[command(
    name = "cargo xtask fuzz",
    after_help = "Examples:\n  cargo xtask fuzz --seconds 60\n  cargo xtask fuzz --seed 7 --packets 5000000 --seconds 3600\n  \
        cargo xtask fuzz --target config --seconds 300\n\n\
        What is found is made small and written to tests/fixtures/regress/; the exit code is then 1."
)]
struct Args {
    /// What is tried
    #[arg(long, default_value = "packet")]
    target: Target,
    /// Ends after so many seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Decides everything that is random; printed, so that a run can be had again.
    #[arg(long)]
    seed: Option<u64>,
    /// Ends after so many packets.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    packets: u64,
    /// Where findings are written.
    #[arg(long, value_name = "DIRECTORY")]
    save: Option<PathBuf>,
    /// Another build of the object, for example one with a mistake that must be found.
    #[arg(long, hide = true, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Makes the files of a directory that break a promise small and keeps them.
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    replay: Option<PathBuf>,
    /// Writes what a target begins with.
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    seeds: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    Packet,
    Config,
    Socket,
    Ring,
}

impl Target {
    /// The same target in `fuzz::pure`; `None` = the target needs the kernel.
    fn pure(self) -> Option<pure::Target> {
        match self {
            Self::Packet => None,
            Self::Config => Some(pure::Target::Config),
            Self::Socket => Some(pure::Target::Socket),
            Self::Ring => Some(pure::Target::Ring),
        }
    }
}

/// This many packets reach every counter.
const ENOUGH: u64 = 50_000;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let seed = match args.seed {
        Some(seed) => seed,
        None => std::time::UNIX_EPOCH.elapsed().context("the clock is before 1970")?.as_micros() as u64,
    };
    if let Some(target) = args.target.pure() {
        return try_pure(target, seed, &args);
    }
    println!("fuzz: packet, seed {seed}");
    let plan = Plan {
        seed,
        time: Duration::from_secs(args.seconds),
        packets: args.packets,
        directory: args.save.unwrap_or_else(sequence::directory),
        differences: 20,
        object: args.object,
    };
    let worker = std::thread::spawn(move || {
        packet::run(&plan, |report| {
            eprintln!("  {} packets, {} differences", report.packets, report.differences.len());
        })
    });
    let Ok(report) = worker.join() else { return Ok(ExitCode::FAILURE) };
    let report = report?;
    print(&report);
    // A short run on a busy machine may miss a rare counter.
    let unreached = if report.packets < ENOUGH { Vec::new() } else { report.unreached() };
    for counter in &unreached {
        println!("unreached: no packet was counted as {}, so nothing was tried there", counter.name());
    }
    let fair = report.distributions.values().all(|distribution| !distribution.is_unfair());
    let good = report.differences.is_empty() && unreached.is_empty() && fair;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a target that needs no kernel.
fn try_pure(target: pure::Target, seed: u64, args: &Args) -> Result<ExitCode> {
    let found = if let Some(directory) = &args.replay {
        replay(target, directory)?
    } else if let Some(directory) = &args.seeds {
        for (number, seed) in target.seeds().iter().enumerate() {
            let file = directory.join(format!("seed-{number}"));
            fs::write(&file, seed).with_context(|| format!("cannot write {}", file.display()))?;
        }
        0
    } else {
        println!("fuzz: {}, at random, seed {seed}", target.name());
        let plan = pure::Plan {
            seed,
            time: Duration::from_secs(args.seconds),
            directory: args.save.clone().unwrap_or_else(|| target.directory()),
            findings: 20,
        };
        let report = pure::run(target, &plan)?;
        for (message, file) in &report.findings {
            println!("found: {message}\n  written to {}", file.display());
        }
        let (inputs, found) = (report.inputs, report.findings.len());
        println!("fuzzed {}: {inputs} inputs at random, {found} findings", target.name());
        found
    };
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay(target: pure::Target, directory: &Path) -> Result<usize> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut found = 0;
    for entry in entries {
        let path = entry?.path();
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        match pure::quietly(|| pure::keep(target, &bytes))? {
            Some((message, file)) => {
                found += 1;
                println!("found: {message}\n  written to {}", file.display());
            }
            // A single try does not show that an input is too slow or too large.
            None => println!("not seen again, look at it: {}", path.display()),
        }
    }
    Ok(found)
}

fn print(report: &Report) {
    for counter in Counter::ALL {
        println!("  {:22} {:>12}", counter.name(), report.counters[*counter as usize]);
    }
    for (balance, distribution) in &report.distributions {
        let verdict = if distribution.is_unfair() { "unfair" } else { "fair" };
        println!("  {balance:?} is {verdict}: {distribution}");
    }
    for (difference, file) in report.differences.values() {
        println!("difference: {difference}\n  written to {}", file.display());
    }
    println!(
        "fuzzed packet: {} packets in {} sequences through program and model, {} differences",
        report.packets,
        report.sequences,
        report.differences.len()
    );
}
