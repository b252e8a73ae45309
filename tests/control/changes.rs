//! Changes at run time, and their effect on the ring.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::Agent,
    world::{CONFIG, isolated, wait_for},
};

/// State and slots of a backend.
fn backend(agent: &Agent<'_>, name: &str) -> Result<(String, u64)> {
    let found = agent.json(&["backend", "show", name])?;
    let state = found["state"].as_str().unwrap_or_default().to_owned();
    Ok((state, found["slots"].as_u64().unwrap_or(u64::MAX)))
}

/// All slots of the service web.
const ALL: u64 = 1021;

#[test]
fn a_backend_added_again_gets_its_slots_back() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let fingerprint = || Ok::<Value, anyhow::Error>(agent.json(&["status"])?["fingerprint"].clone());
        let (before, ring) = (backend(&agent, "web/web-2")?, fingerprint()?);
        ensure!(before.0 == "up" && before.1 > ALL / 3, "{before:?}");
        agent.lbctl(&["backend", "remove", "web/web-2"])?.done()?;
        agent.lbctl(&["backend", "show", "web/web-2"])?.refused(1, &["there is no backend web/web-2"]);
        ensure!(backend(&agent, "web/web-1")? == ("up".to_owned(), ALL));
        ensure!(fingerprint()? != ring);
        agent.lbctl(&["backend", "add", "web/web-2", "--address", "10.0.0.12"])?.done()?;
        ensure!(backend(&agent, "web/web-2")? == before);
        ensure!(fingerprint()? == ring, "another ring");
        ensure!(agent.json(&["status"])?["overlay_changes"] == 0, "it is as the file says");
        Ok(())
    })
}

#[test]
fn weight_0_drain_and_disable_give_slots_away() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let before = backend(&agent, "web/web-1")?;
        let away: [(&[&str], &[&str], &str); 3] = [
            (&["set", "web/web-1", "--weight", "0"], &["set", "web/web-1", "--weight", "100"], "draining"),
            (&["drain", "web/web-1"], &["undrain", "web/web-1"], "draining"),
            (&["disable", "web/web-1"], &["enable", "web/web-1"], "disabled"),
        ];
        for (away, back, state) in away {
            agent.lbctl(&[&["backend"], away].concat())?.done()?;
            ensure!(backend(&agent, "web/web-1")? == (state.to_owned(), 0), "{away:?}");
            ensure!(backend(&agent, "web/web-2")?.1 == ALL);
            agent.lbctl(&[&["backend"], back].concat())?.done()?;
            ensure!(backend(&agent, "web/web-1")? == before, "{back:?}");
        }
        Ok(())
    })
}

#[test]
fn without_a_usable_backend_the_ring_is_empty() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        agent.lbctl(&["backend", "disable", "dns/dns-1", "--force"])?.done()?;
        let service = agent.json(&["service", "show", "dns"])?;
        ensure!(service["slot_states"]["empty"] == service["slots"], "{service}");
        ensure!(agent.log().contains("no backend is usable"), "{}", agent.log());
        agent.assert_alive()
    })
}

#[test]
fn the_last_backend_comes_back_to_the_same_ring() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let fingerprint = || Ok::<Value, anyhow::Error>(agent.json(&["status"])?["fingerprint"].clone());
        let (before, ring) = (backend(&agent, "dns/dns-1")?, fingerprint()?);
        for _ in 0..3 {
            agent.lbctl(&["backend", "remove", "dns/dns-1", "--force"])?.done()?;
            let service = agent.json(&["service", "show", "dns"])?;
            ensure!(service["backends"].as_array().is_some_and(Vec::is_empty), "{service}");
            ensure!(service["slot_states"]["empty"] == service["slots"], "{service}");
            agent.lbctl(&["backend", "add", "dns/dns-1", "--address", "fd00:8::11"])?.done()?;
            wait_for("the backend is back", || Ok((backend(&agent, "dns/dns-1")? == before).then_some(())))?;
            ensure!(fingerprint()? == ring, "another ring");
        }
        ensure!(agent.json(&["status"])?["overlay_changes"] == 0, "it is as the file says");
        agent.assert_alive()
    })
}

#[test]
fn one_port_and_every_port_are_two_services() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let add = |name: &str, listen: &str| {
            agent.lbctl(&["service", "add", name, "--listen", listen, "--max-backends", "2"])
        };
        add("rest", "tcp/203.0.113.10:0")?.done()?;
        agent.lbctl(&["backend", "add", "rest/r-1", "--address", "10.0.0.31"])?.done()?;
        ensure!(backend(&agent, "rest/r-1")? == ("up".to_owned(), 251));
        ensure!(agent.json(&["service", "list"])?.as_array().map(Vec::len) == Some(3));
        add("twice", "tcp/203.0.113.10:0")?.refused(2, &["tcp/203.0.113.10:0 is already served"]);
        Ok(())
    })
}

/// [`CONFIG`] with further lines for the service web.
fn web_with(lines: &str) -> String {
    CONFIG.replace("max_backends = 10\n", &format!("max_backends = 10\n{lines}\n"))
}

#[test]
fn only_a_returning_backend_starts_slowly() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&web_with("slow_start = \"5s\""))?;
        let before = backend(&agent, "web/web-1")?;
        ensure!(before.1 > ALL / 3, "at the start it has its whole weight: {before:?}");
        agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
        agent.lbctl(&["backend", "undrain", "web/web-1"])?.done()?;
        let shown = agent.json(&["backend", "show", "web/web-1"])?;
        ensure!(shown["weight"] == 100 && shown["effective_weight"].as_u64() < Some(100), "{shown}");
        ensure!(shown["slots"].as_u64() < Some(ALL / 2 - 20), "{shown}");
        ensure!(agent.json(&["status"])?["services"][1]["backends_starting"] == 1);
        wait_for("its weight is whole", || {
            Ok((agent.json(&["backend", "show", "web/web-1"])?["effective_weight"] == 100).then_some(()))
        })?;
        ensure!(backend(&agent, "web/web-1")? == before, "the ring is not the one before");
        agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
        agent.lbctl(&["backend", "undrain", "web/web-1"])?.done()?;
        agent.end(Signal::SIGKILL)?;
        let agent = world.restart()?;
        ensure!(backend(&agent, "web/web-1")? == before, "a new agent starts no backend slowly");
        Ok(())
    })
}

#[test]
fn below_min_healthy_all_backends_are_kept() -> Result<()> {
    isolated(test_name!(), |world| {
        let check = "health = { kind = \"tcp\", port = 9, interval = \"100ms\", timeout = \"50ms\" }";
        let agent =
            world.start(&web_with(&format!("min_healthy = \"50%\"\nall_down = \"drop\"\n{check}")))?;
        // No host answers behind the gateway.
        wait_for("health is ignored", || {
            let status = agent.json(&["status"])?;
            Ok(status["services"][1]["health_ignored"].is_string().then_some(()))
        })?;
        wait_for("all backends are in the ring", || {
            let (one, two) = (backend(&agent, "web/web-1")?, backend(&agent, "web/web-2")?);
            Ok((one.0 == "down" && two.0 == "down" && one.1 + two.1 == ALL).then_some(()))
        })?;
        let status = agent.lbctl(&["status"])?.done()?;
        ensure!(
            status.contains("health is ignored: 0 of 2 backends healthy, min_healthy is 50%"),
            "{status}"
        );
        let metrics = agent.lbctl(&["metrics"])?.done()?;
        for line in [
            "lb_service_health_ignored{service=\"web\"} 1",
            "lb_service_health_ignored_total{service=\"web\"} 1",
        ] {
            ensure!(metrics.contains(line), "{line} is missing in:\n{metrics}");
        }
        ensure!(agent.log().contains("health_ignored: web:"), "{}", agent.log());
        agent.lbctl(&["service", "set", "web", "--unset", "min_healthy"])?.done()?;
        ensure!(backend(&agent, "web/web-1")? == ("down".to_owned(), 0));
        Ok(())
    })
}

#[test]
fn another_ring_builder_is_an_ordinary_change() -> Result<()> {
    isolated(test_name!(), |world| {
        // A service that the agent adopted always learns; a new one learns only after it has forwarded something.
        world.start(CONFIG)?.end(Signal::SIGTERM)?;
        let agent = world.restart()?;
        let ring =
            |agent: &Agent<'_>| Ok::<Value, anyhow::Error>(agent.json(&["status"])?["fingerprint"].clone());
        let maglev = ring(&agent)?;
        agent.lbctl(&["service", "set", "web", "--ring", "rendezvous"])?.done()?;
        ensure!(ring(&agent)? != maglev);
        let service = agent.json(&["service", "show", "web"])?;
        ensure!(
            service["ring"] == "rendezvous" && service["slot_states"]["learning"].as_u64() > Some(0),
            "{service}"
        );
        agent.lbctl(&["service", "set", "web", "--ring", "maglve"])?.refused(2, &["maglve", "rendezvous"]);
        agent.lbctl(&["service", "set", "web", "--unset", "ring"])?.done()?;
        ensure!(ring(&agent)? == maglev, "the ring is not the one before");
        Ok(())
    })
}

#[test]
fn another_hash_makes_slots_learn_and_the_next_waits() -> Result<()> {
    isolated(test_name!(), |world| {
        // A service that the agent adopted always learns; a new one learns only after it has forwarded something.
        world.start(CONFIG)?.end(Signal::SIGTERM)?;
        let agent = world.restart()?;
        let show = |agent: &Agent<'_>| agent.json(&["service", "show", "web"]);
        ensure!(show(&agent)?["hash"] == "five-tuple");
        let fingerprint = agent.json(&["status"])?["fingerprint"].clone();
        agent.lbctl(&["service", "set", "web", "--hash", "source/24"])?.done()?;
        let service = show(&agent)?;
        ensure!(
            service["hash"] == "source/24" && service["slot_states"]["learning"] == service["slots"],
            "{service}"
        );
        ensure!(agent.json(&["status"])?["fingerprint"] != fingerprint, "flows go elsewhere");
        agent.lbctl(&["service", "set", "web", "--unset", "hash"])?.done()?;
        ensure!(show(&agent)?["hash"] == "source/24, then five-tuple");
        agent
            .lbctl(&["service", "set", "web", "--hash", "source/33"])?
            .refused(2, &["service web", "source/33", "source/32"]);
        Ok(())
    })
}

#[test]
fn balancing_by_turns_needs_track_always() -> Result<()> {
    isolated(test_name!(), |world| {
        // A service that the agent adopted always learns; a new one learns only after it has forwarded something.
        world.start(CONFIG)?.end(Signal::SIGTERM)?;
        let agent = world.restart()?;
        let show = |agent: &Agent<'_>| agent.json(&["service", "show", "web"]);
        ensure!(show(&agent)?["balance"] == "hash");
        let set = |words: &[&str]| agent.lbctl(&[&["service", "set", "web"], words].concat());
        set(&["--balance", "round-robin"])?.refused(2, &["service web", "round-robin", "track = \"always\""]);
        ensure!(show(&agent)?["balance"] == "hash", "nothing was changed");
        set(&["--track", "always", "--balance", "round-robin"])?.done()?;
        let service = show(&agent)?;
        ensure!(
            service["balance"] == "round-robin" && service["slot_states"]["learning"] == service["slots"],
            "flows from before are unknown until they show themselves: {service}"
        );
        set(&["--track", "never"])?
            .refused(2, &["service web", "balance \"round-robin\"", "track is \"never\""]);
        set(&["--hash", "source"])?.refused(2, &["service web", "source/32", "contradict"]);
        set(&["--balance", "random"])?.done()?;
        set(&["--balance", "least-connections"])?.done()?;
        ensure!(show(&agent)?["balance"] == "least-connections");
        set(&["--balance", "randm"])?.refused(2, &["randm", "random"]);
        set(&["--unset", "balance,track"])?.done()?;
        let service = show(&agent)?;
        ensure!(service["balance"] == "hash" && service["track"] == "on-change", "{service}");
        ensure!(
            service["slot_states"]["remembering"] == service["slots"],
            "recorded flows are still looked up"
        );
        Ok(())
    })
}

#[test]
fn metrics_are_served_over_tcp_and_nothing_else_is() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(&CONFIG.replace("seed =", "metrics = \"127.0.0.1:9477\"\nseed ="))?;
        let ask = |request: &str| -> Result<String> {
            let mut stream = TcpStream::connect("127.0.0.1:9477")?;
            write!(
                stream,
                "{request} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask("GET /metrics")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        ensure!(answer.contains("service=\"web\"") && answer.contains("# TYPE"), "{answer}");
        for request in ["GET /v1/status", "POST /v1/detach", "POST /metrics"] {
            let answer = ask(request)?;
            ensure!(answer.starts_with("HTTP/1.1 4"), "{request}: {answer}");
        }
        agent.assert_alive()
    })
}
