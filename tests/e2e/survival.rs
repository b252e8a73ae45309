//! Established connections survive every change.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use xtask::{
    lab::{CLIENT, Lab, VIP_V4, backend_name},
    stack::web::DOWNLOAD_BYTES,
    wait,
};

use crate::{
    Test,
    client::{requests, spread},
    echo::{Connection, Held},
    scene::{BACKENDS, Scene, none_failed, on_usual, until, usual},
};

pub(crate) const TESTS: &[Test] = &[
    ("survival::open_connections_survive_every_change", changes),
    ("survival::open_connections_survive_a_growing_ring", growth),
    ("survival::open_connections_survive_the_end_of_the_agent", ends),
    ("survival::a_drained_backend_finishes_its_download", drain),
    ("survival::the_last_backend_drains_and_takes_flows_again", last),
    ("survival::a_drain_that_waits_ends_with_3_while_a_flow_stays", drain_timeout),
];

/// The number of connections that stay open.
const HELD: usize = 30;

fn changes() -> Result<()> {
    // Begins with two of the three backends.
    let config = Scene::lab();
    let mut scene = Scene::with("", &usual(&config, BACKENDS - 1), &[])?;
    let result = change(&mut scene);
    scene.judge(result)
}

fn change(scene: &mut Scene) -> Result<()> {
    let held = Held::open(&scene.lab, HELD)?;
    held.check(None).context("before any change")?;
    let last = BACKENDS - 1;
    let (v4, v6, _) = scene.lab.config().backend_address(last);
    let added = backend_name(last);
    for (service, address) in [("echo", v4.to_string()), ("echo6", v6.to_string())] {
        scene.agent.ctl(&["backend", "add", &format!("{service}/{added}"), "--address", &address])?;
        scene.agent.wait_for_state(&format!("{service}/{added}"), "up")?;
        until("the new backend owns slots", || {
            let backend = scene.agent.backend(&format!("{service}/{added}"))?;
            Ok(if backend.1 > 0 { Ok(()) } else { Err(format!("{backend:?}")) })
        })?;
    }
    held.check(None).context("a backend was added")?;
    for service in ["echo", "echo6"] {
        scene.agent.ctl(&["backend", "set", &format!("{service}/backend-1"), "--weight", "10"])?;
    }
    held.check(None).context("a weight was changed")?;

    let text = fs::read_to_string(&scene.agent.file)?;
    fs::write(
        &scene.agent.file,
        text.replace("name = \"backend-2\"\n", "name = \"backend-2\"\nweight = 30\n"),
    )?;
    scene.agent.signal(Signal::SIGHUP)?;
    until("the file is read again", || {
        let backend = scene.agent.ctl(&["backend", "show", "echo6/backend-2"])?;
        Ok(if backend["weight"] == 30 { Ok(()) } else { Err(backend.to_string()) })
    })?;
    held.check(None).context("the file was read again")?;

    let late = Held::open(&scene.lab, HELD)?;
    ensure!(late.backends.contains(&added), "no new connection reaches the new backend");
    // A backend that serves connections of both generations dies, as the last change: its connections break, and no others.
    scene.echoes.remove(1);
    for service in ["echo", "echo6"] {
        scene.agent.wait_for_state(&format!("{service}/backend-2"), "down")?;
    }
    held.check(Some("backend-2")).context("another backend failed")?;
    late.check(Some("backend-2")).context("another backend failed, after others were added")
}

/// Services that do not say how many backends they are planned for. One of them gets many backends, one by one. No host has
/// the new addresses, so no new connection depends on them: what counts is that they are configured.
fn growth() -> Result<()> {
    const WINDOW: &str = "listen = \"tcp/203.0.113.10:7\"\ntrack_window = \"30s\"";
    let usual = usual(&Scene::lab(), BACKENDS).replace("max_backends = 20\n", "");
    let services = usual.replace("listen = \"tcp/203.0.113.10:7\"", WINDOW);
    ensure!(services.contains(WINDOW), "{services}");
    let mut scene = Scene::with("", &services, &[])?;
    let result = grow(&mut scene);
    scene.judge(result)
}

fn grow(scene: &mut Scene) -> Result<()> {
    let slots = |scene: &Scene| {
        Ok::<_, anyhow::Error>(scene.agent.ctl(&["service", "show", "echo"])?["slots"].clone())
    };
    ensure!(slots(scene)? == 2_039, "{}", slots(scene)?);
    let held = Held::open(&scene.lab, HELD)?;
    held.check(None).context("before any change")?;
    for number in BACKENDS + 1..=200 {
        let (name, address) = (format!("echo/more-{number}"), format!("198.18.0.{number}"));
        let said = scene.agent.ctl(&["backend", "add", &name, "--address", &address])?;
        held.check(None).with_context(|| format!("with {number} backends: {said}"))?;
        if number == 6 {
            ensure!(slots(scene)? == 4_093, "{said}");
            scene.agent.end(Signal::SIGKILL)?;
            scene.agent.start(&mut scene.lab, &[])?;
            held.check(None).context("the agent was killed while the longer ring learns")?;
        }
    }
    // Each change of the length waits until the learning of the change before it has ended.
    until("the ring has room for four times as many", || {
        held.check(None).context("while the ring grows")?;
        let is = slots(scene)?;
        Ok(if is == 131_071 { Ok(()) } else { Err(format!("{is} slots")) })
    })?;
    held.check(None).context("the ring has grown")?;
    none_failed(&requests(&scene.lab, false, 60)?)
}

fn ends() -> Result<()> {
    on_usual(|scene| {
        let held = Held::open(&scene.lab, HELD)?;
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            // With slots that remember, not only with stable ones.
            scene.agent.ctl(&["backend", "set", "echo/backend-1", "--weight", "50"])?;
            scene.agent.end(signal)?;
            held.check(None).with_context(|| format!("without the agent, after {signal}"))?;
            none_failed(&requests(&scene.lab, false, 60)?)?;
            scene.agent.start(&mut scene.lab, &[])?;
            held.check(None).with_context(|| format!("restarted after {signal}"))?;
            scene.agent.wait_until_all_up()?;
            scene.agent.ctl(&["config", "revert"])?;
            held.check(None).context("the weight was reverted")?;
        }
        Ok(())
    })
}

/// A slow download: the backend that serves it, and a function that reads the rest.
fn download(lab: &Lab) -> Result<(String, impl FnOnce() -> Result<u64> + Send + use<>)> {
    let connect = || TcpStream::connect_timeout(&SocketAddr::from((VIP_V4, 80)), wait::limit());
    let mut stream = lab.node(CLIENT)?.enter(connect)??;
    stream.set_read_timeout(Some(wait::limit()))?;
    stream.write_all(b"GET /download HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let backend = head.lines().find_map(|line| line.strip_prefix("X-Backend: ")).context("no X-Backend")?;
    let rest = move || Ok(std::io::copy(&mut stream, &mut std::io::sink())?);
    Ok((backend.to_owned(), rest))
}

fn drain() -> Result<()> {
    on_usual(|scene| {
        let (name, rest) = download(&scene.lab)?;
        let object = format!("web/{name}");
        scene.agent.ctl(&["backend", "drain", &object])?;
        let finished = std::thread::spawn(rest);
        // As many requests as fit in while the download goes on.
        let mut answers = Vec::new();
        while answers.len() < 150 && !finished.is_finished() {
            answers.extend(requests(&scene.lab, false, 1)?);
        }
        none_failed(&answers)?;
        ensure!(!spread(&answers).contains_key(&name), "{name} is drained and answered");
        ensure!(answers.len() > 1, "the download was over too early to say anything");
        let output = scene.agent.ctl_output(&[
            "backend",
            "drain",
            &object,
            "--wait",
            "--settle",
            "1s",
            "--timeout",
            "120s",
            "--then",
            "remove",
        ])?;
        until("the download ends where the wait has ended", || {
            Ok(if finished.is_finished() { Ok(()) } else { Err("it goes on".to_owned()) })
        })?;
        match finished.join() {
            Ok(Ok(bytes)) => ensure!(bytes == DOWNLOAD_BYTES, "the download ended after {bytes} bytes"),
            Ok(Err(error)) => return Err(error.context("the download broke")),
            Err(_) => bail!("the download's thread panicked"),
        }
        ensure!(output.status.code() == Some(0), "{output:?}");
        ensure!(scene.agent.backend(&object).is_err(), "{object} is still there");
        none_failed(&requests(&scene.lab, false, 50)?)
    })
}

fn last() -> Result<()> {
    on_usual(|scene| {
        for service in ["echo", "echo6"] {
            for index in 1..BACKENDS {
                scene.agent.ctl(&[
                    "backend",
                    "remove",
                    &format!("{service}/{}", backend_name(index)),
                    "--force",
                ])?;
            }
        }
        let held = Held::open(&scene.lab, HELD)?;
        let name = backend_name(0);
        for _ in 0..2 {
            for service in ["echo", "echo6"] {
                scene.agent.ctl(&["backend", "drain", &format!("{service}/{name}"), "--force"])?;
            }
            held.check(None).context("the last backend drains")?;
            let refused = Connection::open_within(&scene.lab, false, Duration::from_secs(2));
            ensure!(refused.is_err(), "it drains, and took a new connection");
            for service in ["echo", "echo6"] {
                scene.agent.ctl(&["backend", "undrain", &format!("{service}/{name}")])?;
            }
            held.check(None).context("it takes new connections again")?;
            for v6 in [false, true] {
                Connection::open(&scene.lab, v6)?.exchange(1)?;
            }
        }
        Ok(())
    })
}

fn drain_timeout() -> Result<()> {
    on_usual(|scene| {
        let held = Held::open(&scene.lab, HELD)?;
        let name = Connection::open(&scene.lab, false)?.backend;
        let name = held.backends.iter().step_by(2).next().unwrap_or(&name).clone();
        let object = format!("echo/{name}");
        let drain = |timeout| ["backend", "drain", &object, "--wait", "--settle", "1s", "--timeout", timeout];
        let output = scene.agent.ctl_output(&drain("3s"))?;
        ensure!(output.status.code() == Some(3), "a flow is there: {output:?}");
        held.check(None)?;
        ensure!(scene.agent.backend(&object)?.0 == "draining", "it no longer drains");
        drop(held);
        until("the drain ends", || {
            let output = scene.agent.ctl_output(&drain("5s"))?;
            Ok(if output.status.code() == Some(0) { Ok(()) } else { Err(format!("{output:?}")) })
        })
    })
}
