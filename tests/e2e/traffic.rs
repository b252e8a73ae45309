//! Packets reach the backends and answers come back: families, encapsulations, protocols, attachment modes.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use xtask::{
    lab::{Lab, VIP_V4, VIP_V6},
    wait,
};

use crate::{
    Test,
    client::{curl, datagram, requests, spread, there_and_back},
    echo::PORT,
    scene::{BACKENDS, Scene, none_failed, on_usual, service, until, usual},
};

pub(crate) const TESTS: &[Test] = &[
    ("traffic::requests_follow_the_shares_and_answers_come_directly", shares),
    ("traffic::every_encapsulation_carries_a_megabyte_unchanged", encapsulations),
    ("traffic::datagrams_are_answered_from_the_service_address", datagrams),
    ("traffic::generic_mode_forwards_and_says_so", generic),
    ("traffic::the_programs_log_names_the_service_address", log),
    ("traffic::metrics_say_that_the_interface_is_attached", metrics),
];

fn shares() -> Result<()> {
    on_usual(|scene| {
        const REQUESTS: usize = 600;
        let counters = ["forwarded_tx", "forwarded_redirect", "passed_not_service"];
        for (service, v6) in [("web", false), ("web6", true)] {
            let read = |name| scene.agent.counter(name);
            let before = counters.map(read);
            let name = curl(&scene.lab, v6, "/")?;
            ensure!(name.starts_with("backend-"), "curl got {name:?}");
            let answers = requests(&scene.lab, v6, REQUESTS)?;
            let after = counters.map(read);
            none_failed(&answers)?;
            let spread = spread(&answers);
            let backends = scene.agent.ctl(&["backend", "list", service])?;
            let backends = backends.as_array().context("no list")?;
            let slots: u64 = backends.iter().filter_map(|backend| backend["slots"].as_u64()).sum();
            for backend in backends {
                let name = backend["name"].as_str().context("no name")?;
                let wanted = backend["slots"].as_u64().context("no slots")? as f64 / slots as f64;
                let share = spread.get(name).copied().unwrap_or(0) as f64 / REQUESTS as f64;
                // Four standard deviations of the share are 0.077, for a share of one third and 600 requests.
                ensure!((share - wanted).abs() < 0.08, "{service}/{name} has {share:.2}, not {wanted:.2}");
            }
            let mut more = [0; 3];
            for (more, (after, before)) in more.iter_mut().zip(after.into_iter().zip(before)) {
                *more = after? - before?;
            }
            ensure!(more[0] > 0 && more[1] > 0, "sent out of the same and of another interface: {more:?}");
            // Answers, more than one packet each, must not pass here; the unserved packets seen are answers to health checks.
            ensure!(
                more[2] < REQUESTS as u64,
                "{} packets passed the balancer that it does not serve",
                more[2]
            );
        }
        Ok(())
    })
}

fn encapsulations() -> Result<()> {
    let config = Scene::lab();
    let address = |index, v6| {
        let (v4, six, _) = config.backend_address(index);
        if v6 { six.to_string() } else { v4.to_string() }
    };
    let services = |other: bool| {
        let health = format!("{{ kind = \"tcp\", port = {PORT} }}");
        let addresses = |v6| (0..BACKENDS).map(|index| address(index, v6)).collect::<Vec<_>>();
        service("echo", &format!("tcp/{VIP_V4}:{PORT}"), &health, &addresses(other))
            + &service("echo6", &format!("tcp/[{VIP_V6}]:{PORT}"), &health, &addresses(!other))
    };
    let scene = Scene::with("", &services(false), &[])?;
    let result = (|| {
        megabyte(&scene.lab, false).context("IPv4 in IPv4")?;
        megabyte(&scene.lab, true).context("IPv6 in IPv6")?;
        let text = fs::read_to_string(&scene.agent.file)?;
        let text = text.replace(&services(false), &services(true));
        fs::write(&scene.agent.file, text)?;
        scene.agent.ctl(&["config", "apply"])?;
        scene.agent.wait_until_all_up()?;
        let shown = scene.agent.ctl(&["backend", "list", "echo"])?.to_string();
        ensure!(shown.contains("fd00:0:0:1::2"), "backends did not change their family: {shown}");
        megabyte(&scene.lab, false).context("IPv4 in IPv6")?;
        megabyte(&scene.lab, true).context("IPv6 in IPv4")
    })();
    scene.judge(result)
}

/// Sends a megabyte over connections to the echo service until every backend had one, and compares the bytes that come back.
fn megabyte(lab: &Lab, v6: bool) -> Result<()> {
    let mut answered = BTreeSet::new();
    for _ in 0..60 {
        if answered.len() == usize::from(BACKENDS) {
            return Ok(());
        }
        answered.insert(there_and_back(lab, v6, 1_000_000)?);
    }
    anyhow::bail!("only {answered:?} answered 60 connections")
}

fn datagrams() -> Result<()> {
    // Backends that come up one after another leave learning slots, in which every flow without a record belongs to the backend
    // before: with the default idle time the last backend would wait minutes for its first datagram.
    let config = Scene::lab();
    let services = usual(&config, BACKENDS)
        .replace("name = \"udp\"\n", "name = \"udp\"\nudp_idle = \"2s\"\n")
        .replace("name = \"udp6\"\n", "name = \"udp6\"\nudp_idle = \"2s\"\n");
    let scene = Scene::with("", &services, &[])?;
    let result = [false, true].into_iter().try_for_each(|v6| {
        let mut backends = BTreeSet::new();
        wait::until("all backends answer datagrams", wait::limit(), || {
            for number in 0..60 {
                let text = format!("datagram {number}");
                let answer = datagram(&scene.lab, v6, &text)?;
                let (name, rest) = answer.split_once(' ').context("no name")?;
                ensure!(rest == text, "sent {text:?}, got {rest:?}");
                backends.insert(name.to_owned());
            }
            Ok(if backends.len() == usize::from(BACKENDS) {
                Ok(())
            } else {
                Err(format!("only {backends:?}"))
            })
        })
    });
    scene.judge(result)
}

fn generic() -> Result<()> {
    let scene = Scene::with("mode = \"generic\"", &usual(&Scene::lab(), BACKENDS), &[])?;
    let result = (|| {
        let status = scene.agent.ctl(&["status"])?;
        ensure!(status["interfaces"][0]["attached"] == "generic", "{}", status["interfaces"]);
        for v6 in [false, true] {
            let answers = requests(&scene.lab, v6, 60)?;
            none_failed(&answers)?;
            ensure!(spread(&answers).len() == usize::from(BACKENDS), "only {:?} answered", spread(&answers));
        }
        Ok(())
    })();
    scene.judge(result)
}

fn log() -> Result<()> {
    let scene = Scene::with("", &usual(&Scene::lab(), BACKENDS), &["--bpf-log", "debug"])?;
    let result = (|| {
        none_failed(&requests(&scene.lab, false, 5)?)?;
        until("a log line of the program with the service's address", || {
            let log = scene.agent.log(&scene.lab);
            let packet = format!("-> {VIP_V4}:80 service");
            let found = log.lines().any(|line| line.contains(&packet));
            Ok(if found { Ok(()) } else { Err(format!("{:?}", log.lines().last())) })
        })
    })();
    scene.judge(result)
}

fn metrics() -> Result<()> {
    on_usual(|_scene| {
        let mut command = std::process::Command::new("curl");
        command.args([
            "-sSf",
            "--max-time",
            "60",
            "--unix-socket",
            "/run/lb/e2e.sock",
            "http://lb/v1/metrics",
        ]);
        let text = xtask::run::capture(&mut command)?;
        let line = text.lines().find(|line| line.starts_with("lb_interface_attached{"));
        let line = line.with_context(|| format!("no lb_interface_attached in {} bytes", text.len()))?;
        ensure!(line.contains("eth0") && line.ends_with(" 1"), "{line}");
        Ok(())
    })
}
