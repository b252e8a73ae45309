//! Configurations that are always a mistake. The agent reports everything that is wrong with them at once, with its place.

use crate::world::CONFIG;

/// A file that is refused.
pub(crate) struct Bad {
    pub(crate) name: &'static str,
    pub(crate) text: Vec<u8>,
    /// What the report must contain: a line of the file (0 = the file as a whole), and words.
    pub(crate) errors: Vec<(usize, &'static str)>,
}

impl Bad {
    /// Fails unless all errors of this file are in `said` with file, line and column.
    #[track_caller]
    pub(crate) fn assert_all_said(&self, said: &str, file: &str) {
        for (line, words) in &self.errors {
            let place = if *line == 0 { format!("{file}:") } else { format!("{file}:{line}:") };
            let column = |rest: &str| *line == 0 || rest.starts_with(|c: char| c.is_ascii_digit());
            let found = said.lines().any(|said| {
                let rest = said.find(&place).map(|at| &said[at + place.len()..]);
                rest.is_some_and(|rest| column(rest) && rest.contains(words))
            });
            assert!(found, "{}: `{place}… {words}` is missing in:\n{said}", self.name);
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// Line number of the first line that contains `needle`.
fn line(text: &str, needle: &str) -> usize {
    1 + text
        .lines()
        .position(|line| line.contains(needle))
        .unwrap_or_else(|| panic!("no {needle} in\n{text}"))
}

/// Mistakes of every kind in one file.
fn many_mistakes() -> Bad {
    let text = CONFIG.replace("seed =", "colour = \"red\"\nseed =")
        + r#"
[[service]]
name = "again"
listen = "tcp/203.0.113.10:80"
[[service.backend]]
adress = "10.0.0.21"

[[service]]
name = "wrong-family"
listen = "tcp/203.0.113.20:80"
encapsulation = "ipip"
[[service.backend]]
name = "v6"
address = "fd00:8::99"

[[service]]
name = "port"
listen = "tcp/203.0.113.30:70000"

[[service]]
name = "weight"
listen = "tcp/203.0.113.40:80"
[[service.backend]]
name = "w"
address = "10.0.0.41"
weight = -1

[[service]]
name = "web"
listen = "tcp/203.0.113.50:80"
"#;
    let again = line(&text, "name = \"again\"");
    let web =
        1 + text.lines().collect::<Vec<_>>().iter().rposition(|line| *line == "name = \"web\"").unwrap_or(0);
    let errors = vec![
        (line(&text, "colour"), "colour"),
        (again + 1, "tcp/203.0.113.10:80 is already served"),
        (line(&text, "adress"), "adress"),
        (line(&text, "fd00:8::99"), "ipip"),
        (line(&text, "70000"), "70000"),
        (line(&text, "weight = -1"), "-1"),
        (web, "the name web is taken"),
    ];
    Bad { name: "many mistakes", text: text.into_bytes(), errors }
}

/// All bad files. Every program that reads one of them refuses it, at every place.
pub(crate) fn all() -> Vec<Bad> {
    let latin = CONFIG.replace("control tests", "caf\u{1}");
    let latin: Vec<u8> = latin.bytes().map(|byte| if byte == 1 { 0xe9 } else { byte }).collect();
    let long = format!("{CONFIG}{}", "# a comment that goes on and on\n".repeat(10 * 1024 * 1024 / 32));
    vec![
        many_mistakes(),
        Bad { name: "an empty file", text: Vec::new(), errors: vec![(0, "empty")] },
        Bad { name: "10 MB", text: long.into_bytes(), errors: vec![(0, "longer than 4 MiB")] },
        Bad { name: "not UTF-8", text: latin, errors: vec![(line(CONFIG, "seed"), "not UTF-8")] },
        Bad {
            name: "no TOML",
            text: CONFIG.replace("[limits]", "[limits").into_bytes(),
            errors: vec![(line(CONFIG, "[limits]"), "TOML")],
        },
    ]
}
