//! Checks that fail everywhere for a moment, while every backend works: answers of the backends to the balancer itself are
//! lost, those to clients are not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Progress, report::Check, rig::Rig, world::BACKENDS};
use crate::{
    lab::{BALANCER, Node, backend_name},
    run, wait,
};

/// How long checks fail, one after the other.
const TIMES: [Duration; 2] = [Duration::from_millis(1500), Duration::from_secs(5)];

/// Lets them fail, and looks on; what to say about it, and what had to be so.
pub(super) fn run(rig: &mut Rig, progress: &mut Progress, _: Duration) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    let before = fingerprints(rig)?;
    let balancer = addresses(rig)?;
    let mut downs = Vec::new();
    for time in TIMES {
        rig.load.book().begin(if time < TIMES[1] { "checks fail for 1.5 s" } else { "checks fail for 5 s" });
        let since = events(rig, "backend_down")?;
        lose_answers(rig, &balancer, true)?;
        let lost = Instant::now();
        progress.wait(rig, lost + time)?;
        lose_answers(rig, &balancer, false)?;
        wait::until("every check passes again", wait::limit(), || {
            let status = rig.agent.ctl(&["status"])?;
            let services = status["services"].as_array().into_iter().flatten();
            let failing =
                services.filter(|service| service["backends_healthy"] != service["backends_enabled"]);
            let failing: Vec<String> = failing.map(|service| service["name"].to_string()).collect();
            Ok(if failing.is_empty() { Ok(()) } else { Err(failing.join(", ")) })
        })?;
        downs.push(events(rig, "backend_down")? - since);
        // What was moved would be cut now: flows that were silent, and those that come back.
        progress.wait(rig, Instant::now() + Duration::from_secs(8))?;
    }
    let after = fingerprints(rig)?;
    let doubted = events(rig, "correlated_failure")?;
    let note = format!(
        "checks failed for 1.5 s and for 5 s: {downs:?} verdicts that a backend is down, {doubted} doubts"
    );
    let check = |what: String, good: bool| Check { what, good };
    Ok((
        note,
        vec![
            check(
                format!("backends were called down in both: {downs:?}"),
                downs.iter().all(|downs| *downs > 0),
            ),
            check(format!("that all fail was not believed: {doubted} events"), doubted > 0),
            check(format!("fingerprints are as before: {before:?}, {after:?}"), before == after),
        ],
    ))
}

/// Of the rings, and of rings and owners of unknown flows.
fn fingerprints(rig: &Rig) -> Result<[Value; 2]> {
    let status = rig.agent.ctl(&["status"])?;
    Ok(["fingerprint", "fingerprint_unknown"].map(|key| status[key].clone()))
}

pub(super) fn events(rig: &Rig, kind: &str) -> Result<usize> {
    Ok(rig.agent.events(&["--kind", kind])?.len())
}

/// The balancer's own addresses: where it asks from.
pub(super) fn addresses(rig: &Rig) -> Result<Vec<String>> {
    let mut command = rig.lab.node(BALANCER)?.command("ip");
    let text = run::capture(command.args(["-json", "address", "show", "scope", "global"]))?;
    let links: Vec<Value> = serde_json::from_str(&text).context("`ip -json` printed no JSON")?;
    let infos = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    let all: Vec<String> = infos.filter_map(|info| info["local"].as_str()).map(str::to_owned).collect();
    ensure!(!all.is_empty(), "the balancer has no address");
    Ok(all)
}

/// Carries out lines of `ip -batch` on a node.
pub(super) fn ip(node: &Node, batch: &str) -> Result<()> {
    run::capture(node.command("sh").args(["-c", &format!("printf '{batch}' | ip -batch -")])).map(drop)
}

/// On every backend: answers to the balancer itself end there, or do not any more.
fn lose_answers(rig: &Rig, balancer: &[String], lose: bool) -> Result<()> {
    let verb = if lose { "add" } else { "del" };
    for backend in 0..BACKENDS {
        let batch: String = balancer.iter().map(|to| format!("route {verb} blackhole {to}\n")).collect();
        ip(rig.lab.node(&backend_name(backend))?, &batch)?;
    }
    Ok(())
}
