//! `lbctl service …` as typed. The options have the names of the configuration's keys.

use clap::{Arg, ArgMatches, Args, FromArgMatches, Subcommand, builder::PossibleValuesParser};
use serde_json::{Map, Value};

use super::{
    monitor::Watch,
    select::Select,
    setting::{self, Setting},
};
use crate::{
    api::view,
    config::{spec::Scheme, words::Word as _},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every service, a line each
    ///
    /// A service is up where all of its enabled backends take new flows, degraded where some do, and down where none does. A
    /// pattern or a filter that nothing fits ends with 5.
    #[command(visible_alias = "ls")]
    #[command(
        after_help = "Examples:\n  lbctl service list\n  lbctl service list 'web*' --sort packets --top 20\n  \
                            lbctl service list --attention\n  lbctl service list -o wide"
    )]
    List {
        #[command(flatten)]
        select: Select<view::Service>,
        #[command(flatten)]
        watch: Watch,
    },
    /// One service with its ring and its backends
    #[command(after_help = "Examples:\n  lbctl service show web")]
    Show { service: String },
    /// Adds a service; it lasts over restarts, `config save` writes it into the file
    #[command(
        after_help = "Examples:\n  lbctl service add web --listen tcp/203.0.113.10:443 --health http --health-port 8080 \
                            --health-path /healthz\n  lbctl service add dns --listen 'udp/[2001:db8::10]:53' --health none\n  \
                            lbctl service add api --listen tcp/203.0.113.11:80 --health '{\"kind\": \"tcp\", \"fall\": 3}'"
    )]
    #[command(group = clap::ArgGroup::new("change").multiple(true))]
    Add {
        service: String,
        /// Protocol, virtual address and port, as in tcp/203.0.113.10:443; port 0 is every port
        #[arg(long, value_name = "PROTOCOL/ADDRESS:PORT")]
        listen: String,
        #[command(flatten)]
        fields: Fields,
    },
    /// Changes fields of a service
    #[command(
        after_help = "Examples:\n  lbctl service set web --on-down hold\n  lbctl service set web --track always\n  lbctl service set web --hash source\n  lbctl service set web --track always --balance round-robin\n  lbctl service set web --health none\n  \
                      lbctl service set web --health-fall 5\n  \
                      lbctl service set web --unset on_down,health_body"
    )]
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set {
        service: String,
        /// Protocol, virtual address and port
        #[arg(long, value_name = "PROTOCOL/ADDRESS:PORT", group = "change")]
        listen: Option<String>,
        #[command(flatten)]
        fields: Fields,
        /// Reset a field to its default; may be repeated
        #[arg(long, group = "change", value_name = "FIELD", value_delimiter = ',', value_parser = unset())]
        unset: Vec<String>,
    },
    /// Removes a service with its backends; its connections are cut
    #[command(visible_alias = "rm", after_help = "Examples:\n  lbctl service remove web")]
    Remove { service: String },
}

/// The keys of a service that have a default, and those of its health check with `health_` before them.
fn unset() -> PossibleValuesParser {
    let names = |settings: &'static [Setting]| settings.iter().map(|setting| setting.name.as_str());
    PossibleValuesParser::new(names(&setting::SERVICE).chain(["health"]).chain(names(&setting::HEALTH)))
}

/// The settings that are given, under the configuration's names.
#[derive(Debug, Default)]
pub struct Fields {
    pub settings: Map<String, Value>,
    /// The health check as a whole: a kind, a word or JSON.
    pub health: Option<String>,
    /// Settings of the health check. `set` changes these alone, unless a kind is given, too.
    pub health_settings: Map<String, Value>,
}

impl Args for Fields {
    fn augment_args(command: clap::Command) -> clap::Command {
        const HEALTH: &str = "Health check (--health KIND replaces all of it, the others change a part)";
        let kinds: Vec<&str> = Scheme::WORDS.iter().map(|(word, _)| *word).collect();
        let health = Arg::new("health").long("health").value_name("KIND|JSON").group("change").help(format!(
            "{}, none, default, or the check as a JSON object; with its kind it replaces the check there is",
            kinds.join(", ")
        ));
        let command = setting::arguments(&setting::SERVICE, "change", command);
        setting::arguments(&setting::HEALTH, "change", command.next_help_heading(HEALTH).arg(health))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Fields {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            settings: setting::given(&setting::SERVICE, matches),
            health: matches.get_one::<String>("health").cloned(),
            health_settings: setting::given(&setting::HEALTH, matches),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
