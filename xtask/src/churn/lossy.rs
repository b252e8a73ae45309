//! The way of the checks loses packets, more and more of them, while every backend works: no verdict is wrong, and no connection
//! breaks. What clients send is not concerned.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Progress, hiccup, report::Check, rig::Rig, world::BACKENDS};
use crate::{lab::backend_name, run};

/// Packets in a hundred that are lost, one after the other.
const LOSSES: [u32; 4] = [1, 5, 10, 20];

/// Loses packets for `duration` altogether; what to say about it, and what had to be so.
pub(super) fn run(
    rig: &mut Rig,
    progress: &mut Progress,
    duration: Duration,
) -> Result<(String, Vec<Check>)> {
    let balancer = hiccup::addresses(rig)?;
    let before = hiccup::events(rig, "backend_down")?;
    let mut lost = Vec::new();
    for percent in LOSSES {
        rig.load.book().begin("checks lose packets");
        lose(rig, &balancer, Some(percent))?;
        progress.wait(rig, Instant::now() + duration / 4)?;
        lost.push(counted(rig)?);
    }
    lose(rig, &balancer, None)?;
    let downs = hiccup::events(rig, "backend_down")? - before;
    let note = format!(
        "of the checks' packets {LOSSES:?} % were lost: {lost:?}; {downs} verdicts that a backend is down"
    );
    let check = |what: String, good: bool| Check { what, good };
    Ok((
        note,
        vec![
            check(
                format!("packets of checks were lost at each rate: {lost:?}"),
                lost.iter().all(|lost| *lost > 0),
            ),
            check(format!("no backend was called down: {downs}"), downs == 0),
        ],
    ))
}

/// On every backend: so many of a hundred packets from the balancer itself are lost; `None` = none any more.
fn lose(rig: &Rig, balancer: &[String], percent: Option<u32>) -> Result<()> {
    let rule = |percent: u32, from: &String| {
        let family = if from.contains(':') { "ip6" } else { "ip" };
        format!("{family} saddr {from} meta l4proto tcp numgen random mod 100 < {percent} counter drop\n")
    };
    let rules: String = percent
        .map(|percent| balancer.iter().map(|from| rule(percent, from)).collect::<String>())
        .map(|rules| {
            format!("table inet lossy {{\nchain in {{\ntype filter hook input priority 0; policy accept;\n{rules}}}\n}}\n")
        })
        .unwrap_or_default();
    let script = format!("nft -f - <<'END'\ntable inet lossy\ndelete table inet lossy\n{rules}END\n");
    for backend in 0..BACKENDS {
        let mut command = rig.lab.node(&backend_name(backend))?.command("sh");
        run::capture(command.args(["-c", &script]))?;
    }
    Ok(())
}

/// Packets that were lost since the rules are there.
fn counted(rig: &Rig) -> Result<u64> {
    let mut sum = 0;
    for backend in 0..BACKENDS {
        let mut command = rig.lab.node(&backend_name(backend))?.command("nft");
        let text = run::capture(command.args(["-j", "list", "table", "inet", "lossy"]))?;
        let listed: Value = serde_json::from_str(&text).context("`nft -j` printed no JSON")?;
        let all = listed["nftables"].as_array().into_iter().flatten();
        let expressions = all.filter_map(|one| one["rule"]["expr"].as_array()).flatten();
        sum += expressions.filter_map(|one| one["counter"]["packets"].as_u64()).sum::<u64>();
    }
    Ok(sum)
}
