//! The demo and the runs of churn: commands of ours whose closing line says how many of their steps did what they say.

use std::{path::Path, process::Command, time::Duration};

use super::{
    jobs::{Job, Load},
    programs::{Choice, Ended, stream},
    report::{Failure, Outcome},
    screen::Log,
    tier::Tier,
};
use crate::{run, ui};

/// Runs the demo.
pub(super) fn demo(directory: &Path, log: &Log<'_>) -> Outcome {
    run_steps("demo", "the demo", &["demo", "--fast"], &["--built", &directory.to_string_lossy()], log)
}

/// The runs of `churn` that belong to every test: the script for three minutes, the contrast for twenty seconds, and
/// each single trouble.
const CHURN: &[(&str, &[&str])] = &[
    ("the script", &["--minutes", "3"]),
    ("the contrast", &["--minutes", "0.35", "--events-per-minute", "120", "--track", "never"]),
    ("every flow tracked", &["--minutes", "0.5", "--track", "always"]),
    ("a flapping backend", &["--scenario", "flap"]),
    ("the last backend", &["--scenario", "last"]),
    ("ten changes in a row", &["--scenario", "ten"]),
    ("a flood of SYNs", &["--scenario", "flood"]),
    ("what a stranger forges", &["--scenario", "forge"]),
    ("checks that fail everywhere", &["--scenario", "hiccup"]),
    ("checks that lose packets", &["--scenario", "lossy", "--minutes", "0.7"]),
    ("files that replace backends", &["--scenario", "handover"]),
    ("restarts while neighbours are silent", &["--scenario", "restart-blind"]),
    ("an agent without a processor", &["--scenario", "starve"]),
    ("silent backends of another service", &["--scenario", "silent", "--minutes", "0.5"]),
    ("half-closed connections", &["--scenario", "half-close", "--minutes", "1.1"]),
    ("stray answers while a backend drains", &["--scenario", "backscatter"]),
];

/// A job for each of them, or for those that are chosen, in labs of their own.
pub(super) fn churn<'a>(directory: &'a Path, choice: Choice<'_>) -> Vec<Job<'a>> {
    let chosen = (1..).zip(CHURN).filter(|(_, (name, _))| choice.takes(name));
    let job = |(number, (name, arguments)): (u32, &'static (&str, &[&str]))| {
        let work = move |log: &Log<'_>| {
            let (built, prefix) = (directory.to_string_lossy(), format!("lb-churn-{number}"));
            let ours = ["--built", &*built, "--prefix", &prefix];
            run_steps("churn", name, &[&["churn"], *arguments].concat(), &ours, log)
        };
        Job { tier: Tier::Churn, part: Some((*name).to_owned()), load: Load::Waits, work: Box::new(work) }
    };
    chosen.map(job).collect()
}

/// Runs a command of ours. The command that repeats it is without the arguments that are only `ours`.
fn run_steps(command: &str, name: &str, arguments: &[&str], ours: &[&str], log: &Log<'_>) -> Outcome {
    let this = match run::this_program() {
        Ok(this) => this,
        Err(error) => return Outcome::failed(format!("{error:#}")),
    };
    let mut steps = Steps::new(command);
    let ended = stream(Command::new(this).args(arguments).args(ours), |line| {
        log.line(line);
        steps.line(line);
    });
    steps.finish(name, arguments, ended)
}

/// What came of a command of ours, read from what it printed.
#[derive(Debug)]
struct Steps<'a> {
    command: &'a str,
    /// Those that did what they say, and all of them.
    closing: Option<(usize, usize)>,
    /// The heading of the step that is under way; the demo prints one.
    title: Option<String>,
    /// Each failed step: its heading, and what it said.
    failed: Vec<(Option<String>, String)>,
    seed: Option<String>,
    error: String,
}

impl<'a> Steps<'a> {
    fn new(command: &'a str) -> Self {
        Self { command, closing: None, title: None, failed: Vec::new(), seed: None, error: String::new() }
    }

    fn line(&mut self, line: &str) {
        let heading =
            |(number, title): (&str, &str)| number.parse::<usize>().is_ok().then(|| title.to_owned());
        if let Some(numbers) = numbers(self.command, line) {
            self.closing = Some(numbers);
        } else if let Some(why) = line.trim_start().strip_prefix("failed ") {
            self.failed.push((self.title.clone(), why.to_owned()));
        } else if let Some(title) = line.split_once(". ").and_then(heading) {
            self.title = Some(title);
        } else if let Some(error) = line.strip_prefix("error: ") {
            error.clone_into(&mut self.error);
        }
        let seed = line.split_once("(seed ").map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit));
        if let Some(seed) = seed.map(String::from_iter).filter(|seed| !seed.is_empty()) {
            self.seed = Some(seed);
        }
    }

    fn finish(self, name: &str, arguments: &[&str], ended: Result<Ended, String>) -> Outcome {
        let Self { command: _, closing, title: _, failed, seed, error } = self;
        let seed = seed.map(|seed| format!(" --seed {seed}")).unwrap_or_default();
        let again = format!("cargo xtask {}{seed}", arguments.join(" "));
        let failure = |what: String, said: &str| Failure::new(what).saying(said).again(&again);
        let processor = ended.as_ref().map_or(Duration::ZERO, |ended| ended.processor);
        let mut outcome = Outcome { processor, ..Outcome::default() };
        match (closing, ended) {
            (Some((good, all)), Ok(Ended { ok, .. })) => {
                outcome.passed = good;
                outcome.failed = all.saturating_sub(good);
                let named = failed.into_iter().take(outcome.failed).map(|(title, why)| match title {
                    Some(title) => failure(format!("{name}: {title}"), &why),
                    None => failure(name.to_owned(), &why),
                });
                outcome.failures = named.collect();
                let unnamed = outcome.failed - outcome.failures.len();
                if unnamed > 0 {
                    outcome.failures.push(failure(name.to_owned(), &ui::count(unnamed, "step")));
                }
                if !ok && outcome.failed == 0 {
                    outcome.add(failure(name.to_owned(), "it ended with an error").into());
                }
            }
            (_, Err(why)) => outcome.add(failure(name.to_owned(), &why).into()),
            (None, Ok(_)) if error.is_empty() => {
                outcome.add(failure(name.to_owned(), "it did not come to its end").into());
            }
            (None, Ok(_)) => outcome.add(failure(name.to_owned(), &error).into()),
        }
        outcome
    }
}

/// The numbers in `demo: 7 of 7 steps did what they say`.
fn numbers(command: &str, line: &str) -> Option<(usize, usize)> {
    let (good, rest) = line.strip_prefix(command)?.strip_prefix(": ")?.split_once(" of ")?;
    let (all, _) = rest.split_once(" steps")?;
    Some((good.parse().ok()?, all.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closing_line_is_read() {
        assert_eq!(numbers("demo", "demo: 6 of 7 steps did what they say"), Some((6, 7)));
        assert_eq!(numbers("demo", "demo: the lab is up"), None);
        assert_eq!(numbers("churn", "churn: 3 of 3 steps did what they say (seed 1)"), Some((3, 3)));
        assert_eq!(numbers("churn", "demo: 6 of 7 steps did what they say"), None);
    }

    #[test]
    fn a_failed_step_is_named_with_its_message_and_the_run_that_repeats_it() {
        let read = |command: &str, text: &str| {
            let mut steps = Steps::new(command);
            text.lines().for_each(|line| steps.line(line));
            let ended = Ended { ok: false, processor: Duration::ZERO };
            steps.finish("x", &[command, "--fast"], Ok(ended)).failures
        };
        let demo = "1. up\n   ok all\n2. kill\n   failed it lives\ndemo: 1 of 2 steps did what they say\n";
        let wanted = Failure::new("x: kill").saying("it lives").again("cargo xtask demo --fast");
        assert_eq!(read("demo", demo), [wanted]);
        let churn = "==> making the lab (seed 4711)\nok a\nfailed drain × 1: 3 broken\n\
                     churn: 1 of 2 steps did what they say (seed 4711, 1 events)\n";
        let wanted =
            Failure::new("x").saying("drain × 1: 3 broken").again("cargo xtask churn --fast --seed 4711");
        assert_eq!(read("churn", churn), [wanted]);
        let broken = "==> making the lab (seed 4711)\nerror: no lab\n";
        let wanted = Failure::new("x").saying("no lab").again("cargo xtask churn --fast --seed 4711");
        assert_eq!(read("churn", broken), [wanted]);
    }
}
