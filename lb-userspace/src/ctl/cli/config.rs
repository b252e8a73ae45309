//! `lbctl config …` as typed.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The configuration in force: file and run-time changes together, as TOML
    #[command(after_help = "Examples:\n  lbctl config show\n  lbctl config show > lb.toml")]
    Show,
    /// Checks a file and changes nothing; needs no agent
    #[command(
        after_help = "Examples:\n  lbctl config check /etc/lb/lb.toml\n  generate-config | lbctl config check -"
    )]
    Check {
        /// The file; - is standard input
        file: PathBuf,
    },
    /// What run-time changes change of the file, and what `apply` would change
    #[command(after_help = "Examples:\n  lbctl config diff")]
    Diff,
    /// Applies the agent's file as it stands now, or FILE in its place
    ///
    /// A configuration with errors is refused whole, and what runs goes on.
    #[command(after_help = "Examples:\n  lbctl config apply\n  lbctl config apply new.toml")]
    Apply {
        /// Replaces the agent's file with this one; - is standard input
        file: Option<PathBuf>,
    },
    /// Writes the run-time changes into the file
    #[command(after_help = "Examples:\n  lbctl config diff && lbctl config save")]
    Save,
    /// Drops the run-time changes: back to the file
    #[command(after_help = "Examples:\n  lbctl config revert")]
    Revert,
}
