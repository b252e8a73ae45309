//! Options that follow from the settings of the configuration: one for each key, with its name.

use std::sync::LazyLock;

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::{PossibleValuesParser, RangedI64ValueParser},
};
use serde_json::{Map, Value};

use crate::config::keys::{self, Form, Section};

/// The settings of a service that have an option.
pub(super) static SERVICE: LazyLock<Vec<Setting>> = LazyLock::new(|| settings(&keys::SERVICE, ""));
/// Those of its health check.
pub(super) static HEALTH: LazyLock<Vec<Setting>> = LazyLock::new(|| settings(&keys::HEALTH, "health_"));

pub(super) struct Setting {
    /// The key, with the table that it is in: `health_port`.
    pub(super) name: String,
    /// The option without its two hyphens.
    long: String,
    value: String,
    key: &'static str,
    help: &'static str,
    form: Form,
}

fn settings(section: &Section, prefix: &str) -> Vec<Setting> {
    let settings = section.keys.iter().filter_map(|key| {
        let option = key.option.as_ref()?;
        let name = format!("{prefix}{}", key.name);
        Some(Setting {
            long: name.replace('_', "-"),
            value: match option.form {
                Form::Words(_) | Form::Switch => name.to_uppercase(),
                Form::Number { name, .. } => name.to_owned(),
                Form::Text(name) | Form::NumberOrText(name) | Form::List(name) => name.to_owned(),
            },
            name,
            key: key.name,
            help: option.help,
            form: option.form.clone(),
        })
    });
    settings.collect()
}

/// The command with an option for each setting, all of them in a group.
pub(super) fn arguments(settings: &'static [Setting], group: &'static str, command: Command) -> Command {
    let argument = |setting: &'static Setting| {
        let Setting { name, long, value, key: _, help, form } = setting;
        let argument = Arg::new(name.as_str()).long(long.as_str()).help(*help).group(group);
        let argument =
            if matches!(form, Form::Switch) { argument } else { argument.value_name(value.as_str()) };
        match form {
            Form::Words(words) => argument.value_parser(PossibleValuesParser::new(words.iter().copied())),
            Form::Number { most, .. } => {
                argument.value_parser(RangedI64ValueParser::<i64>::new().range(0..=(*most).into()))
            }
            Form::Text(_) | Form::NumberOrText(_) => argument,
            Form::List(_) => argument.action(ArgAction::Append).value_delimiter(','),
            Form::Switch => argument.action(ArgAction::SetTrue),
        }
    };
    command.args(settings.iter().map(argument))
}

/// The settings that were given, as a request has them.
pub(super) fn given(settings: &[Setting], matches: &ArgMatches) -> Map<String, Value> {
    let given = settings.iter().filter_map(|Setting { name, key, form, .. }| {
        let text = || matches.get_one::<String>(name).cloned();
        // The agent says which text is neither.
        let number_or_text = |text: String| text.parse::<u32>().map_or(text.into(), Value::from);
        let value = match form {
            Form::Words(_) | Form::Text(_) => text()?.into(),
            Form::Number { .. } => (*matches.get_one::<i64>(name)?).into(),
            Form::NumberOrText(_) => number_or_text(text()?),
            Form::List(_) => matches.get_many::<String>(name)?.cloned().map(number_or_text).collect(),
            Form::Switch => matches.get_flag(name).then_some(true)?.into(),
        };
        Some(((*key).to_owned(), value))
    });
    given.collect()
}
