//! A flood of SYNs from addresses without a host, bounded in rate and length, while every slot learns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{
    Progress, load,
    packets::{self, SYN, Segment},
    report::Check,
    rig::Rig,
    script::Act,
    world::SERVICES,
};
use crate::{
    lab::{CLIENT, ROUTER},
    run,
};

/// SYNs in a second, and all together: more than twice what the table of unconfirmed flows holds.
const RATE: u32 = 10_000;
const SYNS: u64 = 150_000;

/// Makes every slot learn, then floods, then looks on for a while; what to say about it, and what had to be so.
pub(super) fn run(rig: &mut Rig, progress: &mut Progress, _: Duration) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    make_slots_learn(rig)?;
    swallow_answers(rig)?;
    rig.load.book().begin("flood of SYNs");
    let client = rig.lab.node(CLIENT)?.clone();
    let segment = |rng: &mut _| Segment::of_stranger(load::address(0), SYN, rng);
    let thread =
        std::thread::spawn(move || client.enter(|| packets::send(RATE, |sent| sent < SYNS, segment)));
    let (began, mut most) = (Instant::now(), 0);
    while !thread.is_finished() {
        progress.wait(rig, Instant::now() + Duration::from_millis(500))?;
        most = most.max(pending(rig)?.0);
    }
    thread.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))???;
    let took = began.elapsed().as_secs();
    let (_, size) = pending(rig)?;
    let during = rig.load.book().moments.last().map(|moment| moment.seen).unwrap_or_default();
    rig.carry_out(&Act::Undrain { service: 0, backend: 1 })?;
    progress.wait(rig, Instant::now() + Duration::from_secs(3))?;
    let note = format!(
        "{SYNS} SYNs of strangers in {took} s; at most {most} of {size} unconfirmed flows; handshakes next to them: \
         {} made, {} of them slow, {} failed",
        during.requests,
        during.slow,
        during.failed + during.failed_with_reason,
    );
    let full = format!("the flood filled the table of unconfirmed flows: {most} of {size}");
    Ok((note, vec![Check { what: full, good: most * 10 >= size * 9 }]))
}

/// Every slot of the TCP services learns, for as long as it lasts; some have another owner than before.
pub(super) fn make_slots_learn(rig: &mut Rig) -> Result<()> {
    rig.agent.ctl(&["service", "set", SERVICES[0].name, "--track-window", "1h"])?;
    for service in [0, 1] {
        rig.carry_out(&Act::Resize { service, max_backends: 30 })?;
        rig.carry_out(&Act::Drain { service, backend: 1 })?;
    }
    Ok(())
}

/// Answers to strangers end at the router.
pub(super) fn swallow_answers(rig: &Rig) -> Result<()> {
    let mut route = rig.lab.node(ROUTER)?.command("ip");
    run::capture(route.args(["route", "add", "blackhole", packets::STRANGERS])).map(drop)
}

/// Unconfirmed flows that are recorded, and room for them.
fn pending(rig: &Rig) -> Result<(u64, u64)> {
    let stats = rig.agent.ctl(&["stats"])?;
    let now = stats["pending_flows"].as_u64().context("no pending_flows in the statistics")?;
    let status = rig.agent.ctl(&["status"])?;
    let limits = status["limits"].as_array().into_iter().flatten();
    let size =
        limits.filter(|limit| limit["name"] == "pending_flows").find_map(|limit| limit["size"].as_u64());
    Ok((now, size.context("no limit of pending_flows")?))
}
