//! Plain words: what engineers of the field say, so that a reader whose first language is another one understands at
//! once. This file has the other words in it and is the only one that may.

use super::{File, Finding, rules::per_line};

/// Words and phrases to avoid, and what to say in their place.
const STOP: [(&str, &str); 12] = [
    ("nobody", "no one, no backend, no client …"),
    ("whoever", "the client that …, the process that …"),
    ("whom", "who, or the noun"),
    ("anew", "again"),
    ("told", "reported, said, asked"),
    ("beside", "next to, in addition to, in parallel to"),
    ("amiss", "wrong"),
    ("written down", "recorded, tracked"),
    ("stands", "is, or the noun"),
    ("at the most", "at most"),
    ("shall", "must"),
    ("thereby", "by that"),
];

/// Folders and documents that keep to it. The others follow one by one; none ever leaves the list.
const PLAIN: [&str; 10] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "lb-common/",
    "lb-ebpf/",
    "lb-userspace/",
    "tests/",
    "xtask/doc/",
    "xtask/src/",
];

/// A name of the system that is one of the words: the user.
const USER: &str = "nobody:x:";

/// Every line of these folders that says one of them, in a comment, a message or a name. A document may quote names:
/// what is between its backticks is code, which has this rule where it lives.
pub(super) fn plain(files: &[File]) -> Vec<Finding> {
    let kept = |file: &&File| {
        (file.path.ends_with(".rs") || file.path.ends_with(".md"))
            && !file.path.ends_with("/tidy/words.rs")
            && PLAIN.iter().any(|folder| file.path.starts_with(folder))
    };
    let wrong = |line: &str| {
        let said = if line.contains(USER) { String::new() } else { words(line) };
        let (word, other) = STOP.iter().find(|(word, _)| said.contains(&format!(" {word} ")))?;
        Some(format!("says \"{word}\"; say: {other}"))
    };
    let prose = |line: &str| wrong(&line.split('`').step_by(2).collect::<Vec<_>>().join(" "));
    let findings = |file: &File| {
        if file.path.ends_with(".md") { per_line(file, prose) } else { per_line(file, wrong) }
    };
    files.iter().filter(kept).flat_map(findings).collect()
}

/// The words of a line, those of names too, each between blanks.
fn words(line: &str) -> String {
    let mut words = " ".to_owned();
    for word in line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        words.push_str(&word.to_lowercase());
        words.push(' ');
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.to_owned(), text: text.to_owned(), size: text.len() };
        plain(&[file]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn words_are_found_in_comments_messages_and_names() {
        let text = "// Nobody is there.\nfn whoever_asks() {}\n\"it is written  down\"\nlet besides = 1;\n";
        let findings = found("xtask/src/a.rs", text);
        let lines: Vec<&str> = findings.iter().map(|f| f.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(lines, ["xtask/src/a.rs:1", "xtask/src/a.rs:2", "xtask/src/a.rs:3"]);
        assert!(findings[1].ends_with("say: the client that …, the process that …"), "{findings:?}");
    }

    #[test]
    fn documents_are_asked_for_their_prose() {
        let text = "Nobody is there.\nThe test `nobody::is_told` is.\nIt is `a` anew `b`.\n";
        let findings = found("tests/doc/a.md", text);
        let lines: Vec<&str> = findings.iter().map(|f| f.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(lines, ["tests/doc/a.md:1", "tests/doc/a.md:3"]);
    }

    #[test]
    fn other_folders_are_not_asked_yet() {
        assert_eq!(found("elsewhere/src/a.rs", "// nobody\n"), [""; 0]);
    }
}
