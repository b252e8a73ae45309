//! Options that follow from the settings of the configuration: one for each key, with its name.

use clap::{
    Arg, ArgMatches, Command,
    builder::{PossibleValuesParser, RangedI64ValueParser},
};
use serde_json::{Map, Value};

use crate::config::keys::{CliOption, Form, Section};

/// The command with an option for each setting that has one, all of them in a group.
pub(super) fn arguments(section: &Section, group: &'static str, command: Command) -> Command {
    let arguments = section.keys.iter().filter_map(|key| {
        let CliOption { name, value, help, form } = key.option.as_ref()?;
        let argument = Arg::new(key.name).long(*name).value_name(*value).help(*help).group(group);
        Some(match form {
            Form::Words(words) => argument.value_parser(PossibleValuesParser::new(words.iter().copied())),
            Form::Number(most) => argument.value_parser(RangedI64ValueParser::<i64>::new().range(0..=*most)),
            Form::Text(_) | Form::NumberOrText(_) => argument,
        })
    });
    command.args(arguments)
}

/// The settings that were given, as a request has them.
pub(super) fn given(section: &Section, matches: &ArgMatches) -> Map<String, Value> {
    let given = section.keys.iter().filter_map(|key| {
        let text = || matches.get_one::<String>(key.name).cloned();
        let value = match key.option.as_ref()?.form {
            Form::Words(_) | Form::Text(_) => text()?.into(),
            Form::Number(_) => (*matches.get_one::<i64>(key.name)?).into(),
            // The agent says which text is neither.
            Form::NumberOrText(_) => {
                text().map(|text| text.parse::<u32>().map_or(text.into(), Value::from))?
            }
        };
        Some((key.name.to_owned(), value))
    });
    given.collect()
}
