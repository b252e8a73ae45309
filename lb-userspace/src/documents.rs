//! The documents against the code: command lines that they show are typed, errors and configurations that they quote are
//! made again, and numbers that they name are compared. Only tests live here; `cargo xtask …` lines are tried by `xtask`.

use std::{fs, path::PathBuf};

use clap::{Parser, error::ErrorKind};

use crate::{
    api::view::{ApiError, Code},
    config::{self, keys, testing::lines},
    ctl::{self, exit::Failure},
    tools,
};

mod claims;
mod literals;
mod memory;
mod options;
mod plurals;

/// What a document shows as a mistake.
const MISTAKES: [&str; 1] = ["lbd --check FILE"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares a generated page in `doc/` with what the definitions make now. `cargo xtask docs` runs the tests that call
/// this with `LB_WRITE_DOCS` set, and then the page is written first.
///
/// # Panics
/// The page is out of date.
#[track_caller]
pub(crate) fn assert_current(name: &str, made: &str) {
    // cargo runs tests in their package's directory, also in a copy of the checkout.
    let path = PathBuf::from("doc").join(name);
    if std::env::var_os("LB_WRITE_DOCS").is_some() {
        fs::write(&path, made).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    assert!(page == made, "lb-userspace/{} is out of date: run `cargo xtask docs`", path.display());
}

fn document(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every document, as its path from the root of the repository and its text: all Markdown files and the annotated
/// configuration. A document is tried because it exists; no list has to name it.
pub(crate) fn all() -> Vec<(String, String)> {
    let mut names = vec!["lb-userspace/doc/lb.toml".to_owned()];
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder").filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{folder}{name}");
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() && path != "target" && !name.starts_with('.') {
                folders.push(format!("{path}/"));
            } else if kind.is_file() && name.ends_with(".md") {
                names.push(path);
            }
        }
    }
    names.sort();
    let read = |name: String| {
        let text = document(&name);
        (name, text)
    };
    names.into_iter().map(read).collect()
}

#[test]
fn documents_of_every_folder_are_found() {
    let found: Vec<String> = all().into_iter().map(|(name, _)| name).collect();
    for name in [
        "README.md",
        "lb-common/doc/slots.md",
        "lb-ebpf/doc/packet-path.md",
        "lb-userspace/doc/install.md",
        "lb-userspace/doc/lb.toml",
        "lb-userspace/doc/operate.md",
        "lb-userspace/doc/troubleshoot.md",
        "tests/doc/strategy.md",
        "tests/fixtures/golden/README.md",
        "xtask/doc/try.md",
    ] {
        assert!(found.iter().any(|found| found == name), "{name} is not among {found:?}");
    }
}

/// A piece of a document that may be a command line.
struct Snippet {
    /// Document and line.
    place: String,
    text: String,
    /// In a block of its own: then it is a whole command. Between words of a sentence it may be a command's beginning.
    whole: bool,
}

/// Lines of fenced blocks, and what is between backticks elsewhere.
fn snippets(name: &str, text: &str) -> Vec<Snippet> {
    let mut all = Vec::new();
    let mut fenced = false;
    let mut continued = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        let place = || format!("{name}:{number}");
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continued.push_str(line.trim());
            if continued.ends_with('\\') {
                continued.pop();
                continue;
            }
            let text = std::mem::take(&mut continued);
            let text = text.strip_prefix("ExecStart=").unwrap_or(&text).to_owned();
            all.push(Snippet { place: place(), text, whole: true });
        } else {
            // The odd parts are between backticks.
            let spans = line.split('`').enumerate().filter(|(part, _)| part % 2 == 1);
            all.extend(spans.map(|(_, text)| Snippet {
                place: place(),
                text: text.to_owned(),
                whole: false,
            }));
        }
    }
    all
}

/// The commands of a line as a shell would take them apart; what is in quotes stays whole. Comments end it.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let end = |word: &mut Option<String>, all: &mut Vec<Vec<String>>| {
        if let (Some(word), Some(command)) = (word.take(), all.last_mut()) {
            command.push(word);
        }
    };
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), letter) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | '&' | ';' | '>' | '(' | ')') => {
                end(&mut word, &mut all);
                all.push(Vec::new());
            }
            (None, letter) if letter.is_whitespace() => end(&mut word, &mut all),
            (None, letter) => word.get_or_insert_default().push(letter),
        }
    }
    end(&mut word, &mut all);
    all.retain(|words| !words.is_empty());
    all
}

/// The part of a command that one of our programs gets, and whether it is `lbd`.
fn ours(words: &[String]) -> Option<(bool, &[String])> {
    // Behind `sudo`, `ssh HOST`, `xargs …` and the like.
    let at = words.iter().position(|word| {
        let name = word.rsplit('/').next().unwrap_or_default();
        (name == "lbd" || name == "lbctl") && (word == name || word.starts_with("/usr/local/bin/"))
    })?;
    let starters = ["sudo", "ssh", "xargs", "ip", "while", "until", "do", "if", "for", "env", "command"];
    let begins = at == 0 || starters.contains(&words[0].as_str());
    begins.then(|| (words[at].ends_with("lbd"), &words[at..]))
}

fn parse(is_lbd: bool, words: &[String]) -> Result<(), clap::Error> {
    if is_lbd {
        tools::cli::Cli::try_parse_from(words).map(drop)
    } else {
        ctl::cli::Cli::try_parse_from(words).map(drop)
    }
}

/// Whether an error only says that the command goes on.
fn is_a_beginning(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
    )
}

#[test]
fn every_command_line_in_the_documents_parses() {
    let (mut tried, mut wrong) = (0, Vec::new());
    for (name, text) in all() {
        for Snippet { place, text, whole } in snippets(&name, &text) {
            // Where something is left out, the rest is no command; nor is a line of a picture.
            if text.contains(['…', '─']) || MISTAKES.contains(&text.as_str()) {
                continue;
            }
            for words in commands(&text) {
                let Some((is_lbd, words)) = ours(&words) else { continue };
                // The programs' names alone are no command lines.
                if words.len() == 1 && !whole {
                    continue;
                }
                tried += 1;
                match parse(is_lbd, words) {
                    Err(error) if whole || !is_a_beginning(&error) => {
                        wrong.push(format!("{place}: `{}`: {error}", words.join(" ")));
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 80, "{tried} command lines were found");
}

#[test]
fn command_lines_are_taken_apart_as_a_shell_does() {
    let of = |line| commands(line).iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(
        of("lbctl a 'b c' && ssh x reboot | y > z # not this"),
        ["lbctl a b c", "ssh x reboot", "y", "z"]
    );
    assert_eq!(of("  # nothing"), [""; 0]);
    let words = |line| commands(line).concat();
    assert_eq!(
        ours(&words("sudo lbd --check")).map(|(is_lbd, words)| (is_lbd, words.len())),
        Some((true, 2))
    );
    assert_eq!(ours(&words("/usr/local/bin/lbctl status")).map(|(is_lbd, _)| is_lbd), Some(false));
    assert!(ours(&words("systemctl restart lbd")).is_none());
    assert!(parse(false, &words("lbctl no-such-noun")).is_err_and(|error| !is_a_beginning(&error)));
    assert!(parse(false, &words("lbctl backend")).is_err_and(|error| is_a_beginning(&error)));
}

/// The fenced blocks of a document that begin with these letters.
fn blocks<'a>(text: &'a str, begins: &str) -> Vec<&'a str> {
    let parts = text.split("\n```").enumerate().filter(|(part, _)| part % 2 == 1);
    let inside = parts.filter_map(|(_, block)| block.split_once('\n').map(|(_, inside)| inside));
    inside.filter(|inside| inside.starts_with(begins)).collect()
}

#[test]
fn errors_shown_in_documents_are_the_real_ones() {
    let text = "[node]\ninterface = \"eth0\"\nsede = \"s\"\n[[service]]\nname = \"web\"\n\
        listen = \"tcp/192.0.2.1:70000\"\n[[service.backend]]\nname = \"web-1\"\naddress = \"10.0.0.11\"\nweight = -1\n";
    let errors = config::parse(text.as_bytes(), "lb.toml").expect_err("four mistakes");
    let install = document("lb-userspace/doc/install.md");
    let shown = blocks(&install, "lb.toml:1:1:");
    assert_eq!(shown.len(), 1, "one block of errors");
    assert_eq!(format!("{}\n", shown[0]), lines(&errors));
}

#[test]
fn configurations_that_documents_show_are_taken() {
    let documents = all();
    let mut tried = Vec::new();
    for (name, text) in documents.iter().filter(|(name, _)| name.ends_with(".md")) {
        for shown in blocks(text, "[node]\n") {
            // Every operator makes a seed of their own.
            let seeded: Vec<&str> = shown
                .lines()
                .map(|line| if line.starts_with("seed = ") { "seed = \"7f3e9a55c2d04b18\"" } else { line })
                .collect();
            let parsed = config::parse(seeded.join("\n").as_bytes(), "lb.toml");
            let document = parsed.unwrap_or_else(|errors| panic!("{name}: {}", lines(&errors)));
            assert_eq!(document.spec.services[0].backends.len(), 2, "{name}");
            tried.push(name.as_str());
        }
    }
    assert_eq!(tried, ["README.md", "lb-userspace/doc/install.md"]);
}

#[test]
fn the_example_states_the_real_defaults() {
    let example = document("lb-userspace/doc/lb.toml");
    let (_, limits) = example.split_once("[limits]\n").expect("a table of limits");
    for key in keys::LIMITS.keys.iter().filter(|key| key.default != keys::NOTHING) {
        let line = format!("{} = {}", key.name, key.default);
        assert!(
            limits.lines().any(|shown| shown == line),
            "lb.toml says of the limits that they are the defaults: {line}"
        );
    }
    let (_, health) = example.split_once("[health]\n").expect("a table of health checks");
    for name in ["interval", "fast_interval", "timeout", "rise", "fall"] {
        let key = keys::HEALTH.keys.iter().find(|key| key.name == name).expect("a key");
        let line = format!("{name} = {}", key.default);
        assert!(
            health.lines().any(|shown| shown == line),
            "lb.toml says of health that these hold anyway: {line}"
        );
    }
}

#[test]
fn exit_codes_are_those_that_documents_and_the_help_name() {
    let refused = |code| {
        Failure::Refused(ApiError {
            code,
            message: String::new(),
            object: String::new(),
            details: Vec::new(),
        })
    };
    let codes = [
        (Failure::Failed(String::new()), 1),
        (Failure::Usage(String::new()), 2),
        (Failure::Deadline(String::new()), 3),
        (Failure::Unreachable(String::new()), 4),
        (Failure::NoMatch(String::new()), 5),
        (refused(Code::Conflict), 1),
        (refused(Code::Invalid), 2),
    ];
    for (failure, code) in codes {
        assert_eq!(failure.exit_code(), code, "{failure:?}");
    }
    claims::says(
        "lb-userspace/doc/operate.md",
        "Exit codes: `lbd` ends with 0 done, 1 failed, 2 the configuration or the command line was refused; `lbctl` adds 3, a \
         deadline passed, 4, no agent could be reached, and 5, a pattern or a filter fits nothing.",
    );
}
