//! The rules that look at one file or the list of files. Each is a pure function and has its reason next to it.

use super::{File, Finding};

/// More lines than this want a reason: a file does one job.
const LONG: usize = 500;

/// Files that are longer, and why they may be.
const LONG_FOR_A_REASON: &[(&str, &str)] = &[];

/// Words of other projects for things that have a name here, each with ours.
const WORDS: &[(&str, &str)] = &[
    (concat!("real ", "server"), "backend"),
    (concat!("real-", "server"), "backend"),
    (concat!("virtual ", "server"), "service"),
    (concat!("virtual-", "server"), "service"),
    (concat!("pool ", "member"), "backend"),
    (concat!("up", "stream server"), "backend"),
];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/tmp", "/wt"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Words that say that something is not finished.
const MARKERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// What may lie at the repository's root. A new folder is a decision about the architecture, not a detail.
const TOP_LEVEL: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-GPL2",
    "LICENSE-MIT",
    "README.md",
    "clippy.toml",
    "lb-common",
    "lb-ebpf",
    "lb-userspace",
    "rustfmt.toml",
    "tests",
    "xtask",
];

/// The largest file there may be, in bytes: what people write is smaller, what machines make does not belong here.
const LARGEST: usize = 512 * 1024;

fn sources(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

fn finding(file: &File, line: usize, message: String) -> Finding {
    Finding { path: file.path.clone(), line, message }
}

/// A finding for every line that `wrong` has something to say about.
pub(super) fn per_line(file: &File, wrong: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let lines = file.text.lines().enumerate();
    lines.filter_map(|(number, line)| Some(finding(file, number + 1, wrong(line)?))).collect()
}

/// A reader who opens a file learns first what lives there; crate attributes may stand before.
pub(super) fn opening(files: &[File]) -> Vec<Finding> {
    let opens = |file: &&File| {
        let mut lines =
            file.text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("#!["));
        lines.next().is_some_and(|line| line.starts_with("//!"))
    };
    let silent = sources(files).filter(|file| !opens(file));
    silent.map(|file| finding(file, 1, "does not open with `//!` and what lives here".to_owned())).collect()
}

pub(super) fn length(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in sources(files) {
        let lines = file.text.lines().count();
        let listed = LONG_FOR_A_REASON.iter().any(|(path, _)| *path == file.path);
        if lines > LONG && !listed {
            let message =
                format!("{lines} lines; split it, or list it with its reason in xtask/src/tidy/rules.rs");
            findings.push(finding(file, 0, message));
        }
    }
    findings
}

/// In documents only: in the source a "real" thing may just be one that is not simulated.
pub(super) fn words(files: &[File]) -> Vec<Finding> {
    let documents = files.iter().filter(|file| file.path.ends_with(".md"));
    let wrong = |line: &str| {
        let line = line.to_lowercase();
        let (word, ours) = WORDS.iter().find(|(word, _)| line.contains(word))?;
        Some(format!("says \"{word}\"; here it is called {ours}"))
    };
    documents.flat_map(|file| per_line(file, wrong)).collect()
}

pub(super) fn machine_paths(files: &[File]) -> Vec<Finding> {
    let wrong = |line: &str| {
        let path = MACHINE_PATHS.iter().find(|path| line.contains(**path))?;
        Some(format!("names a path under {path}, which other machines do not have"))
    };
    files.iter().flat_map(|file| per_line(file, wrong)).collect()
}

/// `expect` goes away when its reason does; `allow` stays for ever.
pub(super) fn allow(files: &[File]) -> Vec<Finding> {
    let wrong = |line: &str| {
        let attribute = line.trim_start().starts_with("#[") || line.trim_start().starts_with("#![");
        let allows = line
            .match_indices("allow(")
            .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'));
        (attribute && allows).then(|| "use `#[expect(lint, reason = \"…\")]`".to_owned())
    };
    sources(files).flat_map(|file| per_line(file, wrong)).collect()
}

pub(super) fn markers(files: &[File]) -> Vec<Finding> {
    let wrong = |line: &str| {
        let marker = MARKERS.iter().find(|marker| line.contains(**marker))?;
        Some(format!("{marker}: do it, or leave it out and say so in an issue"))
    };
    let code = files.iter().filter(|file| file.path.ends_with(".rs") || file.path.ends_with(".toml"));
    code.flat_map(|file| per_line(file, wrong)).collect()
}

pub(super) fn lints(files: &[File]) -> Vec<Finding> {
    let manifests = files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    let without = manifests.filter(|file| !file.text.contains("[lints]\nworkspace = true"));
    without.map(|file| finding(file, 0, "lacks `[lints]` with `workspace = true`".to_owned())).collect()
}

pub(super) fn top_level(files: &[File]) -> Vec<Finding> {
    let mut strays: Vec<&str> = files
        .iter()
        .filter_map(|file| file.path.split('/').next())
        .filter(|entry| !TOP_LEVEL.contains(entry))
        .collect();
    strays.dedup();
    let message = "does not belong at the root; the house is described in ARCHITECTURE.md";
    strays
        .iter()
        .map(|entry| Finding { path: (*entry).to_owned(), line: 0, message: message.to_owned() })
        .collect()
}

pub(super) fn size(files: &[File]) -> Vec<Finding> {
    let large = files.iter().filter(|file| file.size > LARGEST);
    large.map(|file| finding(file, 0, format!("{} KiB: is it build output?", file.size / 1024))).collect()
}

/// Which kernels it works on is seen, not claimed.
pub(super) fn kernels(files: &[File]) -> Vec<Finding> {
    let document = files.iter().filter(|file| file.path == crate::kernels::DOCUMENT);
    let wrong =
        document.filter_map(|file| crate::kernels::check_table(&file.text).map(|found| (file, found)));
    wrong.map(|(file, (line, message))| finding(file, line, message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &str, text: &str) -> Vec<File> {
        vec![File { path: path.to_owned(), text: text.to_owned(), size: text.len() }]
    }

    fn lines(findings: &[Finding]) -> Vec<usize> {
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_source_file_opens_with_what_lives_in_it() {
        assert!(opening(&one("a.rs", "//! Here.\n")).is_empty());
        assert!(opening(&one("a.rs", "#![no_std]\n\n//! Here.\n")).is_empty());
        assert_eq!(lines(&opening(&one("a.rs", "use x;\n//! Late.\n"))), [1]);
        assert_eq!(lines(&opening(&one("a.rs", ""))), [1]);
        assert!(opening(&one("a.md", "text")).is_empty());
    }

    #[test]
    fn a_file_of_five_hundred_lines_is_the_longest() {
        assert!(length(&one("a.rs", &"x\n".repeat(500))).is_empty());
        assert_eq!(length(&one("a.rs", &"x\n".repeat(501))).len(), 1);
    }

    #[test]
    fn words_of_other_projects_are_named_with_ours() {
        let text = format!("a\n{} B\n", WORDS[0].0.to_uppercase());
        let findings = words(&one("README.md", &text));
        assert_eq!(lines(&findings), [2]);
        assert!(findings[0].message.ends_with("backend"));
    }

    #[test]
    fn paths_of_one_machine_are_found_in_any_file() {
        let text = format!("x = \"{}me\"\n", MACHINE_PATHS[3]);
        assert_eq!(lines(&machine_paths(&one("a.toml", &text))), [1]);
    }

    #[test]
    fn an_allow_is_found_also_behind_a_condition() {
        let text =
            "#[allow(x)]\n#![allow(x)]\n  #[cfg_attr(test, allow(x))]\nfn allow(x: u8) {}\n#[disallow(x)]\n";
        assert_eq!(lines(&allow(&one("a.rs", text))), [1, 2, 3]);
    }

    #[test]
    fn a_crate_without_the_workspaces_lints_is_found() {
        assert!(lints(&one("a/Cargo.toml", "[lints]\nworkspace = true\n")).is_empty());
        assert_eq!(lints(&one("a/Cargo.toml", "[package]\n")).len(), 1);
        assert!(lints(&one("Cargo.toml", "[workspace]\n")).is_empty());
    }

    #[test]
    fn a_new_folder_at_the_root_is_found_once() {
        let files = [one("docs/a.md", ""), one("docs/b.md", ""), one("xtask/c.rs", "")].concat();
        assert_eq!(top_level(&files).len(), 1);
    }

    #[test]
    fn a_large_file_is_found() {
        let mut files = one("a.bin", "");
        assert!(size(&files).is_empty());
        files[0].size = LARGEST + 1;
        assert_eq!(size(&files).len(), 1);
    }

    #[test]
    fn unfinished_work_is_found() {
        let text = format!("a\n// {} later\n", MARKERS[0]);
        assert_eq!(lines(&markers(&one("a.rs", &text))), [2]);
    }
}
