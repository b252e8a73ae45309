//! What came of a tier, and the summary of all: what failed, with what it said and the command that repeats it alone.

use std::time::Duration;

use crate::ui;

/// What came of one tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub passed: usize,
    pub failed: usize,
    /// Name and reason of everything that was not run.
    pub skipped: Vec<Skip>,
    /// What failed, for the summary.
    pub failures: Vec<Failure>,
    /// What else is worth a line in the summary: figures.
    pub notes: Vec<String>,
    /// Processor time of the programs that were run.
    pub processor: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub name: String,
    pub reason: String,
}

/// Something that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub name: String,
    /// The first line of what it said; empty when it said nothing.
    pub said: String,
    /// The command that repeats it alone; empty when it is the tier as a whole.
    pub again: String,
}

impl Failure {
    /// One whose message is its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With the first line of a message.
    pub fn saying(self, message: &str) -> Self {
        let said = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        Self { said: said.to_owned(), ..self }
    }

    /// With the command that repeats it.
    pub fn again(self, command: impl Into<String>) -> Self {
        Self { again: command.into(), ..self }
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self { failed: 1, failures: vec![failure], ..Self::default() }
    }
}

impl Outcome {
    /// A tier with one check that went well.
    pub fn passed(passed: usize) -> Self {
        Self { passed, ..Self::default() }
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Failure::new(what).into()
    }

    /// The same with a command for what has none.
    pub fn again(mut self, command: &str) -> Self {
        for failure in self.failures.iter_mut().filter(|failure| failure.again.is_empty()) {
            command.clone_into(&mut failure.again);
        }
        self
    }

    pub fn skipped(name: impl Into<String>, reason: impl Into<String>) -> Self {
        let skip = Skip { name: name.into(), reason: reason.into() };
        Self { skipped: vec![skip], ..Self::default() }
    }

    pub fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped, failures, notes, processor } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped.extend(skipped);
        self.failures.extend(failures);
        self.notes.extend(notes);
        self.processor += processor;
    }
}

/// So many of those that were skipped for the same reason are named.
const NAMED: usize = 5;

/// Names by reason, both in the order in which they came.
fn by_reason(skips: &[Skip]) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for Skip { name, reason } in skips {
        match groups.iter_mut().find(|(known, _)| known == reason) {
            Some((_, names)) => names.push(name),
            None => groups.push((reason, vec![name])),
        }
    }
    groups
}

/// The table at the end, what the tests noted, what was skipped, what failed, and the closing line that scripts read.
/// Failures come last: who reads only the end of a long run finds them there.
/// Tiers run next to each other, so the time of all is not the sum of theirs.
pub fn summary(tiers: &[(&str, Outcome, Duration)], time: Duration) -> String {
    let mut text = String::new();
    let mut rows =
        vec![["tier", "passed", "failed", "skipped", "time", "processor"].map(str::to_owned).to_vec()];
    let mut total = Outcome::default();
    for (name, outcome, time) in tiers {
        let failed = outcome.failed.to_string();
        rows.push(vec![
            (*name).to_owned(),
            outcome.passed.to_string(),
            if outcome.failed > 0 { ui::red(&failed) } else { failed },
            outcome.skipped.len().to_string(),
            ui::duration(*time),
            if outcome.processor.is_zero() { String::new() } else { ui::duration(outcome.processor) },
        ]);
        total.add(outcome.clone());
    }
    let counts = [total.passed, total.failed, total.skipped.len()].map(|count| count.to_string());
    let mut all = vec!["all".to_owned()];
    all.extend(counts);
    all.extend([time, total.processor].map(ui::duration));
    rows.push(all);
    text.push_str(&ui::table(&rows));
    for note in &total.notes {
        text.push_str(&format!("{note}\n"));
    }
    for (name, outcome, _) in tiers {
        for (reason, names) in by_reason(&outcome.skipped) {
            let rest = names.len().saturating_sub(NAMED);
            let mut list = names[..names.len() - rest].join(", ");
            if rest > 0 {
                list.push_str(&format!(" and {rest} more"));
            }
            text.push_str(&format!("{} {name}: {list}: {reason}\n", ui::yellow("skipped")));
        }
    }
    for (name, outcome, _) in tiers {
        for failure in &outcome.failures {
            let Failure { name: what, said, again } = failure;
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            text.push_str(&format!("{} {name}: {what}{said}\n", ui::red("failed")));
            if !again.is_empty() {
                text.push_str(&format!("       {again}\n"));
            }
        }
    }
    let Outcome { passed, failed, skipped, .. } = total;
    text.push_str(&format!("{passed} passed, {failed} failed, {} skipped\n", skipped.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_with_what_it_said_and_how_to_repeat_it() {
        let failure = Failure::new("control: start::x")
            .saying("\nno answer in 40 s\nCaused by:")
            .again("cargo xtask y");
        let text = summary(&[("namespace", failure.into(), Duration::ZERO)], Duration::ZERO);
        assert!(
            text.contains("failed namespace: control: start::x: no answer in 40 s\n       cargo xtask y\n"),
            "{text}"
        );
    }

    #[test]
    fn a_failure_keeps_the_command_it_has() {
        let mut outcome = Outcome::from(Failure::new("a").again("one"));
        outcome.add(Outcome::failed("b"));
        let commands: Vec<String> =
            outcome.again("all").failures.into_iter().map(|failure| failure.again).collect();
        assert_eq!(commands, ["one", "all"]);
    }

    #[test]
    fn many_skips_for_one_reason_are_one_line() {
        let mut outcome = Outcome::default();
        for number in 0..7 {
            outcome.add(Outcome::skipped(format!("t{number}"), "no root"));
        }
        let text = summary(&[("unit", outcome, Duration::ZERO)], Duration::ZERO);
        assert!(text.contains("skipped unit: t0, t1, t2, t3, t4 and 2 more: no root\n"), "{text}");
        assert!(text.ends_with("0 passed, 0 failed, 7 skipped\n"));
    }

    #[test]
    fn failures_come_after_all_notes_and_skips() {
        let noted = Outcome { notes: vec!["a note".into()], ..Outcome::failed("x") };
        let tiers = [("a", noted, Duration::ZERO), ("b", Outcome::skipped("y", "none"), Duration::ZERO)];
        let text = summary(&tiers, Duration::ZERO);
        let lines: Vec<&str> = text.lines().rev().take(4).collect();
        assert_eq!(lines, ["0 passed, 1 failed, 1 skipped", "failed a: x", "skipped b: y: none", "a note"]);
    }

    #[test]
    fn the_last_line_is_the_one_scripts_read() {
        let mut first = Outcome::passed(3);
        first.add(Outcome::skipped("x", "no reason"));
        let tiers = [("a", first, Duration::ZERO), ("b", Outcome::failed("y"), Duration::ZERO)];
        let text = summary(&tiers, Duration::ZERO);
        assert_eq!(text.lines().last(), Some("3 passed, 1 failed, 1 skipped"));
        assert!(text.contains("skipped a: x: no reason\n"));
        assert!(text.contains("failed b: y\n"));
    }
}
