//! What a sweep costs the agent: it goes over a million flow records in real kernel maps, one piece at a time, and each piece
//! takes time of the agent's loop.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    flow::Record,
    flow_table::{self, Key, Memory as _, Role},
};
use lb_userspace::{
    agent::clock,
    config::spec::Spec,
    kernel::Kernel,
    reconcile::{Reconciler, Swept},
    tables::Tables as _,
};
use nix::time::{ClockId, clock_gettime};

use super::{
    super::row::{Definition, Part, Target},
    Pins, Sheet, tables,
};

/// Records in the table.
const FLOWS: u32 = 1_000_000;

/// The longest time that a piece may take, in milliseconds.
const BOUND: f64 = 20.0;
/// The longest time that a whole walk may take, in milliseconds of one processor.
const WHOLE: f64 = 50.0;
/// Buckets of a piece, as many as the agent's loop goes through at once.
const PIECE: u32 = 4096;
/// Jiffies, where a second has a thousand of them; more hours where it has fewer.
const TWO_HOURS: u64 = 2 * 3600 * 1000;

pub(super) fn definitions() -> Vec<Definition> {
    let row = |id: &str, what: &str| {
        let what = format!("{what}; {FLOWS} records");
        Definition::new(Part::Control, format!("sweep/{id}"), "ms", what)
    };
    vec![
        row("kept", "a walk that keeps every record").target(Target::AtMost(WHOLE)),
        row("kept-piece", "of that, the most processor time a piece takes of the agent's loop")
            .target(Target::AtMost(BOUND)),
        row("deleted", "a walk that deletes every record"),
        row("deleted-piece", "of that, the most processor time a piece takes of the agent's loop")
            .target(Target::AtMost(BOUND)),
    ]
}

pub(super) fn measure(rounds: u32, sheet: &mut Sheet<'_>) -> Result<()> {
    if !sheet.wants("sweep/") {
        return Ok(());
    }
    let spec = spec()?;
    for round in 0..rounds.min(3) {
        let (_pins, kernel) = Pins::open(&format!("sweep-{round}"), spec.limits)?;
        let mut reconciler = Reconciler::new(kernel)?;
        let plan = reconciler.plan(&tables::desired(&spec), clock::since())?;
        reconciler.apply(&plan)?;
        let now = reconciler.tables().jiffies()?.now;
        fill(&reconciler, now)?;
        let kept = sweep(&mut reconciler)?;
        // A few of a million records find no place in a table that is full to 80 %.
        ensure!(kept.swept.deleted == 0 && kept.swept.flows > u64::from(FLOWS) * 9 / 10, "{:?}", kept.swept);
        // Silent for longer than the window of this service.
        fill(&reconciler, now - TWO_HOURS)?;
        let deleted = sweep(&mut reconciler)?;
        ensure!(deleted.swept.deleted == deleted.swept.flows, "{:?}", deleted.swept);
        for (id, measured) in [("kept", kept), ("deleted", deleted)] {
            sheet.add(&format!("sweep/{id}"), measured.took.as_secs_f64() * 1e3);
            sheet.add(&format!("sweep/{id}-piece"), measured.longest.as_secs_f64() * 1e3);
        }
    }
    Ok(())
}

/// Records flows of the only service, for all its backends in turn.
fn fill(reconciler: &Reconciler<Kernel>, last_seen: u64) -> Result<()> {
    let running = reconciler.running(clock::since());
    let service = running.first().context("the benchmark has no service")?;
    let table = reconciler.tables().flow_table();
    let memory = table.with(|_| 0);
    for (flow, backend) in (0..u64::from(FLOWS)).zip(service.backends.iter().cycle()) {
        let hash = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let record = Record { backend: backend.number, last_seen: last_seen as u32, ..Record::NONE };
        let key = Key::of(hash ^ hash >> 29, memory.buckets());
        flow_table::put(&memory, &key, Role::Flow, &record, last_seen as u32, 0);
    }
    Ok(())
}

struct Measured {
    swept: Swept,
    took: Duration,
    /// The longest processor time of a piece.
    longest: Duration,
}

/// A sweep as the agent's loop makes it, without its pauses.
fn sweep(reconciler: &mut Reconciler<Kernel>) -> Result<Measured> {
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    let mut sweep = reconciler.begin_sweep(clock::since())?.context("there is nothing to sweep")?;
    loop {
        let piece = processor_time()?;
        let goes_on = reconciler.walk(&mut sweep, PIECE)?;
        longest = longest.max(processor_time()?.saturating_sub(piece));
        if !goes_on {
            break;
        }
    }
    let end = processor_time()?;
    let (swept, _) = reconciler.end_sweep(sweep, clock::since())?;
    let longest = longest.max(processor_time()?.saturating_sub(end));
    Ok(Measured { swept, took: begun.elapsed(), longest })
}

/// The processor time of this thread: the time of a piece, whatever other processes run meanwhile.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// One service that records every flow, with a short window.
fn spec() -> Result<Spec> {
    let mut text = "[node]\ninterface = \"lo\"\nseed = \"bench\"\n[limits]\nflows = 1048576\n[[service]]\nname = \"web\"\n\
                    listen = \"tcp/203.0.113.10:443\"\nmax_backends = 100\nhealth = false\ntrack = \"always\"\n\
                    track_window = \"1m\"\n"
        .to_owned();
    for i in 0..100u8 {
        let address = IpAddr::from([10, 1, 0, i]);
        text.push_str(&format!("[[service.backend]]\nname = \"web-{i}\"\naddress = \"{address}\"\n"));
    }
    tables::parsed(&text)
}
