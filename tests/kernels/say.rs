//! Telling the host what was found out.

use std::io::Write as _;

use anyhow::Result;
use xtask::kernels::report::{Fact, Group, Outcome};

/// One line on the console.
pub(crate) fn fact(fact: &Fact) {
    let mut out = std::io::stdout().lock();
    // The kernel may have left a line open.
    let _written = writeln!(out, "\n{}", fact.line()).and_then(|()| out.flush());
}

/// Tries something and says how it ended; whether it passed.
pub(crate) fn check(group: Group, name: &str, attempt: impl FnOnce() -> Result<String>) -> bool {
    let outcome = match attempt() {
        Ok(detail) => Outcome::Passed(detail),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    };
    let passed = matches!(outcome, Outcome::Passed(_));
    fact(&Fact::Check { group, name: name.to_owned(), outcome });
    passed
}

/// Says that this kernel cannot do something, by design, and why.
pub(crate) fn left(group: Group, name: &str, why: &str) {
    fact(&Fact::Check { group, name: name.to_owned(), outcome: Outcome::Left(why.to_owned()) });
}
