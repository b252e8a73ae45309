//! What the tests left behind: what of ours is on the host after the last tier and was not before the first.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::report::Outcome;
use crate::{
    build::Executable,
    privilege::{self, Way},
    run,
};

/// The kernel takes programs and namespaces away some time after the last who held them.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was there, a line each; or why that is not known.
pub(super) type Inventory = Result<BTreeSet<String>, String>;

/// What of ours there is now.
pub(super) fn inventory(executables: &[Executable]) -> Inventory {
    if let Way::None(why) = privilege::way() {
        return Err(why.to_owned());
    }
    take(executables).map_err(|error| format!("{error:#}"))
}

fn take(executables: &[Executable]) -> Result<BTreeSet<String>> {
    let program = executables
        .iter()
        .find(|executable| executable.name == "inventory" && executable.kind == "bin" && !executable.test)
        .context("cargo built no inventory")?;
    let lines = run::capture(&mut privilege::command(&program.path))?;
    Ok(lines.lines().map(str::to_owned).collect())
}

/// Compares with what was there `before`, until nothing is new or patience ends: one check for each kind of thing.
pub(super) fn run(executables: &[Executable], before: &Inventory) -> Outcome {
    let before = match before {
        Ok(before) => before,
        Err(why) => return Outcome::skipped("all of it", why.clone()),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = match inventory(executables) {
            Ok(now) => now,
            Err(why) => return Outcome::failed(why),
        };
        let left = left(before, &now);
        if left.is_empty() || Instant::now() > deadline {
            return outcome(&left);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn left<'a>(before: &'a BTreeSet<String>, now: &'a BTreeSet<String>) -> Vec<&'a str> {
    now.difference(before).map(String::as_str).collect()
}

/// The kinds of things there are, as the inventory's lines begin.
const KINDS: [&str; 6] = ["program", "pin", "namespace", "directory", "mount", "process"];

fn outcome(left: &[&str]) -> Outcome {
    let mut outcome = Outcome::default();
    for kind in KINDS {
        let of_kind: Vec<&str> =
            left.iter().copied().filter(|line| line.split(' ').next() == Some(kind)).collect();
        outcome.add(if of_kind.is_empty() {
            println!("ok no {kind} was left behind");
            Outcome::passed(1)
        } else {
            Outcome::failed(format!("left behind: {}", of_kind.join(", ")))
        });
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_was_left_and_is_named() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let (before, now) = (lines("pin /a\nprogram lb_xdp 1"), lines("pin /a\npin /b\nprogram lb_xdp 2"));
        let left = left(&before, &now);
        assert_eq!(left, ["pin /b", "program lb_xdp 2"]);
        let outcome = outcome(&left);
        assert_eq!((outcome.passed, outcome.failed), (KINDS.len() - 2, 2));
        let named: Vec<&str> = outcome.failures.iter().map(|failure| failure.name.as_str()).collect();
        assert_eq!(named, ["left behind: program lb_xdp 2", "left behind: pin /b"]);
    }

    #[test]
    fn what_was_there_before_was_not_left() {
        let before = BTreeSet::from(["pin /a".to_owned()]);
        assert_eq!(outcome(&left(&before, &before)).passed, KINDS.len());
    }
}
