//! The agent's entry point: logger, what to do, exit code. What can be typed is in `lb_userspace::tools::cli`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lb_userspace::{
    agent::{self, Options, logger, run::Refused},
    bpf::capabilities,
    config::{self, words::plural},
    host::check as host_check,
    net::source,
    tools::{
        cli::{self, Cli, Command, Dev},
        decap_command, detach,
        say::say,
        xdp_pass,
    },
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
            logger.ends(&format!("lbd: {}", report(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, but those it has named itself.
fn report(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        before if before.contains(&cause) => text,
        before => format!("{before}: {cause}"),
    })
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Some(Command::Decap(command)) => return decap_command::run(command, &cli.instance),
        Some(Command::Dev(Dev::XdpPass { interface })) => {
            capabilities::check()?;
            return Ok(xdp_pass::attach(&interface.interface)?);
        }
        None => {}
    }
    if cli.check {
        return check(&cli.config, &cli.instance);
    }
    if cli.detach {
        detach::detach(&cli.instance, cli.force)?;
        return Ok(say(&format!(
            "instance {}: detached, no XDP program or pinned map remains\n",
            cli.instance
        ))?);
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

fn check(file: &std::path::Path, instance: &str) -> Result<()> {
    let name = file.display().to_string();
    let document = config::read(file).and_then(|text| host_check::on_this_host(&text, &name, instance));
    match document {
        Ok(document) => {
            let backends: usize = document.spec.services.iter().map(|service| service.backends.len()).sum();
            let services = plural(document.spec.services.len() as u64, "service", "services");
            let backends = plural(backends as u64, "backend", "backends");
            say(&format!("{name}: ok, {services}, {backends}\n"))?;
            for warning in config::advice(&document.spec, &source::towards) {
                say(&format!("warning: {warning}\n"))?;
            }
            Ok(())
        }
        Err(errors) => Err(Refused(errors.iter().map(ToString::to_string).collect()).into()),
    }
}
