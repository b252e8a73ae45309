//! The steps of the demo: each does one thing to the running stack, measures what the client saw of it, and judges
//! whether it did what the project promises.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{
    download::Download,
    load::{Figures, Load, figures},
    screen,
};
use crate::{
    lab::backend_name,
    stack::{Stack, agent},
    ui,
};

/// The least share of the answers each of three equal backends must have: far below a third, far above chance.
const LEAST_SHARE: f64 = 0.15;

/// What a step is done to.
pub(super) struct Scene {
    pub(super) stack: Stack,
    pub(super) load: Load,
    /// How long to look at undisturbed traffic.
    pub(super) pause: Duration,
}

/// What a step showed.
pub(super) struct Shown {
    /// For people, at most a screen wide.
    pub(super) lines: Vec<String>,
    /// What it measured, for the summary.
    pub(super) figure: String,
    /// What that had to be.
    pub(super) wanted: &'static str,
}

/// A step: its title, and what it does. An error is what it did not do.
pub(super) type Step = (&'static str, fn(&mut Scene) -> Result<Shown>);

/// All steps in their order.
pub(super) const STEPS: &[Step] = &[
    ("requests spread over all backends", spread),
    ("a killed backend is taken out", kill_backend),
    ("it comes back and is used again", revive_backend),
    ("a drained backend finishes what it has", drain),
    ("the agent is killed and traffic goes on", kill_agent),
    ("the agent starts again and takes over what runs", restart_agent),
];

impl Scene {
    /// What requests came to that were started since then, after some more time.
    fn look(&self, since: Instant, more: Duration) -> Figures {
        std::thread::sleep(more);
        self.figures(since, Instant::now())
    }

    fn figures(&self, from: Instant, to: Instant) -> Figures {
        figures(self.load.between(from, to).iter())
    }
}

/// None may have failed.
fn none_failed(figures: &Figures) -> Result<String> {
    ensure!(figures.failed.is_empty(), "{}{}", figures.failures(), figures.first_failure());
    ensure!(figures.curl > 0 && figures.own > 0, "no requests were made");
    Ok(figures.failures())
}

fn spread(scene: &mut Scene) -> Result<Shown> {
    let figures = scene.look(Instant::now(), scene.pause * 2);
    let figure = none_failed(&figures)?;
    let backends = scene.stack.lab.config().backends;
    let total = figures.times.len();
    for name in (0..backends).map(backend_name) {
        let [v4, v6] = figures.spread.get(&name).copied().unwrap_or_default();
        let share = (v4 + v6) as f64 / total.max(1) as f64;
        ensure!(
            v4 > 0 && v6 > 0 && share > LEAST_SHARE,
            "{name} answered {v4} + {v6} of {total} requests of curl"
        );
    }
    let status = scene.stack.agent.ctl(&["status"])?;
    let attached = status["interfaces"][0]["attached"].as_str().unwrap_or_default().to_owned();
    ensure!(
        matches!(attached.as_str(), "native" | "generic"),
        "the program is not attached: {}",
        status["interfaces"]
    );
    let forwarded = forwarded(scene)?;
    ensure!(forwarded > total as u64, "only {forwarded} packets went through the program");
    let mut lines = screen::bars(&figures.spread);
    lines.insert(
        0,
        format!(
            "{} requests with curl (median {}, slowest {}), {} over sockets of our own: {} failed",
            figures.curl,
            ui::duration(figures.median()),
            ui::duration(figures.slowest()),
            figures.own,
            figures.failed.len(),
        ),
    );
    lines.push(format!("{forwarded} packets through XDP in {attached} mode"));
    Ok(Shown { lines, figure, wanted: "none" })
}

/// Packets the kernel half has sent on so far.
fn forwarded(scene: &Scene) -> Result<u64> {
    let stats = scene.stack.agent.ctl(&["stats", "--all"])?;
    let counters = stats["counters"].as_array().context("no counters in the statistics")?;
    Ok(counters
        .iter()
        .filter(|counter| counter["kind"] == "forwarded")
        .filter_map(|c| c["value"].as_u64())
        .sum())
}

fn kill_backend(scene: &mut Scene) -> Result<Shown> {
    let name = backend_name(1);
    let (killed, killed_ms) = (Instant::now(), agent::now_ms());
    scene.stack.web.kill(&scene.stack.lab, 1)?;
    let noticed_ms = scene.stack.agent.wait_for_event("backend_down", &name, killed_ms)?;
    let detection = Duration::from_millis(noticed_ms.saturating_sub(killed_ms));
    scene.stack.agent.wait_until_out(&name)?;
    let out = Instant::now();
    std::thread::sleep(scene.pause);
    let during = scene.figures(killed, out);
    let after = scene.figures(out, Instant::now());
    none_failed(&after).context("after it was taken out")?;
    ensure!(!after.spread.contains_key(&name), "{name} still answered after it was killed");
    let detection = ui::duration(detection);
    Ok(Shown {
        lines: vec![
            format!("{name}'s server killed: noticed after {}", ui::bold(&detection)),
            format!("until it was out, {}{}", during.failures(), during.first_failure()),
            format!("from then on, {}", after.failures()),
        ],
        figure: format!("noticed after {detection}, {} requests lost", during.failed.len()),
        wanted: "within 1 s on an idle machine",
    })
}

fn revive_backend(scene: &mut Scene) -> Result<Shown> {
    let name = backend_name(1);
    let (started, started_ms) = (Instant::now(), agent::now_ms());
    scene.stack.web.start(&mut scene.stack.lab, 1)?;
    let up_ms = scene.stack.agent.wait_for_event("backend_up", &name, started_ms)?;
    let up = Duration::from_millis(up_ms.saturating_sub(started_ms));
    let used = scene.load.wait_for_answer(&name, started)?;
    let figures = scene.look(started, scene.pause);
    let figure = none_failed(&figures)?;
    Ok(Shown {
        lines: vec![format!(
            "{name}'s server started: first answer after {}, up in both services after {}; {figure}",
            ui::duration(used - started),
            ui::duration(up),
        )],
        figure,
        wanted: "none",
    })
}

fn drain(scene: &mut Scene) -> Result<Shown> {
    let began = Instant::now();
    let mut download = Download::start(&scene.stack.lab, "drain", false)?;
    let name = download.backend.clone();
    scene.stack.agent.ctl(&["backend", "drain", &format!("web/{name}")])?;
    let drained = Instant::now();
    let was_running = download.is_running();
    std::thread::sleep(scene.pause);
    let to = Instant::now();
    let late = scene.load.between(drained, to);
    let late = late.iter().filter(|sample| !sample.v6 && sample.answer.as_deref() == Ok(&name)).count();
    let finished = download.finish();
    let figures = scene.figures(began, Instant::now());
    scene.stack.agent.ctl(&["backend", "undrain", &format!("web/{name}")])?;
    ensure!(was_running, "the download was over before the drain");
    let took = match finished {
        Ok(took) => took,
        Err(why) => bail!("the download from {name} broke: {why}"),
    };
    ensure!(late == 0, "{late} new requests were answered by {name} after it was drained");
    let figure = none_failed(&figures)?;
    Ok(Shown {
        lines: vec![
            format!(
                "{name} drained while it served a download: that was complete after {}",
                ui::duration(took)
            ),
            format!("no new request went there, and {figure}"),
        ],
        figure,
        wanted: "none",
    })
}

fn kill_agent(scene: &mut Scene) -> Result<Shown> {
    let mut download = Download::start(&scene.stack.lab, "agent", true)?;
    let began = Instant::now();
    let pid = scene.stack.agent.kill()?;
    ensure!(download.is_running(), "the download was over before the kill");
    std::thread::sleep(scene.pause);
    ensure!(scene.stack.agent.ctl(&["status"]).is_err(), "an agent still answers");
    let finished = download.finish();
    let figures = scene.figures(began, Instant::now());
    if let Err(why) = finished {
        bail!("the download broke: {why}");
    }
    let figure = none_failed(&figures)?;
    Ok(Shown {
        lines: vec![
            format!(
                "lbd (process {pid}) killed with SIGKILL; {} without it: {figure}",
                ui::duration(began.elapsed())
            ),
            "a download that was in progress went on to its end".to_owned(),
        ],
        figure,
        wanted: "none",
    })
}

fn restart_agent(scene: &mut Scene) -> Result<Shown> {
    let began = Instant::now();
    let ready = scene.stack.agent.start(&mut scene.stack.lab)?;
    let status = scene.stack.agent.ctl(&["status"])?;
    ensure!(status["adopted"] == true, "the agent did not take over what runs: {status}");
    scene.stack.agent.wait_until_all_up(scene.stack.lab.config().backends)?;
    let figures = scene.look(began, scene.pause);
    let figure = none_failed(&figures)?;
    Ok(Shown {
        lines: vec![
            format!("ready after {}, maps and program adopted; {figure}", ui::duration(ready)),
            format!("{} packets forwarded since the beginning", forwarded(scene)?),
        ],
        figure,
        wanted: "none",
    })
}
