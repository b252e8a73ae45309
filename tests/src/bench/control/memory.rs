//! The kernel memory of the maps, as the kernel accounts it: in total, and for each entry of the limits.

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use lb_common::map::name;
use lb_userspace::config::spec::Limits;

use super::{
    super::row::{Definition, Part, Target},
    Pins, Sheet, tables,
};

/// A row: its id, its description, the limit by which the memory is divided, and the maps that count.
type Share = (&'static str, &'static str, fn(&Limits) -> u32, &'static [&'static str]);

const SHARES: [Share; 4] = [
    (
        "service",
        "a service",
        |limits| limits.services,
        &[name::SERVICES, name::SVC_FRONT, name::SVC_INDEX, name::SVC_TALLY, name::SVC_META],
    ),
    (
        "backend",
        "a backend",
        |limits| limits.backends,
        &[name::BACKENDS, name::BK_TALLY, name::BK_META, name::BK_SERVICE, name::LIVE],
    ),
    ("slot", "a slot", |limits| limits.slots, &[name::RING, name::SLOT_OWNERS, name::SLOT_ELSEWHERE]),
    ("flow", "a tracked flow", |limits| limits.flows, &[name::FLOWS]),
];

pub(super) fn definitions() -> Vec<Definition> {
    let row =
        |id: &str, unit, what: String| Definition::new(Part::Control, format!("memory/{id}"), unit, what);
    let mut rows: Vec<Definition> = SHARES
        .iter()
        .map(|(id, what, _, _)| {
            let what = format!("kernel memory for {what}; tallies have a copy for each processor");
            row(id, "bytes", what)
        })
        .collect();
    let maps = row("maps", "MiB", "kernel memory of all maps at the default limits".to_owned());
    rows.push(maps.target(Target::AtMost(64.0)));
    rows
}

pub(super) fn measure(sheet: &mut Sheet<'_>) -> Result<()> {
    if !sheet.wants("memory/") {
        return Ok(());
    }
    let limits = tables::default_limits()?;
    let (pins, kernel) = Pins::open("memory", limits)?;
    for (id, _, entries, maps) in SHARES {
        let bytes: u64 = maps.iter().map(|map| accounted(&pins, map)).sum::<Result<u64>>()?;
        sheet.add(&format!("memory/{id}"), bytes as f64 / f64::from(entries(&limits)));
    }
    let mut all = 0;
    for entry in std::fs::read_dir(&pins.0).context("listing the pins")?.flatten() {
        all += accounted(&pins, &entry.file_name().to_string_lossy()).unwrap_or(0);
    }
    sheet.add("memory/maps", all as f64 / f64::from(1 << 20));
    drop(kernel);
    Ok(())
}

/// Bytes the kernel accounts for a map.
fn accounted(pins: &Pins, map: &str) -> Result<u64> {
    let path = pins.0.join(map);
    let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    // proc(5): the fdinfo of a map's descriptor has the memory that the kernel accounts for the map.
    let file = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let facts = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    let line = facts.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).with_context(|| format!("{file} does not say `memlock`"))
}
