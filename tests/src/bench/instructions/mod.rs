//! How many instructions a packet costs. This needs no performance counter, which virtual machines do not have, and a busy
//! machine does not change the numbers: `walk` executes the program over `memory`, `tables` asks the kernel's maps. A walk must
//! end as the kernel's own run of the same packet does; if it does not, the result is an error and not a number.

mod memory;
mod tables;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

use self::{
    tables::Program,
    walk::{Walk, Walked},
};
use super::{
    packet::{self, Walkable},
    row::{Definition, Part, Samples, Target},
};
use crate::world::INGRESS;

/// The log with the limits of the numbers; see there.
const TRIES: &str = include_str!("tries.md");

/// The group of the rows.
pub const GROUP: &str = "instructions";

pub(super) fn definitions() -> Vec<Definition> {
    let limits = limits(TRIES).unwrap_or_default();
    let mut rows = Vec::new();
    for Walkable { name, what, .. } in packet::walkable() {
        let row = |id: String, what: String| Definition::new(Part::Program, id, GROUP, what);
        let count = row(format!("{GROUP}/{name}"), format!("that lb_xdp executes for a packet: {what}"));
        rows.push(match limits.get(&name) {
            Some(limit) => count.target(Target::AtMost(f64::from(*limit))),
            None => count,
        });
        let mut look_ups = row(format!("{GROUP}/{name}/look-ups"), format!("look-ups among them: {what}"));
        look_ups.unit = "look-ups";
        rows.push(look_ups);
    }
    rows
}

pub(super) fn measure(wanted: &BTreeSet<String>, samples: &mut Samples) -> Result<()> {
    let wants = |name: &str| wanted.iter().any(|id| id.starts_with(&format!("{GROUP}/{name}")));
    for (name, Walked { executed, look_ups, .. }) in counts(&wants)? {
        samples.insert(format!("{GROUP}/{name}"), vec![executed as f64]);
        samples.insert(format!("{GROUP}/{name}/look-ups"), vec![look_ups as f64]);
    }
    Ok(())
}

/// The rows with more instructions than the log allows, each as a message.
///
/// # Errors
/// The programs or maps cannot be loaded, a walk ends differently than the kernel's run, or the log has no line.
pub fn above_the_log() -> Result<Vec<String>> {
    let limits = limits(TRIES)?;
    let counts: BTreeMap<String, u64> = counts(&|name| limits.contains_key(name))?
        .into_iter()
        .map(|(name, walked)| (name, walked.executed))
        .collect();
    let mut above = Vec::new();
    for (name, limit) in limits {
        let count =
            counts.get(&name).with_context(|| format!("the log has a column {name}, which is no row"))?;
        if *count > u64::from(limit) {
            above.push(format!("{name}: {count} instructions, and the log says {limit}"));
        }
    }
    Ok(above)
}

/// The wanted walks, by name.
fn counts(wants: &dyn Fn(&str) -> bool) -> Result<Vec<(String, Walked)>> {
    let mut counts = Vec::new();
    let mut worlds = BTreeMap::new();
    for Walkable { name, world, frame, known, .. } in
        packet::walkable().into_iter().filter(|row| wants(&row.name))
    {
        let made = match worlds.entry(world) {
            std::collections::btree_map::Entry::Occupied(made) => made.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => free.insert(packet::world(world)?),
        };
        if known {
            made.run("lb_xdp", &frame)?;
        }
        let program = Program::of(made, "lb_xdp")?;
        let walked = Walk::new(&program.instructions, &program, &frame, INGRESS).run();
        let walked = walked.with_context(|| format!("walking through {name}"))?;
        let outcome = made.run("lb_xdp", &frame)?;
        ensure!(
            (walked.action, &walked.frame) == (outcome.action, &outcome.frame),
            "{name}: the walk ends with action {} and {} bytes, the kernel's run with action {} and {} bytes: the count is \
             not believed",
            walked.action,
            walked.frame.len(),
            outcome.action,
            outcome.frame.len()
        );
        counts.push((name, walked));
    }
    Ok(counts)
}

/// The limits in the last line of the log that is in force.
fn limits(log: &str) -> Result<BTreeMap<String, u32>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = log.lines().filter(|line| line.starts_with('|')).map(cells);
    let head = lines.next().context("the log of tries has no table")?;
    let holds = lines.rfind(|cells| cells.get(1).is_some_and(|kept| kept == "yes"));
    let holds = holds.context("the log of tries has no line that holds")?;
    let figures = head.into_iter().zip(holds).skip(2);
    figures
        .map(|(name, figure)| {
            let figure = figure
                .parse()
                .with_context(|| format!("the log of tries: {name}: {figure:?} is not a number"))?;
            Ok((name, figure))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_was_kept_holds() {
        let log = "text\n| what | kept | a | b |\n|---|---|---|---|\n| x | yes | 9 | 8 |\n| y | yes | 7 | 6 |\n| z | no | 1 | 1 |\n";
        assert_eq!(limits(log).unwrap(), [("a".to_owned(), 7), ("b".to_owned(), 6)].into());
        assert!(limits("| what | kept | a |\n|---|---|---|\n| z | no | 1 |\n").is_err());
        assert!(limits("| what | kept | a |\n|---|---|---|\n| z | yes | ? |\n").is_err());
        assert!(limits("").is_err());
    }

    #[test]
    fn every_column_of_the_log_is_a_row() {
        let rows: Vec<String> = packet::walkable().into_iter().map(|row| row.name).collect();
        let limits = limits(TRIES).unwrap();
        assert!(limits.keys().all(|name| rows.contains(name)), "{limits:?} {rows:?}");
        assert!(["tcp4-ipip", "udp4-ipip", "not-ours"].iter().all(|name| limits.contains_key(*name)));
    }
}
