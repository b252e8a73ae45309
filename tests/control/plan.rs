//! `lbctl plan FILE`: it reports what applying the file does, and it changes nothing.

use std::fs;

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    config,
    world::{CONFIG, isolated, wait_for},
};

/// [`CONFIG`] with a third backend of the service web.
fn third() -> String {
    let second = "address = \"10.0.0.12\"\n";
    CONFIG
        .replace(second, &format!("{second}[[service.backend]]\nname = \"web-3\"\naddress = \"10.0.0.13\"\n"))
}

#[test]
fn a_plan_changes_nothing_and_applying_does_it() -> Result<()> {
    isolated(test_name!(), |world| {
        // A service that the agent made learns only after it has forwarded something; one that the agent adopted always learns.
        world.start(CONFIG)?.end(Signal::SIGTERM)?;
        let mut agent = world.restart()?;
        let (before, fingerprint) = (agent.services()?, agent.json(&["status"])?["fingerprint"].clone());
        let file = world.write("new.toml", third())?.display().to_string();
        let plan = agent.json(&["plan", &file])?;
        let planned = agent.lbctl(&["plan", &file])?.done()?;
        for words in ["web-3", "COLLATERAL", "for 2h", "nothing was"] {
            ensure!(planned.contains(words), "{words} is missing in:\n{planned}");
        }
        agent.unchanged(&before)?;
        ensure!(agent.json(&["status"])?["fingerprint"] == fingerprint);
        ensure!(fs::read_to_string(world.path("lb.toml"))? == CONFIG, "the file was replaced");
        let web = plan["services"].as_array().into_iter().flatten().find(|service| service["name"] == "web");
        let Some(web) = web else { anyhow::bail!("{plan}") };
        let moved = web["slots_moved"].as_u64().unwrap_or(0);
        // A third of 1021 slots, and the slots that Maglev's builder moves without need.
        ensure!((340..500).contains(&moved) && web["flows_cut"] == 0, "{web}");
        let applied = agent.json(&["config", "apply", &file])?;
        // The agent asks for the next hop when the file is applied; then the backend enters the ring.
        let third = wait_for("the backend is up", || {
            let third = agent.json(&["backend", "show", "web/web-3"])?;
            Ok((third["state"] == "up").then_some(third))
        })?;
        ensure!(third["slots"] == web["backends"][0]["slots_after"], "{third} {web}");
        ensure!(applied["summary"] == plan["summary"], "{applied} {plan}");
        let shown = agent.json(&["service", "show", "web"])?;
        ensure!(shown["slot_states"]["learning"] == web["slots_tracked"], "{shown}");
        ensure!(shown["slot_states"]["learning"].as_u64() == Some(moved), "{shown}");
        let again = agent.json(&["plan", &file])?;
        ensure!(again["writes"] == 0 && again["summary"].as_array().is_some_and(Vec::is_empty), "{again}");
        agent.assert_alive()
    })
}

#[test]
fn a_plan_that_would_cut_says_so_and_names_the_way_out() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&third())?;
        let file = world.write("new.toml", CONFIG)?.display().to_string();
        let planned = agent.lbctl(&["plan", &file])?.done()?;
        ensure!(
            planned.contains("web/web-3 would lose its flows") && planned.contains("drain web/web-3"),
            "{planned}"
        );
        let drained =
            third().replace("address = \"10.0.0.13\"", "address = \"10.0.0.13\"\nstate = \"draining\"");
        let file = world.write("drained.toml", drained)?.display().to_string();
        let planned = agent.lbctl(&["plan", &file])?.done()?;
        ensure!(planned.contains("web/web-3") && !planned.contains("would lose its flows"), "{planned}");
        Ok(())
    })
}

#[test]
fn a_bad_file_ends_with_2_and_lists_every_error() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let before = agent.services()?;
        for bad in config::all() {
            let file = world.write("bad.toml", &bad.text)?.display().to_string();
            let said = agent.lbctl(&["plan", &file])?;
            said.refused(2, &[]);
            bad.assert_all_said(&said.err, &file);
        }
        let missing = world.path("none.toml").display().to_string();
        agent.lbctl(&["plan", &missing])?.refused(2, &[&missing]);
        agent.unchanged(&before)?;
        agent.assert_alive()
    })
}

#[test]
fn a_plan_beyond_the_running_maps_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let file = world.write("new.toml", CONFIG.replace("control tests", "others"))?.display().to_string();
        agent.lbctl(&["plan", &file])?.refused(2, &["node.seed"]);
        let status = agent.json(&["status"])?;
        ensure!(status["last_refused"].is_null() && status["last_error"].is_null(), "{status}");
        Ok(())
    })
}

#[test]
fn without_an_agent_a_plan_ends_with_4() -> Result<()> {
    isolated(test_name!(), |world| {
        let file = world.write("new.toml", CONFIG)?.display().to_string();
        world.lbctl(&["plan", &file])?.refused(4, &[]);
        Ok(())
    })
}
