//! What can be typed: the one definition that parsing, `--help`, the man pages and the completions are made of.
//! What a command does lives in the file of its noun next to this folder.

pub mod backend;
pub mod config;
pub mod ipvs;
pub mod monitor;
pub mod select;
pub mod service;
mod setting;
pub mod value;

use std::path::PathBuf;

use clap::{
    Args, CommandFactory, Parser, Subcommand, ValueEnum,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::instance::paths::check_instance;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the agent refused, or something failed
  2  wrong usage, bad input or an invalid configuration
  3  a deadline passed (backend drain --wait)
  4  no agent could be reached
  5  a pattern or a filter fits nothing";

const EXAMPLES: &str = "\
Examples:
  lbctl status
  lbctl backend drain web/web-1 --wait
  lbctl -o json service list | jq -r '.[].name'
  lbctl be ls 'web/*' --down
  lbctl --instance edge stats --watch";

/// Inspects and controls a running lbd
///
/// It speaks with the agent of this host. Where several balancers serve the same addresses, what is changed here has to be
/// changed on every one of them.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version, max_term_width = 100, infer_subcommands = true)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// `table` for people, the others for scripts: `json` is what the agent answered, unchanged
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
    /// Control socket of the agent [default: /run/lb/<INSTANCE>.sock]
    #[arg(long, global = true, env = "LB_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Instance of the agent
    #[arg(long, global = true, env = "LB_INSTANCE", default_value = "main", value_name = "NAME",
          value_parser = check_instance)]
    pub instance: String,
    /// No colours; they are off anyway where the output is no terminal or NO_COLOR is set
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// The same with every column, and nothing left out
    Wide,
    /// What the agent answered; with filters, what is left of it
    Json,
    /// The same as YAML
    Yaml,
    /// The same as rows below the names of the JSON keys; objects in objects as `totals.packets`
    Csv,
    /// Of lists: only the names, one a line
    Name,
}

impl Command {
    /// Whether it has names to show for `-o name`.
    pub fn has_names(&self) -> bool {
        match self {
            Self::Status(_) | Self::Stats(_) | Self::Health(_) => true,
            Self::Service(command) => matches!(**command, service::Command::List { .. }),
            Self::Backend(command) => matches!(command, backend::Command::List { .. }),
            // What they write is the same in every form.
            Self::Metrics(_) | Self::Ipvs(_) | Self::Generate(_) => true,
            Self::Config(_)
            | Self::Plan { .. }
            | Self::Events(_)
            | Self::Version
            | Self::Detach(_)
            | Self::Top(_) => false,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The agent: what needs attention, what it runs, where it is attached, how full its maps are
    ///
    /// With many services only those that need attention are shown, and the others are counted; -o wide shows all.
    #[command(after_help = "Examples:\n  lbctl status\n  lbctl status --watch\n  \
                            lbctl -o json status | jq .fingerprint")]
    Status(monitor::Watch),
    /// Services: see them, add them, change them, remove them
    ///
    /// The beginning of a command's name will do where it is the beginning of one only, here and everywhere.
    #[command(subcommand, visible_alias = "svc")]
    #[command(after_help = "Examples:\n  lbctl service list\n  lbctl service show web\n  lbctl svc ls")]
    Service(Box<service::Command>),
    /// Backends of the services: see what becomes of them, change them, drain them
    #[command(
        subcommand,
        visible_alias = "be",
        after_help = "Examples:\n  lbctl backend list web\n  lbctl backend drain web/web-1 --wait"
    )]
    Backend(backend::Command),
    /// The configuration: show, check, diff, apply, confirm, rollback, save, revert
    #[command(subcommand, after_help = "Examples:\n  lbctl config check lb.toml\n  lbctl config diff")]
    Config(config::Command),
    /// What a file would change: backends, slots, flows, for how long; changes nothing
    ///
    /// For each service: slots that get another owner, and which of them go from one unchanged backend to another
    /// (collateral); live tracked flows in them, and those that would be cut; how many slots would be
    /// tracked, and for how long. New backends are taken for healthy and reachable. Ends with 0 whatever would change,
    /// and with 2 where the file would be refused.
    #[command(after_help = "Examples:\n  lbctl plan new.toml\n  generate-config | lbctl plan -\n  \
                            lbctl -o json plan new.toml | jq '.services[] | {name, moved_percent}'")]
    Plan {
        /// The file; - is standard input
        file: PathBuf,
    },
    /// Packets by reason, service and backend
    #[command(after_help = "Examples:\n  lbctl stats\n  lbctl stats --watch --interval 2s\n  \
                      lbctl stats 'web/*' --watch --sort rate --top 10\n  lbctl -o json stats")]
    Stats(monitor::Stats),
    /// What health checks say of the backends
    #[command(after_help = "Examples:\n  lbctl health\n  lbctl health --watch\n  \
                            lbctl health --down --sort since --top 20")]
    Health(monitor::Health),
    /// Services, their backends and reasons of packets with their rates, live on the terminal
    ///
    /// Keys: enter opens a service, / filters, s sorts, d drains a backend after showing what that would do, ? shows the others, q
    /// quits.
    #[command(after_help = "Examples:\n  lbctl top\n  lbctl top --interval 5s")]
    Top(monitor::Top),
    /// The services as ipvsadm shows its own, for scripts that read that
    ///
    /// ActiveConn are live tracked flows, InActConn those that have sent nothing for idle_after; flows that are not tracked are
    /// not counted. Replies do not pass the balancer: OutPkts and OutBytes are 0. -L and -n are taken as ipvsadm takes them,
    /// and change nothing.
    #[command(
        after_help = "Examples:\n  lbctl ipvs -Ln\n  lbctl ipvs -Ln --stats\n  lbctl ipvs -Ln --rate\n  \
                            lbctl ipvs -Ln -t 203.0.113.10:443"
    )]
    Ipvs(ipvs::Ipvs),
    /// What happened in the agent: transitions of backends, who changed what, trouble
    ///
    /// With -o json one object a line. lb-userspace/doc/events.md lists the kinds.
    #[command(
        after_help = "Examples:\n  lbctl events -n 20\n  lbctl events --follow\n  lbctl events --since 10m \
                            --object web\n  lbctl events --kind changed,change_refused\n  \
                            lbctl -o json events --since 14:05 | jq -r .message"
    )]
    Events(monitor::Events),
    /// Metrics in the Prometheus text format, whatever -o says
    #[command(after_help = "Examples:\n  lbctl metrics\n  lbctl metrics --scope node,service\n  \
                            lbctl metrics | grep lb_backend_state")]
    Metrics(monitor::Metrics),
    /// Versions of lbctl and of the agent
    #[command(after_help = "Examples:\n  lbctl version")]
    Version,
    /// Takes the program off every interface and removes the maps; the agent stops
    ///
    /// From then on packets for the services go to this host's own stack. Connections are cut. Asks first, on a
    /// terminal; to stop only the agent and keep forwarding, send it SIGTERM.
    #[command(after_help = "Examples:\n  lbctl detach\n  lbctl detach --yes")]
    Detach(Detach),
    /// Completions and man pages
    #[command(
        subcommand,
        after_help = "Examples:\n  lbctl generate completions bash\n  lbctl generate man /usr/local/share/man"
    )]
    Generate(Generate),
}

#[derive(Args, Debug)]
pub struct Detach {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Generate {
    /// Completions for a shell, on standard output
    ///
    /// Those of bash, zsh and fish ask lbctl at each key, and complete the names of services and backends, too, where an agent
    /// runs.
    #[command(after_help = "Examples:\n  lbctl generate completions bash > /etc/bash_completion.d/lbctl\n  \
                            lbctl generate completions fish > ~/.config/fish/completions/lbctl.fish")]
    Completions { shell: clap_complete::Shell },
    /// Man pages of lbctl and lbd, one for each command
    ///
    /// With a directory, all of them, where man looks for them below it: DIR/man1/lbctl.1, DIR/man1/lbctl-status.1, …,
    /// DIR/man8/lbd.8, …. Without one, a single page on standard output.
    #[command(after_help = "Examples:\n  lbctl generate man /usr/local/share/man\n  \
                            lbctl generate man | man -l -\n  lbctl generate man --page lbd | man -l -")]
    Man {
        /// Where the pages go; made where it does not exist
        #[arg(value_name = "DIR", conflicts_with = "page")]
        directory: Option<PathBuf>,
        /// The page for standard output, for example lbd or lbctl-backend-drain
        #[arg(long, value_name = "NAME", default_value = "lbctl")]
        page: String,
    },
}

/// Verbs follow nouns: `lbctl drain web/web-1` gets the tip that it is `lbctl backend drain`.
pub fn with_tip(mut error: clap::Error) -> clap::Error {
    let verb = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => word.clone(),
        _ => return error,
    };
    let cli = Cli::command();
    let nouns = cli.get_subcommands().filter(|noun| noun.find_subcommand(&verb).is_some());
    let whole: Vec<String> =
        nouns.map(|noun| format!("'{} {} {verb}'", cli.get_name(), noun.get_name())).collect();
    if !whole.is_empty() {
        let tip = StyledStr::from(format!("there is {}", whole.join(", ")));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

#[cfg(test)]
mod tests;
