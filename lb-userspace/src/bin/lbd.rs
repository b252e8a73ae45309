//! The agent's entry point: arguments, logger, exit code, nothing else.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use lb_userspace::{
    agent::{
        self, Options,
        paths::{DEFAULT_INSTANCE, PINS, Paths, check_instance},
        run::Refused,
    },
    config::{self, spec::AttachMode},
    dataplane::{decap, kernel, lock::Lock, pass, privileges},
    net::link,
};
use log::LevelFilter;

/// The agent of the load balancer: fills the maps of the XDP program, checks the health of backends and serves the
/// control socket. Packets are forwarded by the kernel, with or without it.
#[derive(Parser)]
#[command(
    name = "lbd",
    version,
    after_help = "Examples:\n  \
        lbd --check --config lb.toml         validate a file, change nothing\n  \
        lbd --config /etc/lb/lb.toml         run in the foreground\n  \
        lbd --config lb.toml --bpf-log debug one log line a packet, for developers\n  \
        lbd --detach                         take the program off and remove every pin\n\n\
        Signals: SIGHUP reads the file again; SIGTERM stops the agent and leaves the data path forwarding.\n\
        Exit codes: 0 done, 1 failed, 2 the configuration or the command line was refused."
)]
struct Cli {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/lb/lb.toml", env = "LB_CONFIG")]
    config: PathBuf,
    /// Which balancer of this host: pins, socket, lock and overlay carry its name.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_INSTANCE, env = "LB_INSTANCE", value_parser = check_instance)]
    instance: String,
    /// Control socket instead of /run/lb/<instance>.sock.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Only validate the configuration: every error at once, exit code 2 if there is one.
    #[arg(long, conflicts_with = "detach")]
    check: bool,
    /// Take the program off every interface and remove all pins of the instance. No agent may be running.
    #[arg(long)]
    detach: bool,
    /// What lbd itself logs; the environment variable LB_LOG overrides it, in env_logger's syntax.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,
    /// What the XDP program logs, for developers. Off, it costs nothing: the verifier removes it.
    #[arg(long, value_name = "LEVEL", default_value = "off")]
    bpf_log: LevelFilter,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// The other end, on a backend: take outer headers off in XDP, for hosts without a tunnel device. Needs no daemon.
    #[command(subcommand)]
    Decap(Decap),
    /// For labs.
    #[command(subcommand, hide = true)]
    Dev(Dev),
}

#[derive(Args)]
struct Interface {
    /// The interface packets come in on.
    #[arg(long, value_name = "NAME")]
    interface: String,
}

#[derive(Subcommand)]
enum Decap {
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
enum Dev {
    /// Attach a program that passes everything: a veth end takes XDP_TX frames of its peer only with one.
    XdpPass {
        #[command(flatten)]
        interface: Interface,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The program's own records are wanted at the level they were asked for at.
    let mut logger = env_logger::Builder::new();
    logger.filter_level(cli.log).filter_module("lb_ebpf", cli.bpf_log).parse_env("LB_LOG").init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Refused>() => {
            // One error a line, as compilers do: editors can jump to them.
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("lbd: {error:#}");
            ExitCode::FAILURE
        }
    }
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
    let options = Options { config: cli.config, instance: cli.instance, socket: cli.socket, bpf_log };
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
            println!("{name}: ok, {} services, {backends} backends", document.spec.services.len());
            Ok(())
        }
        Err(errors) => Err(Refused(errors.iter().map(ToString::to_string).collect()).into()),
    }
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
