//! The agent's entry point: logger, what to do, exit code. What can be typed is in `lb_userspace::agent::cli`.

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use lb_userspace::{
    agent::{
        self, Options,
        cli::{self, Cli, Command, Decap, Dev, Interface},
        logger,
        paths::{PINS, Paths},
        run::Refused,
    },
    config::{self, spec::AttachMode},
    dataplane::{decap, kernel, lock::Lock, pass, privileges},
    net::{link, source},
};

pub(crate) fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| cli::refuse(error));
    let logger = logger::init(cli.log, cli.bpf_log, cli.log_format);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Refused>() => {
            // One error a line, as compilers do: editors can jump to them.
            logger.ends(&error.to_string());
            ExitCode::from(2)
        }
        Err(error) => {
            logger.ends(&format!("lbd: {}", told(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, but those it has named itself.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        before if before.contains(&cause) => text,
        before => format!("{before}: {cause}"),
    })
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Some(Command::Decap(command)) => return run_decap(command),
        Some(Command::Dev(Dev::XdpPass { interface })) => {
            privileges::check()?;
            return Ok(pass::attach(&interface.interface)?);
        }
        None => {}
    }
    if cli.check {
        return check(&cli.config);
    }
    if cli.detach {
        privileges::check()?;
        let paths = Paths::new(&cli.instance);
        let _lock = Lock::take(&paths.lock, &cli.instance)?;
        kernel::detach(&paths.pins)?;
        println!("instance {}: no program and no pin is left", cli.instance);
        return Ok(());
    }
    let bpf_log = cli.bpf_log.to_level();
    let options = Options {
        config: cli.config,
        instance: cli.instance,
        socket: cli.socket,
        bpf_log,
        force: cli.force,
        require_attach: cli.require_attach,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(agent::run::run(options))
}

fn check(file: &std::path::Path) -> Result<()> {
    let name = file.display().to_string();
    let exists = |interface: &str| link::index_of(interface).is_some();
    let document = config::read(file).and_then(|text| config::parse_on_host(&text, &name, &exists));
    match document {
        Ok(document) => {
            let backends: usize = document.spec.services.iter().map(|service| service.backends.len()).sum();
            let services = count(document.spec.services.len(), "service");
            println!("{name}: ok, {services}, {}", count(backends, "backend"));
            for warning in config::advice(&document.spec, &source::towards) {
                println!("warning: {warning}");
            }
            Ok(())
        }
        Err(errors) => Err(Refused(errors.iter().map(ToString::to_string).collect()).into()),
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn run_decap(command: Decap) -> Result<()> {
    privileges::check()?;
    let base = std::path::Path::new(PINS);
    match command {
        Decap::Attach { interface: Interface { interface }, address } => {
            let attached = decap::attach(base, &interface, &address, AttachMode::Auto)?;
            println!("{interface}: outer headers are taken off in {} mode", attached.mode.name());
            if let Some(note) = attached.note {
                println!("{interface}: {note}");
            }
        }
        Decap::Detach { interface: Interface { interface } } => {
            let what = if decap::detach(base, &interface)? { "taken off" } else { "was not attached" };
            println!("{interface}: lb_decap {what}");
        }
        Decap::Stats { interface: Interface { interface }, output } => {
            let decap::Stats { counters, addresses } = decap::stats(base, &interface)?;
            let mut out = std::io::stdout().lock();
            if output == "json" {
                let counters: serde_json::Map<_, _> =
                    counters.iter().map(|(c, value)| (c.name().to_owned(), (*value).into())).collect();
                let stats = serde_json::json!({
                    "interface": interface, "addresses": addresses, "counters": counters,
                });
                writeln!(out, "{}", serde_json::to_string_pretty(&stats)?)?;
            } else {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                writeln!(out, "{interface}: addresses {}", addresses.join(", "))?;
                for (counter, value) in counters {
                    writeln!(out, "{:20} {value:>12}  {}", counter.name(), counter.description())?;
                }
            }
        }
    }
    Ok(())
}
