//! Rules about documents as a whole: how long the ones are that people read first, that each of the others is found from
//! there, and that sections exist which comments and messages point at, and sources that the glossary points at. What a
//! link leads to is in `links`.

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
    // The tests of the rules name documents that do not exist.
    let asked = |file: &&File| {
        kinds.iter().any(|kind| file.path.ends_with(kind)) && !file.path.starts_with("xtask/src/tidy/")
    };
    for file in files.iter().filter(asked) {
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

/// Lines of documents that end inside code between backticks: tests take spans line by line, so a command that goes on in
/// the next line is not tried.
pub(super) fn spans(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let mut fenced = false;
        for (number, line) in (1..).zip(file.text.lines()) {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            if !fenced && !fence && ends_in_code(line) {
                let message =
                    "code between backticks goes on in the next line, where no test reads it".to_owned();
                findings.push(Finding { path: file.path.clone(), line: number, message });
            }
        }
    }
    findings
}

/// Whether a span of code is open at the end of a line. As many backticks end it as began it.
fn ends_in_code(line: &str) -> bool {
    let mut open = None;
    for run in line.split(|c| c != '`').filter(|run| !run.is_empty()) {
        match open {
            None => open = Some(run.len()),
            Some(length) if length == run.len() => open = None,
            Some(_) => {}
        }
    }
    open.is_some()
}

/// The document with the glossary, and the heading that it is under.
const GLOSSARY: (&str, &str) = ("CONTRIBUTING.md", "Glossary");

/// What may be in front of the name of a source item.
const DEFINITIONS: [&str; 8] = ["fn", "struct", "enum", "trait", "const", "static", "type", "mod"];

/// Terms of the glossary whose source, "`file`: `item`", does not define such an item.
pub(super) fn glossary(files: &[File]) -> Vec<Finding> {
    let (path, heading) = GLOSSARY;
    let Some(document) = files.iter().find(|file| file.path == path) else { return Vec::new() };
    let mut findings = Vec::new();
    let mut finding = |line, message| findings.push(Finding { path: path.to_owned(), line, message });
    let lines = (1..).zip(document.text.lines());
    let section = lines.skip_while(|(_, line)| line.trim_start_matches('#').trim() != heading).skip(1);
    let rows =
        section.take_while(|(_, line)| !line.starts_with('#')).filter(|(_, line)| line.starts_with("| "));
    let mut terms = 0;
    // Behind the head.
    for (number, row) in rows.skip(1) {
        terms += 1;
        let source = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let spans: Vec<&str> = source.split('`').skip(1).step_by(2).collect();
        let [file, item] = spans[..] else {
            finding(number, "a term has a source: `file`: `item`".to_owned());
            continue;
        };
        match files.iter().find(|known| known.path == file) {
            None => finding(number, format!("names {file}, and there is no such file")),
            Some(source) if !defines(&source.text, item) => {
                finding(number, format!("names {item}, which {file} does not define"));
            }
            Some(_) => {}
        }
    }
    if terms == 0 {
        finding(0, format!("has no table of terms under the heading {heading}"));
    }
    findings
}

/// Whether a source defines an item of that name.
fn defines(source: &str, item: &str) -> bool {
    let words = |line: &str| {
        let word = |c: char| !c.is_alphanumeric() && c != '_';
        line.split(word).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.map(words)
        .any(|words| words.windows(2).any(|pair| pair[1] == item && DEFINITIONS.contains(&pair[0].as_str())))
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
    fn code_that_goes_on_in_the_next_line_is_found() {
        let text = "`a` and `b\nc` and `d`\n```\na `b\n```\n`` ` ``\n";
        let lines: Vec<usize> = spans(&[file("a.md", text)]).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [1, 2]);
    }

    #[test]
    fn terms_of_the_glossary_name_items_that_exist() {
        let table = "# Glossary\n\n| term | meaning | source |\n|---|---|---|\n| a | x | `s/a.rs`: `A` |\n\
                     | b | y | `s/a.rs`: `B` |\n| c | z | `s/c.rs`: `C` |\n| d | no source |\n# Next\n| e | | |\n";
        let source = file("s/a.rs", "/// Not struct B.\npub struct A<T>(T);\n");
        assert_eq!(
            said(&glossary(&[file("CONTRIBUTING.md", table), source.clone()])),
            [
                "CONTRIBUTING.md:6: names B, which s/a.rs does not define",
                "CONTRIBUTING.md:7: names s/c.rs, and there is no such file",
                "CONTRIBUTING.md:8: a term has a source: `file`: `item`",
            ]
        );
        let empty = glossary(&[file("CONTRIBUTING.md", "# Glossary\n"), source]);
        assert_eq!(said(&empty), ["CONTRIBUTING.md: has no table of terms under the heading Glossary"]);
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
