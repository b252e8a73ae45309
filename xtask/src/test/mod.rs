//! `cargo xtask test`: every tier in order, and a summary with counts, times, and what was skipped and why.

mod kernels;
mod leaks;
mod miri;
mod programs;
pub mod reader;
pub mod report;
pub mod tier;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use self::{
    programs::Choice,
    report::{Failure, Outcome},
    tier::Tier,
};
use crate::{
    build::{self, Executable, HOST},
    setup::{self, Need},
    ui,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask test                                  everything\n  \
    cargo xtask test --tier unit --tier datapath      only these\n  \
    cargo xtask test --tier unit --filter slot        only tests whose name has `slot` in it\n\n\
    Each failure is shown with the first line of its message and the command that repeats it alone.\n\
    The last line is `N passed, N failed, N skipped`; the exit code is 1 when anything failed.")]
pub struct TestArgs {
    /// Run only this tier (repeatable)
    #[arg(long = "tier", value_name = "TIER")]
    tiers: Vec<Tier>,
    /// Run only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Run only the test with exactly the name that --filter gives
    #[arg(long, requires = "filter")]
    exact: bool,
    /// Stop after the first tier with a failure; by default all run
    #[arg(long)]
    fail_fast: bool,
}

/// Runs `test`; whether nothing failed. The summary is the last that is printed.
pub fn main(arguments: &TestArgs) -> Result<bool> {
    let mut tiers = if arguments.tiers.is_empty() { Tier::ALL.to_vec() } else { arguments.tiers.clone() };
    tiers.sort();
    tiers.dedup();
    setup::ensure(&needs(&tiers))?;

    let choice = Choice { filter: arguments.filter.as_deref(), exact: arguments.exact };
    let mut results: Vec<(&str, Outcome, Duration)> = Vec::new();
    let mut built: Option<Vec<Executable>> = None;
    let mut before = None;
    for tier in tiers.iter().copied() {
        if tier.needs_build() && built.is_none() {
            let started = Instant::now();
            headline("build");
            match build(&tiers) {
                Ok(executables) => {
                    before = Some(leaks::inventory(&executables));
                    built = Some(executables);
                    results.push(("build", Outcome::default(), started.elapsed()));
                }
                Err(error) => {
                    // Nothing that is left can run.
                    let failure = Failure::new("build").saying(&format!("{error:#}"));
                    let again = format!("cargo build {} --all-targets", HOST.join(" "));
                    results.push(("build", failure.again(again).into(), started.elapsed()));
                    break;
                }
            }
        }
        headline(tier.name());
        let started = Instant::now();
        let outcome = tier.run(built.as_deref().unwrap_or_default(), choice);
        let outcome = outcome.again(&format!("cargo xtask test --tier {}", tier.name()));
        let failed = outcome.failed > 0;
        results.push((tier.name(), outcome, started.elapsed()));
        if failed && arguments.fail_fast {
            break;
        }
    }

    let ran =
        |(_, outcome, _): &(&str, Outcome, Duration)| outcome.passed + outcome.failed + outcome.skipped.len();
    if let Some(filter) = &arguments.filter
        && results.iter().map(ran).sum::<usize>() == 0
    {
        // A slip of the pen is no success.
        results.push((
            "filter",
            Outcome::failed(if arguments.exact {
                format!("no test is called `{filter}`")
            } else {
                format!("no test has `{filter}` in its name")
            }),
            Duration::ZERO,
        ));
    }
    if let (Some(executables), Some(before)) = (&built, &before) {
        headline("leaks");
        let started = Instant::now();
        results.push(("leaks", leaks::run(executables, before), started.elapsed()));
    }

    headline("summary");
    let failed: usize = results.iter().map(|(_, outcome, _)| outcome.failed).sum();
    print!("{}", report::summary(&results));
    Ok(failed == 0)
}

/// Everything; and where it is to be killed, the agent that does it itself, under a name of its own.
fn build(tiers: &[Tier]) -> Result<Vec<Executable>> {
    let built = build::cargo_build(&[HOST.as_slice(), &["--all-targets"]].concat())?;
    if tiers.contains(&Tier::Namespace) {
        build::cargo_build(&[
            "--package",
            "lb-userspace",
            "--features",
            "fault-injection",
            "--bin",
            "lbd-fault",
        ])?;
    }
    Ok(built)
}

fn headline(name: &str) {
    println!("\n{} {}", ui::bold("##"), ui::bold(name));
}

fn needs(tiers: &[Tier]) -> Vec<Need> {
    let mut needs = Vec::new();
    if tiers.iter().any(|tier| tier.needs_build() || *tier == Tier::Clippy) {
        needs.push(Need::Build);
    }
    if tiers.iter().any(|tier| matches!(tier, Tier::Format | Tier::Clippy)) {
        needs.push(Need::Lint);
    }
    if tiers.iter().any(|tier| matches!(tier, Tier::Fuzz | Tier::Namespace | Tier::Demo | Tier::Churn)) {
        needs.push(Need::Lab);
    }
    if tiers.contains(&Tier::Datapath) {
        needs.push(Need::Captures);
    }
    if tiers.contains(&Tier::Kernels) {
        needs.push(Need::Kernels);
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_asks_only_for_what_it_needs() {
        assert_eq!(needs(&[Tier::Tidy]), []);
        assert_eq!(needs(&[Tier::Format]), [Need::Lint]);
        assert_eq!(needs(&Tier::ALL), [Need::Build, Need::Lint, Need::Lab, Need::Captures, Need::Kernels]);
    }

    #[test]
    fn tiers_run_in_their_order() {
        assert!(Tier::ALL.is_sorted());
    }
}
