//! `lbctl stats`, `health` and `events` as typed, and looking again and again.

use std::time::Duration;

use clap::{Args, builder::PossibleValuesParser};

use super::{select::Select, value};
use crate::{
    api::{kind::Kind, scope::Scope, since::Since, view},
    ctl::stats_rows::Traffic,
};

#[derive(Args, Clone, Copy, Debug)]
pub struct Watch {
    /// Show it again and again, until interrupted
    #[arg(short, long)]
    pub watch: bool,
    /// Time between two looks
    #[arg(long, requires = "watch", default_value = "1s", value_name = "DURATION", value_parser = value::interval)]
    pub interval: Duration,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct Top {
    /// Time between two looks
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = value::interval)]
    pub interval: Duration,
}

#[derive(Args, Debug)]
pub struct Metrics {
    /// Only metrics of these; without it, what the agent's configuration says
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', value_parser = scopes())]
    pub scope: Vec<String>,
}

fn scopes() -> PossibleValuesParser {
    PossibleValuesParser::new(Scope::ALL.map(Scope::name))
}

#[derive(Args, Debug)]
pub struct Health {
    #[command(flatten)]
    pub select: Select<view::Health>,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Args, Debug)]
pub struct Stats {
    /// Counters that are 0, too
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub select: Select<Traffic>,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Args, Clone, Debug)]
pub struct Events {
    #[command(flatten)]
    pub selection: Selection,
    /// Only events about this service with its backends, this backend (web/web-1), interface or file; may be repeated
    #[arg(long, value_name = "NAME")]
    pub object: Vec<String>,
}

/// Which events are shown.
#[derive(Args, Clone, Debug)]
pub struct Selection {
    /// Follow new events, over restarts of the agent, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only events since then: how long ago (10m), a time in UTC (14:05, 2026-02-28T14:05:00Z), or an event's number
    #[arg(long, value_name = "WHEN", value_parser = Since::parse)]
    pub since: Option<Since>,
    /// Only events of these kinds; may be repeated
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = Kind::parse)]
    pub kind: Vec<Kind>,
    /// Only the last so many; with --follow, before what happens next
    #[arg(short = 'n', long, visible_alias = "limit", value_name = "NUMBER", value_parser = value::count)]
    pub lines: Option<usize>,
}
