//! Every piece of `unsafe` code with its reason, as a table that is made of the `// SAFETY:` comments and compared: who
//! adds one sees it in the difference.

use std::collections::BTreeMap;

use super::{File, Finding};

/// Where the table lies.
pub(super) const PATH: &str = "xtask/doc/unsafe.md";

/// What a line of code does that is unsafe.
fn kind(line: &str) -> Option<&'static str> {
    let code = line.split("//").next().unwrap_or_default();
    let words = |text: &str| {
        code.match_indices(text).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '"' | '`'))
        })
    };
    [("unsafe {", "block"), ("unsafe impl", "impl"), ("unsafe fn", "fn"), ("unsafe extern", "extern")]
        .into_iter()
        .find(|(text, _)| words(text))
        .map(|(_, kind)| kind)
}

/// The reason in the comment above a line, up to its first sentence's end.
fn reason(lines: &[&str], number: usize) -> Option<String> {
    let start = (0..=number).rev().take(16).find(|line| lines[*line].contains("// SAFETY:"))?;
    let mut text = String::new();
    for line in &lines[start..] {
        let Some((_, comment)) = line.split_once("//") else { break };
        text.push_str(comment.trim().trim_start_matches("SAFETY:"));
        text.push(' ');
    }
    let text = text.trim().replace('|', "\\|");
    let end = text.find(". ").unwrap_or(text.len());
    Some(text[..end].trim_end_matches('.').to_owned())
}

/// The table of a repository.
pub(super) fn render(files: &[File]) -> String {
    let mut text = "# Unsafe code\n\n<!-- Generated from the `// SAFETY:` comments by `cargo xtask docs`. -->\n\n\
        Every piece of `unsafe` code and why it is sound. The BPF half reads packets and maps by pointers that the verifier \
        checks once more when the program is loaded.\n"
        .to_owned();
    let mut total = 0;
    for folder in ["lb-common", "lb-ebpf", "lb-userspace", "tests", "xtask"] {
        let mut rows: BTreeMap<(&str, &str, String), usize> = BTreeMap::new();
        for file in files.iter().filter(|file| file.path.ends_with(".rs") && file.path.starts_with(folder)) {
            let lines: Vec<&str> = file.text.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                if let Some(kind) = kind(line) {
                    let reason = reason(&lines, number).unwrap_or_else(|| "**no reason given**".to_owned());
                    *rows.entry((&file.path, kind, reason)).or_default() += 1;
                }
            }
        }
        let count: usize = rows.values().sum();
        total += count;
        text.push_str(&format!("\n## {folder}: {count}\n\n"));
        if count > 0 {
            text.push_str("| file | what | times | why it is sound |\n|---|---|---|---|\n");
        }
        for ((path, kind, reason), times) in rows {
            let inside = path.trim_start_matches(folder).trim_start_matches('/');
            text.push_str(&format!("| [{inside}](../../{path}) | {kind} | {times} | {reason} |\n"));
        }
    }
    text.push_str(&format!("\n{total} in all.\n"));
    text
}

/// The table is that of the files.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wanted = render(files);
    if files.iter().find(|file| file.path == PATH).is_none_or(|file| file.text != wanted) {
        let message = "is out of date: run `cargo xtask docs`".to_owned();
        findings.push(Finding { path: PATH.to_owned(), line: 0, message });
    }
    if wanted.contains("**no reason given**") {
        let message = "lists unsafe code without a `// SAFETY:` comment".to_owned();
        findings.push(Finding { path: PATH.to_owned(), line: 0, message });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned(), size: text.len() }
    }

    const CODE: &str = "//! x\nfn f() {\n    // SAFETY: it is\n    // so. And more.\n    unsafe { g() }\n    \"unsafe { no }\"; // unsafe { no }\n}\n";

    #[test]
    fn a_reason_is_the_first_sentence_of_its_comment() {
        let text = render(&[file("lb-common/src/a.rs", CODE)]);
        assert!(text.contains("| [src/a.rs](../../lb-common/src/a.rs) | block | 1 | it is so |"), "{text}");
        assert!(text.ends_with("\n1 in all.\n"));
    }

    #[test]
    fn a_table_that_is_old_and_code_without_a_reason_are_found() {
        let mut files = vec![file("lb-common/src/a.rs", CODE)];
        assert_eq!(check(&files).len(), 1);
        files.push(file(PATH, &render(&files)));
        assert_eq!(check(&files).len(), 0);
        files.push(file("xtask/src/b.rs", "unsafe impl A for B {}\n"));
        assert_eq!(check(&files).len(), 2);
    }
}
