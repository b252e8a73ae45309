//! What the agent logs: how many lines, and in which form.

use std::{collections::BTreeMap, net::TcpListener};

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::{signal::Signal, stat::fstat};
use serde_json::Value;

use crate::{
    agent::Agent,
    bad_health_targets::{inside, make_backends},
    world::{CONFIG, INSTANCE, World, backends, isolated, wait_for},
};

/// Lines of one kind within one second of the log: eight, and one that summarises all others. Windows do not begin with the
/// second, so parts of three windows may lie in it.
const MOST: usize = 3 * 9;
const BACKENDS: u32 = 10_000;

/// 10,000 backends in one service; the agent checks each of them.
fn many() -> String {
    CONFIG.replace("backends = 64", "backends = 16384").replace("slots = 4096", "slots = 1048576")
        + "[[service]]\nname = \"large\"\nlisten = \"tcp/203.0.113.99:0\"\nmax_backends = 10000\n\
         health = { kind = \"tcp\", port = 8080, interval = \"5s\", timeout = \"2s\" }\n"
        + &backends(BACKENDS)
}

/// Waits until the log has reported this many backends in lines of these kinds, and returns the lines of the log. Each second
/// has few of them. A debug build makes a ring of a million slots several times meanwhile, so on a busy machine the verdicts
/// come over many seconds.
fn said(agent: &Agent<'_>, kinds: &[&str], backends: u32) -> Result<Vec<String>> {
    let look = || {
        let lines: Vec<String> = agent.log().lines().map(ToOwned::to_owned).collect();
        let said: usize = kinds.iter().map(|kind| numbers(&lines, kind)).sum();
        (lines, said)
    };
    let all = || wait_for("all backends are said", || Ok((look().1 >= backends as usize).then_some(())));
    let (outcome, (lines, said)) = (all().or_else(|_| all()).or_else(|_| all()), look());
    outcome.with_context(|| format!("{said} of {backends} are said:\n{}", lines.join("\n")))?;
    for kind in kinds {
        let most = most_in_a_second(&lines, kind);
        ensure!(most <= MOST, "{most} lines of {kind} in one second:\n{}", lines.join("\n"));
    }
    Ok(lines)
}

/// Lines of a kind in the second of the log that has most of them.
fn most_in_a_second(lines: &[String], kind: &str) -> usize {
    let mut seconds = BTreeMap::<&str, usize>::new();
    for line in lines.iter().filter(|line| line.contains(&format!(" {kind}: "))) {
        // `2026-02-28T12:00:00`, the part before the fraction.
        *seconds.entry(line.get(..19).unwrap_or_default()).or_default() += 1;
    }
    seconds.into_values().max().unwrap_or(0)
}

/// The sum of the numbers that follow `kind: `, over all lines of that kind.
fn numbers(lines: &[String], kind: &str) -> usize {
    let behind =
        |line: &String| line.split_once(&format!(" {kind}: ")).map(|(_, said)| said.replace(',', ""));
    let number = |said: String| said.split(' ').next().and_then(|word| word.parse::<usize>().ok());
    // A line about one backend begins with its name instead of a number.
    lines.iter().filter_map(behind).map(|said| number(said).unwrap_or(1)).sum()
}

#[test]
fn ten_thousand_backends_that_come_up_are_a_few_lines() -> Result<()> {
    isolated(test_name!(), |world| {
        // All backends are addresses of one host behind the interface; one listener there accepts everything.
        make_backends(world)?;
        let mut ip = world.command("ip")?;
        ip.args(["-netns", "backends", "route", "add", "local", "10.1.0.0/16", "dev", "lo"]);
        ensure!(ip.status()?.success(), "no route to the backends");
        let _listens_while_the_test_runs = inside(|| {
            for stream in TcpListener::bind("0.0.0.0:8080")?.incoming() {
                drop(stream);
            }
            Ok(())
        });
        let agent = world.start(&many())?;
        let lines = said(&agent, &["backends_up", "backend_up"], BACKENDS + 3)?;
        eprintln!("{} lines:\n{}", lines.len(), lines.join("\n"));
        Ok(())
    })
}

#[test]
fn ten_thousand_silent_backends_are_a_few_lines() -> Result<()> {
    isolated(test_name!(), |world| {
        // This host itself refuses each connection at once: there is no listener.
        world.ip("route add local 10.1.0.0/16 dev lo\n")?;
        let agent = world.start(&many())?;
        let lines = said(&agent, &["backend_down"], BACKENDS)?;
        let error =
            lines.iter().filter(|line| line.contains(" ERROR service_without_backend: large: ")).count();
        ensure!(error == 1, "{}", lines.join("\n"));
        // The events name each backend, except those that newer events have pushed out.
        let kinds = "backend_down,service_without_backend,backends_up,backend_up";
        let events = agent.lbctl(&["-o", "json", "events", "--kind", kinds])?.done()?;
        ensure!(events.lines().count() == 4096, "{} events", events.lines().count());
        eprintln!("{} lines:\n{}", lines.len(), lines.join("\n"));
        Ok(())
    })
}

/// The log of an agent that was ended after its log said `serves`, in whatever form.
fn log_of(world: &World, arguments: &[&str], journal: bool) -> Result<String> {
    world.write("lb.toml", CONFIG)?;
    let mut command = world.command("lbd")?;
    command.args(arguments);
    if journal {
        // The stream that systemd would name is the file that the harness opens again.
        let file = std::fs::File::create(world.path("lbd.log"))?;
        let stat = fstat(&file)?;
        command.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino));
    }
    let mut agent = Agent::run(world, &mut command)?;
    ensure!(agent.serves()?.is_none(), "{}", agent.log());
    let path = world.path("lbd.log");
    agent.end(Signal::SIGTERM)?;
    Ok(std::fs::read_to_string(path)?)
}

#[test]
fn a_file_gets_times_and_levels_and_no_colours() -> Result<()> {
    isolated(test_name!(), |world| {
        let log = log_of(world, &[], false)?;
        for line in log.lines() {
            let mut words = line.split_whitespace();
            let time = words.next().context("an empty line")?;
            ensure!(time.ends_with('Z') && time.contains('T'), "no time: {line}");
            ensure!(
                ["INFO", "WARN", "ERROR"].contains(&words.next().unwrap_or_default()),
                "no level: {line}"
            );
            ensure!(words.next().is_some() && !line.ends_with(':'), "says nothing: {line}");
        }
        ensure!(
            !log.contains('\u{1b}') && log.contains(&format!(" INFO  started: {INSTANCE}: pid ")),
            "{log}"
        );
        Ok(())
    })
}

#[test]
fn the_journal_gets_priorities_and_no_times() -> Result<()> {
    isolated(test_name!(), |world| {
        let log = log_of(world, &[], true)?;
        for line in log.lines() {
            let (priority, rest) = line.split_once('>').with_context(|| format!("no priority: {line}"))?;
            ensure!(["<3", "<4", "<6"].contains(&priority) && !rest.contains("Z INFO"), "{line}");
        }
        ensure!(log.contains(&format!("<6>started: {INSTANCE}: pid ")), "{log}");
        // A stream other than the named one is an ordinary file.
        ensure!(!log_of(world, &[], false)?.contains("<6>"));
        Ok(())
    })
}

#[test]
fn json_is_an_object_a_line() -> Result<()> {
    isolated(test_name!(), |world| {
        let log = log_of(world, &["--log-format", "json"], false)?;
        let mut kinds = Vec::new();
        for line in log.lines() {
            let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
            for key in ["time", "level", "target", "message"] {
                ensure!(value[key].as_str().is_some_and(|text| !text.is_empty()), "no {key}: {line}");
            }
            kinds.extend(value["kind"].as_str().map(ToOwned::to_owned));
        }
        ensure!(kinds.contains(&"started".to_owned()) && kinds.contains(&"stopping".to_owned()), "{log}");
        Ok(())
    })
}

#[test]
fn a_refused_file_is_logged_as_an_error() -> Result<()> {
    isolated(test_name!(), |world| {
        world.write("lb.toml", CONFIG.replace("max_backends = 10", "max_backend = 10"))?;
        let said = world.lbd(&["--config", "/run/t/lb.toml", "--log-format", "json"])?;
        ensure!(said.code == 2, "{said:?}");
        for line in said.err.lines() {
            let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
            ensure!(value["level"] == "error", "{line}");
        }
        ensure!(said.err.contains("lb.toml:") && said.err.contains("max_backend"), "{said:?}");
        Ok(())
    })
}
