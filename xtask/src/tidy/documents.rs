//! Rules about documents as a whole: how long the ones are that people read first, that each of the others is found from
//! there, and that sections exist which comments and messages point at. What a link leads to is in `links`.

use super::{
    File, Finding,
    links::{resolve, targets, titles},
};

/// What people read first, and the bytes it may have: more belongs into a document of its own.
const SHORT: [(&str, usize); 2] = [("README.md", 10 * 1024), ("ARCHITECTURE.md", 20 * 1024)];

/// A finding for each of [`SHORT`] that is longer.
pub(super) fn short(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, most) in SHORT {
        for file in files.iter().filter(|file| file.path == path && file.size > most) {
            let message = format!(
                "{} bytes, and at most {most} are read: move a subject into a file of its own in a `doc` folder",
                file.size
            );
            findings.push(Finding { path: path.to_owned(), line: 0, message });
        }
    }
    findings
}

/// Documents in `doc` folders that neither README nor ARCHITECTURE links to, so that a reader does not find them.
pub(super) fn orphans(files: &[File]) -> Vec<Finding> {
    let first = files.iter().filter(|file| SHORT.iter().any(|(path, _)| *path == file.path));
    let linked: Vec<String> = first
        .flat_map(|file| targets(&file.text).into_iter().map(move |(_, target)| (file, target)))
        .filter_map(|(file, target)| resolve(&file.path, target.split('#').next().unwrap_or_default()))
        .collect();
    let in_folder = |file: &&File| file.path.ends_with(".md") && file.path.contains("/doc/");
    let orphans = files.iter().filter(in_folder).filter(|file| !linked.contains(&file.path));
    let message = "neither README.md nor ARCHITECTURE.md links to it: add it to their table of documents";
    orphans.map(|file| Finding { path: file.path.clone(), line: 0, message: message.to_owned() }).collect()
}

/// Documents that sources name by their path, `folder/doc/x.md`, with or without a section, `folder/doc/x.md, "Title"`:
/// those that do not exist.
pub(super) fn sections(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let kinds = [".rs", ".toml", ".service"];
    for file in files.iter().filter(|file| kinds.iter().any(|kind| file.path.ends_with(kind))) {
        let text = joined(&file.text);
        for (at, _) in text.match_indices("/doc/") {
            let begin = text[..at].rfind(|c| !is_path(c)).map_or(0, |before| before + 1);
            let behind = &text[begin..];
            let end = behind.find(|c| !is_path(c)).unwrap_or(behind.len());
            let (path, behind) = behind.split_at(end);
            let path = path.trim_end_matches('.');
            if !path.ends_with(".md") || path.starts_with('.') {
                continue;
            }
            // The text has as many lines as the file.
            let line = text[..at].matches('\n').count() + 1;
            let mut wrong = |message| findings.push(Finding { path: file.path.clone(), line, message });
            let Some(document) = files.iter().find(|file| file.path == path) else {
                wrong(format!("names {path}, and there is no such document"));
                continue;
            };
            let Some((title, _)) = behind.strip_prefix(',').and_then(|behind| {
                behind.trim_start().strip_prefix('"').and_then(|title| title.split_once('"'))
            }) else {
                continue;
            };
            let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
            if !titles(&document.text).any(|own| own == title) {
                wrong(format!("names \"{title}\" of {path}, and there is no such heading"));
            }
        }
    }
    findings
}

fn is_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '.')
}

/// A source without the marks of its comments, so that a sentence goes on in the next line.
fn joined(source: &str) -> String {
    let line = |line: &str| {
        let line = line.trim_start();
        ["//! ", "/// ", "// ", "# "]
            .iter()
            .find_map(|mark| line.strip_prefix(mark))
            .unwrap_or(line)
            .to_owned()
            + "\n"
    };
    source.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned(), size: text.len() }
    }

    fn said(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_documents_one_reads_first_have_a_limit() {
        let sized = |readme, architecture| {
            let files = [
                file("README.md", &"x".repeat(readme)),
                file("ARCHITECTURE.md", &"x".repeat(architecture)),
                file("a/doc/long.md", &"x".repeat(99_999)),
            ];
            short(&files).into_iter().map(|finding| finding.path).collect::<Vec<_>>()
        };
        assert_eq!(sized(10_240, 20_480), [""; 0]);
        assert_eq!(sized(10_241, 20_480), ["README.md"]);
        assert_eq!(sized(10_240, 20_481), ["ARCHITECTURE.md"]);
    }

    #[test]
    fn a_document_without_a_link_is_an_orphan() {
        let files = [
            file("README.md", "[a](a/doc/a.md) `[d](a/doc/d.md)`\n"),
            file("ARCHITECTURE.md", "[b](a/doc/b.md#title)\n"),
            file("a/doc/a.md", "[c](c.md)\n"),
            file("a/doc/b.md", ""),
            file("a/doc/c.md", ""),
            file("a/doc/d.md", ""),
            file("a/doc/d.toml", ""),
        ];
        let paths: Vec<String> = orphans(&files).into_iter().map(|finding| finding.path).collect();
        assert_eq!(paths, ["a/doc/c.md", "a/doc/d.md"]);
    }

    #[test]
    fn sections_that_sources_name_exist() {
        let folder = "a/doc/";
        let source = format!(
            "//! As {folder}a.md, \"The second\n//! title\", says.\n/// {folder}a.md.\n// {folder}a.md, \"Gone\".\n\
             f(\"see {folder}b.md\")\ninclude_str!(\"../{folder}c.md\")\n"
        );
        let files = [file("x.rs", &source), file("a/doc/a.md", "# Title\n## The second title\n")];
        assert_eq!(
            said(&sections(&files)),
            [
                format!("x.rs:4: names \"Gone\" of {folder}a.md, and there is no such heading"),
                format!("x.rs:5: names {folder}b.md, and there is no such document"),
            ]
        );
    }
}
