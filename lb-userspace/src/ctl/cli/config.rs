//! `lbctl config …` as typed.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;

use super::value;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The configuration in force: file and run-time changes together, as TOML
    ///
    /// The seed is masked; a masked file is refused when it is applied.
    #[command(after_help = "Examples:\n  lbctl config show\n  lbctl config show --show-secrets > lb.toml")]
    Show {
        /// The seed, too
        #[arg(long)]
        show_secrets: bool,
    },
    /// Checks a file and changes nothing; needs no agent
    ///
    /// As `lbd --check` does: interfaces, the group of the socket, the state directory and the scrape address must be such
    /// that an agent can start with them here. With --any-host only the file is looked at, for a file of another host.
    #[command(
        after_help = "Examples:\n  lbctl config check /etc/lb/lb.toml\n  generate-config | lbctl config check --any-host -"
    )]
    Check {
        /// The file; - is standard input
        file: PathBuf,
        /// Look at the file only, not at this host
        #[arg(long)]
        any_host: bool,
    },
    /// What run-time changes change of the file, and what `apply` would change
    #[command(after_help = "Examples:\n  lbctl config diff")]
    Diff,
    /// Applies the agent's file as it is now, or FILE in its place
    ///
    /// A configuration with errors is refused whole, and what runs goes on. It holds on this balancer only: where there are
    /// several, apply it on every one of them, and compare the fingerprints that `lbctl status` shows.
    #[command(after_help = "Examples:\n  lbctl config apply\n  lbctl config apply new.toml\n  \
                      lbctl config apply new.toml --confirm 60s")]
    Apply {
        /// Replaces the agent's file with this one; - is standard input
        file: Option<PathBuf>,
        /// Go back to what was in force before, file and run-time changes, unless `config confirm` comes in this time
        #[arg(long, value_name = "DURATION", value_parser = value::duration)]
        confirm: Option<Duration>,
    },
    /// Keeps a configuration that was applied with `lbctl config apply --confirm 5m`
    #[command(after_help = "Examples:\n  lbctl config apply new.toml --confirm 60s\n  lbctl config confirm")]
    Confirm,
    /// Takes a configuration back at once that was applied with `lbctl config apply --confirm 5m` and not confirmed
    #[command(after_help = "Examples:\n  lbctl config rollback")]
    Rollback,
    /// Writes the run-time changes into the file
    #[command(after_help = "Examples:\n  lbctl config diff && lbctl config save")]
    Save,
    /// Drops the run-time changes: back to the file
    #[command(after_help = "Examples:\n  lbctl config revert")]
    Revert,
}
