//! Packets that no service takes: a reload applies `node.unserved`, the host's own addresses have a counter of their own
//! while they come and go, and the agent reports where packets would loop between this host and the router.

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
    world::{CONFIG, isolated, wait_for},
};

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

fn counted(agent: &Agent<'_>, name: &str) -> Result<u64> {
    let stats = agent.json(&["stats", "--all"])?;
    let counters = stats["counters"].as_array().context("no counters")?;
    let counter = counters.iter().find(|counter| counter["name"] == name);
    counter
        .and_then(|counter| counter["value"].as_u64())
        .with_context(|| format!("no counter {name}: {stats}"))
}

/// Sends segments to an address and port until the counter of this name goes up.
fn wait_counted(agent: &Agent<'_>, wire: &Wire, to: (Ipv4Addr, u16), name: &str) -> Result<()> {
    let before = counted(agent, name)?;
    let packet = frame::tcp("198.51.100.1:40000".parse()?, to.into(), Segment::Data, 0, 20);
    wait_for(&format!("a packet to {to:?} counted as {name}"), || {
        wire.send(&packet)?;
        Ok((counted(agent, name)? > before).then_some(()))
    })
}

#[test]
fn a_reload_switches_the_drop_of_unserved_packets() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let wire = Wire::on("lb0p")?;
        wait_counted(&agent, &wire, (VIP, 81), "passed_unserved")?;
        let dropped = CONFIG.replace("seed =", "unserved = \"drop\"\nseed =");
        for (config, name) in [(dropped.as_str(), "unserved"), (CONFIG, "passed_unserved")] {
            world.write("lb.toml", config)?;
            agent.signal(Signal::SIGHUP)?;
            wait_counted(&agent, &wire, (VIP, 81), name)?;
        }
        agent.assert_alive()
    })
}

#[test]
fn host_addresses_are_counted_apart() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let wire = Wire::on("lb0p")?;
        let (own, later) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 77));
        wait_counted(&agent, &wire, (own, 80), "passed_host")?;
        wait_counted(&agent, &wire, (later, 80), "passed_not_service")?;
        world.ip("address add 10.9.0.77/24 dev lb0")?;
        wait_counted(&agent, &wire, (later, 80), "passed_host")?;
        world.ip("address delete 10.9.0.77/24 dev lb0")?;
        wait_counted(&agent, &wire, (later, 80), "passed_not_service")?;
        agent.assert_alive()
    })
}

/// The notes on the host in `lbctl status`.
fn notes(agent: &Agent<'_>) -> Result<String> {
    Ok(agent.json(&["status"])?["notes"].to_string())
}

#[test]
fn a_host_that_would_forward_them_is_reported() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        ensure!(notes(&agent)? == "[]", "{}", notes(&agent)?);
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1")?;
        wait_for("a note that names the address and the route", || {
            Ok(notes(&agent)?.contains("`ip route add blackhole 203.0.113.10/32`").then_some(()))
        })?;
        ensure!(!notes(&agent)?.contains("2001:db8::10"), "IPv6 is not forwarded: {}", notes(&agent)?);
        world.ip("route add blackhole 203.0.113.10/32")?;
        wait_for("no note any more", || Ok((notes(&agent)? == "[]").then_some(())))?;
        // The host itself has the address now, and `node.unserved` drops packets for what the host offers there.
        world.ip("address add 203.0.113.10/32 dev lo")?;
        world.write("lb.toml", CONFIG.replace("seed =", "unserved = \"drop\"\nseed ="))?;
        agent.signal(Signal::SIGHUP)?;
        wait_for("a note that it is an address of this host", || {
            Ok(notes(&agent)?.contains("203.0.113.10 is an address of this host").then_some(()))
        })?;
        agent.assert_alive()
    })
}
