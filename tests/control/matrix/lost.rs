//! Packets that are lost behind the program after an interface stops sending: they are counted by interface and error,
//! whether an agent runs or not, until the agent refuses the hop. The agent uses the hop again when the interface sends again.

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use super::{Account, backend, config, device::Device, scene, sent};
use crate::{
    agent::{Agent, Said},
    world::{World, isolated, wait_for},
};

/// Datagrams that are sent in a row.
pub(super) const DATAGRAMS: u64 = 200;

/// An interface that sends, and how its far end takes this ability away and gives it back.
struct Case {
    device: Device,
    apart: bool,
    takes: &'static str,
    gives: fn() -> Result<()>,
}

fn gro_on() -> Result<()> {
    scene::shell("segment", "ethtool -K far gro on >/dev/null").map(drop)
}

pub(super) fn wait_for_state(agent: &Agent<'_>, wanted: &str) -> Result<()> {
    wait_for(&format!("the backend is {wanted}"), || Ok((backend(agent)?["state"] == wanted).then_some(())))
}

/// Waits until every packet that was sent has arrived or is counted. Returns how many were lost.
pub(super) fn balance(world: &World, agent: &Agent<'_>) -> Result<u64> {
    let mut account = Account::default();
    wait_for("what was sent has arrived or is counted as lost", || {
        account = Account::take(world, agent, 0)?;
        Ok(account.balances().then_some(account.lost))
    })
    .with_context(|| account.to_string())
}

fn lose(world: &World, case: &Case) -> Result<()> {
    scene::make(world, case.device, case.apart)?;
    let udp = config(case.device, case.apart, "native").replace("tcp/", "udp/");
    let agent = world.start(&udp)?;
    wait_for_state(&agent, "up")?;
    scene::datagrams(DATAGRAMS)?;
    ensure!(balance(world, &agent)? == 0, "something is lost at the beginning");
    let (forwarded, _) = sent(&agent)?;
    ensure!(forwarded > 0, "nothing was forwarded");

    // No agent is there to refuse the hop.
    agent.end(Signal::SIGKILL)?;
    scene::shell("segment", case.takes)?;
    scene::datagrams(DATAGRAMS)?;
    let mut agent = world.restart()?;
    let lost = balance(world, &agent)?;
    ensure!(lost > 0 && sent(&agent)?.0 - forwarded == lost, "{lost} lost, {:?} sent", sent(&agent)?);
    wait_for_state(&agent, "unresolved")?;
    let name = case.device.interface();
    let shown = agent.lbctl(&["stats"])?.done()?;
    ensure!(shown.contains("LOST AT") && shown.contains(&format!("\n{name} ")), "{shown}");
    let metrics = agent.lbctl(&["metrics"])?.done()?;
    let line = metrics.lines().find(|line| line.starts_with("lb_egress_dropped_total{"));
    ensure!(line.is_some_and(|line| line.contains(&format!("interface=\"{name}\""))), "{line:?}");
    let status = agent.json(&["status"])?;
    ensure!(status["egress"][0]["dropped"] == lost && status["egress"][0]["sends"] == "no", "{status}");

    (case.gives)()?;
    wait_for_state(&agent, "up")?;
    scene::datagrams(DATAGRAMS)?;
    ensure!(balance(world, &agent)? == lost, "it sends again, and loses more");
    // While the agent runs it refuses the hop by itself.
    scene::shell("segment", case.takes)?;
    wait_for_state(&agent, "unresolved")?;
    scene::datagrams(DATAGRAMS)?;
    ensure!(balance(world, &agent)? == lost, "the hop is refused, and still something is lost");
    agent.assert_alive()?;

    agent.end(Signal::SIGTERM)?;
    Said::of(world.command("lbd")?.args(["--instance", crate::world::INSTANCE, "--detach"]))?.done()?;
    ensure!(!world.pins().exists(), "something is still pinned");
    Ok(())
}

#[test]
fn redirected_frames_lost_at_the_far_end_are_counted() -> Result<()> {
    let takes = "ethtool -K far gro off >/dev/null";
    let case = Case { device: Device::VethWithGro, apart: true, takes, gives: gro_on };
    isolated(test_name!(), move |world| lose(world, &case))
}

#[test]
fn returned_frames_lost_at_the_far_end_are_counted() -> Result<()> {
    let takes = "ip link set far xdpdrv off";
    let gives = || scene::program("far");
    let case = Case { device: Device::VethWithProgram, apart: false, takes, gives };
    isolated(test_name!(), move |world| lose(world, &case))
}
