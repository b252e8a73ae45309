//! The cost of a packet: the same rig calls every program, rows take turns, and the time is the kernel's own `duration`, so
//! that other work on the machine affects all rows alike.

mod cases;
mod control;
pub(super) mod processors;
mod worlds;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

use self::cases::Case;
pub(super) use self::{
    processors::{AtOnce, at_once},
    worlds::Key,
};
use super::{
    Settings, pinned,
    rig::Rig,
    row::{Definition, Samples},
};
use crate::world::World;

/// All packet rows.
pub(super) fn definitions() -> Vec<Definition> {
    let rows = cases::cases().into_iter().map(|case| case.row).chain(cases::derived());
    rows.chain(processors::definitions()).collect()
}

/// A packet to the first service; the rows of `--program` use it.
pub(super) fn reference() -> Vec<u8> {
    cases::cases()
        .into_iter()
        .find(|case| case.world == Some(Key::Plain))
        .map_or(Vec::new(), |c| c.traffic.frame)
}

/// A row whose packet the instruction rows walk through the program.
pub(super) struct Walkable {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) world: Key,
    pub(super) frame: Vec<u8>,
    /// The packet's flow is recorded before the walk.
    pub(super) known: bool,
}

/// All rows of `lb_xdp` with one flow, except those in which a random number decides.
pub(super) fn walkable() -> Vec<Walkable> {
    let mut rows = Vec::new();
    for Case { row, world, program, traffic, fill, .. } in cases::cases() {
        let (group, name) = row.id.split_once('/').unwrap_or_default();
        let name = match (group, name.strip_suffix("/flows=1")) {
            ("packet", Some(name)) => name.to_owned(),
            ("packet", None) if traffic.services <= 1 && !name.contains('=') => name.to_owned(),
            ("tracked", Some(name)) => format!("tracked-{name}"),
            ("always", None) if name == "flows=1" => group.to_owned(),
            _ => continue,
        };
        let Some(world) = world.filter(|_| program == "lb_xdp") else { continue };
        rows.push(Walkable { name, what: row.what, world, frame: traffic.frame, known: fill > 0 });
    }
    rows
}

/// The tables of a row.
pub(super) fn world(key: Key) -> Result<World> {
    worlds::make(key).with_context(|| format!("filling the tables of {key:?}"))
}

/// The tables of one TCP service, IPv4 in IPv4, of 100 backends with numbers from 1 on.
pub(super) fn plain_world() -> Result<World> {
    worlds::make(Key::Plain)
}

/// Measures the wanted rows, round by round, and the foreign programs among them.
pub(super) fn measure(
    settings: &Settings,
    wanted: &BTreeSet<String>,
    programs: &[pinned::Program],
    samples: &mut Samples,
) -> Result<()> {
    let cases: Vec<Case> = cases::cases().into_iter().filter(|case| wanted.contains(&case.row.id)).collect();
    if cases.is_empty() && programs.is_empty() {
        return Ok(());
    }
    let mut rig = Rig::load()?;
    let mut worlds = BTreeMap::new();
    for key in cases.iter().filter_map(|case| case.world) {
        if let std::collections::btree_map::Entry::Vacant(entry) = worlds.entry(key) {
            entry.insert(worlds::make(key).with_context(|| format!("filling the tables of {key:?}"))?);
        }
    }
    let mut behind = None;
    for case in cases.iter().filter(|case| case.fill > 0) {
        run(&mut rig, &mut worlds, &mut behind, case, 0, case.fill, false)?;
    }
    for round in 0..=settings.rounds {
        for case in &cases {
            let next = u64::from(round) * u64::from(settings.packets);
            let ns = run(&mut rig, &mut worlds, &mut behind, case, next, settings.packets, true)?;
            // The first round allocates pages.
            if round > 0 {
                samples.entry(case.row.id.clone()).or_default().push(ns / case.repeated);
            }
        }
        for program in programs {
            behind = None;
            program.measure(&mut rig, settings, round, samples)?;
        }
    }
    Ok(())
}

/// The program behind the rig.
type Behind = (Option<Key>, &'static str);

/// Nanoseconds for one run of a case.
fn run(
    rig: &mut Rig,
    worlds: &mut BTreeMap<Key, World>,
    behind: &mut Option<Behind>,
    case: &Case,
    next: u64,
    packets: u32,
    warm: bool,
) -> Result<f64> {
    let Case { row, world, program, traffic, action, repeated, fill: _ } = case;
    let handle = match world {
        Some(key) => {
            let world = worlds.get_mut(key).context("a world that was not made")?;
            world.program(program)?.fd()?.try_clone()?
        }
        None => rig.handle(program)?,
    };
    // The rig keeps its program while it can: each change waits for all CPUs of the machine.
    let key = (*world, *program);
    if *behind != Some(key) {
        rig.put(&handle).context("this program cannot be called by the rig")?;
        *behind = Some(key);
    }
    let packets = (f64::from(packets) / repeated).max(1.0) as u32;
    if warm {
        // Each flow once, so that the row does not begin with the cache content of the row before.
        rig.run(traffic, next, traffic.flows.min(packets))?;
    }
    let (ns, answer) = rig.run(traffic, next, packets).with_context(|| format!("running {}", row.id))?;
    ensure!(answer == *action, "{}: XDP action {answer} where {action} was expected", row.id);
    Ok(ns)
}
