//! The cost of a packet while every processor has one: the same program over the same tables, by a rig on each. Only these rows
//! show a cache line that all processors write.

use std::{
    collections::BTreeSet,
    sync::{Barrier, Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{
    cases::{TX, flows, syn, tcp},
    worlds::{self, Key, tracked},
};
use crate::bench::{
    Settings,
    rig::{Rig, Traffic},
    row::{Definition, Formula, Part, Samples, Target},
};

/// More rigs than this prove nothing new, and take memory.
const MOST: usize = 16;

/// The traffic that goes through all processors at once.
pub(in crate::bench) struct AtOnce {
    pub(in crate::bench) name: &'static str,
    pub(in crate::bench) what: &'static str,
    pub(in crate::bench) world: Key,
    pub(in crate::bench) traffic: Traffic,
    fills: bool,
    /// The processors share nothing, so the row has a target.
    pub(in crate::bench) target: bool,
}

pub(in crate::bench) fn at_once() -> Vec<AtOnce> {
    let kind = |name, what, world, frame: Vec<u8>, count: &str| AtOnce {
        name,
        what,
        world,
        traffic: Traffic::new(frame, flows(count)),
        fills: false,
        target: true,
    };
    vec![
        kind("plain", "64k flows, untracked", Key::Plain, tcp(0), "64k"),
        kind("one-flow", "one flow, untracked", Key::Plain, tcp(0), "1"),
        kind("one-backend", "64k flows to one backend, untracked", Key::Backends(1), tcp(0), "64k"),
        AtOnce {
            fills: true,
            target: false,
            ..kind(
                "recorded",
                "64k recorded flows in slots that learn",
                Key::Tracked,
                tcp(tracked::LEARNING),
                "64k",
            )
        },
        AtOnce {
            target: false,
            ..kind(
                "least-connections",
                "a SYN of a new flow each time, by the number of live flows",
                Key::LeastConnections,
                syn(0),
                "16M",
            )
        },
    ]
}

fn row(kind: &str, processors: &str) -> String {
    format!("cpus/{kind}/{processors}")
}

pub(in crate::bench) fn definitions() -> Vec<Definition> {
    let mut rows = Vec::new();
    for AtOnce { name, what, target, .. } in at_once() {
        let of = |processors: &str, more: String| {
            Definition::new(Part::Packet, row(name, processors), "ns", more).quick(false)
        };
        rows.push(of("one", format!("{what}: a packet on one processor")));
        rows.push(of("all", format!("{what}: a packet on each of all processors at once")));
        let formula = Formula::Ratio(row(name, "one"), row(name, "all"));
        let what = format!("{what}: packets a second of all processors, by their number times those of one");
        let ratio = Definition::new(Part::Packet, format!("scale/{name}"), "ratio", what);
        let ratio = ratio.made_of(formula).quick(false);
        rows.push(if target { ratio.target(Target::AtLeast(0.9)) } else { ratio });
    }
    rows
}

/// Measures the wanted rows, round by round, on the processors that we may run on.
pub(in crate::bench) fn measure(
    settings: &Settings,
    wanted: &BTreeSet<String>,
    allowed: &CpuSet,
    samples: &mut Samples,
) -> Result<()> {
    let is_wanted = |kind: &AtOnce| ["one", "all"].iter().any(|on| wanted.contains(&row(kind.name, on)));
    let kinds: Vec<AtOnce> = at_once().into_iter().filter(is_wanted).collect();
    if kinds.is_empty() {
        return Ok(());
    }
    let processors: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).take(MOST).collect();
    let mut rigs: Vec<Rig> = processors.iter().map(|_| Rig::small()).collect::<Result<_>>()?;
    for kind in &kinds {
        let mut world = worlds::make(kind.world)?;
        let program = world.program("lb_xdp")?.fd()?.try_clone()?;
        let mut next = 0;
        if kind.fills {
            run_at_once(&mut rigs[..1], &processors, &program, &kind.traffic, next, kind.traffic.flows)?;
        }
        for round in 0..=settings.rounds {
            for (on, count) in [("one", 1), ("all", rigs.len())] {
                let ns = run_at_once(
                    &mut rigs[..count],
                    &processors,
                    &program,
                    &kind.traffic,
                    next,
                    settings.packets,
                )?;
                next += u64::from(settings.packets);
                // The first round warms caches and allocates pages.
                if round > 0 {
                    samples.entry(row(kind.name, on)).or_default().push(ns);
                }
            }
        }
    }
    Ok(())
}

/// Nanoseconds for a packet on as many processors as there are rigs, all at once: the harmonic mean, so that packets a second
/// add up.
fn run_at_once(
    rigs: &mut [Rig],
    processors: &[usize],
    program: &ProgramFd,
    traffic: &Traffic,
    next: u64,
    packets: u32,
) -> Result<f64> {
    for rig in &mut *rigs {
        rig.put(program)?;
    }
    let count = rigs.len();
    let start = Barrier::new(count);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for (rig, (place, &processor)) in rigs.iter_mut().zip(processors.iter().enumerate()) {
            let (start, outcomes) = (&start, &outcomes);
            scope.spawn(move || {
                let pinned = pin(processor);
                // A thread that could not be pinned must still reach the barrier, or the others wait for ever.
                start.wait();
                let first = next + place as u64 * u64::from(packets);
                let outcome = pinned.and_then(|()| rig.run(traffic, first, packets));
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
            });
        }
    });
    let mut rate = 0.0;
    for outcome in outcomes.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let (ns, action) = outcome?;
        ensure!(action == TX, "XDP action {action} where {TX} was expected");
        rate += 1.0 / ns.max(1.0);
    }
    Ok(count as f64 / rate)
}

fn pin(processor: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &one).context("pinning to a processor")
}
