//! Files in Markdown documents: those that links lead to exist, and so do headings and source files that are named
//! between backticks. Addresses of the web are not followed.

use super::{File, Finding};

/// Every link that leads nowhere.
pub(super) fn links(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, target) in targets(&file.text) {
            if let Some(message) = broken(files, file, &target) {
                findings.push(Finding { path: file.path.clone(), line, message });
            }
        }
    }
    findings
}

/// Every source file that a document names, where there is none of that name. A changelog speaks of what was.
pub(super) fn sources(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md") && !file.path.ends_with("CHANGELOG.md"))
    {
        for (number, line) in file.text.lines().enumerate() {
            for name in line.split('`').skip(1).step_by(2).filter(|name| is_source(name)) {
                let ending = format!("/{name}");
                if !files.iter().any(|file| file.path == *name || file.path.ends_with(&ending)) {
                    let message = format!("names {name}, and no file is called that");
                    findings.push(Finding { path: file.path.clone(), line: number + 1, message });
                }
            }
        }
    }
    findings
}

/// A name or path of a source file, without placeholders.
fn is_source(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '.');
    name.ends_with(".rs") && name.len() > ".rs".len() && name.chars().all(plain)
}

/// Why a link leads nowhere; `None` = it does not.
fn broken(files: &[File], from: &File, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() {
        Some(from)
    } else {
        let whole = resolve(&from.path, path)?;
        let folder = format!("{whole}/");
        let found = files.iter().find(|file| file.path == whole);
        if found.is_none() && !whole.is_empty() && !files.iter().any(|file| file.path.starts_with(&folder)) {
            return Some(format!("links to {target}, and there is no {whole}"));
        }
        found
    };
    let missing =
        !heading.is_empty() && file.is_some_and(|file| !headings(&file.text).any(|own| own == heading));
    missing.then(|| format!("links to {target}, and there is no such heading"))
}

/// A relative link from the root's point of view; `None` when it leaves the repository, which is left alone.
pub(super) fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Inline links and images outside code, with their lines from 1.
pub(super) fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second piece between backticks is code.
        for piece in line.split('`').step_by(2) {
            let mut rest = piece;
            while let Some((_, after)) = rest.split_once("](") {
                let Some((target, behind)) = after.split_once(')') else { break };
                found.push((number + 1, target.split_whitespace().next().unwrap_or_default().to_owned()));
                rest = behind;
            }
        }
        // A link whose text is code is cut apart above.
        for (at, _) in line.match_indices("`](") {
            if let Some((target, _)) = line[at + 3..].split_once(')') {
                let target = target.split_whitespace().next().unwrap_or_default().to_owned();
                if !found.contains(&(number + 1, target.clone())) {
                    found.push((number + 1, target));
                }
            }
        }
    }
    found
}

/// Headings, without the marks in front of them. A comment in a block of code is none.
pub(super) fn titles(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter_map(move |line| {
        fenced ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        (!fenced && title.len() < line.len() && title.starts_with(' ')).then(|| title.trim())
    })
}

/// Headings as GitHub names them in links: lower case, spaces as dashes, punctuation gone.
fn headings(text: &str) -> impl Iterator<Item = String> {
    titles(text).map(|title| {
        let title = title.to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(document: &str) -> Vec<String> {
        let file =
            |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned(), size: text.len() };
        let files = [
            file("docs/a.md", document),
            file("README.md", "# The `lb` way, really\n"),
            file("xtask/src/main.rs", ""),
        ];
        links(&files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_source_file_that_is_named_exists() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned(), size: 0 };
        let text = "`main.rs`, `src/main.rs` and `health/probe/<kind>.rs`\n`gone.rs` `src/gone.rs` `.rs`\n";
        let files = [file("a.md", text), file("CHANGELOG.md", text), file("xtask/src/main.rs", "")];
        let found: Vec<String> = sources(&files).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "a.md:2: names gone.rs, and no file is called that",
                "a.md:2: names src/gone.rs, and no file is called that",
            ]
        );
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let document = "[a](../README.md) [b](../README.md#the-lb-way-really) [c](../xtask/src/) [`d`](../xtask)\n\
                        [e](https://example.com/x) [f](#here) [g](../../elsewhere)\n# Here\n";
        assert_eq!(check(document), [""; 0]);
    }

    #[test]
    fn links_that_lead_nowhere_are_named() {
        let found = check("x\n[a](../MISSING.md)\n[`b`](../README.md#nothing)\n");
        assert_eq!(
            found,
            [
                "docs/a.md:2: links to ../MISSING.md, and there is no MISSING.md",
                "docs/a.md:3: links to ../README.md#nothing, and there is no such heading",
            ]
        );
    }

    #[test]
    fn a_comment_in_a_block_of_code_is_no_heading() {
        let found = check("[a](#title) [b](#comment)\n# Title\n```\n# comment\n```\n");
        assert_eq!(found, ["docs/a.md:1: links to #comment, and there is no such heading"]);
    }

    #[test]
    fn code_is_not_read_as_links() {
        assert_eq!(check("`[a](b)`\n```\n[c](d)\n```\n"), [""; 0]);
    }
}
