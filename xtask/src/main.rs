//! `cargo xtask`: argument parsing and exit codes, nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{lab, setup};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The commands of this repository")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install what building, testing and the lab need
    Setup(setup::SetupArgs),
    /// The lab by hand: network namespaces with clients, a balancer and backends
    Lab(lab::cli::LabArgs),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup(arguments) => setup::main(&arguments),
        Command::Lab(arguments) => lab::cli::main(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", xtask::ui::red("error:"));
            ExitCode::FAILURE
        }
    }
}
