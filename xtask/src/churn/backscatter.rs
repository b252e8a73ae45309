//! Stray answers to handshakes that a stranger made in our name: they belong to no flow, so they keep no drain from ending.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    Progress, flood, load,
    packets::{self, ACK, RST, SYN, Segment},
    report::Check,
    rig::Rig,
    script::Act,
    world::SERVICES,
};
use crate::lab::{CLIENT, backend_name};

/// Segments in a second: about five at the slots of the backend that drains.
const RATE: u32 = 30;
/// The backend that drains.
const LEAVES: u8 = 1;

/// Drains a backend while stray segments arrive; what to say about it, and what had to be so.
pub(super) fn run(rig: &mut Rig, progress: &mut Progress, _: Duration) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    flood::swallow_answers(rig)?;
    // With a short window the drain would end with it, whatever is recorded.
    rig.agent.ctl(&["service", "set", SERVICES[0].name, "--track-window", "1h"])?;
    let client = rig.lab.node(CLIENT)?.clone();
    let over = AtomicBool::new(false);
    let segment = |rng: &mut _| Segment::of_stranger(load::address(0), SYN | ACK, rng);
    let reset = |rng: &mut fastrand::Rng| {
        let flags = if rng.bool() { SYN | ACK } else { RST };
        Segment { flags, ..segment(rng) }
    };
    let (ended, sent) = std::thread::scope(|scope| {
        let thread =
            scope.spawn(|| client.enter(|| packets::send(RATE, |_| !over.load(Ordering::Relaxed), reset)));
        let ended = drain(rig, progress);
        over.store(true, Ordering::Relaxed);
        (ended, thread.join())
    });
    let sent = sent.map_err(|_| anyhow::anyhow!("the sender's thread panicked"))???;
    let ended = ended?;
    rig.load.book().leaving.remove(&(0, LEAVES));
    rig.carry_out(&Act::Undrain { service: 0, backend: LEAVES })?;
    let note = match &ended {
        Ok(took) => format!("a drain ended after {} s next to {sent} stray segments", took.as_secs()),
        Err(why) => format!("a drain did not end next to {sent} stray segments: {why}"),
    };
    Ok((note.clone(), vec![Check { what: note, good: ended.is_ok() && sent > u64::from(RATE) }]))
}

/// Drains until no flow is left; how long that took, or why it is not so.
fn drain(rig: &mut Rig, progress: &mut Progress) -> Result<Result<Duration, String>> {
    // Some arrive before.
    progress.wait(rig, Instant::now() + Duration::from_secs(3))?;
    rig.carry_out(&Act::Drain { service: 0, backend: LEAVES })?;
    // Clients close what they have there.
    rig.load.book().leaving.insert((0, LEAVES));
    let began = Instant::now();
    let object = format!("{}/{}", SERVICES[0].name, backend_name(LEAVES));
    let waited = rig.agent.ctl(&["backend", "drain", &object, "--wait", "--force", "--timeout", "90s"]);
    let left = rig.agent.ctl(&["backend", "show", &object]).context("the agent is gone")?;
    Ok(waited.map(|_| began.elapsed()).map_err(|error| format!("{error:#}; {left}")))
}
