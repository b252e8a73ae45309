//! What came of a test program or a tier, read from what it printed, and the summary of all.

use std::time::Duration;

use crate::ui;

/// What came of one tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub passed: usize,
    pub failed: usize,
    /// Name and reason of everything that was not run.
    pub skipped: Vec<Skip>,
    /// What failed, a line each, for the summary.
    pub failures: Vec<String>,
    /// What else is worth a line in the summary: figures.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub name: String,
    pub reason: String,
}

impl Outcome {
    /// A tier with one check that went well.
    pub fn passed(passed: usize) -> Self {
        Self { passed, ..Self::default() }
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Self { failed: 1, failures: vec![what.into()], ..Self::default() }
    }

    pub fn skipped(name: impl Into<String>, reason: impl Into<String>) -> Self {
        let skip = Skip { name: name.into(), reason: reason.into() };
        Self { skipped: vec![skip], ..Self::default() }
    }

    pub fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped, failures, notes } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped.extend(skipped);
        self.failures.extend(failures);
        self.notes.extend(notes);
    }
}

/// What came of a program that was run as an ordinary user and then, for what it skipped, once more as root: what root
/// did not skip counts as root had it, the rest as the user had it.
pub fn retried(user: Outcome, root: Outcome) -> Outcome {
    let Outcome { passed, failed, skipped, failures, notes } = user;
    let before = skipped.len();
    let skipped: Vec<Skip> = skipped.into_iter().filter(|skip| root.skipped.contains(skip)).collect();
    let done = before - skipped.len();
    Outcome {
        passed: passed + done.saturating_sub(root.failed),
        failed: failed + root.failed,
        skipped,
        failures: failures.into_iter().chain(root.failures).collect(),
        notes: notes.into_iter().chain(root.notes).collect(),
    }
}

/// Reads the lines of one test program (libtest or libtest-mimic) as they come.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    closing: Option<Outcome>,
    skips: Vec<Skip>,
    failures: Vec<String>,
    notes: Vec<String>,
    ignored: usize,
}

impl Reader {
    pub fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |what: &str| {
                let before = rest.split_once(what)?.0;
                before.rsplit([' ', ';']).find(|word| !word.is_empty())?.parse::<usize>().ok()
            };
            self.ignored += number(" ignored").unwrap_or(0);
            let passed = number(" passed").unwrap_or(0);
            let failed = number(" failed").unwrap_or(0);
            self.closing = Some(Outcome { passed, failed, ..Outcome::default() });
        } else if let Some(skip) = skip(line) {
            if !self.skips.contains(&skip) {
                self.skips.push(skip);
            }
        } else if let Some(note) = after(line, "counted ") {
            self.notes.push(note.trim().to_owned());
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.trim().to_owned());
        }
    }

    /// What came of the program, which ended with `status_ok`. A test that said it skips counts as skipped, although
    /// its harness counts it as passed.
    pub fn finish(self, program: &str, status_ok: bool) -> Outcome {
        let Self { closing, mut skips, failures, notes, ignored } = self;
        let Some(Outcome { passed, failed, .. }) = closing else {
            let mut outcome = Outcome::failed(format!("{program} ended before its tests did"));
            (outcome.skipped, outcome.notes) = (skips, notes);
            return outcome;
        };
        let passed = passed.saturating_sub(skips.len());
        if ignored > 0 {
            skips.push(Skip {
                name: format!("{program}: {}", ui::count(ignored, "test")),
                reason: "ignored".to_owned(),
            });
        }
        let mut outcome = Outcome {
            passed,
            failed,
            skipped: skips,
            failures: failures.into_iter().map(|name| format!("{program}: {name}")).collect(),
            notes,
        };
        if !status_ok && failed == 0 {
            outcome.add(Outcome::failed(format!("{program} ended with an error after its tests")));
        }
        outcome
    }
}

/// What follows a word at the beginning of a line, or where a harness leaves the line open.
fn after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let open = || line.split_once(" ... ")?.1.strip_prefix(word);
    line.strip_prefix(word).or_else(open)
}

/// `SKIP <name>: <reason>`.
fn skip(line: &str) -> Option<Skip> {
    let rest = after(line, "SKIP ")?;
    let (name, reason) = rest.split_once(": ").unwrap_or((rest, "no reason given"));
    Some(Skip { name: name.trim().to_owned(), reason: reason.trim().to_owned() })
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

/// The table at the end, and the closing line that scripts read.
pub fn summary(tiers: &[(&str, Outcome, Duration)]) -> String {
    let mut text = String::new();
    let mut rows = vec![["tier", "passed", "failed", "skipped", "time"].map(str::to_owned).to_vec()];
    let mut total = Outcome::default();
    for (name, outcome, time) in tiers {
        let failed = outcome.failed.to_string();
        rows.push(vec![
            (*name).to_owned(),
            outcome.passed.to_string(),
            if outcome.failed > 0 { ui::red(&failed) } else { failed },
            outcome.skipped.len().to_string(),
            ui::duration(*time),
        ]);
        total.add(outcome.clone());
    }
    text.push_str(&ui::table(&rows));
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
            text.push_str(&format!("{} {name}: {failure}\n", ui::red("failed")));
        }
    }
    let Outcome { passed, failed, skipped, failures: _, notes } = total;
    for note in notes {
        text.push_str(&format!("{note}\n"));
    }
    text.push_str(&format!("{passed} passed, {failed} failed, {} skipped\n", skipped.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, ok: bool) -> Outcome {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish("prog", ok)
    }

    #[test]
    fn the_closing_line_is_counted() {
        let text = "test a ... ok\ntest result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
        assert_eq!(read(text, true), Outcome::passed(12));
    }

    #[test]
    fn a_failed_test_is_named() {
        let text = "test a::b ... FAILED\ntest result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured\n";
        let outcome = read(text, false);
        assert_eq!((outcome.passed, outcome.failed), (3, 1));
        assert_eq!(outcome.failures, ["prog: a::b"]);
    }

    #[test]
    fn a_test_that_skips_counts_as_skipped_once() {
        let text = "test a ... SKIP a: needs root\nSKIP b: no nginx: none found\nSKIP b: no nginx: none found\n\
                    test result: ok. 5 passed; 0 failed; 0 ignored\n";
        let outcome = read(text, true);
        assert_eq!((outcome.passed, outcome.skipped.len()), (3, 2));
        assert_eq!(outcome.skipped[1], Skip { name: "b".into(), reason: "no nginx: none found".into() });
    }

    #[test]
    fn what_a_test_counted_is_kept_for_the_summary() {
        let text = "test a ... counted golden captures: 3 compared, 0 different\ncounted faults: 7\n\
                    test a ... ok\ntest result: ok. 5 passed; 0 failed; 0 ignored\n";
        let outcome = read(text, true);
        assert_eq!(outcome.notes, ["golden captures: 3 compared, 0 different", "faults: 7"]);
        let text = summary(&[("unit", outcome, Duration::ZERO)]);
        assert!(text.ends_with("faults: 7\n5 passed, 0 failed, 0 skipped\n"), "{text}");
    }

    #[test]
    fn ignored_tests_are_said() {
        let outcome = read("test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured\n", true);
        assert_eq!(outcome.skipped[0].name, "prog: 2 tests");
    }

    #[test]
    fn a_program_that_dies_fails() {
        assert_eq!(read("test a ... ok\n", false).failed, 1);
        assert_eq!(read("test result: ok. 1 passed; 0 failed;\n", false).failed, 1);
    }

    #[test]
    fn what_root_did_not_skip_counts_as_run() {
        let skip = |name: &str| Skip { name: name.into(), reason: "no".into() };
        let user =
            Outcome { passed: 7, skipped: vec![skip("a"), skip("b"), skip("c")], ..Outcome::default() };
        let mut root = Outcome { passed: 8, skipped: vec![skip("c"), skip("d")], ..Outcome::default() };
        root.add(Outcome::failed("b"));
        let both = retried(user, root);
        assert_eq!((both.passed, both.failed, both.skipped), (8, 1, vec![skip("c")]));
    }

    #[test]
    fn many_skips_for_one_reason_are_one_line() {
        let mut outcome = Outcome::default();
        for number in 0..7 {
            outcome.add(Outcome::skipped(format!("t{number}"), "no root"));
        }
        let text = summary(&[("unit", outcome, Duration::ZERO)]);
        assert!(text.contains("skipped unit: t0, t1, t2, t3, t4 and 2 more: no root\n"), "{text}");
        assert!(text.ends_with("0 passed, 0 failed, 7 skipped\n"));
    }

    #[test]
    fn the_last_line_is_the_one_scripts_read() {
        let mut first = Outcome::passed(3);
        first.add(Outcome::skipped("x", "no reason"));
        let tiers = [("a", first, Duration::ZERO), ("b", Outcome::failed("y"), Duration::ZERO)];
        let text = summary(&tiers);
        assert_eq!(text.lines().last(), Some("3 passed, 1 failed, 1 skipped"));
        assert!(text.contains("skipped a: x: no reason\n"));
        assert!(text.contains("failed b: y\n"));
    }
}
