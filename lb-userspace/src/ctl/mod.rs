//! `lbctl`: from what was typed to a request, and from the answer to a table or JSON. [`cli`] is the definition,
//! [`client`] the way to the agent; every noun has its file. Nothing here knows how the agent does what it is asked.

pub mod backend;
pub mod backend_list;
pub mod cli;
pub mod client;
pub mod complete;
pub mod config;
pub mod detach;
pub mod drain;
pub mod events;
pub mod exit;
pub mod form;
pub mod generate;
pub mod health;
pub mod ipvs;
pub mod listing;
pub mod output;
pub mod pattern;
mod peer;
pub mod plan;
pub mod service;
pub mod service_list;
pub mod stats;
pub mod stats_rows;
pub mod status;
pub mod style;
pub mod table;
pub mod top;
pub mod units;
pub mod version;
pub mod watch;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use clap::{ColorChoice, CommandFactory, FromArgMatches};

use self::{
    cli::{Cli, Command, Generate},
    client::Client,
    exit::Failure,
    output::Context,
    style::Style,
};

/// Runs `lbctl` on the arguments of the process.
pub fn main() -> ExitCode {
    if let Some(candidates) = complete::answer() {
        // A shell that asks wants candidates or nothing.
        let _ = io::stdout().write_all(candidates.as_bytes());
        return ExitCode::SUCCESS;
    }
    // The parser's own messages have colours, too, and it knows of terminals but not of our flag.
    let plain = env::args_os().any(|argument| argument == "--no-color");
    let choice = if plain { ColorChoice::Never } else { ColorChoice::Auto };
    let parsed =
        Cli::command().color(choice).try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let Cli { global, command } = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let error = cli::with_tip(error);
            // When even that fails there is no one left to read it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let context = Context::new(&global, Client::new(global.socket.clone(), &global.instance));
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(run(&context, command)));
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    let report = failure.report(global.output, &Style::of(&io::stderr(), global.no_color));
    let _ = io::stderr().write_all(report.as_bytes());
    ExitCode::from(failure.exit_code())
}

async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    if context.output == cli::Output::Name && !command.has_names() {
        return Err(Failure::Usage(output::NO_NAMES.into()));
    }
    match command {
        Command::Status(watch) => status::run(context, watch).await,
        Command::Service(command) => service::run(context, *command).await,
        Command::Backend(command) => backend::run(context, command).await,
        Command::Config(command) => config::run(context, command).await,
        Command::Plan { file } => plan::run(context, &file).await,
        Command::Stats(arguments) => stats::run(context, arguments).await,
        Command::Health(arguments) => health::run(context, arguments).await,
        Command::Top(arguments) => top::run(context, &arguments).await,
        Command::Ipvs(arguments) => ipvs::run(context, &arguments).await,
        Command::Events(arguments) => events::run(context, arguments).await,
        Command::Metrics(cli::monitor::Metrics { scope }) => {
            let query = if scope.is_empty() { String::new() } else { format!("?scope={}", scope.join(",")) };
            let text = context.client.text(hyper::Method::GET, &format!("/v1/metrics{query}"), None).await?;
            context.print(&String::from_utf8_lossy(&text))
        }
        Command::Version => version::show(context).await,
        Command::Detach(arguments) => detach::run(context, &arguments).await,
        Command::Generate(Generate::Completions { shell }) => generate::completions(context, shell),
        Command::Generate(Generate::Man { directory: Some(directory), page: _ }) => {
            generate::man(context, &directory)
        }
        Command::Generate(Generate::Man { directory: None, page }) => generate::page(context, &page),
    }
}
