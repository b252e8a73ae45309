//! The exposition against a parser of the format's grammar.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::counter::Counter;

use super::{families, *};
use crate::api::view::{
    Backend, CounterValue, Durations, Egress, EgressDropped, Interface, Limit, Process, ServiceLine, Totals,
    Tracking,
};

/// A name with everything in it that a label value has to escape.
const AWKWARD: &str = "we\\b \"1\"\nü";

fn status() -> Status {
    Status {
        instance: "main".into(),
        pid: 1,
        version: "0.1.0".into(),
        uptime_seconds: 12,
        config_file: "/etc/lb/lb.toml".into(),
        applied_at: 1_700_000_000,
        last_error: None,
        last_change: None,
        last_refused: None,
        rolls_back_in: None,
        needs_restart: Vec::new(),
        fallback: None,
        not_lasting: None,
        pins_trouble: 0,
        pins_mended: 0,
        management_trouble: 0,
        management_mended: 0,
        overlay_changes: 0,
        fingerprint: "0123456789abcdef".into(),
        fingerprint_unknown: "0123456789abcdee".into(),
        adopted: true,
        notes: vec![],
        interfaces: vec![
            Interface { name: "eth1".into(), index: Some(3), attached: "generic".into(), note: None },
            Interface { name: "eth2".into(), index: None, attached: "detached".into(), note: None },
        ],
        egress: vec![Egress {
            name: "eth3".into(),
            index: 4,
            sends: "no".into(),
            program: None,
            dropped: Some(5),
            note: None,
        }],
        losses_not_counted: None,
        services: vec![ServiceLine {
            name: AWKWARD.into(),
            listen: "tcp/192.0.2.1:80".into(),
            backends: 1,
            backends_in_ring: 1,
            slots_tracked: 0,
            slots_learning: 0,
            health_ignored: None,
            backends_enabled: 2,
            backends_healthy: 2,
            backends_starting: 0,
            checks_late_ms: 0,
            notes: vec![],
        }],
        limits: vec![Limit { name: "flows".into(), used: 1, size: 1000, bytes: 64_000 }],
        map_memory: 1 << 20,
        process: Process { cpu_seconds: 1.5, start_time: 1_700_000_000.25, ..Process::default() },
        applies: durations(),
    }
}

fn stats() -> Stats {
    let counter = |(i, c): (usize, &Counter)| CounterValue {
        name: c.name().into(),
        kind: c.kind().name().into(),
        value: i as u64,
        description: c.description().into(),
    };
    Stats {
        at_ms: 0,
        counters: Counter::ALL.iter().enumerate().map(counter).collect(),
        services: BTreeMap::new(),
        backends: BTreeMap::new(),
        egress_dropped: vec![EgressDropped {
            interface: "eth3".into(),
            error: "EOPNOTSUPP".into(),
            frames: 5,
        }],
        flows: 7,
        pending_flows: 2,
        flows_age_ms: Some(0),
        flows_evicted: 3,
        pending_flows_evicted: 12,
    }
}

fn service() -> Service {
    let totals = Totals { packets: u64::MAX, bytes: 2, new_connections: 3 };
    Service {
        name: AWKWARD.into(),
        id: 1,
        listen: "tcp/192.0.2.1:80".into(),
        encapsulation: "ipip".into(),
        max_backends: 100,
        max_backends_by_default: false,
        track: "on-change".into(),
        hash: "five-tuple".into(),
        balance: "hash".into(),
        slots: 10007,
        slot_states: [("stable".to_owned(), 10007)].into(),
        learning_ends_in: None,
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
        check_durations: Some(durations()),
        totals,
        backends: vec![Backend {
            service: AWKWARD.into(),
            name: "web-1".into(),
            id: 1,
            address: "10.0.0.1".into(),
            weight: 100,
            effective_weight: 100,
            slow_start_ends_in: None,
            state: "up".into(),
            admin: "enabled".into(),
            health: "up".into(),
            reason: None,
            slots: 10007,
            flows_idle: 1,
            flows: 0,
            flows_tracked: "some".into(),
            flows_age_ms: Some(0),
            learning_slots: 0,
            next_hop: None,
            transitions: 3,
            totals,
        }],
    }
}

fn health() -> Health {
    Health {
        service: AWKWARD.into(),
        backend: "web-1".into(),
        verdict: "up".into(),
        streak: 0,
        last: Some("ok".into()),
        last_us: Some(285),
        last_ms: Some(0),
        probes: 10,
        failures: 1,
        since_ms: 5,
        said: None,
    }
}

fn durations() -> Durations {
    Durations { bounds_us: vec![100, 2_500, 5_000_000], counts: vec![1, 3, 4], count: 5, sum_us: 7_250_000 }
}

fn exposition() -> String {
    let (services, health) = ([service()], [health()]);
    let snapshot = Snapshot { status: &status(), stats: &stats(), services: &services, health: &health };
    render(&snapshot, Scopes::whole(true))
}

type Labels = BTreeMap<String, String>;

/// One sample line, read by the grammar of the format; panics where it does not fit.
fn parse_sample(line: &str) -> (String, Labels, f64) {
    let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    assert!(name.starts_with("lb_") || name.starts_with("process_"), "{line}");
    let mut rest = line[name.len()..].chars();
    let mut labels = Labels::new();
    let mut next = rest.next().unwrap();
    if next == '{' {
        loop {
            let label: String = rest.by_ref().take_while(|c| *c != '=').collect();
            assert!(
                !label.is_empty() && label.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()),
                "{line}"
            );
            assert_eq!(rest.next(), Some('"'), "{line}");
            let mut value = String::new();
            loop {
                match rest.next().unwrap_or_else(|| panic!("unclosed value: {line}")) {
                    '"' => break,
                    '\\' => value.push(match rest.next() {
                        Some('n') => '\n',
                        Some(c @ ('\\' | '"')) => c,
                        other => panic!("escape {other:?}: {line}"),
                    }),
                    c => value.push(c),
                }
            }
            assert_eq!(labels.insert(label, value), None, "a label twice: {line}");
            match rest.next() {
                Some(',') => {}
                Some('}') => break,
                other => panic!("{other:?} after a label: {line}"),
            }
        }
        next = rest.next().unwrap();
    }
    assert_eq!(next, ' ', "{line}");
    let value = rest.collect::<String>().parse().unwrap_or_else(|_| panic!("no number: {line}"));
    (name, labels, value)
}

fn samples() -> Vec<(String, Labels, f64)> {
    exposition().lines().filter(|l| !l.starts_with('#')).map(parse_sample).collect()
}

#[test]
fn every_line_parses_and_is_under_its_family() {
    let text = exposition();
    assert!(text.ends_with('\n'));
    let mut family = String::new();
    let (mut seen, mut is_histogram) = (BTreeSet::new(), false);
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().into();
            assert!(seen.insert(family.clone()), "{family} twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            is_histogram = kind == "histogram";
        } else {
            let (name, ..) = parse_sample(line);
            let part = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is below {family}"));
            let parts: &[&str] = if is_histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(parts.contains(&part), "{line}");
        }
    }
    assert_eq!(seen.len(), families::all().count());
}

#[test]
fn every_family_has_samples_with_its_labels_and_none_twice() {
    let samples = samples();
    for family in families::all() {
        // Of a histogram its number; the buckets have a label of their own.
        let name = match family.kind {
            families::Kind::Histogram => format!("{}_count", family.name),
            _ => family.name.to_owned(),
        };
        let of: Vec<_> = samples.iter().filter(|(found, ..)| *found == name).collect();
        assert!(!of.is_empty(), "{}", family.name);
        let labels: BTreeSet<&str> = family.labels.iter().copied().collect();
        for (name, given, _) in &of {
            assert_eq!(given.keys().map(String::as_str).collect::<BTreeSet<_>>(), labels, "{name}");
        }
        let distinct: BTreeSet<_> = of.iter().map(|(_, labels, _)| labels).collect();
        assert_eq!(distinct.len(), of.len(), "{}", family.name);
    }
}

#[test]
fn label_values_survive_escaping() {
    let samples = samples();
    let (_, labels, value) = samples.iter().find(|(n, ..)| n == "lb_backend_packets_total").unwrap();
    assert_eq!((labels["service"].as_str(), labels["backend"].as_str()), (AWKWARD, "web-1"));
    assert_eq!(*value, u64::MAX as f64);
}

#[test]
fn every_reason_is_exported_under_its_verdict() {
    let samples = samples();
    for (i, counter) in Counter::ALL.iter().enumerate() {
        let (verdict, reason) = (counter.kind().name(), counter.name());
        let found = samples.iter().any(|(name, labels, value)| {
            let this = if verdict == "event" {
                name == "lb_packet_events_total" && labels["event"] == reason
            } else {
                name == "lb_packets_total" && labels["verdict"] == verdict && labels["reason"] == reason
            };
            this && *value == i as f64
        });
        assert!(found, "{reason}");
    }
}

#[test]
fn an_interface_is_attached_in_one_mode_or_none() {
    let attached: Vec<(String, f64)> = samples()
        .into_iter()
        .filter(|(name, ..)| name == "lb_interface_attached")
        .map(|(_, labels, value)| (format!("{} {}", labels["interface"], labels["mode"]), value))
        .collect();
    let expected = [("eth1 native", 0.0), ("eth1 generic", 1.0), ("eth2 native", 0.0), ("eth2 generic", 0.0)];
    assert_eq!(attached, expected.map(|(which, value)| (which.to_owned(), value)));
}

#[test]
fn an_agent_without_services_has_valid_metrics_too() {
    let status = Status { services: vec![], interfaces: vec![], limits: vec![], ..status() };
    let text = render(
        &Snapshot { status: &status, stats: &stats(), services: &[], health: &[] },
        Scopes::whole(true),
    );
    text.lines().filter(|l| !l.starts_with('#')).for_each(|l| drop(parse_sample(l)));
}

#[test]
fn a_histogram_has_its_buckets_in_seconds() {
    let text = exposition();
    let expected = "\
# TYPE lb_apply_duration_seconds histogram
lb_apply_duration_seconds_bucket{le=\"0.0001\"} 1
lb_apply_duration_seconds_bucket{le=\"0.0025\"} 3
lb_apply_duration_seconds_bucket{le=\"5\"} 4
lb_apply_duration_seconds_bucket{le=\"+Inf\"} 5
lb_apply_duration_seconds_sum 7.25
lb_apply_duration_seconds_count 5
";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("lb_health_check_duration_seconds_bucket{service=\"we"), "{text}");
}

#[test]
fn a_scrape_gets_the_scopes_that_it_asks_for() {
    let (services, health) = ([service()], [health()]);
    let snapshot = Snapshot { status: &status(), stats: &stats(), services: &services, health: &health };
    let families = |names: &str| {
        let mut scopes = Scopes::default();
        scopes.add(names).unwrap();
        let text = render(&snapshot, scopes);
        text.lines().filter(|line| line.starts_with("# TYPE ")).count()
    };
    let [node, service, backend] = ["node", "service", "backend"].map(families);
    assert!(node > 20 && service > 10 && backend > 10, "{node} {service} {backend}");
    assert_eq!(families("node,service,backend"), node + service + backend);
    assert_eq!(node + service + backend, families::all().count());
    let without = render(&snapshot, Scopes::whole(false));
    assert!(without.contains("lb_service_info{") && !without.contains("backend=\""), "{without}");
}

#[test]
fn promtool_finds_nothing_wrong() {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: promtool is not installed");
        return;
    };
    child.stdin.take().unwrap().write_all(exposition().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}
