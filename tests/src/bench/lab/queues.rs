//! The cost of a frame while each processor has a queue of one veth cable: live frames, the driver's own path, and the program
//! behind it. What processors share shows here as in the rows `cpus/…`, and what the driver shares shows as well.

use anyhow::Result;
use xtask::lab::{BALANCER, ROUTER};

use super::{
    super::{
        packet::{self, AtOnce},
        rig::Rig,
        row::{Definition, Formula, Part, Target},
    },
    Bench,
    wire::{Sent, attach, cable, ends, prepare, processors, send},
};

/// The ends of the cable.
const ENDS: (&str, &str) = ("many", "manyd");
/// Veth devices have at most this many queues here; more processors prove nothing new.
const MOST: usize = 16;

fn row(kind: &str, on: &str) -> String {
    format!("queues/{kind}/{on}")
}

pub(super) fn definitions() -> Vec<Definition> {
    let mut rows = Vec::new();
    for AtOnce { name, what, target, .. } in packet::at_once() {
        let of = |on: &str, unit: &'static str, more: String| {
            Definition::new(Part::Lab, row(name, on), unit, more).quick(false)
        };
        rows.push(of("one", "ns", format!("{what}: a live frame through veth and back, on one processor")));
        rows.push(of("all", "ns", format!("{what}: the same on each of all processors, each with a queue")));
        rows.push(of("rate", "Mpps", format!("{what}: frames of all processors that came back")));
        let formula = Formula::Ratio(row(name, "one"), row(name, "all"));
        let what =
            format!("{what}: live frames a second of all processors, by their number times those of one");
        let slope = Definition::new(Part::Lab, format!("slope/{name}"), "ratio", what);
        let slope = slope.made_of(formula).quick(false);
        rows.push(if target { slope.target(Target::AtLeast(0.9)) } else { slope });
    }
    rows
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let cpus = processors(MOST);
    if cpus.len() < 2 {
        bench.skip("queues/", "there is one processor only");
        return Ok(());
    }
    let (near, far) = ENDS;
    cable(bench.lab, (near, far, cpus.len() as u32))?;
    let (left, right) = (bench.lab.node(ROUTER)?.clone(), bench.lab.node(BALANCER)?.clone());
    let (near_number, far_number) = ends(bench.lab, ENDS)?;
    let mut rig = Rig::load()?;
    let sink = attach(&left, rig.program("sink")?, near)?;
    for AtOnce { name, world, traffic, .. } in packet::at_once() {
        if !["one", "all", "rate"].iter().any(|on| bench.wants(&row(name, on))) {
            continue;
        }
        let mut world = packet::world(world)?;
        for backend in 1..=100 {
            world.change_backend(backend, |record| record.interface = far_number)?;
        }
        prepare(&mut rig, &traffic.frame, near_number, traffic.flows)?;
        let link = attach(&right, world.program("lb_xdp")?, far)?;
        let mut rounds = Ok(());
        for round in 0..=bench.settings.rounds.min(7) {
            rounds = one_round(bench, &mut rig, name, &cpus, &traffic.frame, round > 0);
            if rounds.is_err() {
                break;
            }
        }
        world.program("lb_xdp")?.detach(link)?;
        rounds?;
    }
    rig.program("sink")?.detach(sink)?;
    Ok(())
}

/// One processor, then all of them. The first round allocates pages, records flows and trains branch predictors.
fn one_round(
    bench: &mut Bench<'_>,
    rig: &mut Rig,
    kind: &str,
    cpus: &[usize],
    frame: &[u8],
    counts: bool,
) -> Result<()> {
    let left = bench.lab.node(ROUTER)?.clone();
    for (on, cpus) in [("one", &cpus[..1]), ("all", cpus)] {
        let Sent { taken, time, .. } = send(rig, &left, cpus, bench.settings.packets, frame)?;
        if !counts {
            continue;
        }
        let rate = taken as f64 / time.as_secs_f64() / 1e6;
        bench.add(&row(kind, on), 1e3 * cpus.len() as f64 / rate);
        if on == "all" {
            bench.add(&row(kind, "rate"), rate);
        }
    }
    Ok(())
}
