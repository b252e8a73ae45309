//! A flood of SYNs from addresses without a host, bounded in rate and length, while every slot learns.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

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

/// SYNs in a second, and all together.
const RATE: u32 = 10_000;
const SYNS: u64 = 150_000;

/// Makes every slot learn, then floods, then looks on for a while; what to say about it, and what had to be so.
pub(super) fn run(rig: &mut Rig, progress: &mut Progress, _: Duration) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    make_slots_learn(rig)?;
    swallow_answers(rig)?;
    rig.load.book().begin("flood of SYNs");
    let flood = Flood::begin(rig, RATE, SYN, |sent| sent < SYNS)?;
    let (began, mut most) = (Instant::now(), 0);
    while !flood.is_over() {
        progress.wait(rig, Instant::now() + Duration::from_millis(500))?;
        most = most.max(pending(rig)?.0);
    }
    flood.sent()?;
    let took = began.elapsed().as_secs();
    let (_, size) = pending(rig)?;
    let during = rig.load.book().moments.last().map(|moment| moment.seen).unwrap_or_default();
    rig.carry_out(&Act::Undrain { service: 0, backend: 1 })?;
    progress.wait(rig, Instant::now() + Duration::from_secs(3))?;
    let note = format!(
        "{SYNS} SYNs of strangers in {took} s; at most {most} unconfirmed flows in a table of {size}; handshakes next to them: \
         {} made, {} of them slow, {} failed",
        during.requests,
        during.slow,
        during.failed + during.failed_with_reason,
    );
    let recorded = format!("the flood's handshakes were recorded: {most} of {SYNS}");
    Ok((note, vec![Check { what: recorded, good: most * 10 >= size.min(SYNS) * 9 }]))
}

/// Every slot of the TCP services learns, for as long as it lasts; some have another owner than before.
pub(super) fn make_slots_learn(rig: &mut Rig) -> Result<()> {
    rig.agent.ctl(&["service", "set", SERVICES[0].name, "--track-window", "1h"])?;
    change_owners(rig)
}

/// The TCP services get rings of another length, in which no new flow goes to one of the backends.
pub(super) fn change_owners(rig: &mut Rig) -> Result<()> {
    for service in [0, 1] {
        rig.carry_out(&Act::Resize { service, max_backends: 30 })?;
        rig.carry_out(&Act::Drain { service, backend: 1 })?;
    }
    Ok(())
}

/// Answers to strangers end at the router.
pub(super) fn swallow_answers(rig: &Rig) -> Result<()> {
    swallow(rig, packets::STRANGERS)
}

/// Packets to this network end at the router, without a word.
pub(super) fn swallow(rig: &Rig, network: &str) -> Result<()> {
    let mut route = rig.lab.node(ROUTER)?.command("ip");
    run::capture(route.args(["route", "add", "blackhole", network])).map(drop)
}

/// Segments of strangers to the first service, sent from the client on a thread of their own.
pub(super) struct Flood(JoinHandle<Result<Result<u64>>>);

impl Flood {
    /// At most `rate` in a second, as long as `goes_on` says of the number that were sent.
    pub(super) fn begin(
        rig: &Rig,
        rate: u32,
        flags: u8,
        goes_on: impl Fn(u64) -> bool + Send + 'static,
    ) -> Result<Self> {
        let client = rig.lab.node(CLIENT)?.clone();
        let segment = move |rng: &mut _| Segment::of_stranger(load::address(0), flags, rng);
        Ok(Self(thread::spawn(move || client.enter(|| packets::send(rate, goes_on, segment)))))
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end; how many were sent.
    pub(super) fn sent(self) -> Result<u64> {
        self.0.join().map_err(|_| anyhow!("the flood's thread panicked"))??
    }
}

/// Unconfirmed flows that are recorded, and room for all flows.
fn pending(rig: &Rig) -> Result<(u64, u64)> {
    let stats = rig.agent.ctl(&["stats"])?;
    let now = stats["pending_flows"].as_u64().context("no pending_flows in the statistics")?;
    let status = rig.agent.ctl(&["status"])?;
    let limits = status["limits"].as_array().into_iter().flatten();
    let size = limits.filter(|limit| limit["name"] == "flows").find_map(|limit| limit["size"].as_u64());
    Ok((now, size.context("no limit of flows")?))
}
