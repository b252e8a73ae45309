//! Checks that listen to what others say, by the real agent: datagrams and their answers, agents on backends, and commands.

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::Agent,
    bad_health_targets::inside,
    probes::{checks, config, filter, met, probes, servers, wait_for_verdicts, wait_for_words},
    world::{isolated, until, wait_for},
};

/// A service on UDP with one backend and this check.
fn service(name: &str, port: u16, check: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nlisten = \"udp/203.0.113.10:{port}\"\nmax_backends = 2\nhealth = {{ {check} }}\n\
         [[service.backend]]\nname = \"b\"\naddress = \"10.1.1.1\"\n"
    )
}

fn set(agent: &Agent<'_>, service: &str, arguments: &[&str]) -> Result<String> {
    agent.lbctl(&[&["service", "set", service], arguments].concat())?.done()
}

#[test]
fn a_udp_service_is_asked_by_a_datagram() -> Result<()> {
    isolated(test_name!(), |world| {
        servers(world)?;
        let echo = || {
            let socket = UdpSocket::bind("10.1.1.1:5000")?;
            thread::spawn(move || {
                let mut room = [0; 2048];
                while let Ok((length, from)) = socket.recv_from(&mut room) {
                    // The agent may have closed its socket.
                    let _closed = socket.send_to(&room[..length], from);
                }
            });
            Ok(())
        };
        inside(echo).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let services = [
            service(
                "echo",
                5000,
                "kind = \"udp\", payload = \"hex:706f6e67\", reply = \"pong\", timeout = \"2s\"",
            ),
            service("quiet", 5000, "kind = \"udp\", port = 5000, interval = \"2s\", timeout = \"200ms\"")
                .replace("10:5000", "10:5001"),
            service("closed", 5002, "kind = \"udp\", interval = \"2s\", timeout = \"200ms\""),
        ];
        let mut agent = world.start(&config(&services.concat()))?;
        for (service, verdict) in [("echo", "up"), ("quiet", "up"), ("closed", "down")] {
            wait_for_verdicts(&agent, service, verdict)?;
        }
        let before = probes(&checks(&agent, "closed")?);
        // A fifth of all datagrams is lost.
        filter(world, "udp dport 5000 numgen random mod 100 < 20 counter drop")?;
        let lossy = probes(&checks(&agent, "echo")?);
        wait_for("forty probes over a lossy link", || {
            Ok((probes(&checks(&agent, "echo")?) >= lossy + 40).then_some(()))
        })?;
        let downs = agent.lbctl(&["backend", "events", "echo/b", "--kind", "backend_down"])?.done()?;
        ensure!(met(world)? > 0 && downs.is_empty(), "{downs}");
        // The host does not send an error for each datagram, but one for each probe.
        wait_for("eight probes of the closed port", || {
            Ok((probes(&checks(&agent, "closed")?) >= before + 8).then_some(()))
        })?;
        wait_for_words(&agent, "closed", "down", "udp: port unreachable, nothing listens there")?;
        let ups = agent.lbctl(&["backend", "events", "closed/b", "--kind", "backend_up"])?.done()?;
        ensure!(ups.is_empty(), "{ups}");
        filter(world, "")?;
        set(&agent, "echo", &["--health-reply", "ping"])?;
        wait_for_words(
            &agent,
            "echo",
            "down",
            "udp: the answer has no \"ping\" in it: begins with \"pong\"",
        )?;
        agent
            .lbctl(&["service", "set", "quiet", "--health-interval", "1s"])?
            .refused(2, &["health.interval 1s is too short for kind \"udp\" without health.reply"]);
        agent.assert_alive()
    })
}

/// What the agents on backends say, by the last part of the backend's address.
type Lines = Arc<Mutex<[&'static str; 2]>>;

/// Agents on port 9707 of 10.1.1.1 and 10.1.1.2.
fn agents(lines: &Lines) -> Result<()> {
    for (number, address) in ["10.1.1.1:9707", "10.1.1.2:9707"].into_iter().enumerate() {
        let listener = TcpListener::bind(address)?;
        let lines = lines.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let line = lines.lock().unwrap_or_else(PoisonError::into_inner)[number];
                // The probe may be gone.
                let _closed = stream.write_all(line.as_bytes());
            }
        });
    }
    Ok(())
}

fn backend(agent: &Agent<'_>, number: u8) -> Result<Value> {
    agent.json(&["backend", "show", &format!("web/b{number}")])
}

#[test]
fn backends_drain_themselves_and_choose_a_part_of_their_weight() -> Result<()> {
    isolated(test_name!(), |world| {
        servers(world)?;
        let lines = Lines::new(Mutex::new(["up 100%\n", "up 100%\n"]));
        let say = |says: [&'static str; 2]| *lines.lock().unwrap_or_else(PoisonError::into_inner) = says;
        let there = lines.clone();
        inside(move || agents(&there)).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let services = "[[service]]\nname = \"web\"\nlisten = \"tcp/203.0.113.10:80\"\nmax_backends = 2\n\
            health = { kind = \"agent-check\", port = 9707, timeout = \"2s\" }\n\
            [[service.backend]]\nname = \"b1\"\naddress = \"10.1.1.1\"\n\
            [[service.backend]]\nname = \"b2\"\naddress = \"10.1.1.2\"\n";
        let mut agent = world.start(&config(services))?;
        wait_for_verdicts(&agent, "web", "up")?;
        let becomes = |number: u8, state: &str, weight: u64, reason: &str| {
            until(&format!("b{number} is {state} with weight {weight}: {reason}"), || {
                let shown = backend(&agent, number)?;
                let words = shown["reason"].as_str().unwrap_or_default();
                let right =
                    shown["state"] == state && shown["effective_weight"] == weight && words.contains(reason);
                Ok(if right { Ok(shown) } else { Err(shown.to_string()) })
            })
        };
        say(["30%\n", "drain\n"]);
        let part = becomes(1, "up", 30, "its check says 30%")?;
        ensure!(part["weight"] == 100, "the configured one stays: {part}");
        let drains = becomes(2, "draining", 0, "its check says drain")?;
        ensure!(drains["slots"] == 0 && drains["admin"] == "enabled", "{drains}");
        // Silence, and what is not a word, change nothing.
        for (nothing, words) in [("", "agent: says an empty line"), ("hello\n", "agent: says \"hello\"")] {
            say([nothing, nothing]);
            wait_for_words(&agent, "web", "up", words)?;
            becomes(1, "up", 30, "30%")?;
            becomes(2, "draining", 0, "drain")?;
            let line = agent.json(&["status"])?["services"][0].clone();
            ensure!(line["notes"].to_string().contains("2 backends are not checked"), "{line}");
        }
        // The operator's drain goes first, whatever the agent says.
        agent.lbctl(&["backend", "drain", "web/b1"])?.done()?;
        say(["ready up 100%\n", "ready\n"]);
        becomes(2, "up", 100, "")?;
        becomes(1, "draining", 0, "draining (set by operator)")?;
        agent.lbctl(&["backend", "set", "web/b1", "--state", "enabled"])?.done()?;
        becomes(1, "up", 100, "")?;
        // The last ones keep taking flows.
        say(["maint\n", "0%\n"]);
        becomes(1, "draining", 100, "its check says maint, which is ignored")?;
        becomes(2, "draining", 100, "its check says 0%, which is ignored")?;
        say(["ready\n", "100% down # disk full\n"]);
        becomes(1, "up", 100, "")?;
        becomes(2, "down", 0, "")?;
        wait_for("the reason is in an event", || {
            let events = agent.lbctl(&["backend", "events", "web/b2"])?.done()?;
            Ok(events.contains("agent: says down: \"disk full\"").then_some(()))
        })?;
        let shown = agent.lbctl(&["health"])?.done()?;
        ensure!(shown.contains("ok: says 100%"), "{shown}");
        agent.assert_alive()
    })
}

#[test]
fn a_command_comes_with_the_file_only_and_goes_with_the_agent() -> Result<()> {
    isolated(test_name!(), |world| {
        servers(world)?;
        let script = "test $LB_ADDRESS:$LB_PORT = 10.1.1.1:5000 && echo 50%";
        let exec = |script: &str| {
            let command = format!("command = [\"/bin/sh\", \"-c\", \"{script}\"]");
            config(&service(
                "x",
                5000,
                &format!("kind = \"exec\", user = \"daemon\", {command}, timeout = \"20s\""),
            ))
        };
        let mut agent = world.start(&exec(script))?;
        wait_for_verdicts(&agent, "x", "up")?;
        until("its weight is that of its line", || {
            let shown = agent.json(&["backend", "show", "x/b"])?;
            Ok(if shown["effective_weight"] == 50 { Ok(()) } else { Err(shown.to_string()) })
        })?;
        // Over the socket comes no other command, in whichever form, and no other user.
        let with = |script: &str, user: &str| {
            format!(
                "{{\"kind\": \"exec\", \"command\": [\"/bin/sh\", \"-c\", \"{script}\"], \"user\": \"{user}\"}}"
            )
        };
        let (other, as_another) = (with("id", "daemon"), with(script, "bin"));
        let refusal = "health.command cannot be set over the socket";
        for check in [&other, &as_another] {
            agent.lbctl(&["service", "set", "x", "--health", check])?.refused(2, &[refusal]);
            let new = ["service", "add", "y", "--listen", "udp/203.0.113.10:5001", "--health", check];
            agent.lbctl(&new)?.refused(2, &[refusal]);
        }
        let text = world.write("new.toml", exec("exit 1"))?;
        agent.lbctl(&["config", "apply", &text.display().to_string()])?.refused(2, &[refusal]);
        set(&agent, "x", &["--health-interval", "1s"])?;
        agent.lbctl(&["config", "revert"])?.done()?;
        // In the file it is checked against the host, and then it counts.
        let (daemon, root) = ("user = \"daemon\"", "user = \"root\"");
        world.write("lb.toml", exec("exit 1").replace(daemon, root).replace("/bin/sh", "/no/such"))?;
        let errors = ["health.command \"/no/such\" cannot be run", "health.user \"root\" is root"];
        agent.lbctl(&["config", "apply"])?.refused(2, &errors);
        let marker = "echo still there; exec sleep 86423";
        world.write("lb.toml", exec("echo not today; exit 1"))?;
        agent.lbctl(&["config", "apply"])?.done()?;
        wait_for_words(&agent, "x", "down", "exec: exit code 1: \"not today\"")?;
        world.write("lb.toml", exec(marker))?;
        agent.lbctl(&["config", "apply"])?.done()?;
        let sleeps = || -> Result<bool> {
            let mut found = false;
            for process in fs::read_dir("/proc")?.flatten() {
                // Processes come and go.
                let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
                found |= line == b"sleep\x0086423\x00";
            }
            Ok(found)
        };
        wait_for("the command runs", || Ok(sleeps()?.then_some(())))?;
        agent.assert_alive()?;
        agent.end(Signal::SIGKILL)?;
        wait_for("the command is gone with the agent", || Ok((!sleeps()?).then_some(())))
    })
}
