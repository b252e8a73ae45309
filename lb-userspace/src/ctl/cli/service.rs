//! `lbctl service …` as typed. The options have the names of the configuration's keys.

use std::sync::LazyLock;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand, builder::PossibleValuesParser};
use serde_json::{Map, Value};

use super::setting;
use crate::config::keys;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every service, a line each
    #[command(after_help = "Examples:\n  lbctl service list")]
    List,
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
    #[command(after_help = "Examples:\n  lbctl service remove web")]
    Remove { service: String },
}

/// The keys of a service that have a default, and those of its health check with `health_` before them.
fn unset() -> PossibleValuesParser {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let own = keys::SERVICE.keys.iter().filter(|key| key.option.is_some() || key.name == "health");
        let health = keys::HEALTH.names().filter(|name| *name != "kind");
        own.map(|key| key.name.to_owned()).chain(health.map(|name| format!("health_{name}"))).collect()
    });
    PossibleValuesParser::new(NAMES.iter().map(String::as_str))
}

/// The settings that are given, under the configuration's names.
#[derive(Debug, Default)]
pub struct Fields {
    pub settings: Map<String, Value>,
    pub health: Health,
}

impl Args for Fields {
    fn augment_args(command: clap::Command) -> clap::Command {
        Health::augment_args(setting::arguments(&keys::SERVICE, "change", command))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Fields {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let settings = setting::given(&keys::SERVICE, matches);
        Ok(Self { settings, health: Health::from_arg_matches(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The health check. `set` changes what is given of it, unless a kind is given, too.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Health check (--health KIND replaces all of it, the others change a part)")]
#[group(id = "health_fields", multiple = true)]
pub struct Health {
    /// tcp, http, https, none, default, or the check as a JSON object; with its kind it replaces the check there is
    #[arg(long, group = "change", value_name = "KIND|JSON")]
    pub health: Option<String>,
    /// Port to check
    #[arg(long, group = "change", value_name = "PORT")]
    pub health_port: Option<u16>,
    /// Path and query to ask for
    #[arg(long, group = "change", value_name = "PATH")]
    pub health_path: Option<String>,
    /// Host header and TLS server name
    #[arg(long, group = "change", value_name = "NAME")]
    pub health_host: Option<String>,
    /// Status codes that count as success, as in 200 or 200-299; may be repeated
    #[arg(long, group = "change", value_name = "CODES", value_delimiter = ',')]
    pub health_expect: Vec<String>,
    /// Text that must occur in the body
    #[arg(long, group = "change", value_name = "TEXT")]
    pub health_body: Option<String>,
    /// From one probe to the next, as in 1s
    #[arg(long, group = "change", value_name = "DURATION")]
    pub health_interval: Option<String>,
    /// The same while a verdict is being made
    #[arg(long, group = "change", value_name = "DURATION")]
    pub health_fast_interval: Option<String>,
    /// A probe that takes longer has failed
    #[arg(long, group = "change", value_name = "DURATION")]
    pub health_timeout: Option<String>,
    /// Successes in a row that make a backend up
    #[arg(long, group = "change", value_name = "N")]
    pub health_rise: Option<u32>,
    /// Failures in a row that make it down
    #[arg(long, group = "change", value_name = "N")]
    pub health_fall: Option<u32>,
    /// https: check the certificate
    #[arg(long, group = "change")]
    pub health_verify: bool,
    /// https with --health-verify: PEM file with the roots to trust
    #[arg(long, group = "change", value_name = "FILE")]
    pub health_ca: Option<String>,
}
