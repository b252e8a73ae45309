//! `cargo xtask tidy`: the repository's own rules, as checks. `rules` says what is looked for, `links` follows the
//! documents' links, `documents` says what a document may be; here they meet the files.

mod documents;
mod imports;
mod inventory;
mod licences;
mod links;
mod rules;
mod source;
mod words;

use std::{fmt, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{run, ui, workspace};

#[derive(Debug, Args)]
pub struct TidyArgs {}

/// A file as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// From the repository's root, with `/`.
    pub path: String,
    /// Empty when it is not text.
    pub text: String,
    /// In bytes.
    pub size: usize,
}

/// A rule broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    /// From 1; 0 = the file as a whole.
    pub line: usize,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, message } = self;
        if *line == 0 { write!(f, "{path}: {message}") } else { write!(f, "{path}:{line}: {message}") }
    }
}

/// One rule: its name and what breaks it.
type Rule = (&'static str, fn(&[File]) -> Vec<Finding>);

const RULES: &[Rule] = &[
    ("every source file says what lives in it", rules::opening),
    ("files are short, or their length has a reason", rules::length),
    ("the field's words, one for each thing", rules::words),
    ("plain words, where a folder keeps to them", words::plain),
    ("no paths of the machine it was written on", rules::machine_paths),
    ("exceptions from lints are expected, with a reason", rules::allow),
    ("nothing is left to be done", rules::markers),
    ("every crate takes the workspace's lints", rules::lints),
    ("no new top-level folders", rules::top_level),
    ("nothing large, as build output is", rules::size),
    ("links in documents lead somewhere", links::links),
    ("the documents one reads first are short", documents::short),
    ("every document is in a table that one reads first", documents::orphans),
    ("sections of documents that sources name exist", documents::sections),
    ("code in documents ends on its line, so that it is tried", documents::spans),
    ("the glossary names items that exist", documents::glossary),
    ("source files that documents name exist", links::sources),
    ("the table of kernels is from a run", rules::kernels),
    ("folders of lb-userspace import downward only", imports::upward),
    ("no more than two files need one another", imports::circles),
    ("unsafe code is listed with its reasons", inventory::check),
];

/// Runs `tidy`.
pub fn main(TidyArgs {}: &TidyArgs) -> Result<()> {
    let outcomes = check()?;
    let broken = outcomes.iter().filter(|(_, findings)| !findings.is_empty()).count();
    print!("{}", render(&outcomes));
    if broken > 0 {
        bail!("{} broken", ui::count(broken, "rule"));
    }
    println!("tidy: {} kept", ui::count(outcomes.len(), "rule"));
    Ok(())
}

/// The list of unsafe code: where it lies, and what it is now.
pub(crate) fn unsafe_code() -> Result<(PathBuf, String)> {
    Ok((workspace::root().join(inventory::PATH), inventory::render(&files()?)))
}

/// Every rule with what breaks it.
pub fn check() -> Result<Vec<(&'static str, Vec<Finding>)>> {
    let files = files()?;
    let mut outcomes: Vec<_> = RULES.iter().map(|(name, rule)| (*name, rule(&files))).collect();
    outcomes.push(("only licences that can be given on", licences::check()?));
    Ok(outcomes)
}

/// So many findings of a rule say what is the matter.
const SHOWN: usize = 20;

/// The broken ones, for people.
pub fn render(outcomes: &[(&'static str, Vec<Finding>)]) -> String {
    let mut text = String::new();
    for (name, findings) in outcomes.iter().filter(|(_, findings)| !findings.is_empty()) {
        text.push_str(&format!("{} {name}\n", ui::red("broken:")));
        for finding in findings.iter().take(SHOWN) {
            text.push_str(&format!("  {finding}\n"));
        }
        if findings.len() > SHOWN {
            text.push_str(&format!("  and {} more\n", findings.len() - SHOWN));
        }
    }
    text
}

/// Every Markdown document.
pub fn documents() -> Result<Vec<File>> {
    let mut files = files()?;
    files.retain(|file| file.path.ends_with(".md"));
    Ok(files)
}

/// What git knows or would add.
fn files() -> Result<Vec<File>> {
    let root = workspace::root();
    let mut git = Command::new("git");
    git.current_dir(&root).args(["-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z"]);
    let list = run::capture(&mut git).context("tidy asks git for the list of files")?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // One that is deleted but not yet committed is still listed.
        if let Ok(bytes) = fs::read(root.join(path)) {
            let size = bytes.len();
            files.push(File {
                path: path.to_owned(),
                text: String::from_utf8(bytes).unwrap_or_default(),
                size,
            });
        }
    }
    if files.is_empty() {
        bail!("git lists no files in {}", root.display());
    }
    Ok(files)
}
