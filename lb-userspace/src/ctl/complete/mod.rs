//! Completion of a command line: commands, options and their values out of the definition in `cli`, and the names of services and
//! backends out of the running agent. The scripts for the shells ([`scripts`]) call the program with [`VARIABLE`] set.

mod names;
pub mod scripts;

use std::{env, path::PathBuf};

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::cli::Cli;

/// Set by the scripts: the place of the word under the cursor among the arguments.
pub const VARIABLE: &str = "LBCTL_COMPLETE";

/// A line of this says that the word is a path, which the shell knows better.
const FILES: &str = ":files";

/// Answers a shell, where one asks: a line for each candidate, with a tab and a description behind it. One that ends with a `/`
/// goes on.
pub fn answer() -> Option<String> {
    let index = env::var(VARIABLE).ok()?.parse().unwrap_or(usize::MAX);
    let words: Vec<String> = env::args().skip(1).collect();
    let names = |socket: Option<PathBuf>, instance: Option<String>| names::ask(socket, instance);
    let lines = candidates(&words, index, &names).into_iter().map(|candidate| candidate.line());
    Some(lines.collect())
}

/// What could be typed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    text: String,
    about: String,
}

impl Candidate {
    fn new(text: impl Into<String>, about: &str) -> Self {
        Self { text: text.into(), about: about.lines().next().unwrap_or_default().to_owned() }
    }

    fn line(&self) -> String {
        let Self { text, about } = self;
        if about.is_empty() { format!("{text}\n") } else { format!("{text}\t{about}\n") }
    }
}

/// Services with their backends, of the agent that the options before name.
type Names<'a> = &'a dyn Fn(Option<PathBuf>, Option<String>) -> names::Names;

/// What fits at the word of this place; `words` begins behind the name of the program.
fn candidates(words: &[String], index: usize, names: Names<'_>) -> Vec<Candidate> {
    let current = words.get(index).map(String::as_str).unwrap_or_default();
    let before = words.get(..index).unwrap_or(words);
    let mut line = Line::new();
    before.iter().for_each(|word| line.take(word));
    let mut found = line.next(current, names);
    found.retain(|candidate| candidate.text == FILES || candidate.text.starts_with(current));
    found
}

/// A command line as far as it is typed.
struct Line {
    command: Command,
    /// Positional values so far.
    values: Vec<String>,
    /// The option that waits for its value.
    waiting: Option<Arg>,
    /// `--` was typed: no options come any more.
    ended: bool,
    socket: Option<PathBuf>,
    instance: Option<String>,
}

impl Line {
    fn new() -> Self {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        Self { command, values: Vec::new(), waiting: None, ended: false, socket: None, instance: None }
    }

    fn take(&mut self, word: &str) {
        if let Some(option) = self.waiting.take() {
            self.learn(&option, word);
        } else if self.ended || !word.starts_with('-') || word == "-" {
            self.take_value(word);
        } else if word == "--" {
            self.ended = true;
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let found = self.command.get_arguments().find(|arg| longs(arg).any(|long| long == name)).cloned();
            match (found, value) {
                (Some(option), Some(value)) => self.learn(&option, value),
                (Some(option), None) if takes_value(&option) => self.waiting = Some(option),
                _ => {}
            }
        } else {
            // Of several short ones only the last can wait for a value.
            let last = word.chars().next_back();
            let found = self.command.get_arguments().find(|arg| arg.get_short() == last && takes_value(arg));
            self.waiting = found.cloned();
        }
    }

    /// What the options before say about where the agent is.
    fn learn(&mut self, option: &Arg, value: &str) {
        match option.get_id().as_str() {
            "socket" => self.socket = Some(value.into()),
            "instance" => self.instance = Some(value.to_owned()),
            _ => {}
        }
    }

    /// A command, in full or its unique beginning, or a value.
    fn take_value(&mut self, word: &str) {
        if self.values.is_empty() && self.command.has_subcommands() {
            let begins = |command: &&Command| {
                !command.is_hide_set()
                    && command.get_name_and_visible_aliases().iter().any(|name| name.starts_with(word))
            };
            let all: Vec<&Command> = self.command.get_subcommands().filter(begins).collect();
            let exact = self.command.find_subcommand(word);
            if let Some(command) = exact.or(match all[..] {
                [only] => Some(only),
                _ => None,
            }) {
                self.command = command.clone();
                return;
            }
        }
        self.values.push(word.to_owned());
    }

    fn next(&self, current: &str, names: Names<'_>) -> Vec<Candidate> {
        if let Some(option) = &self.waiting {
            return self.values_of(option, current, names);
        }
        let option = current.strip_prefix("--").and_then(|long| long.split_once('='));
        if let (Some((name, value)), false) = (option, self.ended) {
            let found = self.command.get_arguments().find(|arg| longs(arg).any(|long| long == name));
            let values = found.map(|option| self.values_of(option, value, names)).unwrap_or_default();
            let whole = |candidate: Candidate| match candidate.text.as_str() {
                FILES => candidate,
                text => Candidate { text: format!("--{name}={text}"), about: candidate.about },
            };
            return values.into_iter().map(whole).collect();
        }
        if current.starts_with('-') && !self.ended {
            let shown = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
            let help = |arg: &Arg| arg.get_help().map(ToString::to_string).unwrap_or_default();
            return shown
                .filter_map(|arg| Some(Candidate::new(format!("--{}", arg.get_long()?), &help(arg))))
                .collect();
        }
        let commands = self.command.get_subcommands().filter(|command| !command.is_hide_set());
        let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
        let mut found: Vec<Candidate> = match self.values.is_empty() {
            true => commands.map(|command| Candidate::new(command.get_name(), &about(command))).collect(),
            false => Vec::new(),
        };
        let mut positionals = self.command.get_positionals();
        let next = positionals.by_ref().nth(self.values.len());
        let many = |arg: &&Arg| arg.get_num_args().is_some_and(|range| range.max_values() > 1);
        if let Some(arg) = next.or_else(|| self.command.get_positionals().last().filter(many)) {
            found.extend(self.values_of(arg, current, names));
        }
        found
    }

    fn values_of(&self, arg: &Arg, current: &str, names: Names<'_>) -> Vec<Candidate> {
        let ask = || names(self.socket.clone(), self.instance.clone());
        match arg.get_id().as_str() {
            "service" => names::services(&ask()),
            "first" | "patterns" if self.lists_services() => names::services(&ask()),
            "first" | "patterns" | "object" => names::backends(&ask(), current),
            "second" => match self.values.first() {
                Some(service) => names::of_service(&ask(), service),
                None => Vec::new(),
            },
            "file" | "socket" | "directory" => vec![Candidate::new(FILES, "")],
            _ => {
                let values = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
                let help = |help: Option<&clap::builder::StyledStr>| {
                    help.map(ToString::to_string).unwrap_or_default()
                };
                values.map(|value| Candidate::new(value.get_name(), &help(value.get_help()))).collect()
            }
        }
    }

    /// `service list` takes no backends.
    fn lists_services(&self) -> bool {
        self.command.get_bin_name().is_some_and(|name| name.ends_with("service list"))
    }
}

fn longs(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default())
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && !arg.is_positional()
}

#[cfg(test)]
mod tests;
