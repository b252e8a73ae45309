//! Reports the results to the host.

use std::io::Write as _;

use anyhow::Result;
use xtask::kernels::report::{Fact, Group, Outcome};

/// Writes one line to the console.
pub(crate) fn fact(fact: &Fact) {
    let mut out = std::io::stdout().lock();
    // The kernel may have left a line open.
    let _written = writeln!(out, "\n{}", fact.line()).and_then(|()| out.flush());
}

/// Tries something and reports how it ended. Returns whether it passed.
pub(crate) fn check(group: Group, name: &str, attempt: impl FnOnce() -> Result<String>) -> bool {
    let outcome = match attempt() {
        Ok(detail) => Outcome::Passed(detail),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    };
    let passed = matches!(outcome, Outcome::Passed(_));
    fact(&Fact::Check { group, name: name.to_owned(), outcome });
    passed
}

/// Reports that this kernel cannot do something, by design, and why.
pub(crate) fn left(group: Group, name: &str, why: &str) {
    fact(&Fact::Check { group, name: name.to_owned(), outcome: Outcome::Left(why.to_owned()) });
}
