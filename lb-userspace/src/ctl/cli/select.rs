//! Which rows of a list are shown, and in which order: the same patterns and options for everything that `lbctl` lists. What a
//! noun can be filtered and sorted by is said once, with its columns.

use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::PossibleValuesParser};

use super::value;
use crate::ctl::pattern::Pattern;

/// What a list is of.
pub trait Noun: 'static {
    /// States there are an option for each of.
    const STATES: &'static [&'static str];
    /// Whether some of them can need attention.
    const ATTENTION: bool;
    /// Whether patterns can name backends.
    const BACKENDS: bool;
    /// What rows can be sorted by.
    fn keys() -> Vec<&'static str>;
}

/// What was typed.
#[derive(Debug)]
pub struct Select<N> {
    pub patterns: Vec<Pattern>,
    /// Only rows in one of these; empty = in any.
    pub states: Vec<&'static str>,
    pub attention: bool,
    pub sort: Option<String>,
    pub reverse: bool,
    pub top: Option<usize>,
    pub(in crate::ctl) noun: PhantomData<N>,
}

impl<N> Default for Select<N> {
    fn default() -> Self {
        Self {
            patterns: Vec::new(),
            states: Vec::new(),
            attention: false,
            sort: None,
            reverse: false,
            top: None,
            noun: PhantomData,
        }
    }
}

impl<N> Select<N> {
    /// Whether rows can be left out because they do not fit; `top` leaves out rows that do.
    pub fn filters(&self) -> bool {
        !self.patterns.is_empty() || !self.states.is_empty() || self.attention
    }

    /// Whether any of the patterns fits, or there are none.
    pub fn names(&self, service: &str, backend: Option<&str>) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.fits(service, backend))
    }

    /// The filter as it was typed.
    pub fn describe(&self) -> String {
        let patterns = self.patterns.iter().map(|pattern| format!("`{pattern}`"));
        let states = self.states.iter().map(|state| format!("--{state}"));
        let attention = self.attention.then(|| "--attention".to_owned());
        patterns.chain(states).chain(attention).collect::<Vec<_>>().join(" ")
    }
}

impl<N: Noun> Args for Select<N> {
    fn augment_args(command: Command) -> Command {
        let parse: Parse = if N::BACKENDS { Pattern::parse } else { service };
        let help = match N::BACKENDS {
            true => {
                "Only these: a service, or SERVICE/BACKEND; * is any text, ? one character, as in 'web/*'"
            }
            false => "Only these services; * is any text, ? one character, as in 'web*'",
        };
        let patterns =
            Arg::new("patterns").value_name("PATTERN").num_args(0..).value_parser(parse).help(help);
        let heading = "Selection";
        let flag = |name: &'static str, help: String| {
            Arg::new(name).long(name).action(ArgAction::SetTrue).help(help).help_heading(heading)
        };
        let command = command.arg(patterns);
        let command = N::STATES.iter().fold(command, |command, state| {
            command.arg(flag(
                state,
                format!("Only those that are {state}; with others, those in one of the states"),
            ))
        });
        let command = if N::ATTENTION {
            command.arg(flag("attention", "Only those that need attention".into()))
        } else {
            command
        };
        command
            .arg(
                Arg::new("sort")
                    .long("sort")
                    .value_name("KEY")
                    .value_parser(PossibleValuesParser::new(N::keys()))
                    .help("Sort by this: numbers from the largest, texts from A")
                    .help_heading(heading),
            )
            .arg(flag("reverse", "The other way round".into()))
            .arg(
                Arg::new("top")
                    .long("top")
                    .value_name("NUMBER")
                    .value_parser(value::some)
                    .help("Only the first so many")
                    .help_heading(heading),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// From what is typed to a pattern.
type Parse = fn(&str) -> Result<Pattern, String>;

/// A pattern where there is nothing but services.
fn service(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    if pattern.names_backends() {
        return Err(format!(
            "`{text}` names backends, and this lists services; `lbctl backend list` lists backends"
        ));
    }
    Ok(pattern)
}

impl<N: Noun> FromArgMatches for Select<N> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let states = N::STATES.iter().copied().filter(|state| matches.get_flag(state));
        Ok(Self {
            patterns: matches.get_many::<Pattern>("patterns").into_iter().flatten().cloned().collect(),
            states: states.collect(),
            attention: N::ATTENTION && matches.get_flag("attention"),
            sort: matches.get_one::<String>("sort").cloned(),
            reverse: matches.get_flag("reverse"),
            top: matches.get_one::<usize>("top").copied(),
            noun: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
