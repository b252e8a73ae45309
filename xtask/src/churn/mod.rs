//! `cargo xtask churn`: the proof that no established connection breaks. Thousands of connections run through a lab while
//! a script made from a seed changes, kills and restarts everything there is; every answer is checked for who gave it.
//!
//! [`script`] says what happens, [`rig`] does it, [`load`] is the traffic, [`book`] keeps the account, [`report`] judges.

mod ack_flood;
mod backscatter;
mod book;
mod flood;
mod forge;
mod half_close;
mod handover;
mod hiccup;
mod load;
mod lossy;
mod memory;
mod message;
mod packets;
mod quiet;
mod report;
mod restart_blind;
mod rig;
mod scenario;
mod script;
pub mod server;
mod silent;
mod starve;
mod syn_flood;
mod tcp;
mod udp;
mod world;

use std::{
    io::{IsTerminal, Write as _, stderr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::{
    load::Volume,
    report::{Around, Expect, Report},
    rig::{Probing, Rig, Wanted},
    scenario::Scenario,
    script::Step,
};
use crate::{demo, interrupt, lab, privilege, stack::Binaries, ui};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask churn                          three minutes, as in `cargo xtask test`\n  \
    cargo xtask churn --minutes 30             about 1,000 events\n  \
    cargo xtask churn --seed 4711              the script of a run that failed, again\n  \
    cargo xtask churn --track never            the contrast: passes only if connections break\n  \
    cargo xtask churn --scenario flood         a flood of SYNs against 2,000 connections\n\n\
    It builds as you and asks sudo for the rest. Exit code 0 only when no connection broke whose backend lived\n\
    (with `--track never`: when some did). A connection to a backend that was killed does not count as broken.")]
pub struct ChurnArgs {
    /// How long the script is
    #[arg(long, default_value_t = 3.0, value_name = "MINUTES", value_parser = minutes)]
    minutes: f64,
    /// Makes the script; the same number makes the same [default: another one each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Long-lived TCP connections
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=12_000))]
    connections: u32,
    /// Which flows the services write down
    #[arg(long, value_enum, default_value_t = Track::OnChange)]
    track: Track,
    /// About how many events a minute
    #[arg(long, default_value_t = 35, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600))]
    events_per_minute: u32,
    /// What happens: the script of the seed, or one trouble alone
    #[arg(long, value_enum, default_value_t = Scenario::Churn)]
    scenario: Scenario,
    /// `table` for people, `json` for scripts
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Name of the lab and of the agent's instance; runs of different names can go on at the same time
    #[arg(long, default_value = "lb-churn", value_name = "NAME")]
    prefix: String,
    /// Run what is in this directory instead of building (the part that runs as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Track {
    /// The default: those in slots that changed
    OnChange,
    /// Every flow
    Always,
    /// None
    Never,
}

impl Track {
    fn word(self) -> &'static str {
        match self {
            Self::OnChange => "on-change",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if (0.1..=1440.0).contains(&minutes) => Ok(minutes),
        _ => Err("a number from 0.1 to 1440".to_owned()),
    }
}

/// Runs `churn`; whether everything that had to be so was.
pub fn main(arguments: &ChurnArgs) -> Result<bool> {
    let ChurnArgs { minutes, seed, connections, track, events_per_minute, scenario, output, prefix, built } =
        arguments;
    let directory = match built {
        Some(directory) => directory.clone(),
        None => demo::build_silently()?,
    };
    let seed = seed.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    let word = |value: &dyn std::fmt::Display| value.to_string();
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    };
    let again = [
        "churn".to_owned(),
        "--built".to_owned(),
        directory.display().to_string(),
        "--minutes".to_owned(),
        word(minutes),
        "--seed".to_owned(),
        word(&seed),
        "--connections".to_owned(),
        word(connections),
        "--track".to_owned(),
        track.word().to_owned(),
        "--events-per-minute".to_owned(),
        word(events_per_minute),
        "--scenario".to_owned(),
        name(scenario.to_possible_value()),
        "--output".to_owned(),
        name(output.to_possible_value()),
        "--prefix".to_owned(),
        prefix.clone(),
    ];
    privilege::become_root(&again)?;
    raise_open_files()?;
    let duration = Duration::from_secs_f64(minutes * 60.0);
    let wanted = Wanted {
        lab: lab::Config {
            prefix: prefix.clone(),
            instance: prefix.clone(),
            backends: world::BACKENDS,
            ..lab::Config::default()
        },
        volume: Volume {
            connections: *connections as usize,
            udp_flows: (*connections as usize / 10).max(4),
            requests: 50,
            seed,
        },
        track: (*track != Track::OnChange).then(|| track.word()),
        probing: match scenario {
            Scenario::Flap => Probing::Nervous,
            Scenario::Hiccup | Scenario::Lossy | Scenario::Silent | Scenario::Starve => Probing::Default,
            _ => Probing::Usual,
        },
    };
    interrupt::take_away_lab(&wanted.lab)?;
    let around = Around {
        seed,
        scenario: scenario.name(),
        track: track.word(),
        held: wanted.volume.connections,
        ..Around::default()
    };
    let steps = scenario.steps(seed, duration, *events_per_minute);
    let expect = if *track == Track::Never { Expect::SomethingBreaks } else { Expect::NothingBreaks };
    let report =
        run(&wanted, &Binaries::in_directory(&directory)?, (*scenario, duration), &steps, around, expect)?;
    match output {
        Output::Table => print!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(report.is_good())
}

fn run(
    wanted: &Wanted,
    binaries: &Binaries,
    (scenario, duration): (Scenario, Duration),
    steps: &[Step],
    mut around: Around,
    expect: Expect,
) -> Result<Report> {
    let held = wanted.volume.connections;
    eprintln!("{} making the lab, then {held} connections (seed {})", ui::bold("==>"), around.seed);
    let mut rig = Rig::up(wanted, binaries)?;
    let mut progress = Progress::new(steps);
    let began = Instant::now();
    let before = counters(&rig)?;
    let played = match scenario.own() {
        Some(own) => own(&mut rig, &mut progress, duration),
        None => play(&mut rig, steps, began, &mut progress).map(|()| (String::new(), Vec::new())),
    };
    let (note, checks) = played
        .with_context(|| format!("the agent's last words:\n{}\nwhat failed", rig.agent.last_words()))?;
    around.notes.extend((!note.is_empty()).then_some(note));
    around.extra.extend(checks);
    // For what the last event may have broken, and for connections that are opened again.
    progress.wait(&rig, Instant::now() + Duration::from_secs(7))?;
    progress.end();
    rig.look_at_events()?;
    around.differences = rig.differences()?;
    around.seconds = began.elapsed().as_secs();
    let after = counters(&rig)?;
    let more = |name: &str| after.get(name).saturating_sub(before.get(name));
    around.flow_inserted = more("flow_inserted");
    around.flow_pending = more("flow_pending");
    around.flow_insert_failed = more("flow_insert_failed");
    around.no_backend = more("no_backend");
    around.flows_at_end = after.0["flows"].as_u64().unwrap_or(0);
    let status = rig.agent.ctl(&["status"])?;
    let limits = status["limits"].as_array().context("no limits in the status")?;
    let limit = limits.iter().find(|limit| limit["name"] == "flows").context("no limit of flows")?;
    let table = memory::flows(&wanted.lab, limit["size"].as_u64().unwrap_or(0))?;
    around.table_bytes = table.bytes;
    around.table_flows = table.flows;
    let Rig { load, lab, starts, replaced, downs, false_downs, refused, early_resizes, .. } = rig;
    around.agent_starts = starts;
    around.alive_at_end = load.book().tcp_alive();
    let book = load.end()?;
    lab.down()?;
    around.count(book.totals);
    around.programs_replaced = replaced;
    around.health_downs = downs;
    around.false_downs = false_downs;
    around.refused = refused;
    around.early_resizes = early_resizes;
    around.incidents = book.incidents;
    Ok(Report::new(&book.moments, around, expect))
}

/// Carries out the steps, each when it is due or as soon as the one before is done.
fn play(rig: &mut Rig, steps: &[Step], began: Instant, progress: &mut Progress) -> Result<()> {
    for (number, Step { at, act }) in steps.iter().enumerate() {
        progress.done = number;
        progress.wait(rig, began + *at)?;
        rig.carry_out(act)?;
    }
    progress.done = steps.len();
    Ok(())
}

/// The program's counters, by name.
struct Counters(serde_json::Value);

impl Counters {
    fn get(&self, name: &str) -> u64 {
        let counters = self.0["counters"].as_array().into_iter().flatten();
        counters
            .filter(|counter| counter["name"] == name)
            .filter_map(|counter| counter["value"].as_u64())
            .sum()
    }
}

fn counters(rig: &Rig) -> Result<Counters> {
    rig.agent.ctl(&["stats", "--all"]).map(Counters)
}

/// A line that says where the run is: renewed on a terminal, otherwise now and then.
struct Progress {
    began: Instant,
    steps: usize,
    done: usize,
    next: Instant,
    terminal: bool,
}

impl Progress {
    fn new(steps: &[Step]) -> Self {
        let now = Instant::now();
        Self { began: now, steps: steps.len(), done: 0, next: now, terminal: stderr().is_terminal() }
    }

    /// Waits, and shows meanwhile.
    fn wait(&mut self, rig: &Rig, until: Instant) -> Result<()> {
        loop {
            let now = Instant::now();
            if now >= self.next {
                self.show(rig);
                self.next = now + Duration::from_millis(if self.terminal { 500 } else { 30_000 });
                rig.load.check()?;
            }
            if lab::is_ending() {
                bail!("the lab is being taken away");
            }
            rig.look_at_verdicts()?;
            if now >= until {
                return Ok(());
            }
            std::thread::sleep((until - now).min(Duration::from_millis(200)));
        }
    }

    fn show(&self, rig: &Rig) {
        let (alive, broken, moved, failed, answers) = {
            let book = rig.load.book();
            let sum =
                |what: fn(&book::Seen) -> usize| book.moments.iter().map(|moment| what(&moment.seen)).sum();
            let broken: usize = sum(|seen| seen.broken);
            let moved: usize = sum(|seen| seen.moved);
            let failed: usize = sum(|seen| seen.failed);
            (book.tcp_alive(), broken, moved, failed, book.totals.answers)
        };
        let line = format!(
            "{:>9}  {} of {} steps  {alive} connections, {broken} broken, {moved} moved, {failed} requests failed, \
             {answers} answers",
            ui::duration(self.began.elapsed()),
            self.done,
            self.steps,
        );
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            stderr().flush().ok();
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Every connection takes a descriptor: as many as the system allows.
fn raise_open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}
