//! What an operator can see of tracked slots, of the memory behind the tables, and of changes that were carried out or
//! refused.

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::world::{CONFIG, isolated};

#[test]
fn a_service_says_which_change_its_slots_learn_from() -> Result<()> {
    isolated(test_name!(), |world| {
        // A service that the agent made learns only after it has forwarded something; one that the agent adopted always learns.
        world.start(CONFIG)?.end(Signal::SIGTERM)?;
        let agent = world.restart()?;
        let quiet = agent.lbctl(&["service", "show", "web"])?.done()?;
        ensure!(!quiet.contains("learning from"), "{quiet}");
        agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
        let shown = agent.json(&["service", "show", "web"])?;
        let change = shown["tracking"]["changes"][0].clone();
        let slots = shown["slot_states"]["learning"].as_u64();
        ensure!(slots > Some(300) && change["slots"].as_u64() == slots, "{shown}");
        ensure!(
            change["why"][0].as_str().is_some_and(|why| why.starts_with("web-1 is draining")),
            "{change}"
        );
        // The default of `track_window`, in steps of 8 s.
        let window = 135 * 60;
        let left = change["learning_ends_in"].as_u64();
        ensure!(left.is_some_and(|left| (window - 60..=window + 16).contains(&left)), "{change}");
        ensure!(shown["tracking"]["learning_from"]["web-1"].as_u64() == slots, "{shown}");
        let shown = agent.lbctl(&["service", "show", "web"])?.done()?;
        for line in ["web-1 is draining", "learning from", "unknown flows belong there", "tracked flows"] {
            ensure!(shown.contains(line), "{line} is missing in:\n{shown}");
        }
        agent.end(Signal::SIGKILL)?;
        let agent = world.restart()?;
        let after = agent.json(&["service", "show", "web"])?["tracking"]["changes"].clone();
        ensure!(after[0]["slots"].as_u64() == slots && after.as_array().map(Vec::len) == Some(1), "{after}");
        let shown = agent.lbctl(&["service", "show", "web"])?.done()?;
        ensure!(shown.contains("before the agent started"), "{shown}");
        Ok(())
    })
}

#[test]
fn status_shows_the_kernels_memory_of_every_map() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let status = agent.json(&["status"])?;
        let limits = status["limits"].as_array().cloned().unwrap_or_default();
        let mut sum = 0;
        for limit in &limits {
            let bytes = limit["bytes"].as_u64().unwrap_or(0);
            ensure!(bytes > 0, "{limit}");
            sum += bytes;
        }
        ensure!(status["map_memory"].as_u64() >= Some(sum), "{status}");
        // 20 bytes a record, and whole pages.
        let flows = limits.iter().find(|limit| limit["name"] == "flows").cloned().unwrap_or_default();
        let each = flows["bytes"].as_u64().unwrap_or(0) / 1024;
        ensure!(flows["size"] == 1024 && (20..40).contains(&each), "{flows}");
        let shown = agent.lbctl(&["status"])?.done()?;
        ensure!(shown.contains("MEMORY") && shown.contains("EACH"), "{shown}");
        Ok(())
    })
}

#[test]
fn a_refused_change_keeps_the_rings_fingerprint() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let fingerprint = agent.json(&["status"])?["fingerprint"].clone();
        // With another seed every ring would be different.
        let file = world.write("new.toml", CONFIG.replace("control tests", "others"))?.display().to_string();
        agent.lbctl(&["config", "apply", &file])?.refused(2, &["node.seed"]);
        let status = agent.json(&["status"])?;
        ensure!(status["fingerprint"] == fingerprint, "{status}");
        let refused = status["last_refused"]["lines"].to_string();
        ensure!(status["last_change"].is_null() && refused.contains("node.seed"), "{status}");
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "9"])?.done()?;
        let status = agent.json(&["status"])?;
        ensure!(status["last_change"]["lines"][0].as_str().is_some_and(|line| line.contains("web/web-1")));
        ensure!(status["fingerprint"] != fingerprint, "{status}");
        Ok(())
    })
}
