//! An agent with 10,000 backends: how soon it answers and has written every slot, and how much memory it takes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;
use xtask::{
    lab::{BALANCER, Lab},
    stack::agent::Agent,
};

use super::{
    super::row::{Definition, Part},
    Bench, SERVICE, many, route_many,
};

pub(super) const BACKENDS: u32 = 10_000;
const ROUNDS: u32 = 3;

pub(super) fn definitions() -> Vec<Definition> {
    let row = |id: &str, unit, what: &str| {
        Definition::new(Part::Lab, format!("agent/{id}"), unit, what).quick(false)
    };
    vec![
        row("start/answers", "ms", "lbd with 10,000 backends: from its start until lbctl is answered"),
        row("start/forwards", "ms", "the same until every slot is written"),
        row("restart/forwards", "ms", "the same for one that takes over what runs"),
        row("memory/10000-backends", "MiB", "memory of its own (RssAnon) of lbd with 10,000 backends"),
        row("memory/1-backend", "MiB", "the same with 1 backend, same limits"),
        row("memory/backend", "bytes", "the difference, for each backend (its slots included)"),
    ]
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    route_many(bench.lab)?;
    for _ in 0..ROUNDS {
        let small = one_start(bench, 1, false)?;
        let large = one_start(bench, BACKENDS, true)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        bench.add("agent/memory/1-backend", mib(small));
        bench.add("agent/memory/10000-backends", mib(large));
        bench.add("agent/memory/backend", (large as f64 - small as f64) / f64::from(BACKENDS - 1));
    }
    Ok(())
}

/// Starts one agent, and adds its times if they are wanted. Returns the bytes of its memory.
fn one_start(bench: &mut Bench<'_>, backends: u32, timed: bool) -> Result<u64> {
    let file = many(bench.lab, backends, "false")?;
    let mut agent = Agent::with(bench.lab, bench.binaries, &file)?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let begun = Instant::now();
    let answers = agent.start(bench.lab)?;
    wait_until_in_ring(&agent, backends)?;
    if timed {
        bench.add("agent/start/forwards", ms(begun.elapsed()));
        bench.add("agent/start/answers", ms(answers));
    }
    let memory = status(bench.lab, "RssAnon")?;
    if timed {
        agent.stop()?;
        let begun = Instant::now();
        agent.start(bench.lab)?;
        wait_until_in_ring(&agent, backends)?;
        bench.add("agent/restart/forwards", ms(begun.elapsed()));
    }
    agent.stop()?;
    detach(bench)?;
    Ok(memory)
}

/// Removes everything, so that the next agent begins from nothing.
pub(super) fn detach(bench: &Bench<'_>) -> Result<()> {
    let mut command = bench.lab.node(BALANCER)?.command(&bench.binaries.lbd);
    command.args(["--detach", "--instance", &bench.lab.config().instance]);
    xtask::run::capture(&mut command).map(drop).context("detaching")
}

/// Waits until every backend has its slots.
pub(super) fn wait_until_in_ring(agent: &Agent, backends: u32) -> Result<()> {
    let all = xtask::wait::until("every backend has its slots", xtask::wait::limit() * 3, || {
        let status = agent.ctl(&["status"])?;
        let ours = |service: &&Value| service["name"] == SERVICE;
        let service = status["services"].as_array().and_then(|services| services.iter().find(ours));
        if service.is_some_and(|service| service["backends_in_ring"] == backends) {
            return Ok(Ok(()));
        }
        Ok(Err(format!("{service:?}")))
    });
    all.with_context(|| format!("the agent's last words:\n{}\nwhat failed", agent.last_words()))
}

/// The number of the agent's process.
pub(super) fn pid(lab: &Lab) -> Result<i32> {
    let processes = lab.processes(BALANCER)?;
    let agent = processes.iter().find(|process| process.name == "lbd");
    Ok(agent.context("no lbd runs on the balancer")?.pid)
}

/// A size in `/proc/<pid>/status` of the agent (proc(5)), in bytes.
fn status(lab: &Lab, field: &str) -> Result<u64> {
    let file = format!("/proc/{}/status", pid(lab)?);
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).with_context(|| format!("{file} does not say `{field}`"))
}
