//! What those who watch the balancer see: `/healthz`, `/readyz`, parts of the metrics, lists and the view of ipvsadm, of a running
//! agent.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    agent::Agent,
    world::{CONFIG, isolated, wait_for},
};

fn config() -> String {
    CONFIG.replace("seed =", "metrics = \"127.0.0.1:9477\"\nseed =")
}

/// Status and body of an answer of the metrics address.
fn ask(path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect("127.0.0.1:9477")?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: lb\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}

/// Waits until so many backends take new flows.
fn wait_up(agent: &Agent<'_>, backends: usize) -> Result<()> {
    wait_for("backends are up", || {
        let said = agent.lbctl(&["backend", "list", "--up", "-o", "name"])?;
        Ok((said.out.lines().count() == backends).then_some(()))
    })
}

#[test]
fn a_node_is_ready_while_its_program_is_attached() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&config())?;
        ensure!(ask("/healthz")? == (200, "ok\n".into()));
        let ready =
            wait_for("the node is ready", || Ok(Some(ask("/readyz")?).filter(|(status, _)| *status == 200)))?;
        ensure!(ready.1 == "ready\n", "{ready:?}");
        ensure!(agent.http("GET", "/v1/ready", "")?.body["ready"] == true);
        // A file that is refused needs attention, and forwards as before.
        world.write("lb.toml", "nonsense")?;
        agent.lbctl(&["config", "apply"])?.refused(2, &[]);
        ensure!(ask("/readyz")?.0 == 200);
        let (status, why) = ask("/readyz?strict=true")?;
        ensure!(
            status == 503 && why.starts_with("not ready\nconfiguration: the last one was refused: "),
            "{why}"
        );
        let said = agent.lbctl(&["status"])?.done()?;
        ensure!(said.starts_with("needs attention\n  configuration: the last one was refused"), "{said}");
        // The interface goes away with its program.
        world.ip("link delete lb0")?;
        let (_, why) =
            wait_for("it is not ready", || Ok(Some(ask("/readyz")?).filter(|(status, _)| *status == 503)))?;
        ensure!(why.starts_with("not ready\ninterface lb0: "), "{why}");
        ensure!(ask("/healthz")?.0 == 200, "the agent is well");
        let said = agent.lbctl(&["status"])?.done()?;
        ensure!(said.starts_with("needs attention\n  interface lb0: "), "{said}");
        let metrics = agent.lbctl(&["metrics", "--scope", "node"])?.done()?;
        ensure!(metrics.contains("\nlb_needs_attention{level=\"broken\"} 1\n"), "{metrics}");
        Ok(())
    })
}

#[test]
fn a_stopped_agent_is_not_healthy() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&config())?;
        agent.signal(Signal::SIGSTOP)?;
        let mut stream = TcpStream::connect("127.0.0.1:9477")?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: lb\r\n\r\n")?;
        let outcome = stream.read(&mut [0; 16]);
        agent.signal(Signal::SIGCONT)?;
        ensure!(outcome.is_err(), "a stopped agent answered: {outcome:?}");
        ensure!(ask("/healthz")?.0 == 200, "and it goes on");
        Ok(())
    })
}

#[test]
fn metrics_of_backends_can_be_left_out() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&config())?;
        let (_, all) = ask("/metrics")?;
        ensure!(
            all.contains("lb_backend_info{service=\"web\",backend=\"web-1\",address=\"10.0.0.11\"} 1\n"),
            "{all}"
        );
        ensure!(all.contains("lb_service_info{service=\"web\",listen=\"tcp/203.0.113.10:80\""), "{all}");
        let cost = |name: &str| -> Result<f64> {
            let line =
                all.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
            Ok(line.trim().parse()?)
        };
        ensure!(cost("process_resident_memory_bytes ")? > 1e6 && cost("process_open_fds ")? > 2.0);
        ensure!(cost("lb_apply_duration_seconds_count ")? >= 1.0, "the first configuration was applied");
        // Followed without a restart.
        world.write("lb.toml", config().replace("seed =", "metrics_of_backends = false\nseed ="))?;
        agent.lbctl(&["config", "apply"])?.done()?;
        let (_, less) = ask("/metrics")?;
        ensure!(!less.contains("backend=\"web-1\"") && less.contains("lb_service_info{"), "{less}");
        let (_, asked) = ask("/metrics?scope=backend")?;
        ensure!(asked.contains("lb_backend_info{") && !asked.contains("lb_service_info{"), "{asked}");
        let (status, why) = ask("/metrics?scope=everything")?;
        ensure!(
            status == 400 && why.contains("unknown scope `everything`; known are node, service, backend"),
            "{why}"
        );
        Ok(())
    })
}

#[test]
fn transitions_of_a_backend_are_counted() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(&config())?;
        let transitions = |agent: &Agent<'_>| -> Result<u64> {
            let backend = agent.json(&["backend", "show", "web/web-1"])?;
            backend["transitions"].as_u64().context("no number")
        };
        wait_up(&agent, 3)?;
        let before = transitions(&agent)?;
        for verb in ["drain", "undrain", "undrain"] {
            agent.lbctl(&["backend", verb, "web/web-1"])?.done()?;
        }
        ensure!(transitions(&agent)? == before + 2, "{before}, then {}", transitions(&agent)?);
        Ok(())
    })
}

#[test]
fn lists_are_filtered_and_ipvsadm_would_say_the_same() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        wait_up(&agent, 3)?;
        agent.lbctl(&["backend", "disable", "web/web-2"])?.done()?;
        let names = agent.lbctl(&["backend", "list", "-o", "name", "--disabled"])?.done()?;
        ensure!(names == "web/web-2\n", "{names}");
        agent
            .lbctl(&["backend", "list", "--down"])?
            .refused(5, &["no backend fits --down; there are 3 backends"]);
        // A name in full is asked of the agent, which knows what is like it.
        agent.lbctl(&["backend", "list", "wob"])?.refused(1, &["there is no service wob"]);
        let ipvs = agent.lbctl(&["ipvs", "-Ln"])?.done()?;
        let lines: Vec<&str> = ipvs.lines().map(str::trim_end).collect();
        let version = env!("CARGO_PKG_VERSION");
        let expected = [
            &format!("IP Virtual Server version {version} (size=1024)"),
            "Prot LocalAddress:Port Scheduler Flags",
            "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
            "UDP  [2001:db8::10]:53 mh",
            "  -> [fd00:8::11]:53              Tunnel  100    0          0",
            "TCP  203.0.113.10:80 mh",
            "  -> 10.0.0.11:80                 Tunnel  100    0          0",
            "  -> 10.0.0.12:80                 Tunnel  0      0          0",
        ];
        ensure!(lines == expected, "{ipvs}");
        let one = agent.lbctl(&["ipvs", "-Ln", "--stats", "-t", "203.0.113.10:80"])?.done()?;
        ensure!(one.lines().count() == 6 && one.contains("OutBytes"), "{one}");
        agent
            .lbctl(&["ipvs", "-Ln", "-u", "203.0.113.10:80"])?
            .refused(5, &["no service listens on udp/203.0.113.10:80"]);
        let names = agent.http("GET", "/v1/names", "")?.body;
        ensure!(
            names == serde_json::json!({ "services": { "dns": ["dns-1"], "web": ["web-1", "web-2"] } }),
            "{names}"
        );
        Ok(())
    })
}
