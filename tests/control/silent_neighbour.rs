//! An agent that starts while a neighbour does not answer keeps the records that work, until the neighbour answers differently.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    frame::{self, Segment},
    test_name,
};
use nix::sys::signal::Signal;

use crate::{
    agent::Agent,
    wire::Wire,
    world::{CONFIG, World, isolated, until},
};

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const PACKETS: u16 = 50;

/// The Ethernet address to which packets for the backend are sent.
fn mac(agent: &Agent<'_>) -> Result<String> {
    let shown = agent.json(&["backend", "show", "web/web-1"])?;
    Ok(shown["next_hop"]["mac"].as_str().unwrap_or_default().to_owned())
}

fn counted(agent: &Agent<'_>, name: &str) -> Result<u64> {
    let stats = agent.json(&["stats", "--all"])?;
    let counters = stats["counters"].as_array().context("no counters")?;
    let counter = counters.iter().find(|counter| counter["name"] == name);
    counter.and_then(|counter| counter["value"].as_u64()).with_context(|| format!("no counter {name}"))
}

/// Fails unless packets of as many flows all find a next hop.
fn assert_forwarded(agent: &Agent<'_>) -> Result<()> {
    let wire = Wire::on("lb0p")?;
    let (before, packets) =
        (counted(agent, "no_next_hop")?, agent.json(&["stats"])?["services"]["web"].clone());
    for port in 0..PACKETS {
        let from = format!("198.51.100.1:{}", 40_000 + port).parse()?;
        wire.send(&frame::tcp(from, (VIP, 80).into(), Segment::Data, 0, 20))?;
    }
    let sent = |value: &serde_json::Value| value["packets"].as_u64().unwrap_or(0);
    until("the packets are forwarded", || {
        let now = agent.json(&["stats"])?["services"]["web"].clone();
        let all = sent(&now) >= sent(&packets) + u64::from(PACKETS);
        Ok(if all { Ok(()) } else { Err(format!("{packets} became {now}")) })
    })?;
    let lost = counted(agent, "no_next_hop")? - before;
    ensure!(lost == 0, "{lost} of {PACKETS} packets had no next hop");
    Ok(())
}

/// Makes the host forget the neighbour, which no longer answers.
fn silence(world: &World) -> Result<()> {
    world.ip("neighbour flush all dev lb0 nud permanent")
}

#[test]
fn a_restart_with_a_silent_neighbour_keeps_the_hop() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        assert_forwarded(&agent)?;
        ensure!(mac(&agent)? == "02:00:00:00:00:02");
        agent.end(Signal::SIGTERM)?;
        silence(world)?;
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let agent = world.restart()?;
            ensure!(mac(&agent)? == "02:00:00:00:00:02", "{:?}", mac(&agent)?);
            let shown = agent.json(&["backend", "show", "web/web-1"])?;
            ensure!(shown["reason"].to_string().contains("its last hardware address is used on"), "{shown}");
            ensure!(shown["state"] == "up" && shown["slots"] != 0, "{shown}");
            assert_forwarded(&agent)?;
            match signal {
                Signal::SIGKILL => drop(agent),
                _ => agent.end(signal)?,
            }
        }
        // The neighbour answers again, with another Ethernet address.
        let mut agent = world.restart()?;
        world.ip("neighbour replace 10.9.0.2 lladdr 02:00:00:00:00:03 nud permanent dev lb0")?;
        until("the new hardware address is used", || {
            let mac = mac(&agent)?;
            Ok(if mac == "02:00:00:00:00:03" { Ok(()) } else { Err(mac) })
        })?;
        let events = agent.lbctl(&["events", "--kind", "next_hop_changed"])?.done()?;
        let words = "hardware address 02:00:00:00:00:02 became 02:00:00:00:00:03";
        ensure!(events.contains(words), "{events}");
        assert_forwarded(&agent)?;
        agent.assert_alive()
    })
}

#[test]
fn a_changed_interface_setting_keeps_next_hops() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        assert_forwarded(&agent)?;
        silence(world)?;
        world.ip("link add lb1 type veth peer name lb1p\nlink set lb1 up\nlink set lb1p up")?;
        world.write("lb.toml", CONFIG.replace("interface = \"lb0\"", "interface = [\"lb0\", \"lb1\"]"))?;
        agent.lbctl(&["config", "apply"])?.done()?;
        until("both interfaces are attached", || {
            let shown = agent.json(&["status"])?["interfaces"].clone();
            let all = shown.as_array().is_some_and(|all| {
                all.len() == 2 && all.iter().all(|one| one["attached"] != "detached" && one["index"].is_u64())
            });
            Ok(if all { Ok(()) } else { Err(shown.to_string()) })
        })?;
        ensure!(mac(&agent)? == "02:00:00:00:00:02", "{:?}", mac(&agent)?);
        assert_forwarded(&agent)?;
        agent.assert_alive()
    })
}
