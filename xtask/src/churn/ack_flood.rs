//! A flood of segments that belong to no flow, each from another source, while slots learn: they push out nothing that is
//! needed. Connections that are silent meanwhile show it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    Progress, flood, load,
    packets::{self, ACK, Segment},
    quiet::{self, Quiet},
    report::Check,
    rig::Rig,
};
use crate::lab::CLIENT;

/// Segments in a second: ten million in about three minutes.
const RATE: u32 = 60_000;

/// Silent connections of each service, from before the change and from after it.
const EACH: u64 = 100;

/// Floods for `duration`, then asks over connections that were silent; what to say about it, and what had to be so.
pub(super) fn run(
    rig: &mut Rig,
    progress: &mut Progress,
    duration: Duration,
) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    let client = rig.lab.node(CLIENT)?.clone();
    let mut silent = client.enter(|| Quiet::open(quiet::FIRST, EACH))??;
    flood::make_slots_learn(rig)?;
    flood::swallow_answers(rig)?;
    silent.extend(client.enter(|| Quiet::open(quiet::FIRST + 2 * EACH, EACH))??);
    rig.load.book().begin("flood of ACKs");
    let until = Instant::now() + duration;
    let segment = |rng: &mut _| Segment::of_stranger(load::address(0), ACK, rng);
    let thread =
        std::thread::spawn(move || client.enter(|| packets::send(RATE, |_| Instant::now() < until, segment)));
    while !thread.is_finished() {
        progress.wait(rig, Instant::now() + Duration::from_millis(500))?;
    }
    let sent = thread.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))???;
    let answers: Vec<_> = silent.iter_mut().map(Quiet::ask).collect();
    let mut book = rig.load.book();
    let good = silent.iter().zip(&answers).filter(|(one, answer)| one.note(&mut book, answer)).count();
    let all = silent.len();
    let note = format!("{good} of {all} connections that were silent for {sent} ACKs of strangers go on");
    Ok((note.clone(), vec![Check { what: note, good: good == all && sent > u64::from(RATE) }]))
}
