//! Options and commands that the programs name themselves, in messages, hints and help texts: each is one that the program
//! takes. The help is read from the tree of commands, the rest from the sources.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use clap::{Arg, Command, CommandFactory};

use super::{
    commands, is_a_beginning,
    literals::{self, Literal},
    ours, parse,
};
use crate::{ctl, tools};

/// Options of other programs that ours speak of.
const FOREIGN: &[(&str, &str)] = &[
    ("net", "nsenter"),
    ("unix-socket", "curl"),
    ("compressed", "curl"),
    ("lib", "cargo"),
    ("help", "clap"),
    ("version", "clap"),
];

/// Whose options a source without a command in its message means.
const SCOPES: &[(&str, &[&str])] = &[
    ("tools/decap_command.rs", &["lbd", "decap"]),
    ("tools/decap.rs", &["lbd", "decap"]),
    ("tools/detach.rs", &["lbd"]),
    ("ctl/backend.rs", &["lbctl", "backend"]),
    ("ctl/detach.rs", &["lbctl", "detach"]),
    ("ctl/drain.rs", &["lbctl", "backend", "drain"]),
    ("ctl/events.rs", &["lbctl", "events"]),
    ("ctl/plan.rs", &["lbctl", "plan"]),
    ("ctl/service.rs", &["lbctl", "service"]),
    ("ctl/stats.rs", &["lbctl", "stats"]),
    ("ctl/stats_rows.rs", &["lbctl", "stats"]),
    ("ctl/", &["lbctl"]),
];

/// What may stand where a message has a value: any of them has to do.
const VALUES: &[&str] = &["web", "web/web-1", "10.0.0.11", "5"];

fn programs() -> [Command; 2] {
    [tools::cli::Cli::command(), ctl::cli::Cli::command()]
}

fn longs(command: &Command, only_global: bool) -> impl Iterator<Item = String> {
    let arguments = command.get_arguments().filter(move |argument| !only_global || argument.is_global_set());
    arguments
        .flat_map(|argument| argument.get_long_and_visible_aliases().unwrap_or_default())
        .map(str::to_owned)
}

/// Options that are taken behind the words of `path`, or behind more words; all options for an empty path.
fn known(path: &[&str]) -> Rc<BTreeSet<String>> {
    thread_local! {
        /// Made once for each path: making all commands takes a while, and thousands of texts are looked at.
        static KNOWN: RefCell<HashMap<String, Rc<BTreeSet<String>>>> = RefCell::default();
    }
    KNOWN
        .with_borrow_mut(|all| all.entry(path.join(" ")).or_insert_with(|| Rc::new(make_known(path))).clone())
}

fn make_known(path: &[&str]) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = FOREIGN.iter().map(|(option, _)| (*option).to_owned()).collect();
    let mut commands: Vec<Command> = programs().into();
    for (depth, word) in path.iter().enumerate() {
        commands.retain(|command| command.get_name() == *word);
        assert!(!commands.is_empty(), "{path:?} is no command");
        if depth + 1 < path.len() {
            known.extend(commands.iter().flat_map(|command| longs(command, true)));
            commands = commands.iter().flat_map(Command::get_subcommands).cloned().collect();
        }
    }
    while let Some(command) = commands.pop() {
        known.extend(longs(&command, false));
        commands.extend(command.get_subcommands().cloned());
    }
    known
}

/// The options that a text names, without their dashes.
fn options(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("--") {
        let rest = &text[at + 2..];
        let begins = text[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '-');
        let end = rest
            .find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-')
            .unwrap_or(rest.len());
        // `--health-{}` is the beginning of one, which no word ends.
        if begins
            && end > 0
            && !rest[end..].starts_with('{')
            && rest.starts_with(|c: char| c.is_ascii_lowercase())
        {
            found.push(rest[..end].trim_end_matches('-'));
        }
    }
    found
}

/// Command lines of a text, and the text without them: what is between backticks, and lines of examples.
fn command_lines(text: &str) -> (Vec<String>, String) {
    let (mut lines, mut rest) = (Vec::new(), String::new());
    for (part, text) in text.split('`').enumerate() {
        for line in text.split_inclusive('\n') {
            let begins = ["lbd ", "lbctl "].iter().any(|program| line.trim_start().starts_with(program));
            let is_example = begins && line.starts_with("  ");
            if part % 2 == 1 || is_example {
                // Behind two spaces an example is explained, behind dots something is left out.
                let command = line.trim().split("  ").next().unwrap_or_default();
                lines.push(command.split('…').next().unwrap_or_default().trim().to_owned());
            } else {
                rest.push_str(line);
            }
        }
        rest.push(' ');
    }
    (lines, rest)
}

/// The text with `value` in each place where a message has one.
fn filled(text: &str, value: &str) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once('{') {
        let Some((_, after)) = inside.split_once('}') else { break };
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled + rest
}

/// Why no program of ours takes what begins as a command line of one; `None` = it does, or it is none.
fn refusal(line: &str) -> Option<String> {
    let mut last = None;
    for value in VALUES {
        let mut refused = None;
        for words in commands(&filled(line, value)) {
            let Some((is_lbd, words)) = ours(&words) else { continue };
            let outcome = parse(is_lbd, words);
            refused = refused.or(outcome.err().filter(|error| !is_a_beginning(error)));
        }
        last = Some(refused?);
    }
    last.map(|error| error.to_string())
}

#[derive(Default)]
struct Findings {
    lines: usize,
    options: usize,
    wrong: Vec<String>,
}

impl Findings {
    fn look(&mut self, place: &str, path: &[&str], text: &str) {
        let (lines, rest) = command_lines(text);
        for line in lines {
            let is_ours = commands(&line).iter().any(|words| ours(words).is_some());
            self.lines += usize::from(is_ours);
            let known = if is_ours { known(&[]) } else { known(path) };
            self.check_options(place, &known, &line);
            self.wrong.extend(refusal(&line).map(|why| format!("{place}: `{line}`: {why}")));
        }
        self.check_options(place, &known(path), &rest);
    }

    fn check_options(&mut self, place: &str, known: &BTreeSet<String>, text: &str) {
        for option in options(text) {
            self.options += 1;
            if !known.contains(option) {
                self.wrong.push(format!("{place}: there is no --{option} here: {text}"));
            }
        }
    }

    /// The help of a command and of all below it.
    fn look_at_help(&mut self, command: &Command, above: &[&str]) {
        let path: Vec<&str> = above.iter().copied().chain([command.get_name()]).collect();
        let help = |argument: &Arg| argument.get_long_help().or(argument.get_help()).map(ToString::to_string);
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
        let after = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
        let texts = about.into_iter().chain(after).chain(command.get_arguments().filter_map(help));
        let place = format!("help of {}", path.join(" "));
        for text in texts {
            self.look(&place, &path, &text);
        }
        for below in command.get_subcommands() {
            self.look_at_help(below, &path);
        }
    }
}

#[test]
fn every_option_and_command_that_a_message_names_is_there() {
    let mut findings = Findings::default();
    for literal in literals::all() {
        let Literal { file, text, .. } = &literal;
        // Their texts belong to one command each: below, they are asked of it.
        if file.starts_with("ctl/cli/") || file == "tools/cli.rs" {
            continue;
        }
        let scope =
            SCOPES.iter().find(|(known, _)| file.starts_with(known)).map_or(&[][..], |(_, path)| *path);
        findings.look(&literal.place(), scope, text);
    }
    let Findings { lines, options, wrong } = findings;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(lines > 40 && options > 40, "{lines} command lines and {options} options were found");
}

#[test]
fn every_option_and_command_that_a_help_text_names_is_there() {
    let mut findings = Findings::default();
    for program in programs() {
        findings.look_at_help(&program, &[]);
    }
    let Findings { lines, options, wrong } = findings;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(lines > 40 && options > 60, "{lines} command lines and {options} options were found");
}

#[test]
fn an_unknown_option_is_found_wherever_it_is_named() {
    let wrong = |path: &[&str], text: &str| {
        let mut findings = Findings::default();
        findings.look("x", path, text);
        findings.wrong.len()
    };
    assert_eq!(wrong(&[], "use --force, or `lbctl backend drain {name} --wait`"), 0);
    assert_eq!(wrong(&["lbd", "decap"], "`lbd --force` takes its place"), 0);
    assert_eq!(wrong(&["lbd", "decap"], "use --force"), 1, "an option of another command");
    assert_eq!(wrong(&["lbd", "decap"], "give this one another --instance"), 0);
    assert_eq!(wrong(&[], "use --no-such-option"), 1);
    assert!(wrong(&[], "try `lbctl backend drain {name} --wiat`") >= 1);
    assert_eq!(wrong(&[], "try `lbctl bakend list`"), 1);
    assert_eq!(wrong(&[], "Examples:\n  lbctl bakend list"), 1);
    assert_eq!(options("--a-b, x--c --health-{} `--d`, --- --E"), ["a-b", "d"]);
}
