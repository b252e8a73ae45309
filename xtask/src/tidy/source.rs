//! What a Rust file imports, read from its text: the trees of its `use` lines, and paths that begin at the crate, at the
//! module above or at the module itself. Code for tests alone is left out. No crate parses Rust here, since this tool must
//! build where the others do not.

/// A path as it is written, and the module it is written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// From 1.
    pub(super) line: usize,
    pub(super) scope: Vec<String>,
    pub(super) path: Vec<String>,
    /// In a `use` line, where a path may also begin at a module of this one.
    pub(super) used: bool,
    /// Others may import it from here: `pub use`.
    pub(super) exported: bool,
}

/// A file of a crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// The module that the file is.
    pub(super) module: Vec<String>,
    pub(super) imports: Vec<Import>,
    /// Modules in files of their own that only tests have.
    pub(super) tests: Vec<Vec<String>>,
}

/// The module of a file, from its path below the crate's sources.
pub(super) fn module(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// Reads a file; `path` is below the crate's sources.
pub(super) fn read(path: &str, text: &str) -> Source {
    let module = module(path);
    let mut reader = Reader {
        tokens: tokens(text),
        at: 0,
        depth: 0,
        scopes: Vec::new(),
        found: Source { module, ..Source::default() },
    };
    while reader.at < reader.tokens.len() {
        reader.step();
    }
    reader.found
}

/// Words, `::` and single marks with their lines; no comments, strings or characters.
fn tokens(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            quoted(rest)
        } else if first == '\'' {
            character(rest)
        } else if let Some(length) = raw(rest) {
            length
        } else if word > 0 {
            found.push((line, &rest[..word]));
            word
        } else if rest.starts_with("::") {
            found.push((line, "::"));
            2
        } else {
            let length = first.len_utf8();
            if !first.is_whitespace() {
                found.push((line, &rest[..length]));
            }
            length
        };
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

/// The length of a string in quotes.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character in quotes, or of the mark of a lifetime.
fn character(text: &str) -> usize {
    let mut after = text.char_indices().skip(1);
    match (after.next(), after.next()) {
        (Some((_, '\\')), Some((at, _))) => text[at + 1..].find('\'').map_or(text.len(), |end| at + end + 2),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// The length of a raw string; `None` = it is none.
fn raw(text: &str) -> Option<usize> {
    let behind = ["r", "br", "cr"].iter().find_map(|mark| text.strip_prefix(mark))?;
    let marks = behind.len() - behind.trim_start_matches('#').len();
    let content = behind[marks..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    let inside = content.find(&end).map_or(content.len(), |at| at + end.len());
    Some(text.len() - content.len() + inside)
}

struct Reader<'a> {
    tokens: Vec<(usize, &'a str)>,
    at: usize,
    depth: usize,
    /// Modules in braces that are open, each with the depth inside it.
    scopes: Vec<(usize, String)>,
    found: Source,
}

impl<'a> Reader<'a> {
    fn peek(&self, ahead: usize) -> &'a str {
        self.tokens.get(self.at + ahead).map_or("", |token| token.1)
    }

    fn scope(&self) -> Vec<String> {
        let open = self.scopes.iter().map(|(_, name)| name.clone());
        self.found.module.iter().cloned().chain(open).collect()
    }

    fn step(&mut self) {
        let before = self.at.checked_sub(1).map_or("", |at| self.tokens[at].1);
        match self.peek(0) {
            "#" if ["[", "cfg", "(", "test", ")", "]"]
                .iter()
                .enumerate()
                .all(|(i, t)| self.peek(i + 1) == *t) =>
            {
                self.at += 7;
                self.pass_over();
            }
            "{" => {
                self.depth += 1;
                self.at += 1;
            }
            "}" => {
                self.depth = self.depth.saturating_sub(1);
                self.scopes.retain(|(depth, _)| *depth <= self.depth);
                self.at += 1;
            }
            "mod" if self.peek(2) == "{" => {
                self.depth += 1;
                self.scopes.push((self.depth, self.peek(1).to_owned()));
                self.at += 3;
            }
            "use" => {
                self.at += 1;
                self.tree(&mut Vec::new(), matches!(before, "pub" | ")"));
            }
            "crate" | "super" | "self" if self.peek(1) == "::" && !matches!(before, "::" | "in") => {
                self.path();
            }
            _ => self.at += 1,
        }
    }

    /// Passes over an item that only tests have.
    fn pass_over(&mut self) {
        while self.peek(0) == "#" {
            self.balanced();
        }
        if self.peek(0) == "pub" {
            self.at += 1;
            if self.peek(0) == "(" {
                self.balanced();
            }
        }
        if self.peek(0) == "mod" && self.peek(2) == ";" {
            let mut name = self.scope();
            name.push(self.peek(1).to_owned());
            self.found.tests.push(name);
        }
        let items =
            ["async", "const", "enum", "extern", "fn", "impl", "mod", "static", "struct", "trait", "type"];
        let uses = self.peek(0) == "use";
        if !uses && !items.contains(&self.peek(0)) && self.peek(0) != "unsafe" {
            return;
        }
        loop {
            match self.peek(0) {
                "" => return,
                ";" => {
                    self.at += 1;
                    return;
                }
                "(" | "[" => self.balanced(),
                "{" => {
                    self.balanced();
                    if !uses {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// Goes behind what closes the next bracket.
    fn balanced(&mut self) {
        let mut open = 0_usize;
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "(" | "[" | "{" => open += 1,
                ")" | "]" | "}" => open = open.saturating_sub(1),
                _ => {}
            }
            let closed = open == 0 && matches!(self.peek(0), ")" | "]" | "}");
            self.at += 1;
            if closed {
                return;
            }
        }
    }

    /// One branch of a `use` line, up to what ends it.
    fn tree(&mut self, path: &mut Vec<String>, exported: bool) {
        let depth = path.len();
        let mut line = 0;
        let mut branches = false;
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "{" => {
                    branches = true;
                    while !matches!(self.peek(0), "}" | "") {
                        self.at += 1;
                        self.tree(path, exported);
                    }
                    self.at += 1;
                }
                "::" => self.at += 1,
                // The name that it is imported under does not matter.
                "as" => self.at += 2,
                "," | "}" | ";" => break,
                word => {
                    line = self.tokens[self.at].0;
                    path.push(word.to_owned());
                    self.at += 1;
                }
            }
        }
        if !branches && path.len() > depth {
            self.import(line, path.clone(), true, exported);
        }
        path.truncate(depth);
    }

    /// A path in the middle of code.
    fn path(&mut self) {
        let line = self.tokens[self.at].0;
        let mut path = vec![self.peek(0).to_owned()];
        self.at += 1;
        while self.peek(0) == "::" && self.peek(1).starts_with(|c: char| c.is_alphabetic() || c == '_') {
            path.push(self.peek(1).to_owned());
            self.at += 2;
        }
        self.import(line, path, false, false);
    }

    fn import(&mut self, line: usize, path: Vec<String>, used: bool, exported: bool) {
        let scope = self.scope();
        self.found.imports.push(Import { line, scope, path, used, exported });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<(usize, String)> {
        read("a/b.rs", text).imports.iter().map(|i| (i.line, i.path.join("::"))).collect()
    }

    #[test]
    fn a_tree_is_read_leaf_by_leaf() {
        let text = "use crate::{\n    a::{self, B as C},\n    d::*,\n};\nuse super::e::F;\nuse std::fmt;\n";
        let found = paths(text);
        let found: Vec<(usize, &str)> = found.iter().map(|(line, path)| (*line, path.as_str())).collect();
        assert_eq!(
            found,
            [
                (2, "crate::a::self"),
                (2, "crate::a::B"),
                (3, "crate::d::*"),
                (5, "super::e::F"),
                (6, "std::fmt")
            ]
        );
    }

    #[test]
    fn paths_in_code_are_read_and_texts_are_not() {
        let text = "/* crate::a::A */ // crate::b::B\nfn f<'a>(c: &'a crate::c::C) {\n    \"crate::d\"; r#\"crate::\"e\"#; '\"';\n    \
                    super::f::g('x', '\\'');\n}\npub(in crate::h) struct I;\n";
        assert_eq!(paths(text), [(2, "crate::c::C".to_owned()), (4, "super::f::g".to_owned())]);
    }

    #[test]
    fn code_for_tests_is_left_out() {
        let text = "#[cfg(test)]\nmod one;\n#[cfg(test)]\npub(crate) use crate::a::{B, C};\n#[cfg(test)]\nmod tests {\n    use \
                    crate::d;\n}\n#[cfg(test)]\n#[x]\nfn f(a: [u8; 2]) -> u8 {\n    crate::e::f()\n}\nuse crate::g;\n";
        let source = read("a/b.rs", text);
        assert_eq!(source.imports.iter().map(|i| i.path.join("::")).collect::<Vec<_>>(), ["crate::g"]);
        assert_eq!(source.tests, [["a", "b", "one"].map(str::to_owned).to_vec()]);
    }

    #[test]
    fn a_module_in_braces_is_a_scope_of_its_own() {
        let source = read("a/mod.rs", "mod b {\n    use super::C;\n}\npub use d::E;\n");
        assert_eq!(source.module, ["a"]);
        assert_eq!(source.imports[0].scope, ["a", "b"]);
        assert_eq!((source.imports[1].scope.len(), source.imports[1].exported), (1, true));
    }
}
