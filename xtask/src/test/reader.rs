//! What came of a test program, read from what it printed: libtest or libtest-mimic, in their usual form.

use std::collections::BTreeMap;

use super::report::{Failure, Outcome, Skip};
use crate::ui;

/// Reads the lines of one test program as they come.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    closing: Option<(usize, usize)>,
    skips: Vec<Skip>,
    /// The names of those that failed, in their order.
    failed: Vec<String>,
    /// The first line of what each of them said, by name.
    said: BTreeMap<String, String>,
    notes: Vec<String>,
    ignored: usize,
    place: Place,
}

/// Where in the output the next line is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Names and verdicts.
    #[default]
    Tests,
    /// What failed tests printed, before the first of them or behind its message.
    Failures,
    /// What this one printed, up to its message.
    Failure(String),
    /// Its message is in the next line.
    Message(String),
}

impl Reader {
    pub fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |what: &str| {
                let before = rest.split_once(what)?.0;
                before.rsplit([' ', ';']).find(|word| !word.is_empty())?.parse::<usize>().ok()
            };
            self.ignored += number(" ignored").unwrap_or(0);
            self.closing = Some((number(" passed").unwrap_or(0), number(" failed").unwrap_or(0)));
        } else if line == "failures:" {
            self.place = Place::Failures;
        } else if let Some(skip) = skip(line) {
            if !self.skips.contains(&skip) {
                self.skips.push(skip);
            }
        } else if let Some(note) = after(line, "counted ") {
            self.notes.push(note.trim().to_owned());
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.fails(name.trim());
        } else if self.place != Place::Tests {
            self.detail(line);
        }
    }

    fn fails(&mut self, name: &str) {
        if !self.failed.iter().any(|known| known == name) {
            self.failed.push(name.to_owned());
        }
    }

    /// A line of what failed tests printed.
    fn detail(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            // libtest names the stream; libtest-mimic has the message at once.
            let (name, place): (_, fn(String) -> Place) = match name.strip_suffix(" stdout") {
                Some(name) => (name, Place::Failure),
                None => (name, Place::Message),
            };
            self.fails(name);
            self.place = place(name.to_owned());
            return;
        }
        let (name, said) = match &self.place {
            Place::Message(name) => (name, Some(line.trim()).filter(|line| !line.is_empty())),
            Place::Failure(name) => (name, line.strip_prefix("Error: ")),
            Place::Tests | Place::Failures => return,
        };
        if let Some(said) = said {
            self.said.insert(name.clone(), said.to_owned());
            self.place = Place::Failures;
        } else if line.starts_with("thread ") && line.contains(" panicked at ") {
            self.place = Place::Message(name.clone());
        }
    }

    /// What came of `program`, which ended with `status_ok`. A test that said it skips counts as skipped, although its
    /// harness counts it as passed. `again` makes the command that repeats a test.
    pub fn finish(self, program: &str, status_ok: bool, again: impl Fn(&str) -> String) -> Outcome {
        let Self { closing, mut skips, failed: names, said, notes, ignored, place: _ } = self;
        let said = |name: &str| said.get(name).map(String::as_str).unwrap_or_default();
        let failure =
            |name: &String| Failure::new(format!("{program}: {name}")).saying(said(name)).again(again(name));
        let failures: Vec<Failure> = names.iter().map(failure).collect();
        let Some((passed, failed)) = closing else {
            let mut outcome = Outcome::failed(format!("{program} ended before its tests did"));
            (outcome.skipped, outcome.notes) = (skips, notes);
            outcome.failed += failures.len();
            outcome.failures.extend(failures);
            return outcome;
        };
        let passed = passed.saturating_sub(skips.len());
        if ignored > 0 {
            skips.push(Skip {
                name: format!("{program}: {}", ui::count(ignored, "test")),
                reason: "ignored".to_owned(),
            });
        }
        let mut outcome = Outcome { passed, failed, skipped: skips, failures, notes, ..Outcome::default() };
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::report::summary, *};

    fn read(text: &str, ok: bool) -> Outcome {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish("prog", ok, |name| format!("repeat {name}"))
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
        assert_eq!(outcome.failures, [Failure::new("prog: a::b").again("repeat a::b")]);
    }

    #[test]
    fn the_first_line_of_a_message_is_kept_for_panics_errors_and_mimic() {
        let text = "test a ... FAILED\ntest b ... what b printed\nFAILED\ntest c ... FAILED\n\nsuccesses:\n\n\
                    ---- d stdout ----\nError: not this one\n\nfailures:\n\n\
                    ---- a stdout ----\nsomething\n\nthread 'a' (7) panicked at src/a.rs:1:2:\n\
                    assertion `left == right` failed\n  left: 1\nError: later\n\n\
                    ---- b stdout ----\nError: web/b is up: was down in 40 s\n\nCaused by:\n    x\n\n\
                    ---- c ----\nno answer\nCaused by: y\n\n\
                    failures:\n    a\n    b\n    c\n\ntest result: FAILED. 3 passed; 3 failed; 0 ignored;\n";
        let outcome = read(text, false);
        let said: Vec<(&str, &str)> =
            outcome.failures.iter().map(|failure| (failure.name.as_str(), failure.said.as_str())).collect();
        let wanted = [
            ("prog: a", "assertion `left == right` failed"),
            ("prog: c", "no answer"),
            ("prog: b", "web/b is up: was down in 40 s"),
        ];
        assert_eq!(said, wanted);
        assert_eq!(outcome.failures[2].again, "repeat b");
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
        let text = summary(&[("unit", outcome, Duration::ZERO)], Duration::ZERO);
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
}
