//! Packets that are merged before the program sees them: an upload through a bridge whose port has GRO on.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use xtask::{lab::BALANCER, run};

use crate::{
    Test,
    client::there_and_back,
    scene::{Scene, until},
};

pub(crate) const TESTS: &[Test] = &[("merged::the_reported_command_helps_a_merged_upload", bridge)];

/// Bytes of an upload.
const UPLOAD: usize = 2_000_000;

/// Bytes of an upload whose merged packets are lost: short, because each lost packet waits for a retransmission.
const LOSSY_UPLOAD: usize = 60_000;

fn gro(scene: &Scene, state: &str) -> Result<()> {
    let mut ethtool = scene.lab.node(BALANCER)?.command("ethtool");
    run::capture(ethtool.args(["-K", "eth0", "gro", state])).map(drop)
}

/// Bytes of an upload after the recommended command.
const WHOLE_UPLOAD: usize = 10_000_000;

/// What `cargo xtask doctor` says of the bridge on the balancer.
fn doctor(scene: &Scene) -> Result<String> {
    let this = std::env::current_exe()?;
    let xtask = this.ancestors().nth(2).unwrap_or(Path::new("")).join("xtask");
    // `doctor` looks into /sys, which `ip netns exec` mounts for the namespace.
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &scene.lab.node(BALANCER)?.namespace]).arg(&xtask);
    let output = command.args(["doctor", "--interface", "br0"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    // What else `doctor` finds wrong with this host does not matter here.
    ensure!(text.contains("br0"), "{} said nothing of br0: {text}{errors}", xtask.display());
    Ok(text)
}

/// The note of the only interface.
fn note(scene: &Scene) -> Result<String> {
    let status = scene.agent.ctl(&["status"])?;
    Ok(status["interfaces"][0]["note"].as_str().unwrap_or_default().to_owned())
}

fn bridge() -> Result<()> {
    let scene = Scene::on_bridge()?;
    let result = (|| {
        for v6 in [false, true] {
            there_and_back(&scene.lab, v6, UPLOAD)?;
        }
        ensure!(scene.agent.counter("merged")? == 0, "nothing merges yet");
        ensure!(!note(&scene)?.contains("ethtool"), "{}", note(&scene)?);

        gro(&scene, "on")?;
        until("a note with the command that helps", || {
            let note = note(&scene)?;
            Ok(if note.contains("`ethtool -K eth0 gro off`") { Ok(()) } else { Err(note) })
        })?;
        let said = doctor(&scene)?;
        ensure!(said.contains("ethtool -K eth0 gro off"), "{said}");
        let events = scene.agent.events()?;
        ensure!(events.iter().any(|event| event["kind"] == "interface_merges"), "no event: {events:?}");
        // The upload is slow, and may not end: the reason for that is what counts.
        let outcome = there_and_back(&scene.lab, false, LOSSY_UPLOAD);
        let (merged, too_big) = (scene.agent.counter("merged")?, scene.agent.counter("too_big")?);
        ensure!(merged > 0 && too_big == 0, "merged {merged}, too_big {too_big}: {outcome:?}");

        gro(&scene, "off")?;
        until("no note any more", || {
            let note = note(&scene)?;
            Ok(if note.contains("ethtool") { Err(note) } else { Ok(()) })
        })?;
        for v6 in [false, true] {
            there_and_back(&scene.lab, v6, UPLOAD)?;
        }
        let said = doctor(&scene)?;
        ensure!(!said.contains("ethtool -K eth0"), "{said}");
        let after = scene.agent.counter("merged")?;
        ensure!(after >= merged, "{merged} became {after}");
        for v6 in [false, true] {
            there_and_back(&scene.lab, v6, WHOLE_UPLOAD)?;
        }
        ensure!(scene.agent.counter("merged")? == after, "packets are still merged");
        Ok(())
    })();
    scene.judge(result)
}
