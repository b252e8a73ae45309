//! The agent stops and the data path goes on; the next agent adopts it, or removes it.

use std::path::Path;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use xtask::{
    lab::{BALANCER, bpffs},
    run,
};

use crate::{
    Test,
    client::requests,
    scene::{Scene, none_failed, on_usual},
};

pub(crate) const TESTS: &[Test] = &[
    ("lifecycle::the_next_agent_adopts_the_data_path", adopt),
    ("lifecycle::detach_takes_off_the_program_and_every_pin", detach),
];

fn adopt() -> Result<()> {
    on_usual(|scene| {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let (link, program) = scene.agent.attached(&scene.lab)?;
            scene.agent.end(signal)?;
            ensure!(
                scene.agent.attached(&scene.lab)? == (link, program),
                "{signal} changed what is attached"
            );
            for v6 in [false, true] {
                none_failed(&requests(&scene.lab, v6, 60)?)?;
            }
            let logged = scene.agent.log(&scene.lab).len();
            scene.agent.start(&mut scene.lab, &[])?;
            let status = scene.agent.ctl(&["status"])?;
            ensure!(status["adopted"] == true, "not adopted: {status}");
            let log = scene.agent.log(&scene.lab);
            ensure!(log[logged..].contains(", 0 entries written"), "after {signal}: {}", &log[logged..]);
            let (link_now, program_now) = scene.agent.attached(&scene.lab)?;
            ensure!(link_now == link, "link {link} became {link_now}: it was detached in between");
            ensure!(program_now != program, "the program was not replaced");
            scene.agent.wait_until_all_up()?;
            none_failed(&requests(&scene.lab, false, 30)?)?;
        }
        Ok(())
    })
}

fn detach() -> Result<()> {
    on_usual(|scene| {
        let refused = scene.agent.lbd(&scene.lab, &["--detach"]);
        ensure!(refused.is_err(), "detached beneath a running agent");
        none_failed(&requests(&scene.lab, false, 10)?)?;
        scene.agent.end(Signal::SIGTERM)?;
        ensure!(show(scene)?.contains("xdp"), "{}", show(scene)?);
        scene.agent.lbd(&scene.lab, &["--detach"])?;
        ensure!(!show(scene)?.contains("xdp"), "{}", show(scene)?);
        let pins = bpffs(&scene.lab.config().prefix, BALANCER).join("lb/e2e");
        ensure!(!Path::new(&pins).exists(), "{} is still there", pins.display());
        Ok(())
    })
}

/// The interface as `ip` shows it, with its program.
fn show(scene: &Scene) -> Result<String> {
    run::capture(scene.lab.node(BALANCER)?.command("ip").args(["-d", "link", "show", "dev", "eth0"]))
}
