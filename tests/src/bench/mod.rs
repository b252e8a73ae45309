//! The benchmark: what a packet, a change of the tables and a check cost, as rows above floors of the same run.
//!
//! `row` defines what a row is, `select` which rows are wanted; each part (`packet`, `pinned`, `machine`, `programs`,
//! `instructions`, `control`, `lab`) defines its rows and measures them; `report`, `compare` and `plot` show them. Nothing here
//! is part of the product.

pub mod compare;
mod control;
pub mod instructions;
mod lab;
pub mod machine;
mod packet;
pub mod pinned;
pub mod plot;
mod programs;
pub mod report;
mod rig;
pub mod row;
pub mod select;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use self::{
    pinned::Program,
    row::{Definition, Part, Row, Samples},
};

/// How to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Runs of each row.
    pub rounds: u32,
    /// Packets in one run.
    pub packets: u32,
    /// The CPU to stay on; `None` = the last CPU allowed, where other work is least likely.
    pub cpu: Option<usize>,
}

/// The result.
#[derive(Debug)]
pub struct Outcome {
    pub rows: Vec<Row>,
    /// Rows that could not be measured here, and why.
    pub skipped: Vec<(String, String)>,
}

/// Every row, in the order of the table.
pub fn definitions(programs: &[Program]) -> Vec<Definition> {
    let mut rows = packet::definitions();
    rows.extend(programs.iter().flat_map(Program::definitions));
    rows.extend(machine::definitions());
    rows.extend(programs::definitions());
    rows.extend(instructions::definitions());
    rows.extend(control::definitions());
    rows.extend(lab::definitions());
    rows
}

/// Measures the wanted rows, and the rows that they are computed from.
pub fn run(
    settings: &Settings,
    definitions: &[Definition],
    wanted: &BTreeSet<String>,
    programs: &[Program],
) -> Result<Outcome> {
    let needed = select::with_sources(definitions, wanted);
    let of_part = |part: Part| -> BTreeSet<String> {
        let rows = definitions.iter().filter(|row| row.part == part && needed.contains(&row.id));
        rows.map(|row| row.id.clone()).collect()
    };
    let lab = of_part(Part::Lab);
    if !lab.is_empty() {
        lab::prepare()?;
    }
    control::sweep();
    let everywhere = pin_to_one_cpu(settings.cpu)?;
    let mut samples = Samples::new();
    let mut skipped: Vec<(String, String)> = Vec::new();
    let pinned = if of_part(Part::Pinned).is_empty() { &[] } else { programs };
    machine::measure(settings, &of_part(Part::Machine), &mut samples);
    let packets = of_part(Part::Packet);
    if !packets.is_empty() || !pinned.is_empty() {
        eprintln!("packets: {} rows", packets.len() + 3 * pinned.len());
        packet::measure(settings, &packets, pinned, &mut samples)?;
        packet::processors::measure(settings, &packets, &everywhere, &mut samples)?;
    }
    let of_programs = of_part(Part::Program);
    if !of_programs.is_empty() {
        programs::measure(&mut samples)?;
        instructions::measure(&of_programs, &mut samples)?;
    }
    let control = of_part(Part::Control);
    if !control.is_empty() {
        eprintln!("control plane: {} rows", control.len());
        control::measure(settings, &control, &mut samples)?;
    }
    if !lab.is_empty() {
        eprintln!("lab: {} rows", lab.len());
        // The lab needs all processors: servers, clients and generators run in parallel.
        sched_setaffinity(Pid::from_raw(0), &everywhere)?;
        lab::measure(settings, &lab, &mut samples, &mut skipped)?;
    }
    let shown: Vec<Definition> = definitions.iter().filter(|row| needed.contains(&row.id)).cloned().collect();
    let rows = row::rows(&shown, &samples);
    for row in &shown {
        if !rows.iter().any(|measured| measured.id == row.id) && !skipped.iter().any(|(id, _)| row.id == *id)
        {
            skipped.push((row.id.clone(), "what it is computed from was not measured".to_owned()));
        }
    }
    Ok(Outcome { rows, skipped })
}

/// Keeps this thread on one CPU. Returns the CPUs that were allowed before.
fn pin_to_one_cpu(asked: Option<usize>) -> Result<CpuSet> {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).context("asking for the CPUs we may use")?;
    let may = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let cpu = match asked {
        Some(cpu) if may(&cpu) => cpu,
        Some(cpu) => {
            let may: Vec<String> = (0..CpuSet::count()).filter(may).map(|cpu| cpu.to_string()).collect();
            bail!("--cpu {cpu}: not one we may run on; those are {}", may.join(", "))
        }
        None => (0..CpuSet::count()).rev().find(may).context("no CPU to run on")?,
    };
    let mut one = CpuSet::new();
    one.set(cpu)?;
    sched_setaffinity(me, &one).context("pinning to one CPU")?;
    Ok(allowed)
}
