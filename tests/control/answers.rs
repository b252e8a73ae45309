//! What a change answers in addition to its success, and what it wants confirmed first: the last usable backend, parts
//! of a health check, secrets, weights in percent, files of many backends.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::world::{CONFIG, address, isolated};

#[test]
fn the_last_usable_backend_is_removed_only_by_force() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let before = agent.services()?;
        let last = "backend dns/dns-1 is the last usable one of service dns, whose new flows would be dropped as no_backend; \
                    nothing was changed; --force (over HTTP `\"force\": true`) does it all the same";
        let takes_out: [&[&str]; 5] = [
            &["disable", "dns/dns-1"],
            &["drain", "dns/dns-1"],
            &["drain", "dns/dns-1", "--wait", "--timeout", "1s"],
            &["set", "dns/dns-1", "--weight", "0"],
            &["remove", "dns/dns-1"],
        ];
        for words in takes_out {
            agent.lbctl(&[&["backend"], words].concat())?.refused(1, &[last]);
        }
        let place = "/v1/services/dns/backends/dns-1";
        agent.http("PATCH", place, "{\"state\": \"disabled\"}")?.assert_error(409, "conflict");
        agent.http("DELETE", place, "")?.assert_error(409, "conflict");
        agent.unchanged(&before).context("a refusal changed something")?;

        let warning = "warning: service dns: no usable backend: new flows are dropped as no_backend\n";
        let said = agent.lbctl(&["backend", "disable", "dns/dns-1", "--force"])?.done()?;
        ensure!(said.ends_with(warning), "{said}");
        for ask in [["status"].as_slice(), &["service", "list"], &["service", "show", "dns"]] {
            let said = agent.lbctl(ask)?.done()?;
            ensure!(said.contains("no usable backend"), "{ask:?}: {said}");
        }
        agent.lbctl(&["backend", "enable", "dns/dns-1"])?.done()?;
        ensure!(agent.http("DELETE", place, "{\"force\": true}")?.status == 200);
        ensure!(agent.json(&["service", "show", "dns"])?["notes"][0] == "no backend");
        // The service keeps one of its two backends, so this needs no `--force`.
        let said = agent.lbctl(&["backend", "disable", "web/web-1"])?.done()?;
        ensure!(!said.contains("warning"), "{said}");
        Ok(())
    })
}

#[test]
fn a_changed_part_of_a_health_check_keeps_the_rest() -> Result<()> {
    isolated(test_name!(), |world| {
        let check = "max_backends = 10\nhealth = { kind = \"http\", port = 8080, path = \"/healthz\", expect = [200] }\n";
        let agent = world.start(&CONFIG.replacen("max_backends = 10\n", check, 1))?;
        let said = agent.lbctl(&["service", "set", "web", "--health-fall", "5"])?.done()?;
        ensure!(said.starts_with("service web: health.fall from 2 to 5\n"), "{said}");
        let shown = agent.json(&["service", "show", "web"])?;
        ensure!(shown["health"] == "http port 8080 path /healthz every 500ms", "{shown}");
        agent.lbctl(&["service", "set", "web", "--unset", "health_expect"])?.done()?;
        let text = agent.lbctl(&["config", "show"])?.done()?;
        let line = "health = { kind = \"http\", port = 8080, path = \"/healthz\", expect = \"200-399\",";
        ensure!(text.contains(line) && text.contains("fall = 5"), "{text}");
        agent.lbctl(&["service", "set", "web", "--health", "tcp"])?.done()?;
        let shown = agent.json(&["service", "show", "web"])?;
        ensure!(shown["health"] == "tcp port 80 every 500ms", "{shown}");
        agent.lbctl(&["service", "set", "web", "--health", "none"])?.done()?;
        agent.lbctl(&["service", "set", "web", "--health-fall", "5"])?.refused(
            2,
            &["service web: health is off, so there is no check of which a part could be changed: give its kind, too"],
        );
        Ok(())
    })
}

#[test]
fn an_undrained_backend_of_weight_0_says_why() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "0", "--state", "draining"])?.done()?;
        let said = agent.lbctl(&["backend", "undrain", "web/web-1"])?.done()?;
        let warning = "warning: backend web/web-1 takes no new flows: its weight is 0; `lbctl backend set web/web-1 --weight \
                       100` gives it one\n";
        ensure!(said.ends_with(warning), "{said}");
        let shown = agent.json(&["backend", "show", "web/web-1"])?;
        ensure!(
            shown["state"] == "draining" && shown["admin"] == "enabled" && shown["health"] == "not_checked",
            "{shown}"
        );
        ensure!(shown["flows_tracked"].is_string(), "{shown}");
        Ok(())
    })
}

#[test]
fn the_seed_is_masked_unless_asked_for_and_kept() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let masked = agent.lbctl(&["config", "show"])?.done()?;
        ensure!(!masked.contains("control tests") && masked.contains("seed = \"***\""), "{masked}");
        let answer = agent.http("GET", "/v1/config", "")?;
        ensure!(!answer.body["text"].as_str().unwrap_or_default().contains("control tests"), "{answer:?}");
        let shown = agent.lbctl(&["config", "show", "--show-secrets"])?.done()?;
        ensure!(shown.contains("seed = \"control tests\"\n"), "{shown}");
        let answer = agent.http("GET", "/v1/config?secrets=true", "")?;
        ensure!(answer.body["text"].as_str().unwrap_or_default().contains("control tests"), "{answer:?}");
        let path = world.write("masked.toml", &masked)?.display().to_string();
        for ask in [["config", "check", &path], ["config", "apply", &path]] {
            agent
                .lbctl(&ask)?
                .refused(2, &["seed \"***\" is what `lbctl config show` prints in place of the seed"]);
        }
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "7"])?.done()?;
        agent.lbctl(&["config", "save"])?.done()?;
        let file = std::fs::read_to_string(world.path("lb.toml"))?;
        ensure!(file.contains("seed = \"control tests\"") && file.contains("weight = 7"), "{file}");
        let placeholder =
            world.write("p.toml", CONFIG.replace("control tests", "0f6c…"))?.display().to_string();
        world
            .lbd(&["--config", &placeholder, "--check"])?
            .refused(2, &["seed \"0f6c…\" is the example of the documentation, which everyone knows"]);
        Ok(())
    })
}

#[test]
fn weights_in_percent_are_shares_of_the_file() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world
            .start(&CONFIG.replace("address = \"10.0.0.11\"", "address = \"10.0.0.11\"\nweight = 40"))?;
        for (share, weight) in [("50%", 20), ("50%", 20), ("100%", 40)] {
            agent.lbctl(&["backend", "set", "web/web-1", "--weight", share])?.done()?;
            ensure!(agent.json(&["backend", "show", "web/web-1"])?["weight"] == weight, "{share}");
        }
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "half"])?.refused(
            2,
            &["a weight is a whole number from 0 to 1000, or a share of the weight in the file, as in 50%"],
        );
        agent
            .lbctl(&["backend", "add", "web/x", "--address", "10.0.0.9", "--weight", "50%"])?
            .refused(2, &["a weight is a whole number from 0 to 1000"]);
        let taken = agent.lbctl(&["backend", "add", "web/x", "--address", "10.0.0.11"])?;
        ensure!(!taken.err.contains('$'), "{taken:?}");
        taken.refused(2, &["error: backend web/x: the address 10.0.0.11 is taken by the backend at"]);
        agent.lbctl(&["service", "add", "x", "--listen", "tcp/203.0.113.9:0443", "--max-backends", "2"])?.refused(
            2,
            &["error: service x: listen \"tcp/203.0.113.9:0443\": port 0443 has a leading zero: write 443"],
        );
        Ok(())
    })
}

#[test]
fn config_check_sees_the_host_and_any_host_does_not() -> Result<()> {
    isolated(test_name!(), |world| {
        let gone = CONFIG.replace("interface = \"lb0\"", "interface = \"lb7\"");
        let file = world.write("lb.toml", &gone)?.display().to_string();
        let missing = "there is no interface lb7 on this host";
        world.lbd(&["--config", &file, "--check"])?.refused(2, &[missing]);
        world.lbctl(&["config", "check", &file])?.refused(2, &[missing]);
        world.lbctl(&["config", "check", "--any-host", &file])?.done()?;
        // The host's own route to a backend has a virtual address as its source.
        world.ip(
            "address add 203.0.113.10/32 dev lo\nroute replace 10.0.0.11 via 10.9.0.2 src 203.0.113.10\n",
        )?;
        let file = world.write("lb.toml", CONFIG)?.display().to_string();
        let warning = "warning: backend web/web-1: this host sends to it from 203.0.113.10, the virtual address of service web, ";
        for said in [world.lbd(&["--config", &file, "--check"])?, world.lbctl(&["config", "check", &file])?] {
            let said = said.done()?;
            ensure!(said.contains(warning) && !said.contains("web/web-2"), "{said}");
        }
        let agent = world.restart()?;
        let reason = agent.json(&["backend", "show", "web/web-1"])?["reason"].clone();
        ensure!(
            reason.as_str().is_some_and(|why| why.contains("from 203.0.113.10, the virtual address")),
            "{reason}"
        );
        Ok(())
    })
}

#[test]
fn a_hash_that_has_to_wait_is_answered_with_its_time() -> Result<()> {
    isolated(test_name!(), |world| {
        // A service that the agent adopted always learns; a new one learns only after it has forwarded something.
        world.start(CONFIG)?.end(Signal::SIGTERM)?;
        let agent = world.restart()?;
        let first = agent.lbctl(&["service", "set", "web", "--hash", "source/24"])?.done()?;
        ensure!(!first.contains("warning"), "{first}");
        let second = agent.lbctl(&["service", "set", "web", "--hash", "source/16"])?.done()?;
        let warning =
            "warning: service web: hash source/16 waits until the flows of the change before are known, in ";
        ensure!(
            second.contains(warning) && second.ends_with(" at most; until then source/24 holds\n"),
            "{second}"
        );
        let status = agent.lbctl(&["status"])?.done()?;
        ensure!(status.contains("hash source/16 waits until"), "{status}");
        Ok(())
    })
}

/// As many backends as `limits.backends` allows by default, in services of the default size, with every key spelled out.
fn as_many_as_there_may_be() -> String {
    let mut text = "health = false\n[node]\ninterface = \"lb0\"\nseed = \"control tests\"\nstate_directory = \"/run/t/state\"\n\
                    [limits]\nflows = 1024\n"
        .to_owned();
    for n in 0..16_384u32 {
        if n % 64 == 0 {
            let _ = write!(
                text,
                "[[service]]\nname = \"s-{}\"\nlisten = \"tcp/203.0.113.{}:80\"\n",
                n / 64,
                n / 64
            );
            let _ = writeln!(text, "max_backends = 64");
        }
        let _ = write!(text, "[[service.backend]]\nname = \"a-backend-with-a-name-of-forty-letters-{n}\"\n");
        let _ = write!(text, "address = \"{}\"\nweight = 100\nstate = \"enabled\"\n", address(n));
    }
    text
}

#[test]
fn a_file_with_all_backends_fits_through_the_socket() -> Result<()> {
    isolated(test_name!(), |world| {
        let empty: String =
            as_many_as_there_may_be().split("[[service]]").next().unwrap_or_default().to_owned();
        let mut agent = world.start(&empty)?;
        let whole = as_many_as_there_may_be();
        ensure!(whole.len() > 1024 * 1024, "{} bytes would have fitted before", whole.len());
        let file = world.write("whole.toml", &whole)?.display().to_string();
        agent.lbctl(&["config", "apply", &file])?.done()?;
        let status = agent.json(&["status"])?;
        let backends: u64 =
            status["services"].as_array().into_iter().flatten().filter_map(|s| s["backends"].as_u64()).sum();
        ensure!(backends == 16_384, "{backends}");
        agent.assert_alive()
    })
}
