//! `cargo xtask lab`: the lab by hand.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::{Config, Lab, Record, directory, namespaces, nodes, process};
use crate::{privilege, run, ui};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask lab up                            make it, with web servers and the agent running\n  \
    cargo xtask lab exec client -- curl -s http://203.0.113.10/\n  \
    cargo xtask lab exec router -- tcpdump -ni balancer\n  \
    cargo xtask lab status\n  \
    cargo xtask lab down")]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Make the namespaces, cables and addresses, and start the web servers and the agent
    Up(UpArgs),
    /// Take everything away
    Down,
    /// Say what stands
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
}

/// Runs `lab …`; becomes root first, through sudo where that is needed.
pub fn main(arguments: &LabArgs) -> Result<()> {
    match &arguments.command {
        LabCommand::Up(arguments) => up(arguments),
        LabCommand::Down => down(),
        LabCommand::Status => status(),
        LabCommand::Exec { node, command } => exec(node, command),
    }
}

fn up(arguments: &UpArgs) -> Result<()> {
    privilege::become_root(&["lab".into(), "up".into()])?;
    let config = Config::default();
    let _ = arguments;
    let lab = Lab::up(&config)?;
    println!("{} the lab is up", ui::green("ok"));
    lab.keep()
}

fn down() -> Result<()> {
    privilege::become_root(&["lab".into(), "down".into()])?;
    let swept = super::sweep(&Config::default())?;
    if swept.is_nothing() {
        println!("there was no lab");
    } else {
        println!("{} taken away: {swept}", ui::green("ok"));
    }
    Ok(())
}

fn exec(node: &str, command: &[OsString]) -> Result<()> {
    let config = Config::default();
    if !nix::unistd::geteuid().is_root() {
        let mut arguments = vec!["lab".to_owned(), "exec".to_owned(), node.to_owned(), "--".to_owned()];
        arguments.extend(command.iter().map(|word| word.to_string_lossy().into_owned()));
        privilege::become_root(&arguments)?;
    }
    let nodes = nodes(&config)?;
    let Some(place) = nodes.iter().find(|one| one.name == node) else {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        bail!("the lab has no node {node}; it has {}", names.join(", "));
    };
    let [program, arguments @ ..] = command else { bail!("no command given") };
    let mut command = place.command(program);
    let error = command.args(arguments).exec();
    bail!("node {node}: cannot start `{}`: {error}", run::shown(&command))
}

fn status() -> Result<()> {
    privilege::become_root(&["lab".into(), "status".into()])?;
    let config = Config::default();
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
