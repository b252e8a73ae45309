//! What an operator can type after `lbd`: the one definition from which parsing, `--help` and the man pages are made.
//! What each command does is in `bin/lbd.rs` and in [`crate::agent::run`].

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};
use log::LevelFilter;

use crate::instance::paths::{DEFAULT_INSTANCE, check_instance};

/// The agent of the load balancer: fills the maps of the XDP program, checks the health of backends and serves the
/// control socket. Packets are forwarded by the kernel, with or without it.
#[derive(Parser)]
#[command(
    name = "lbd",
    version,
    after_help = "Examples:\n  \
        lbd --check --config lb.toml         validate a file, change nothing\n  \
        lbd --config /etc/lb/lb.toml         run in the foreground\n  \
        lbd --require-attach                 exit code 1 where an interface cannot be attached\n  \
        lbd --log-format json                one JSON object a line, for collectors\n  \
        lbd --bpf-log debug                  one log line a packet, for developers\n  \
        lbd --detach                         take the program off and remove every pin\n  \
        lbd --force                          run, in place of another instance on the same interface\n  \
        lbd decap attach --help              the other end, on a backend\n\n\
        Signals: SIGHUP reads the file again (`lbctl config apply` does the same and tells whether it was refused); \
        SIGTERM stops the agent and leaves the data path forwarding.\n\
        Exit codes: 0 done, 1 failed, 2 the configuration or the command line was refused."
)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/lb/lb.toml", env = "LB_CONFIG")]
    pub config: PathBuf,
    /// Which balancer of this host, or which `lbd decap`: pins, socket, lock and overlay carry its name.
    #[arg(
        long, value_name = "NAME", default_value = DEFAULT_INSTANCE, env = "LB_INSTANCE", value_parser = check_instance,
        global = true
    )]
    pub instance: String,
    /// Control socket instead of /run/lb/<instance>.sock.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Only validate the configuration: every error at once, exit code 2 if there is one.
    #[arg(long, conflicts_with = "detach")]
    pub check: bool,
    /// Take the program off every interface and remove all pins of the instance. No agent may be running.
    #[arg(long)]
    pub detach: bool,
    /// Take an interface over that carries a program of lb already, of another instance or put there by hand. Programs of
    /// others are never touched. With --detach: also where the pins belong to another network namespace.
    #[arg(long, conflicts_with = "check")]
    pub force: bool,
    /// End with exit code 1 where an interface cannot be attached at the start, instead of trying again every 5 s. The service
    /// manager hears READY=1 only when every interface is attached, either way.
    #[arg(long, conflicts_with_all = ["check", "detach"])]
    pub require_attach: bool,
    /// What lbd itself logs; the environment variable LB_LOG overrides it, in env_logger's syntax.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LevelFilter,
    /// Lines for people, or one JSON object a line: time, level, target, message, and kind and object of events.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", env = "LB_LOG_FORMAT")]
    pub log_format: Format,
    /// What the XDP program logs, for developers. Off, it costs nothing: the verifier removes it.
    #[arg(long, value_name = "LEVEL", default_value = "off")]
    pub bpf_log: LevelFilter,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: time, level, message. Without a time, and with a priority instead of the level, where standard error
    /// goes to the journal of systemd.
    Text,
    /// For collectors: one object a line.
    Json,
}

#[derive(Subcommand)]
pub enum Command {
    /// The other end, on a backend: take outer headers off in XDP, for hosts without a tunnel device. Needs no daemon.
    #[command(subcommand)]
    Decap(Decap),
    /// For labs.
    #[command(subcommand, hide = true)]
    Dev(Dev),
}

#[derive(Args)]
pub struct Interface {
    /// The interface packets come in on.
    #[arg(long, value_name = "NAME")]
    pub interface: String,
}

#[derive(Subcommand)]
pub enum Decap {
    /// Attach, or change the addresses of what is attached.
    #[command(
        after_help = "Example:\n  lbd decap attach --interface eth0 --address 10.0.0.11 --address 2001:db8::11"
    )]
    Attach {
        #[command(flatten)]
        interface: Interface,
        /// An address outer headers carry as destination: the backend's own. May be given more than once.
        #[arg(long, value_name = "ADDRESS", required = true)]
        address: Vec<std::net::IpAddr>,
        /// The kind of outer header that may come off there. May be given more than once.
        #[arg(long, value_name = "KIND", default_value = "ipip", value_parser = ["ipip", "gue"])]
        kind: Vec<String>,
        /// Stay until SIGTERM or SIGINT, and take it off then.
        #[arg(long)]
        foreground: bool,
    },
    /// Take it off again.
    Detach {
        #[command(flatten)]
        interface: Interface,
    },
    /// Its counters.
    Stats {
        #[command(flatten)]
        interface: Interface,
        /// For scripts.
        #[arg(long, short, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
        output: String,
    },
}

#[derive(Subcommand)]
pub enum Dev {
    /// Attach a program that passes everything: a veth end takes XDP_TX frames of its peer only with one.
    XdpPass {
        #[command(flatten)]
        interface: Interface,
    },
}

/// Reports what is wrong with the command line, and ends the process.
pub fn refuse(error: clap::Error) -> ! {
    with_tip(error).exit()
}

/// Many programs take their file without an option in front; so a file that is typed here gets a tip.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let file = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => word.clone(),
        _ => return error,
    };
    if file.contains(['/', '.']) {
        let tip = StyledStr::from(format!("a configuration is named by '--config {file}'"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_file_without_its_option_gets_a_tip() {
        let said = |line: &str| match Cli::try_parse_from(line.split(' ')) {
            Ok(_) => panic!("{line} was accepted"),
            Err(error) => with_tip(error).to_string(),
        };
        let tip = "tip: a configuration is named by '--config lb.toml'";
        assert!(said("lbd --check lb.toml").contains(tip), "{}", said("lbd --check lb.toml"));
        assert!(!said("lbd start").contains("--config"), "{}", said("lbd start"));
    }
}
