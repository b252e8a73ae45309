//! Random histories of one service: whatever changes, no flow moves while its backend lives.
//!
//! [`step`] defines what may happen, [`agent`] changes the tables as the agent would, [`client`] remembers the backend of
//! every flow, and knows nothing of slots and tables.

mod agent;
mod client;
mod step;

use std::cell::{Cell, RefCell};

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    map::name,
    slot::Slot,
    wire::protocol::{TCP, UDP},
};
use lb_tests::need_bpf;
use proptest::{
    collection::vec,
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, TestCaseError, TestRunner},
};

use agent::{Agent, Rule};
use client::Clients;
use step::{Step, step};

/// What became of the flows of a history.
#[derive(Clone, Copy, Default, Debug)]
struct Judged {
    /// Moves of flows whose backend lived.
    broken: u32,
    /// ICMP errors that routers sent.
    errors: u32,
    /// Those that did not reach the backend of their flow, although that lived.
    astray: u32,
}

/// Plays a history and counts the moves of flows whose backend lived.
fn broken(agent: &mut Agent, history: &[Step]) -> Result<u32> {
    Ok(play(agent, history, false)?.broken)
}

/// The same; with `reports`, routers report an error about each flow after every step.
fn play(agent: &mut Agent, history: &[Step], reports: bool) -> Result<Judged> {
    agent.begin_again()?;
    let mut clients = Clients::default();
    for step in history {
        match *step {
            Step::Open(flow) => clients.open(agent, flow)?,
            Step::Send(flow) => clients.send(agent, flow)?,
            Step::Close(flow) => clients.close(agent, flow)?,
            Step::Abandon(flow) => clients.abandon(flow),
            Step::Change(ref owners) => agent.change(owners)?,
            Step::Kill(backend) => {
                agent.kill(backend)?;
                clients.lost(backend);
            }
            Step::Fail(backend) => agent.fail(backend)?,
            Step::Revive(backend) => agent.revive(backend)?,
            Step::Drain(backend) => agent.drain(backend)?,
            Step::Undrain(backend) => agent.undrain(backend)?,
            Step::Resize(length) => agent.resize(length)?,
            Step::EndWindow => {
                // A client that is silent for a whole window counts as gone, so every client sends a packet first.
                clients.send_all(agent)?;
                agent.end_window()?;
            }
            Step::Sweep => agent.sweep(&clients)?,
        }
        if reports {
            clients.report_all(agent)?;
        }
    }
    clients.send_all(agent)?;
    if reports {
        let before = agent.snapshot()?;
        clients.report_all(agent)?;
        let changed = before.changed(&agent.snapshot()?);
        ensure!(
            changed.iter().all(|map| [name::COUNTERS, name::BK_TALLY].contains(&map.as_str())),
            "ICMP errors changed {changed:?}"
        );
    }
    let (errors, astray) = clients.errors();
    Ok(Judged { broken: clients.broken(), errors, astray })
}

/// Asserts that histories of the real rule break no flow.
fn no_flow_breaks(protocol: u8) -> Result<()> {
    let agent = RefCell::new(Agent::new(protocol, |slot, new, keeps, now| slot.change(new, keeps, now))?);
    let config = Config { cases: 80, max_shrink_iters: 3000, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&vec(step(), 1..150), |history| {
            let broken = broken(&mut agent.borrow_mut(), &history);
            match broken.map_err(|error| TestCaseError::fail(format!("{error:#}")))? {
                0 => Ok(()),
                broken => Err(TestCaseError::fail(format!("{broken} flows broke"))),
            }
        })
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// Asserts that ICMP errors go where their flows go, after each step of histories of the real rule.
fn errors_follow_flows(protocol: u8) -> Result<()> {
    let agent = RefCell::new(Agent::new(protocol, |slot, new, keeps, now| slot.change(new, keeps, now))?);
    let config =
        Config { cases: 150, max_shrink_iters: 3000, failure_persistence: None, ..Config::default() };
    let sent = Cell::new(0_u64);
    TestRunner::new(config)
        .run(&vec(step(), 1..150), |history| {
            let judged = play(&mut agent.borrow_mut(), &history, true);
            let judged = judged.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
            sent.set(sent.get() + u64::from(judged.errors));
            match judged.astray + judged.broken {
                0 => Ok(()),
                _ => Err(TestCaseError::fail(format!("{judged:?}"))),
            }
        })
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    println!("counted ICMP errors: {} sent in 150 histories, 0 astray", sent.get());
    assert!(sent.get() > 10_000, "only {} errors were sent", sent.get());
    Ok(())
}

#[test]
fn icmp_errors_follow_tcp_flows() -> Result<()> {
    need_bpf!();
    errors_follow_flows(TCP)
}

#[test]
fn icmp_errors_follow_udp_flows() -> Result<()> {
    need_bpf!();
    errors_follow_flows(UDP)
}

#[test]
fn no_tcp_flow_is_moved_while_its_backend_lives() -> Result<()> {
    need_bpf!();
    no_flow_breaks(TCP)
}

#[test]
fn no_udp_flow_is_moved_while_its_backend_lives() -> Result<()> {
    need_bpf!();
    no_flow_breaks(UDP)
}

/// How often a deliberately wrong rule moves a flow in some histories, which are the same in every run.
fn broken_by(rule: Rule) -> Result<u32> {
    broken_with(Agent::new(TCP, rule)?)
}

/// The same for an agent that does something wrong.
fn broken_with(mut agent: Agent) -> Result<u32> {
    let mut runner = TestRunner::deterministic();
    let mut total = 0;
    for _ in 0..20 {
        let history = vec(step(), 100..150).new_tree(&mut runner).map_err(anyhow::Error::msg)?;
        total += broken(&mut agent, &history.current()).context("a wrong rule breaks flows, nothing else")?;
    }
    Ok(total)
}

#[test]
fn the_histories_find_a_rule_that_overwrites_previous() -> Result<()> {
    need_bpf!();
    // The second of two changes forgets the flows from before the first one.
    let broken = broken_by(|slot, new, alive, now| match slot.current() {
        old if old == new => slot,
        old if old != 0 && alive(old) => Slot::learning(new, old, now),
        _ => Slot::remembering(new),
    })?;
    assert!(broken > 0, "the histories are too tame");
    Ok(())
}

#[test]
fn forgetting_the_owner_that_fails_is_found() -> Result<()> {
    need_bpf!();
    // When the owner is back, unknown flows belong to the backend that had the slot meanwhile.
    let agent = Agent::new(TCP, |slot, new, keeps, now| slot.change(new, keeps, now))?;
    assert!(broken_with(agent.without_grace())? > 0, "the histories are too tame");
    Ok(())
}

#[test]
fn the_histories_find_a_rule_without_previous() -> Result<()> {
    need_bpf!();
    let broken =
        broken_by(|slot, new, _, _| if slot.current() == new { slot } else { Slot::remembering(new) })?;
    assert!(broken > 0, "the histories are too tame");
    Ok(())
}
