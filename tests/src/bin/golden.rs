//! `cargo xtask golden`: adds golden captures and plays them. Here are arguments and messages; `lb_tests::golden` defines
//! a capture.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use lb_tests::{
    fuzz::comparison,
    golden::{
        self, KernelTables,
        capture::{self, Capture},
        packet_words, pcap,
        replay::{self, Coming, Replay},
        step, table,
    },
    model,
};

/// Golden captures: packets in, packets out, verdicts and counters, one folder a behaviour.
#[derive(Parser)]
#[command(name = "cargo xtask golden", bin_name = "cargo xtask golden")]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Where the captures lie [default: tests/fixtures/golden]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Play packets over a configuration and record the result
    Add(Add),
    /// Play captures again and compare; all of them, or those named
    Play { names: Vec<String> },
    /// Record captures again, all of them or those named, after an intended change; then read the difference
    Again { names: Vec<String> },
}

#[derive(clap::Args)]
#[command(after_help = after_help())]
struct Add {
    /// The folder: the behaviour in lower-case words joined by dashes
    name: String,
    /// The behaviour, in a sentence
    #[arg(long)]
    about: String,
    /// A configuration of lbd
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A capture with packets that come
    #[arg(long = "in", value_name = "FILE.pcap")]
    packets_in: Option<PathBuf>,
    /// A packet in words, behind those of --in (repeatable)
    #[arg(long, value_name = "WORDS")]
    packet: Vec<String>,
    /// What happens before packet N, which counts from 1 (repeatable)
    #[arg(long, value_name = "N: WORDS")]
    step: Vec<String>,
    /// The program that they pass
    #[arg(long, default_value = "lb_xdp")]
    program: Program,
    /// Record a capture again that exists already
    #[arg(long)]
    replace: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Program {
    #[value(name = "lb_xdp")]
    LbXdp,
    #[value(name = "lb_decap")]
    LbDecap,
}

fn after_help() -> String {
    format!(
        "{}\n\n{}\n\nExamples:\n  \
         cargo xtask golden add tcp-data --about 'TCP data is encapsulated.' --config web.toml \\\n    \
         --packet 'tcp 198.51.100.1:40000 > 203.0.113.10:443 payload=20'\n  \
         cargo xtask golden add drained --about 'A draining backend keeps its flows.' --config web.toml --in a.pcap \\\n    \
         --step '2: set web/b1 state=draining'\n\n\
         Program and model (tests/src/model) must agree, or nothing is kept. Look at what is printed: it is what \
         every\nlater build must do.",
        packet_words::HELP,
        step::HELP
    )
}

fn main() -> ExitCode {
    let args = Args::parse();
    let worker = std::thread::spawn(move || run(&args));
    match worker.join() {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Whether everything is as it should be. Called on a thread of its own, which moves into a namespace of its own.
fn run(args: &Args) -> Result<bool> {
    let directory = args.directory.clone().unwrap_or_else(capture::directory);
    match &args.command {
        Command::Add(add) => add.run(&directory).map(|()| true),
        Command::Play { names } => compare(&directory, names),
        Command::Again { names } => again(&directory, names).map(|()| true),
    }
}

impl Add {
    fn run(&self, directory: &Path) -> Result<()> {
        let play = self.play(directory)?;
        comparison::enter_namespace()?;
        let capture = play.record(&mut KernelTables::new()?)?;
        let folder = capture.write(directory)?;
        give_back(&folder);
        print(&capture);
        let count = table::write(directory)?;
        println!("written to {}; {count} behaviours", folder.display());
        Ok(())
    }

    /// Reports everything that is wrong with the arguments before a program is loaded.
    fn play(&self, directory: &Path) -> Result<Replay> {
        let Self { name, about, config, packets_in, packet, step, program, replace } = self;
        ensure!(capture::is_name(name), "`{name}` is not a name: lower-case words joined by dashes");
        ensure!(
            *replace || !directory.join(name).exists(),
            "{name} is there already; take another name, or --replace it"
        );
        ensure!(
            about.ends_with('.') && !about.contains(['|', '\n']),
            "--about is a sentence and ends in a full stop"
        );
        let text = fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
        let mut packets = Vec::new();
        if let Some(file) = packets_in {
            let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let frames = pcap::read(&bytes).with_context(|| format!("{}", file.display()))?;
            packets.extend(frames.into_iter().map(|seen| Coming {
                before: Vec::new(),
                packet: None,
                metadata: 0,
                frame: seen.frame,
            }));
        }
        for words in packet {
            packets.push(golden::coming(words)?);
        }
        ensure!(!packets.is_empty(), "no packets: give --in, --packet, or both");
        for (number, coming) in (1..).zip(&packets) {
            ensure!(
                coming.frame.len() >= 14,
                "packet {number}: {} bytes are not an Ethernet frame",
                coming.frame.len()
            );
        }
        for step in step {
            let known = step.split_once(':').and_then(|(number, what)| {
                let place = number.trim().parse::<usize>().ok()?.checked_sub(1)?;
                Some((place, what.trim()))
            });
            let (place, what) = known.with_context(|| format!("--step `{step}` is not `N: WORDS`"))?;
            what.parse::<step::Step>().context("--step")?;
            let count = packets.len();
            let Some(coming) = packets.get_mut(place) else {
                bail!("--step `{step}`: the last packet is {count}")
            };
            coming.before.push(what.to_owned());
        }
        Ok(Replay {
            name: name.clone(),
            about: about.clone(),
            program: match program {
                Program::LbXdp => model::Program::LbXdp,
                Program::LbDecap => model::Program::LbDecap,
            },
            config: text,
            config_name: config.display().to_string(),
            packets,
        })
    }
}

/// Under sudo, new files belong to root; this gives them to the owner of the repository.
fn give_back(folder: &Path) {
    let Some(owner) = folder.parent().and_then(|parent| fs::metadata(parent).ok()) else { return };
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in files.chain([folder.to_owned()]) {
        // Not an error: a process that may not change the owner owns the file already.
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).ok();
    }
}

fn print(capture: &Capture) {
    for (number, packet) in (1..).zip(&capture.expect.packets) {
        for step in &packet.before {
            println!("  -- {step}");
        }
        let said = packet.packet.as_deref().unwrap_or("captured");
        let to = packet.backend.as_deref().map(|backend| format!(" to {backend}")).unwrap_or_default();
        let events = packet.events.iter().map(|event| format!(" + {event}")).collect::<String>();
        println!("  {number:2} {said}\n     {}{events}{to}", packet.verdict);
    }
}

/// All captures, or the named ones.
fn some(directory: &Path, names: &[String]) -> Result<Vec<Capture>> {
    let mut captures = capture::all(directory)?;
    for name in names {
        ensure!(captures.iter().any(|capture| capture.name == *name), "there is no capture {name}");
    }
    captures.retain(|capture| names.is_empty() || names.contains(&capture.name));
    Ok(captures)
}

fn again(directory: &Path, names: &[String]) -> Result<()> {
    let captures = some(directory, names)?;
    comparison::enter_namespace()?;
    let mut kernel = KernelTables::new()?;
    for capture in &captures {
        let new = Replay::of(capture).record(&mut kernel).with_context(|| capture.name.clone())?;
        if new != *capture {
            give_back(&new.write(directory)?);
            println!("{} has changed", new.name);
        }
    }
    println!("{} behaviours", table::write(directory)?);
    Ok(())
}

fn compare(directory: &Path, names: &[String]) -> Result<bool> {
    let captures = some(directory, names)?;
    comparison::enter_namespace()?;
    let mut kernel = KernelTables::new()?;
    let mut different = 0;
    for capture in &captures {
        match replay::compare(capture, &mut kernel) {
            Ok(None) => {}
            Ok(Some(difference)) => {
                different += 1;
                println!("{}: {difference}", capture.name);
            }
            Err(error) => {
                different += 1;
                println!("{}: {error:#}", capture.name);
            }
        }
    }
    println!("golden: {} of {} captures as they were", captures.len() - different, captures.len());
    Ok(different == 0)
}
