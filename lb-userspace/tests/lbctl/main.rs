//! The `lbctl` binary against the control server over a socket; only the agent's loop is a stand-in that answers from
//! a table. What the agent itself answers is tested with the agent.

mod completion;
mod lists;
mod top;

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lb_userspace::{
    api::{
        request::{Envelope, Reply, Request},
        since::Since,
        view::{ApiError, Backend, Changed, Code, Service, Totals, Tracking},
    },
    control::{server, socket::Socket},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

struct Agent {
    socket: PathBuf,
    _directory: tempfile::TempDir,
    _stop: watch::Sender<bool>,
    _runtime: tokio::runtime::Runtime,
}

/// An agent whose loop answers with `answer`.
fn agent(answer: impl Fn(Request) -> Reply + Send + 'static) -> Agent {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("main.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (sender, mut requests) = mpsc::channel::<Envelope>(16);
    let (stop, shutdown) = watch::channel(false);
    let bound = {
        let _inside = runtime.enter();
        Socket::bind(&socket, None).unwrap()
    };
    let (_, no_other) = tokio::sync::mpsc::channel(1);
    let sockets = server::Sockets::new(Some(bound), no_other);
    runtime.spawn(server::serve(sockets, sender, shutdown));
    runtime.spawn(async move {
        while let Some(Envelope { request, reply, .. }) = requests.recv().await {
            let _ = reply.send(answer(request));
        }
    });
    Agent { socket, _directory: directory, _stop: stop, _runtime: runtime }
}

fn lbctl(arguments: &[&str]) -> Command {
    // Next to the directory of the test, where cargo puts it. The path that cargo gives at compile time is that of another
    // checkout in a copy with its target directory.
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new(test.ancestors().nth(2).unwrap().join("lbctl"));
    command.args(arguments).env_remove("LB_SOCKET").env_remove("LB_INSTANCE").stdin(Stdio::null());
    command
}

impl Agent {
    fn run(&self, arguments: &[&str]) -> Output {
        lbctl(arguments).env("LB_SOCKET", &self.socket).output().unwrap()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn view<T: serde::Serialize>(view: T) -> Reply {
    Ok(serde_json::to_value(view).unwrap())
}

fn backend(state: &str, flows: u64) -> Backend {
    Backend {
        service: "web".into(),
        name: "web-1".into(),
        id: 1,
        address: "10.0.0.1".into(),
        weight: 100,
        effective_weight: 100,
        slow_start_ends_in: None,
        state: state.into(),
        admin: "enabled".into(),
        health: "up".into(),
        reason: None,
        slots: 0,
        flows,
        flows_tracked: "some".into(),
        flows_idle: 0,
        flows_age_ms: None,
        learning_slots: 1,
        next_hop: None,
        transitions: 0,
        totals: Totals::default(),
    }
}

fn service() -> Service {
    Service {
        name: "web".into(),
        id: 1,
        listen: "tcp/192.0.2.1:80".into(),
        encapsulation: "ipip".into(),
        track: "on-change".into(),
        hash: "five-tuple".into(),
        balance: "hash".into(),
        max_backends: 100,
        max_backends_by_default: false,
        slots: 16381,
        slot_states: [("stable".to_owned(), 16381)].into(),
        learning_ends_in: Some(600),
        tracking: Tracking::default(),
        health: None,
        ring: "maglev".into(),
        slow_start: None,
        min_healthy: None,
        health_ignored: None,
        health_ignored_times: 0,
        correlated_failure: None,
        correlated_failures: 0,
        settings: serde_json::Map::new(),
        backends_in_ring: 1,
        notes: vec![],
        check_durations: None,
        totals: Totals::default(),
        backends: vec![backend("up", 0)],
    }
}

fn answer(request: Request) -> Reply {
    match request {
        Request::Services => view(vec![service()]),
        Request::Service { service } if service == "web" => view(self::service()),
        Request::Service { service } => Err(ApiError {
            code: Code::NotFound,
            message: format!("there is no service {service}; there is web"),
            object: format!("service {service}"),
            details: vec![],
        }),
        Request::ServiceAdd { .. } => Err(ApiError {
            code: Code::Invalid,
            message: "the configuration has 2 errors".into(),
            object: "service x".into(),
            details: vec!["$.listen: port 0".into(), "$.health: none".into()],
        }),
        Request::Backend { .. } => view(backend("up", 0)),
        Request::BackendSet { body, .. } => view(Changed {
            writes: 1,
            slots_changed: 2,
            summary: vec![format!("set {body}")],
            warnings: vec![],
        }),
        Request::Metrics(_) => Ok(Value::String("lb_up 1\n".repeat(100_000))),
        Request::Events(filter) => {
            let event = json!({ "number": 5, "at_ms": 0, "kind": "ready", "object": "", "message": "m" });
            Ok(if filter.since == Since::Number(0) { json!([event]) } else { json!([]) })
        }
        _ => Ok(Value::Null),
    }
}

#[test]
fn json_is_what_the_agent_answered() {
    let agent = agent(answer);
    let output = agent.run(&["-o", "json", "service", "show", "web"]);
    assert_eq!((code(&output), err(&output)), (0, ""));
    let shown: Value = serde_json::from_str(out(&output)).unwrap();
    assert_eq!(shown, serde_json::to_value(service()).unwrap());
    let output = agent.run(&["backend", "list", "-o", "json"]);
    let shown: Value = serde_json::from_str(out(&output)).unwrap();
    assert_eq!(shown, json!([serde_json::to_value(backend("up", 0)).unwrap()]));
}

#[test]
fn tables_have_no_colours_in_a_pipe() {
    let agent = agent(answer);
    let output = agent.run(&["service", "list"]);
    assert!(out(&output).starts_with("SERVICE  LISTEN"), "{}", out(&output));
    assert!(!out(&output).contains('\u{1b}'));
}

#[test]
fn refusal_is_said_once_with_all_details() {
    let agent = agent(answer);
    let output = agent.run(&["service", "show", "wob"]);
    assert_eq!((code(&output), out(&output)), (1, ""));
    assert_eq!(err(&output), "error: there is no service wob; there is web\n");
    let add = ["service", "add", "x", "--listen", "tcp/192.0.2.1:80"];
    let output = agent.run(&add);
    assert_eq!(code(&output), 2);
    assert_eq!(
        err(&output),
        "error: service x: the configuration has 2 errors\n  $.listen: port 0\n  $.health: none\n"
    );
    let output = agent.run(&[&["-o", "json"], &add[..]].concat());
    let error: ApiError = serde_json::from_str(err(&output)).unwrap();
    assert_eq!((error.code, error.details.len()), (Code::Invalid, 2));
}

#[test]
fn an_absent_agent_is_4_and_says_where_it_was_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("main.sock");
    let output = lbctl(&["status", "--socket", missing.to_str().unwrap()]).output().unwrap();
    assert_eq!((code(&output), out(&output)), (4, ""));
    let said = err(&output);
    assert!(
        said.contains("lbd is not running for instance main (no socket at ") && said.contains("main.sock"),
        "{said}"
    );

    drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
    let output = lbctl(&["status", "--socket", missing.to_str().unwrap()]).output().unwrap();
    assert_eq!(code(&output), 4);
    assert!(err(&output).contains("an earlier one left behind"), "{}", err(&output));

    let output = lbctl(&["-o", "json", "--instance", "no-such", "status"]).output().unwrap();
    assert_eq!(code(&output), 4);
    let error: ApiError = serde_json::from_str(err(&output)).unwrap();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("/run/lb/no-such.sock"), "{}", error.message);
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [&["nonsense"][..], &["backend", "show", "web"], &["backend", "set", "web/web-1"]] {
        assert_eq!(code(&lbctl(arguments).output().unwrap()), 2, "{arguments:?}");
    }
}

#[test]
fn detach_does_not_go_on_unasked() {
    let agent = agent(|request| panic!("{request:?} was asked"));
    let output = agent.run(&["detach"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("--yes"), "{}", err(&output));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let agent = agent(answer);
    for arguments in [&["metrics"][..], &["events", "--follow"], &["service", "list"]] {
        let mut child = lbctl(arguments)
            .env("LB_SOCKET", &agent.socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    child.kill().unwrap();
                    panic!("{arguments:?} did not end");
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let output = child.wait_with_output().unwrap();
        assert_eq!((status.code(), err(&output)), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn config_check_needs_no_agent() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lb.toml");
    let name = file.to_str().unwrap();
    std::fs::write(&file, "[node]\ninterface = \"eth0\"\nseed = \"s\"\n").unwrap();
    let output = lbctl(&["config", "check", name]).output().unwrap();
    assert_eq!((code(&output), err(&output)), (0, ""));
    assert!(out(&output).contains("no errors, 0 services, 0 backends"), "{}", out(&output));

    std::fs::write(&file, "[node]\ninterface = 3\ncolour = \"red\"\n").unwrap();
    let output = lbctl(&["config", "check", name]).output().unwrap();
    assert_eq!((code(&output), out(&output)), (2, ""));
    assert!(
        err(&output).contains(&format!("{name}:2:")) && err(&output).contains(&format!("{name}:3:")),
        "{}",
        err(&output)
    );
    let output = lbctl(&["-o", "json", "config", "check", name]).output().unwrap();
    assert_eq!((code(&output), err(&output)), (2, ""));
    let checked: Value = serde_json::from_str(out(&output)).unwrap();
    assert!(checked["ok"] == false && checked["errors"].as_array().unwrap().len() > 1, "{checked}");

    let output = lbctl(&["config", "check", "/nonexistent"]).output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("/nonexistent"), "{}", err(&output));
    let output = lbctl(&["config", "check", "-"]).output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("standard input: the file is empty"), "{}", err(&output));
}

/// An agent whose backend has as many flows as `flows` says at each look.
fn draining(flows: impl Fn(u64) -> u64 + Send + 'static) -> Agent {
    let looks = Arc::new(AtomicU64::new(0));
    agent(move |request| match request {
        Request::Backend { .. } => view(backend("draining", flows(looks.fetch_add(1, Ordering::Relaxed)))),
        other => answer(other),
    })
}

#[test]
fn a_drain_waits_for_the_last_flow_and_reports() {
    let agent = draining(|look| 2_u64.saturating_sub(look));
    let output = agent.run(&["backend", "drain", "web/web-1", "--wait", "--settle", "100ms"]);
    assert_eq!((code(&output), err(&output)), (0, ""));
    let lines: Vec<&str> = out(&output).lines().collect();
    assert!(lines[0].starts_with("set {\"state\":\"draining\"}"), "{lines:?}");
    assert!(lines.contains(&"2 live flows left, 1 slot still learning"), "{lines:?}");
    assert!(lines.contains(&"1 live flow left, 1 slot still learning"), "{lines:?}");
    assert!(lines.contains(&"backend web/web-1 is drained: no live flow for 100ms"), "{lines:?}");
    assert!(lines.last().unwrap().contains("at most 10m"), "{lines:?}");
}

#[test]
fn a_drain_past_its_deadline_exits_with_3() {
    let agent = draining(|_| 7);
    let drain = ["backend", "drain", "web/web-1", "--wait", "--timeout", "300ms"];
    let output = agent.run(&drain);
    assert_eq!(code(&output), 3);
    assert!(err(&output).contains("7 live flows left; it goes on draining"), "{}", err(&output));
    let output = agent.run(&[&["-o", "json"], &drain[..]].concat());
    assert_eq!(code(&output), 3);
    let last: Backend = serde_json::from_str(out(&output)).unwrap();
    assert_eq!(last, backend("draining", 7));
}

#[test]
fn drain_then_remove_removes_only_a_drained_backend() {
    let drain = ["backend", "drain", "web/web-1", "--wait", "--settle", "0s", "--timeout", "300ms", "--then"];
    let removes = |then: &str, flows: u64, json: bool| {
        let removed = Arc::new(AtomicU64::new(0));
        let count = removed.clone();
        let agent = agent(move |request| match request {
            Request::Backend { .. } => view(backend("draining", flows)),
            Request::BackendRemove { .. } => {
                count.fetch_add(1, Ordering::Relaxed);
                view(Changed::default())
            }
            other => answer(other),
        });
        let format: &[&str] = if json { &["-o", "json"] } else { &[] };
        let output = agent.run(&[format, &drain, &[then]].concat());
        (code(&output), removed.load(Ordering::Relaxed), out(&output).to_owned())
    };
    let (code, removed, text) = removes("remove", 0, false);
    assert_eq!((code, removed), (0, 1), "{text}");
    assert!(text.contains("end with its removal"), "{text}");
    let (code, removed, _) = removes("remove", 7, false);
    assert_eq!((code, removed), (3, 0), "flows are left: nothing may be removed");
    let (code, removed, text) = removes("remove-at-deadline", 7, false);
    assert_eq!((code, removed), (0, 1));
    assert!(text.contains("300ms passed: backend web/web-1 is removed with 7 live flows left"), "{text}");
    let (code, removed, text) = removes("remove", 0, true);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, removed), (0, 1));
    assert!(answer["backend"]["name"] == "web-1" && answer["removed"]["summary"].is_array(), "{answer}");
}
