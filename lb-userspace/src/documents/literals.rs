//! The string literals of this crate's sources, without those of tests: what the programs can say.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::Lit;

/// What is between quotes in a source, as the program sees it.
pub(super) struct Literal {
    /// From `src`, with slashes.
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) text: String,
}

impl Literal {
    pub(super) fn place(&self) -> String {
        format!("lb-userspace/src/{}:{}", self.file, self.line)
    }
}

/// All of them. Comments are none, those that document something neither.
pub(super) fn all() -> Vec<Literal> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut directories, mut literals) = (vec![root.clone()], Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            let is_test = path.file_stem().is_some_and(|stem| {
                let stem = stem.to_string_lossy();
                matches!(&*stem, "tests" | "documents" | "testing") || stem.ends_with("_tests")
            });
            if is_test {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                literals.extend(of_file(&root, &path));
            }
        }
    }
    literals
}

fn of_file(root: &Path, path: &Path) -> Vec<Literal> {
    let source = fs::read_to_string(path).expect("a source");
    let file = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
    of_source(&file, &source)
}

fn of_source(file: &str, source: &str) -> Vec<Literal> {
    let stream: TokenStream = source.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut literals = Vec::new();
    collect(file, stream, &mut literals);
    literals
}

fn collect(file: &str, stream: TokenStream, literals: &mut Vec<Literal>) {
    // The last two tokens, to know `mod tests { … }` and `#[doc = "…"]`.
    let mut before = [String::new(), String::new()];
    for token in stream {
        let is_tests = before == ["mod", "tests"];
        let is_doc = before == ["doc", "="];
        let word = token.to_string();
        match token {
            TokenTree::Group(group) if !is_tests => collect(file, group.stream(), literals),
            TokenTree::Literal(literal) if !is_doc => {
                let line = literal.span().start().line;
                if let Lit::Str(text) = Lit::new(literal) {
                    literals.push(Literal { file: file.to_owned(), line, text: text.value() });
                }
            }
            _ => {}
        }
        before = [std::mem::take(&mut before[1]), word];
    }
}

#[test]
fn literals_are_found_in_macros_but_not_in_comments() {
    let source = r##"
        //! "Not this"
        /// Nor "this"
        fn f() { format!("one {}", g("t\
            wo", r#"th"ree"#, 'c', b"no", 4)) }
        #[cfg(test)]
        mod tests { fn t() { "nor this"; } }
    "##;
    let found = of_source("x.rs", source);
    let texts: Vec<&str> = found.iter().map(|literal| literal.text.as_str()).collect();
    assert_eq!(texts, ["one {}", "two", "th\"ree"]);
    assert_eq!(found[0].place(), "lb-userspace/src/x.rs:4");
    let all = all();
    assert!(all.len() > 2000, "{} literals", all.len());
}
