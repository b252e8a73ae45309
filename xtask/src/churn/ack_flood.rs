//! A flood of segments that belong to no flow, each from another source, while slots learn: they push out nothing that is
//! needed. Connections that are silent meanwhile show it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    Progress,
    flood::{self, Flood},
    packets::ACK,
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
    let flood = Flood::begin(rig, RATE, ACK, move |_| Instant::now() < until)?;
    while !flood.is_over() {
        progress.wait(rig, Instant::now() + Duration::from_millis(500))?;
    }
    let sent = flood.sent()?;
    let answers: Vec<_> = silent.iter_mut().map(Quiet::ask).collect();
    let good = quiet::note_all(&silent, &answers, &mut rig.load.book());
    let all = silent.len();
    let note = format!("{good} of {all} connections that were silent for {sent} ACKs of strangers go on");
    Ok((note.clone(), vec![Check { what: note, good: good == all && sent > u64::from(RATE) }]))
}
