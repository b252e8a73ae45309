//! Lists, filters and summaries over a balancer of 1,000 services and 10,000 backends, and on a small terminal.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use lb_userspace::api::view::{Durations, Interface, Limit, Process, ServiceLine, Stats, Status};
use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;

const SERVICES: usize = 1000;
const OF_EACH: usize = 10;

/// Service 7 has no usable backend, services 10 to 13 have one that is down.
fn state(service: usize, number: usize) -> &'static str {
    match (service, number) {
        (7, _) | (10..14, 3) => "down",
        _ => "up",
    }
}

fn services() -> Vec<Service> {
    let backend = |service: usize, number: usize| Backend {
        service: format!("web-{service}"),
        name: format!("web-{service}-{number}"),
        id: u32::try_from(service * OF_EACH + number).unwrap(),
        state: state(service, number).into(),
        health: state(service, number).into(),
        reason: (state(service, number) == "down").then(|| "connection refused".to_owned()),
        totals: Totals { packets: (service * number) as u64, ..Totals::default() },
        ..super::backend("up", 0)
    };
    let service = |service: usize| {
        let backends: Vec<Backend> = (0..OF_EACH).map(|number| backend(service, number)).collect();
        Service {
            name: format!("web-{service}"),
            backends_in_ring: backends.iter().filter(|backend| backend.state == "up").count(),
            backends,
            ..super::service()
        }
    };
    (0..SERVICES).map(service).collect()
}

fn status() -> Status {
    let line = |service: Service| ServiceLine {
        listen: service.listen,
        backends: OF_EACH,
        backends_in_ring: service.backends_in_ring,
        backends_enabled: OF_EACH,
        backends_healthy: service.backends_in_ring,
        slots_tracked: 0,
        slots_learning: 0,
        health_ignored: None,
        backends_starting: 0,
        checks_late_ms: 0,
        notes: if service.backends_in_ring == 0 { vec!["no usable backend".into()] } else { vec![] },
        name: service.name,
    };
    let interface = |name: &str, attached: &str| Interface {
        name: name.into(),
        index: Some(1),
        attached: attached.into(),
        note: (attached == "detached").then(|| "another program is attached".to_owned()),
    };
    Status {
        instance: "main".into(),
        pid: 1,
        version: "0.1.0".into(),
        uptime_seconds: 12,
        config_file: "/etc/lb/lb.toml".into(),
        applied_at: 0,
        last_error: None,
        last_change: None,
        last_refused: None,
        overlay_changes: 0,
        rolls_back_in: None,
        needs_restart: vec![],
        fallback: None,
        not_lasting: None,
        pins_trouble: 0,
        pins_mended: 0,
        management_trouble: 0,
        management_mended: 0,
        fingerprint: "00c0ffee00c0ffee".into(),
        fingerprint_unknown: String::new(),
        adopted: false,
        interfaces: vec![interface("eth0", "native"), interface("eth1", "detached")],
        notes: vec![],
        egress: vec![],
        losses_not_counted: None,
        services: services().into_iter().map(line).collect(),
        limits: vec![Limit { name: "backends".into(), used: 10_000, size: 11_000, bytes: 1 << 20 }],
        map_memory: 1 << 20,
        process: Process::default(),
        applies: Durations::default(),
    }
}

/// The same of a node without services.
pub(super) fn small_status() -> Status {
    Status { services: vec![], interfaces: vec![], limits: vec![], ..status() }
}

fn stats() -> Stats {
    let services = services();
    let backends = services.iter().flat_map(|service| &service.backends);
    Stats {
        at_ms: 1,
        counters: vec![],
        services: services.iter().map(|service| (service.name.clone(), service.totals)).collect(),
        backends: backends.map(|b| (format!("{}/{}", b.service, b.name), b.totals)).collect(),
        egress_dropped: vec![],
        flows: 0,
        pending_flows: 0,
        flows_age_ms: None,
        flows_evicted: 0,
        pending_flows_evicted: 0,
    }
}

/// An agent of that size; what it answers is made once.
fn large() -> Agent {
    let answers = [
        serde_json::to_value(services()).unwrap(),
        serde_json::to_value(status()).unwrap(),
        serde_json::to_value(stats()).unwrap(),
    ];
    agent(move |request| {
        let [services, status, stats] = &answers;
        Ok(match request {
            Request::Services => services.clone(),
            Request::Status => status.clone(),
            Request::Stats => stats.clone(),
            Request::Health => json!([]),
            other => panic!("{other:?} was asked"),
        })
    })
}

#[test]
fn a_status_of_a_thousand_services_fits_on_a_screen() {
    let agent = large();
    let begun = Instant::now();
    let output = agent.run(&["status"]);
    let took = begun.elapsed();
    assert_eq!((code(&output), err(&output)), (0, ""));
    let lines: Vec<&str> = out(&output).lines().collect();
    assert!(lines.len() <= 40, "{} lines:\n{}", lines.len(), out(&output));
    assert_eq!(
        lines[..4],
        [
            "needs attention",
            "  interface eth1: detached: another program is attached",
            "  services: 1 down, 4 degraded of 1000 services; `lbctl service list --attention` shows them",
            "  limit backends: 90% of 11000 in use",
        ]
    );
    let first = lines.iter().position(|line| line.starts_with("SERVICE")).unwrap() + 1;
    assert!(
        lines[first].starts_with("web-7 ") && lines[first].ends_with("no usable backend"),
        "{}",
        lines[first]
    );
    assert!(lines[first + 1].starts_with("web-10 "), "{}", lines[first + 1]);
    assert!(lines.contains(&"and 990 more services: `lbctl service list` shows all"), "{}", out(&output));
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(agent.run(&["status", "-o", "wide"]).stdout.split(|b| *b == b'\n').count() > SERVICES);
}

#[test]
fn ten_thousand_backends_are_filtered_sorted_and_cut_off() {
    let agent = large();
    let list = |arguments: &[&str]| {
        let output = agent.run(&[&["backend", "list"], arguments].concat());
        assert_eq!((code(&output), err(&output)), (0, ""), "{arguments:?}");
        out(&output).to_owned()
    };
    assert_eq!(list(&["-o", "name"]).lines().count(), SERVICES * OF_EACH);
    assert_eq!(list(&["-o", "csv"]).lines().count(), SERVICES * OF_EACH + 1);
    assert_eq!(
        list(&["web-1?/*", "--down", "--sort", "packets", "-o", "name"]),
        "web-13/web-13-3\nweb-12/web-12-3\nweb-11/web-11-3\nweb-10/web-10-3\n"
    );
    let text = list(&["--sort", "packets", "--top", "20"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 22 && lines[1].starts_with("web-999/web-999-9 "), "{text}");
    assert!(lines[21].starts_with("20 of 10000 backends: 20 up; "), "{text}");
    let text = list(&["--attention"]);
    assert!(text.ends_with("\n14 backends: 14 down; 0 live tracked flows, 453 packets, 0 SYNs\n"), "{text}");
}

#[test]
fn csv_and_yaml_have_the_keys_of_the_json() {
    let agent = agent(answer);
    let csv = agent.run(&["service", "list", "-o", "csv"]);
    let mut lines = out(&csv).lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    let place =
        |name: &str| head.iter().position(|column| *column == name).unwrap_or_else(|| panic!("{head:?}"));
    let row: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!((row[place("name")], row[place("totals.packets")], row[place("backends")]), ("web", "0", "1"));
    let yaml = agent.run(&["service", "list", "-o", "yaml"]);
    let read: Vec<Service> = serde_yaml_ng::from_str(out(&yaml)).unwrap();
    assert_eq!(read, [service()]);
    let events = agent.run(&["events", "-o", "csv"]);
    assert_eq!(
        out(&events),
        "number,at_ms,level,kind,object,message,by.uid,by.user,by.pid\n5,0,,ready,,m,,,\n"
    );
}

#[test]
fn a_filter_that_nothing_fits_ends_with_5() {
    let agent = large();
    for (arguments, out_wanted, message) in [
        (
            &["backend", "list", "mail/*", "--down"][..],
            "",
            "no backend fits `mail/*` --down; there are 10000 backends",
        ),
        (
            &["backend", "list", "mail/*", "-o", "name"],
            "",
            "no backend fits `mail/*`; there are 10000 backends",
        ),
        (&["service", "list", "--up", "x*"], "", "no service fits `x*` --up; there are 1000 services"),
        (
            &["stats", "mail"],
            "",
            "no service or backend fits `mail`; there are 1000 services and 10000 backends",
        ),
    ] {
        let output = agent.run(arguments);
        assert_eq!((code(&output), out(&output)), (5, out_wanted), "{arguments:?}");
        assert_eq!(err(&output), format!("error: {message}\n"));
    }
    let output = agent.run(&["backend", "list", "mail/*", "-o", "json"]);
    assert_eq!((code(&output), out(&output)), (5, "[]\n"));
    let error: ApiError = serde_json::from_str(err(&output)).unwrap();
    assert_eq!(error.code, Code::NotFound);
    let output = agent.run(&["health"]);
    assert_eq!((code(&output), out(&output)), (0, "no backend is checked\n"), "nothing was filtered");
    let output = agent.run(&["health", "--attention"]);
    assert_eq!((code(&output), out(&output)), (0, "no backend is checked\n"), "no filter is to blame");
}

#[test]
fn names_are_for_lists_and_nothing_is_done_before_that_is_known() {
    let agent = agent(|request| panic!("{request:?} was asked"));
    for arguments in
        [&["backend", "drain", "web/web-1"][..], &["config", "diff"], &["service", "show", "web"]]
    {
        let output = agent.run(&[&["-o", "name"], arguments].concat());
        assert_eq!((code(&output), out(&output)), (2, ""), "{arguments:?}");
        assert!(err(&output).contains("-o name is for lists"), "{}", err(&output));
    }
}

/// What `lbctl` draws first on a terminal of that size.
fn drawn(agent: &Agent, arguments: &[&str], (width, height): (u16, u16)) -> Vec<String> {
    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
    let other = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    let mut child: Child = lbctl(arguments)
        .env("LB_SOCKET", &agent.socket)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdout(other(&slave))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(slave);
    let (mut terminal, mut screen, mut buffer) = (File::from(master), Vec::new(), [0; 65536]);
    // The screen ends with this, and the next one begins with the cursor at home.
    while !String::from_utf8_lossy(&screen).contains("\u{1b}[J") {
        let got = terminal.read(&mut buffer).unwrap();
        screen.extend_from_slice(&buffer[..got]);
    }
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    let screen = String::from_utf8(screen).unwrap();
    let screen = screen
        .split("\u{1b}[J")
        .next()
        .unwrap()
        .trim_start_matches("\u{1b}[2J")
        .trim_start_matches("\u{1b}[H");
    screen.split("\u{1b}[K\r\n").map(plain).collect()
}

/// Without colours.
fn plain(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[test]
fn a_watched_screen_is_cut_to_the_terminal() {
    let agent = large();
    for arguments in [&["status", "-w"][..], &["backend", "list", "-w", "-o", "wide"], &["stats", "--watch"]]
    {
        let screen = drawn(&agent, arguments, (72, 30));
        // The last line is where the cursor stays.
        assert_eq!(screen.last().map(String::as_str), Some(""), "{arguments:?}: {screen:?}");
        assert!(screen.len() <= 30, "{arguments:?}: {} lines", screen.len());
        for line in &screen {
            assert!(line.chars().count() <= 72, "{arguments:?}: {line}");
        }
    }
    let screen = drawn(&agent, &["backend", "list", "--watch"], (40, 10));
    assert_eq!(screen.len(), 10);
    assert!(screen[0].starts_with("BACKEND") && screen[0].chars().count() == 40, "{screen:?}");
    assert_eq!(screen[8], "... and 9994 more lines", "{screen:?}");
}
