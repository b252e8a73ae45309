//! `cargo xtask test`: every tier in order, and a summary with counts, times, and what was skipped and why.

mod jobs;
mod kernels;
mod leaks;
mod miri;
mod programs;
pub mod reader;
pub mod report;
mod screen;
mod steps;
pub mod tier;
mod younger;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;

use self::{
    jobs::{Done, Job, Limits},
    programs::Choice,
    report::{Failure, Outcome},
    screen::Screen,
    tier::{Built, Tier},
};
use crate::{
    build::{self, HOST},
    children, privilege,
    setup::{self, Need},
    ui,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask test                                  everything\n  \
    cargo xtask test --tier unit --tier datapath      only these\n  \
    cargo xtask test --tier unit --filter slot        only tests whose name has `slot` in it\n  \
    cargo xtask test --jobs 1                         one tier after another\n\n\
    Tiers that mostly wait run next to each other and next to one that computes; each has its output in one block.\n\
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
    /// How many tiers, or parts of one, run at a time; with 1, one after another [default: the number of processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Stop after the first tier with a failure; by default all run. Tiers run one after another then
    #[arg(long)]
    fail_fast: bool,
}

/// A line of the summary: a tier, what came of it, and how long it took.
type Line = (&'static str, Outcome, Duration);

/// Runs `test`; whether nothing failed. The summary is the last that is printed.
pub fn main(arguments: &TestArgs) -> Result<bool> {
    let started = Instant::now();
    let mut tiers = if arguments.tiers.is_empty() { Tier::ALL.to_vec() } else { arguments.tiers.clone() };
    tiers.sort();
    tiers.dedup();
    let screens = Screens::default();
    let shown = screens.clone();
    children::end_with_us(move |_| shown.flush())?;
    setup::ensure(&needs(&tiers))?;
    if tiers.iter().any(|tier| tier.needs_root()) {
        privilege::ask();
    }

    let choice = Choice { filter: arguments.filter.as_deref(), exact: arguments.exact };
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    let limits = Limits::new(processors, arguments.jobs.map(NonZeroUsize::get), arguments.fail_fast);
    let mut results = Vec::new();
    let mut built = Built::default();
    let mut before = None;
    // What costs seconds comes before the build; all others run next to each other behind it.
    let (quick, others): (Vec<Tier>, Vec<Tier>) =
        tiers.iter().partition(|tier| matches!(tier, Tier::Tidy | Tier::Format));
    let mut good = run(&quick, &built, choice, limits, &screens, &mut results);
    if good && others.iter().any(|tier| tier.needs_build()) {
        let began = Instant::now();
        headline("build");
        match build(&others) {
            Ok((made, processor)) => {
                built = made;
                before = Some(leaks::inventory(&built.executables));
                results.push(("build", Outcome { processor, ..Outcome::default() }, began.elapsed()));
            }
            Err(error) => {
                children::stay_if_ending();
                // Nothing that is left can run.
                let failure = Failure::new("build").saying(&format!("{error:#}"));
                let again = format!("cargo build {} --all-targets", HOST.join(" "));
                results.push(("build", failure.again(again).into(), began.elapsed()));
                good = false;
            }
        }
    }
    if good {
        run(&others, &built, choice, limits, &screens, &mut results);
    }

    let ran = |(_, outcome, _): &Line| outcome.passed + outcome.failed + outcome.skipped.len();
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
    if let Some(before) = &before {
        headline("leaks");
        let began = Instant::now();
        results.push(("leaks", leaks::run(&built.executables, before), began.elapsed()));
    }

    headline("summary");
    let failed: usize = results.iter().map(|(_, outcome, _)| outcome.failed).sum();
    print!("{}", report::summary(&results, started.elapsed()));
    Ok(failed == 0)
}

/// The screens there have been; the last is in use.
#[derive(Clone, Default)]
struct Screens(Arc<Mutex<Vec<Arc<Screen>>>>);

impl Screens {
    fn add(&self, jobs: &[Job<'_>]) -> Arc<Screen> {
        let screen = Screen::new(jobs.iter().map(Job::title), Box::new(|line| println!("{line}")));
        let screen = Arc::new(screen);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&screen));
        screen
    }

    /// Shows what is kept, before a signal ends the process.
    fn flush(&self) {
        let screens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        screens.iter().for_each(|screen| screen.flush());
    }
}

/// Runs tiers and adds what came of each; whether to go on.
fn run(
    tiers: &[Tier],
    built: &Built,
    choice: Choice<'_>,
    limits: Limits,
    screens: &Screens,
    results: &mut Vec<Line>,
) -> bool {
    let jobs: Vec<Job<'_>> = tiers.iter().flat_map(|tier| tier.jobs(built, choice)).collect();
    let screen = screens.add(&jobs);
    let done = jobs::run(jobs, limits, &screen);
    let good = done.iter().all(|done| done.outcome.failed == 0);
    results.extend(lines(tiers, done));
    good || !limits.fail_fast
}

/// What came of each tier that has been begun, from what came of its jobs.
fn lines(tiers: &[Tier], done: Vec<Done>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut left = done;
    for tier in tiers {
        let (ours, others): (Vec<Done>, Vec<Done>) = left.into_iter().partition(|done| done.tier == *tier);
        left = others;
        let began = ours.iter().map(|done| done.began).min();
        let ended = ours.iter().map(|done| done.ended).max();
        // Without any it was left out after a failure.
        let Some(time) = began.zip(ended).map(|(began, ended)| ended - began) else { continue };
        let mut outcome = Outcome::default();
        ours.into_iter().for_each(|done| outcome.add(done.outcome));
        lines.push((tier.name(), outcome.again(&format!("cargo xtask test --tier {}", tier.name())), time));
    }
    lines
}

/// Everything; and under names of their own, the agent that kills itself and the agent that is upgraded to, where these are
/// needed. All of the workspace as a whole, so that no dependency is compiled twice with other features.
fn build(tiers: &[Tier]) -> Result<(Built, Duration)> {
    let (executables, mut processor) =
        build::cargo_build_timed(&[HOST.as_slice(), &["--all-targets"]].concat())?;
    if tiers.contains(&Tier::Namespace) {
        let fault = ["--features", "lb-userspace/fault-injection", "--bin", "lbd-fault"];
        processor += build::cargo_build_timed(&[HOST.as_slice(), &fault].concat())?.1;
        processor += younger::build()?;
    }
    let lbd = executables.iter().find(|executable| executable.name == "lbd" && !executable.test);
    let directory = lbd.and_then(|lbd| lbd.path.parent()).context("cargo built no lbd")?.to_owned();
    Ok((Built { executables, directory }, processor))
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
