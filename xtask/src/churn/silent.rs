//! Thousands of silent backends of another service: a dead backend of a good one is out about as fast as alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Progress, flood, report::Check, rig::Rig, script::Act};
use crate::{lab::backend_name, stack::agent::now_ms, wait};

/// Silent backends: none, for comparison, and more and more.
const COUNTS: [(&str, u32); 3] =
    [("no silent backend", 0), ("2,000 silent backends", 2_000), ("10,000 silent backends", 10_000)];
/// The last of them only in runs of this length.
const LONG: Duration = Duration::from_secs(60);
/// They are here, where packets end without a word.
const NETWORK: &str = "10.200.0.0/16";
/// The backend that dies.
const DIES: u8 = 2;
/// How many milliseconds later than alone it may be out, on a machine that is busy with thousands of checks. Where checks wait for
/// those of the silent ones to end, it is half a minute with 10,000 of them.
const LATER: u64 = 10_000;

/// Kills a backend next to more and more silent ones; what to say about it, and what had to be so.
pub(super) fn run(
    rig: &mut Rig,
    progress: &mut Progress,
    duration: Duration,
) -> Result<(String, Vec<Check>)> {
    flood::swallow(rig, NETWORK)?;
    let usual = rig.text();
    let mut took = Vec::new();
    for (label, count) in COUNTS.into_iter().take(if duration < LONG { 2 } else { 3 }) {
        rig.load.book().begin(label);
        rig.agent.write(&(usual.clone() + &service(count)))?;
        rig.agent.ctl(&["config", "apply"])?;
        wait_until_silent(rig, count)?;
        progress.wait(rig, Instant::now() + Duration::from_secs(3))?;
        let killed = now_ms();
        rig.carry_out(&Act::Kill { backend: DIES })?;
        let late = late(rig)?;
        took.push((count, out_at(rig)?.saturating_sub(killed), late));
        rig.carry_out(&Act::Revive { backend: DIES })?;
        progress.wait(rig, Instant::now() + Duration::from_secs(3))?;
    }
    rig.agent.write(&usual)?;
    rig.agent.ctl(&["config", "apply"])?;
    let alone = took.first().map_or(0, |(_, took, _)| *took);
    let checks = took.iter().skip(1).map(|(count, took, _)| Check {
        what: format!(
            "a dead backend was out after {took} ms next to {count} silent ones, after {alone} ms alone"
        ),
        good: *took <= 2 * alone + LATER,
    });
    let each = |(count, took, late): &(u32, u64, u64)| {
        format!("{took} ms next to {count} silent ones (checks late by {late} ms)")
    };
    let note = took.iter().map(each).collect::<Vec<_>>().join(", ");
    Ok((format!("until a dead backend was out: {note}"), checks.collect()))
}

/// A service of silent backends.
fn service(count: u32) -> String {
    if count == 0 {
        return String::new();
    }
    let mut text = format!(
        "\n[[service]]\nname = \"silent\"\nlisten = \"tcp/203.0.113.10:9\"\nmax_backends = {count}\n"
    );
    for number in 0..count {
        let (high, low) = (number / 250, 1 + number % 250);
        text += &format!("[[service.backend]]\nname = \"b{number}\"\naddress = \"10.200.{high}.{low}\"\n");
    }
    text
}

/// Waits until every one of them is known to be silent.
fn wait_until_silent(rig: &Rig, count: u32) -> Result<()> {
    wait::until(&format!("{count} backends are silent"), wait::limit() * 3, || {
        let status = rig.agent.ctl(&["status"])?;
        let services = status["services"].as_array().context("no services in the status")?;
        let healthy = |all: &serde_json::Value| all["backends_healthy"].as_u64();
        let silent = services.iter().find(|service| service["name"] == "silent").and_then(healthy);
        let is = if count == 0 { silent.is_none() } else { silent == Some(0) };
        Ok(if is { Ok(()) } else { Err(format!("{silent:?} are healthy or unknown")) })
    })
}

/// How much after they were due checks of the good services begin, in milliseconds.
fn late(rig: &Rig) -> Result<u64> {
    let status = rig.agent.ctl(&["status"])?;
    let services = status["services"].as_array().context("no services in the status")?;
    let good = services.iter().filter(|service| service["name"] != "silent");
    Ok(good.filter_map(|service| service["checks_late_ms"].as_u64()).max().unwrap_or(0))
}

/// When the agent last saw the backend die, in milliseconds since 1970.
fn out_at(rig: &Rig) -> Result<u64> {
    let name = format!("/{}", backend_name(DIES));
    let events = rig.agent.events(&["--kind", "backend_down"])?;
    let of =
        events.iter().filter(|event| event["object"].as_str().is_some_and(|object| object.ends_with(&name)));
    of.filter_map(|event| event["at_ms"].as_u64()).max().context("no event says that the backend is down")
}
