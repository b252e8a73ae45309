//! `cargo xtask`: argument parsing and exit codes, nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{
    bench, build, children, churn, demo, docs, doctor, fuzz, golden, kernels, lab, pipe, setup, stack::serve,
    test, tidy, workspace,
};

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
    /// Say what of this host is fine, missing or slower, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Build everything and say where it is
    Build(build::BuildArgs),
    /// Run every tier of tests and sum up
    Test(test::TestArgs),
    /// Check the repository's own rules
    Tidy(tidy::TidyArgs),
    /// Write the documents that are generated, or check that they are current
    Docs(docs::DocsArgs),
    /// Try everything on kernels of other ages, in virtual machines
    Kernels(kernels::KernelsArgs),
    /// Measure what a packet, a change and a check cost, and hold it against the targets
    Bench(bench::BenchArgs),
    /// Hold the programs against the model with random packets, and the pure parts against random input
    Fuzz(fuzz::FuzzArgs),
    /// Add golden captures, or play them: packets in, packets out
    Golden(golden::GoldenArgs),
    /// Show the load balancer at work in a lab, on one screen
    Demo(demo::DemoArgs),
    /// Prove in a lab that no established connection breaks while backends, configuration and agent change
    Churn(churn::ChurnArgs),
    /// The lab by hand: network namespaces with clients, a balancer and backends
    Lab(lab::cli::LabArgs),
    /// The web server of labs without nginx
    #[command(hide = true)]
    Serve(serve::ServeArgs),
    /// The server of a backend in `churn`
    #[command(hide = true)]
    ChurnServer(churn::server::ServerArgs),
}

fn main() -> ExitCode {
    // What unwinds takes the lab away; a signal would leave it.
    match pipe::watch(|| started(Arguments::parse().command)) {
        Some(code) => code,
        None => ExitCode::from(pipe::CLOSED),
    }
}

fn started(command: Command) -> ExitCode {
    // The servers run on the lab's nodes, in whatever directory.
    let is_server = matches!(command, Command::Serve(_) | Command::ChurnServer(_));
    let result = if is_server { Ok(()) } else { workspace::enter() };
    let result = result.and_then(|()| run(command));
    children::stay_if_ending();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // What fails because the lab is being taken away is no news; that ends the process.
        Err(_) if lab::is_ending() => loop {
            std::thread::park();
        },
        Err(error) => {
            eprintln!("{} {error:#}", xtask::ui::red("error:"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a command; whether it found everything well.
fn run(command: Command) -> anyhow::Result<bool> {
    let done = |()| true;
    match command {
        Command::Setup(arguments) => setup::main(&arguments).map(done),
        Command::Doctor(arguments) => doctor::main(&arguments),
        Command::Build(arguments) => build::main(&arguments).map(done),
        Command::Test(arguments) => test::main(&arguments),
        Command::Tidy(arguments) => tidy::main(&arguments).map(done),
        Command::Docs(arguments) => docs::main(&arguments),
        Command::Kernels(arguments) => kernels::main(&arguments),
        Command::Bench(arguments) => bench::main(&arguments),
        Command::Fuzz(arguments) => fuzz::main(&arguments),
        Command::Golden(arguments) => golden::main(&arguments),
        Command::Demo(arguments) => demo::main(&arguments),
        Command::Churn(arguments) => churn::main(&arguments),
        Command::ChurnServer(arguments) => churn::server::main(&arguments).map(done),
        Command::Serve(arguments) => serve::main(&arguments).map(done),
        Command::Lab(arguments) => lab::cli::main(&arguments).map(done),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    /// What comes behind `cargo xtask` in a line of a block, or between backticks; and whether it is a whole line.
    fn lines(text: &str) -> Vec<(usize, String, bool)> {
        let (mut all, mut fenced, mut open) = (Vec::new(), false, String::new());
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if fenced {
                open.push_str(line.trim());
                if open.ends_with('\\') {
                    open.pop();
                    continue;
                }
                all.push((number, std::mem::take(&mut open), true));
            } else {
                all.extend(line.split('`').skip(1).step_by(2).map(|span| (number, span.to_owned(), false)));
            }
        }
        all.retain(|(_, line, _)| line.contains("cargo xtask "));
        all
    }

    /// The words of a command; quotes keep theirs together. Words after two spaces are a remark, as in the documents.
    fn words(line: &str) -> Vec<String> {
        let command = line.split_once("cargo xtask ").map_or(line, |(_, rest)| rest);
        let command = command.split("  ").next().unwrap_or_default();
        let mut words = vec!["cargo xtask".to_owned()];
        for (part, text) in command.split('\'').enumerate() {
            match part % 2 {
                0 => words.extend(
                    text.split(['#', '&', '|'])
                        .next()
                        .unwrap_or_default()
                        .split_whitespace()
                        .map(str::to_owned),
                ),
                _ => words.push(text.to_owned()),
            }
        }
        words
    }

    #[test]
    fn every_command_line_in_the_documents_is_taken() {
        let (mut tried, mut wrong) = (0, Vec::new());
        for file in tidy::documents().expect("documents") {
            let name = &file.path;
            for (number, line, whole) in lines(&file.text) {
                if line.contains('…') {
                    continue;
                }
                tried += 1;
                let Err(error) = Arguments::try_parse_from(words(&line)) else { continue };
                // Between words a command's beginning is named, too, and help is no mistake anywhere.
                let beginning = matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                );
                if error.kind() != ErrorKind::DisplayHelp && (whole || !beginning) {
                    wrong.push(format!("{name}:{number}: {line}: {error}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(tried > 40, "{tried} command lines were found");
    }
}
