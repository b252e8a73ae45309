//! `cargo xtask docs`: every document that is generated. A page is made by the crate that has its definitions: tests there
//! compare, and write first where [`WRITE`] is set. Here they are started, and what they did is said.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{
    run,
    setup::{self, Need},
    tidy, ui, workspace,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cargo xtask docs\n  cargo xtask docs --check")]
pub struct DocsArgs {
    /// Write nothing; exit with 1 where a document is out of date
    #[arg(long)]
    check: bool,
}

/// What the tests look for in their environment.
const WRITE: &str = "LB_WRITE_DOCS";
/// How each of these tests is called, behind its module.
const TEST: &str = "generated_page_is_current";
/// The pages that tests make, from the root of the repository; as many tests have that name.
const PAGES: [&str; 4] = [
    "lb-userspace/doc/configuration.md",
    "lb-userspace/doc/events.md",
    "lb-userspace/doc/metrics.md",
    "tests/fixtures/golden/README.md",
];

/// Writes or checks them. Whether all are current now.
pub fn main(arguments: &DocsArgs) -> Result<bool> {
    setup::ensure(&[Need::Build])?;
    let root = workspace::root();
    let before = PAGES.map(|page| fs::read(root.join(page)).unwrap_or_default());
    let mut current = run_tests(&root, arguments.check)?;
    for (page, before) in PAGES.iter().zip(before) {
        let after = fs::read(root.join(page)).with_context(|| format!("cannot read {page}"))?;
        if !arguments.check {
            say(page, after != before);
        }
    }
    let (path, made) = tidy::unsafe_code()?;
    let page = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
    let differs = fs::read_to_string(&path).map_or(true, |page| page != made);
    if !arguments.check {
        fs::write(&path, made).with_context(|| format!("cannot write {page}"))?;
        say(&page, differs);
    } else if differs {
        current = false;
        println!("{page} is out of date: run `cargo xtask docs`");
    }
    if current && arguments.check {
        println!("{} are current", ui::count(PAGES.len() + 1, "generated document"));
    }
    Ok(current)
}

fn say(page: &str, written: bool) {
    println!("{page}: {}", if written { "written" } else { "unchanged" });
}

/// Runs the tests that make the pages. Whether all of them passed.
fn run_tests(root: &Path, check: bool) -> Result<bool> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args([
        "test",
        "--no-fail-fast",
        "--lib",
        "-p",
        "lb-userspace",
        "-p",
        "lb-tests",
    ]);
    command.args(["--", TEST]).stdin(Stdio::null()).stderr(Stdio::inherit());
    if check {
        command.env_remove(WRITE);
    } else {
        command.env(WRITE, "1");
    }
    let shown = run::shown(&command);
    ui::step(&shown);
    let output = command.output().with_context(|| format!("cannot start `{shown}`"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let tests = ran(&text);
    if tests == 0 && !output.status.success() {
        bail!("`{shown}` ended with {}", run::ending(output.status));
    }
    // A test with another name would be looked for in vain, and no page would be out of date any more.
    ensure!(
        tests == PAGES.len(),
        "{} named {TEST} ran, for {}",
        ui::count(tests, "test"),
        ui::count(PAGES.len(), "page")
    );
    if !output.status.success() {
        print!("{}", said(&text));
    }
    Ok(output.status.success())
}

/// How many of them ran, by what the test programs print.
fn ran(text: &str) -> usize {
    let is_one = |line: &&str| line.starts_with("test ") && line.contains(&format!("::{TEST} ... "));
    text.lines().filter(is_one).count()
}

/// What failed tests say: lines behind `panicked at`, up to the next empty one or the advice on backtraces.
fn said(text: &str) -> String {
    let (mut said, mut inside) = (String::new(), false);
    for line in text.lines() {
        if line.contains(" panicked at ") {
            inside = true;
        } else if line.is_empty() || line.starts_with("note: ") || line.starts_with("stack backtrace") {
            inside = false;
        } else if inside {
            said.push_str(line);
            said.push('\n');
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tests_that_make_pages_are_counted() {
        let text = "running 2 tests\ntest a::tests::generated_page_is_current ... ok\n\
                    test b::generated_page_is_current ... FAILED\ntest other ... ok\n";
        assert_eq!(ran(text), 2);
    }

    #[test]
    fn the_message_of_a_failed_test_is_taken_out() {
        let text = "---- x stdout ----\n\nthread 'x' (7) panicked at src/x.rs:1:2:\nx.md is out of date\n\
                    note: run with `RUST_BACKTRACE=1`\n\nfailures:\n    x\n";
        assert_eq!(said(text), "x.md is out of date\n");
    }

    #[test]
    fn every_page_exists_and_names_the_command() {
        for page in PAGES {
            let text = fs::read_to_string(workspace::root().join(page)).expect(page);
            assert!(text.contains("`cargo xtask docs`"), "{page}");
        }
    }
}
