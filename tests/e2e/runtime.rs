//! Changes at run time last, are visible, and can be made permanent.

use std::fs;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::{Test, scene::on_usual};

pub(crate) const TESTS: &[Test] = &[
    ("runtime::changes_survive_a_restart_and_can_be_reverted", revert),
    ("runtime::changes_can_be_saved_into_the_file", save),
    ("runtime::a_bad_file_changes_nothing", bad_file),
];

const BACKEND: &str = "web/backend-1";

fn revert() -> Result<()> {
    on_usual(|scene| {
        let (_, slots) = scene.agent.backend(BACKEND)?;
        scene.agent.ctl(&["backend", "set", BACKEND, "--weight", "50"])?;
        let (_, fewer) = scene.agent.backend(BACKEND)?;
        ensure!(fewer < slots, "half the weight has {fewer} slots of {slots}");
        scene.agent.end(Signal::SIGKILL)?;
        scene.agent.start(&mut scene.lab, &[])?;
        let backend = scene.agent.ctl(&["backend", "show", BACKEND])?;
        ensure!(backend["weight"] == 50, "{backend}");
        let diff = scene.agent.ctl(&["config", "diff"])?;
        ensure!(diff["overlay"].as_array().is_some_and(|lines| lines.len() == 1), "{diff}");
        ensure!(diff["overlay"][0].as_str().is_some_and(|line| line.contains("backend-1")), "{diff}");
        scene.agent.wait_until_all_up()?;
        scene.agent.ctl(&["config", "revert"])?;
        ensure!(scene.agent.backend(BACKEND)?.1 == slots, "the ring is not what it was");
        let diff = scene.agent.ctl(&["config", "diff"])?;
        ensure!(diff["overlay"].as_array().is_some_and(Vec::is_empty), "{diff}");
        Ok(())
    })
}

fn save() -> Result<()> {
    on_usual(|scene| {
        scene.agent.ctl(&["backend", "set", BACKEND, "--weight", "37"])?;
        ensure!(
            !fs::read_to_string(&scene.agent.file)?.contains("37"),
            "the file changed before it was saved"
        );
        scene.agent.ctl(&["config", "save"])?;
        ensure!(fs::read_to_string(&scene.agent.file)?.contains("weight = 37"), "the file was not written");
        scene.agent.end(Signal::SIGTERM)?;
        scene.agent.start(&mut scene.lab, &[])?;
        ensure!(scene.agent.ctl(&["backend", "show", BACKEND])?["weight"] == 37, "lost");
        ensure!(scene.agent.ctl(&["status"])?["overlay_changes"] == 0, "an overlay is left");
        Ok(())
    })
}

fn bad_file() -> Result<()> {
    on_usual(|scene| {
        let before = scene.agent.ctl(&["status"])?;
        let text = fs::read_to_string(&scene.agent.file)?;
        fs::write(&scene.agent.file, text.replace("max_backends", "max_backend"))?;
        let output = scene.agent.ctl_output(&["config", "apply"])?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.matches("lb.toml:").count() >= 6, "not every error with its place: {said}");
        let after = scene.agent.ctl(&["status"])?;
        ensure!(before["fingerprint"] == after["fingerprint"] && !after["last_error"].is_null(), "{after}");
        Ok(())
    })
}
