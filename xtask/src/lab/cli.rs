//! `cargo xtask lab`: the lab by hand.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::{Config, Lab, Record, directory, namespaces, nodes, process};
use crate::{
    demo, interrupt, privilege, run,
    stack::{Binaries, Stack, web::Kind},
    ui,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask lab up                            make it, with web servers and the agent running\n  \
    cargo xtask lab exec client -- curl -s http://203.0.113.10/\n  \
    cargo xtask lab exec router -- tcpdump -ni balancer\n  \
    cargo xtask lab status\n  \
    cargo xtask lab down")]
pub struct LabArgs {
    /// Another lab in parallel to the usual one
    #[arg(long, hide = true, default_value = "lb-lab")]
    prefix: String,
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Make the namespaces, cables and addresses, and start the web servers and the agent
    Up(UpArgs),
    /// Take everything away
    Down,
    /// Say what is there
    Status,
    /// Run a command on a node: client, router, balancer, backend-1, …
    Exec {
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// Only the network: start nothing on the nodes, build nothing
    #[arg(long)]
    bare: bool,
    /// The backends' web server [default: nginx where it is installed]
    #[arg(long, value_enum)]
    server: Option<Kind>,
    /// Run what is in this directory instead of building (the part that runs as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// Runs `lab …`; becomes root first, through sudo where that is needed.
pub fn main(arguments: &LabArgs) -> Result<()> {
    let LabArgs { prefix, command } = arguments;
    let mut config = Config::default();
    if *prefix != config.prefix {
        config.prefix.clone_from(prefix);
        config.instance.clone_from(prefix);
    }
    match command {
        LabCommand::Up(arguments) => up(&config, arguments),
        LabCommand::Down => down(&config),
        LabCommand::Status => status(&config),
        LabCommand::Exec { node, command } => exec(&config, node, command),
    }
}

fn up(config: &Config, arguments: &UpArgs) -> Result<()> {
    let UpArgs { bare, server, built } = arguments;
    if *bare {
        root(config, &["up", "--bare"])?;
        Lab::up(config)?.keep()?;
        println!("{} the network is up, and nothing runs on it", ui::green("ok"));
        return Ok(());
    }
    let directory = match built {
        Some(directory) => directory.clone(),
        None => demo::build()?,
    };
    let server = server.unwrap_or_else(Kind::installed);
    let place = directory.display().to_string();
    root(config, &["up", "--built", &place, "--server", server.argument()])?;
    interrupt::take_away_lab(config)?;
    let binaries = Binaries::in_directory(&directory)?;
    let stack = Stack::up(config, &binaries, server)?;
    println!("{} {} on the backends, lbd on the balancer", ui::green("ok"), server.name());
    println!("{}", demo::around(&binaries));
    stack.lab.keep()
}

/// Becomes root with the same command, where this process is not.
fn root(config: &Config, arguments: &[&str]) -> Result<()> {
    let mut again = vec!["lab".to_owned(), "--prefix".to_owned(), config.prefix.clone()];
    again.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    privilege::become_root(&again)
}

fn down(config: &Config) -> Result<()> {
    root(config, &["down"])?;
    let swept = super::sweep(config)?;
    if swept.is_nothing() {
        println!("there was no lab");
    } else {
        println!("{} taken away: {swept}", ui::green("ok"));
    }
    Ok(())
}

fn exec(config: &Config, node: &str, command: &[OsString]) -> Result<()> {
    let words: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let again: Vec<&str> = ["exec", node, "--"].into_iter().chain(words.iter().map(String::as_str)).collect();
    root(config, &again)?;
    if Record::read(&directory(&config.prefix))?.is_none() {
        bail!("there is no lab; `cargo xtask lab up` makes one");
    }
    let nodes = nodes(config)?;
    let Some(place) = nodes.iter().find(|one| one.name == node) else {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        bail!("the lab has no node {node}; it has {}", names.join(", "));
    };
    let [program, arguments @ ..] = command else { bail!("no command given") };
    let mut command = place.command(program);
    let error = command.args(arguments).exec();
    bail!("node {node}: cannot start `{}`: {error}", run::shown(&command))
}

fn status(config: &Config) -> Result<()> {
    root(config, &["status"])?;
    let Some(record) = Record::read(&directory(&config.prefix))? else {
        let left = namespaces(&config.prefix)?;
        if left.is_empty() {
            println!("there is no lab; `cargo xtask lab up` makes one");
        } else {
            println!(
                "{} left behind; `cargo xtask lab down` takes them away",
                ui::count(left.len(), "namespace")
            );
        }
        return Ok(());
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_secs(record.made_at));
    println!("made {} ago{}", ui::duration(age), if record.kept { "" } else { ", in use" });
    let links = record.config.links();
    let mut rows = Vec::new();
    for node in nodes(&record.config)? {
        let addresses: Vec<String> = links
            .iter()
            .flat_map(|link| &link.ends)
            .filter(|end| end.node == node.name)
            .map(|end| format!("{} {} {}", end.interface, end.v4, end.v6))
            .collect();
        let running: Vec<String> = process::in_namespaces(&[(node.inode()?, node.name.clone())])
            .iter()
            .map(|process| format!("{} ({})", process.name, process.pid))
            .collect();
        for (line, address) in addresses.iter().enumerate() {
            let first = line == 0;
            let running = if first { running.join(", ") } else { String::new() };
            rows.push(vec![if first { node.name.clone() } else { String::new() }, address.clone(), running]);
        }
    }
    print!("{}", ui::table(&rows));
    Ok(())
}
