//! Packets that are merged before the program sees them: an upload through a bridge whose port has GRO on.

use anyhow::{Result, ensure};
use xtask::{lab::BALANCER, run};

use crate::{
    Test,
    client::there_and_back,
    scene::{Scene, until},
};

pub(crate) const TESTS: &[Test] =
    &[("merged::an_upload_through_a_bridge_is_named_and_the_command_that_is_said_helps", bridge)];

/// Bytes of an upload.
const UPLOAD: usize = 2_000_000;

/// Bytes of an upload of which merged packets are lost: each waits for a retransmission, so that it is short.
const LOSSY_UPLOAD: usize = 60_000;

fn gro(scene: &Scene, state: &str) -> Result<()> {
    let mut ethtool = scene.lab.node(BALANCER)?.command("ethtool");
    run::capture(ethtool.args(["-K", "eth0", "gro", state])).map(drop)
}

/// The note of the one interface.
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
        let events = scene.agent.events()?;
        ensure!(events.iter().any(|event| event["kind"] == "interface_merges"), "no event: {events:?}");
        // It is slow, and may not come to its end: what counts is why.
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
        let after = scene.agent.counter("merged")?;
        ensure!(after >= merged, "{merged} became {after}");
        for v6 in [false, true] {
            there_and_back(&scene.lab, v6, UPLOAD)?;
        }
        ensure!(scene.agent.counter("merged")? == after, "packets are still merged");
        Ok(())
    })();
    scene.judge(result)
}
