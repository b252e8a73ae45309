//! `cargo xtask fuzz`: random input until a time is over, a seed that decides it, and what it came upon.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use lb_common::counter::Counter;
use lb_tests::fuzz::{
    packet::{self, Plan, Report},
    sequence,
};

/// Holds the loaded programs against the model by BPF_PROG_TEST_RUN; needs root, attaches nothing, sends nothing.
#[derive(Parser)]
#[command(
    name = "cargo xtask fuzz",
    after_help = "Examples:\n  cargo xtask fuzz --seconds 60\n  cargo xtask fuzz --seed 7 --packets 5000000 --seconds 3600\n\n\
        A difference is made small and written to tests/fixtures/regress/; the exit code is then 1."
)]
struct Args {
    /// Ends after so many seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Decides everything that is random; printed, so that a run can be had again.
    #[arg(long)]
    seed: Option<u64>,
    /// Ends after so many packets.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    packets: u64,
    /// Where differences are written.
    #[arg(long, value_name = "DIRECTORY")]
    save: Option<PathBuf>,
}

/// So many packets reach every counter there is.
const ENOUGH: u64 = 50_000;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let seed = match args.seed {
        Some(seed) => seed,
        None => std::time::UNIX_EPOCH.elapsed().context("the clock is before 1970")?.as_micros() as u64,
    };
    println!("fuzz: packet, seed {seed}");
    let plan = Plan {
        seed,
        time: Duration::from_secs(args.seconds),
        packets: args.packets,
        directory: args.save.unwrap_or_else(sequence::directory),
        differences: 20,
    };
    let worker = std::thread::spawn(move || {
        packet::run(&plan, |report| {
            eprintln!("  {} packets, {} differences", report.packets, report.differences.len());
        })
    });
    let Ok(report) = worker.join() else { return Ok(ExitCode::FAILURE) };
    let report = report?;
    print(&report);
    // A short run on a busy machine may miss a rare one.
    let unreached = if report.packets < ENOUGH { Vec::new() } else { report.unreached() };
    for counter in &unreached {
        println!("unreached: no packet was counted as {}, so nothing was tried there", counter.name());
    }
    let good = report.differences.is_empty() && unreached.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    for counter in Counter::ALL {
        println!("  {:22} {:>12}", counter.name(), report.counters[*counter as usize]);
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
