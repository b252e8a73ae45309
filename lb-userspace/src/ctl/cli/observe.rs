//! `lbctl stats`, `health` and `events` as typed.

use std::time::Duration;

use clap::Args;

use super::value;

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
pub struct Stats {
    /// Counters that are 0, too
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct Events {
    /// Go on with what happens
    #[arg(short, long)]
    pub follow: bool,
    /// Only events with numbers above this one
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub since: u64,
}
