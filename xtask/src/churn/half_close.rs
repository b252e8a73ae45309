//! Clients that close their side and wait for the answer: half-closed connections, silent from both sides, go on where they were
//! until the answer comes, in slots that learn and where every flow is recorded.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Progress, flood,
    message::{self, Identity},
    quiet::{self, Quiet},
    report::Check,
    rig::Rig,
    world::SERVICES,
};
use crate::lab::CLIENT;

/// Connections that are opened before the change, and as many after it, of each service.
const EACH: u64 = 150;

/// Closes sides, waits for `silence` and reads the answers; what to say about it, and what had to be so.
pub(super) fn run(rig: &mut Rig, progress: &mut Progress, silence: Duration) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    let client = rig.lab.node(CLIENT)?.clone();
    let balanced = ["--track", "always", "--balance", "least-connections"];
    rig.agent.ctl(&[&["service", "set", SERVICES[0].name], &balanced[..]].concat())?;
    let mut opened = client.enter(|| Quiet::open(quiet::FIRST, EACH))??;
    flood::make_slots_learn(rig)?;
    opened.extend(client.enter(|| Quiet::open(quiet::FIRST + 2 * EACH, EACH))??);
    // Those from before the change show themselves in slots that learn.
    for one in &mut opened {
        let (before, now) = (one.identity, one.ask()?);
        ensure!(now == before, "{}: moved from {before:?} to {now:?}", SERVICES[one.service].name);
    }
    rig.load.book().begin("clients half-close");
    let asked = |one: &Quiet| message::later(one.number, silence);
    for one in &opened {
        (&one.stream).write_all(&asked(one))?;
        one.stream.shutdown(Shutdown::Write)?;
    }
    progress.wait(rig, Instant::now() + silence)?;
    let read = |one: &Quiet| -> Result<Identity> {
        let mut answer = Vec::new();
        (&one.stream).read_to_end(&mut answer)?;
        quiet::identity(&answer, &asked(one))
    };
    let answers: Vec<Result<Identity>> = opened.iter().map(read).collect();
    let good = quiet::note_all(&opened, &answers, &mut rig.load.book());
    let (all, seconds) = (opened.len(), silence.as_secs());
    let note = format!("{good} of {all} half-closed connections got their answer {seconds} s later");
    Ok((note.clone(), vec![Check { what: note, good: good == all && all as u64 == 4 * EACH }]))
}
