//! What options become, and how services are shown.

use clap::Parser;
use serde_json::json;

use super::*;
use crate::{
    api::view::Totals,
    ctl::{
        backend,
        cli::{self, select::Select},
        listing,
    },
};

fn rendered(services: &[Service]) -> String {
    listing::render(services, &listing::pick(services, &Select::default()), false, &Style::plain())
}

fn body_of(arguments: &[&str]) -> Result<Value, String> {
    let cli = cli::Cli::try_parse_from(["lbctl", "service", "set", "web"].iter().chain(arguments)).unwrap();
    match cli.command {
        cli::Command::Service(command) => match *command {
            Command::Set { listen, fields, unset, .. } => change(listen, fields, unset).map(Value::Object),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_become_the_fields_of_the_configuration() {
    assert_eq!(
        body_of(&[
            "--listen",
            "tcp/192.0.2.1:0",
            "--on-down",
            "hold",
            "--max-backends",
            "7",
            "--udp-idle",
            "1m"
        ]),
        Ok(json!({ "listen": "tcp/192.0.2.1:0", "on_down": "hold", "max_backends": 7, "udp_idle": "1m" }))
    );
}

#[test]
fn a_health_check_is_made_of_flags_a_word_or_json() {
    assert_eq!(
        body_of(&[
            "--health",
            "http",
            "--health-port",
            "80",
            "--health-expect",
            "200,300-399",
            "--health-fall",
            "3"
        ]),
        Ok(json!({ "health": { "kind": "http", "port": 80, "expect": [200, "300-399"], "fall": 3 } }))
    );
    assert_eq!(
        body_of(&["--health-fast-interval", "50ms"]),
        Ok(json!({ "health": { "fast_interval": "50ms" } }))
    );
    assert_eq!(body_of(&["--health", "none"]), Ok(json!({ "health": false })));
    assert_eq!(body_of(&["--health", "default"]), Ok(json!({ "health": true })));
    assert_eq!(body_of(&["--health", r#"{"kind": "tcp"}"#]), Ok(json!({ "health": { "kind": "tcp" } })));
}

#[test]
fn a_value_is_taken_away_by_null() {
    assert_eq!(body_of(&["--unset", "on_down,health"]), Ok(json!({ "on_down": null, "health": null })));
    assert!(
        body_of(&["--unset", "health", "--health", "none"]).unwrap_err().contains("give only one of them")
    );
    assert_eq!(
        body_of(&["--unset", "health_body,health_ca", "--health-fall", "5"]),
        Ok(json!({ "health": { "fall": 5, "body": null, "ca": null } }))
    );
    for both in [["--health", "http"], ["--health-body", "x"], ["--health", "none"]] {
        let error = body_of(&[&["--unset", "health_body"], &both[..]].concat()).unwrap_err();
        assert_eq!(error, "health is set and health_body is reset; give only one of them");
    }
}

#[test]
fn a_contradictory_health_check_is_refused() {
    assert!(body_of(&["--health", "gopher"]).unwrap_err().contains("`gopher` is none of"));
    assert!(body_of(&["--health", "{"]).unwrap_err().contains("not valid JSON"));
    let error = body_of(&["--health", "none", "--health-fast-interval", "1s"]).unwrap_err();
    assert!(error.contains("leave --health-fast-interval out"), "{error}");
}

pub(in crate::ctl) fn service() -> Service {
    Service {
        name: "web".into(),
        id: 1,
        listen: "tcp/203.0.113.10:443".into(),
        encapsulation: "ipip".into(),
        max_backends: 100,
        max_backends_by_default: false,
        track: "on-change".into(),
        hash: "five-tuple".into(),
        balance: "hash".into(),
        slots: 16381,
        slot_states: [("learning", 81), ("remembering", 1), ("stable", 16299)]
            .map(|(state, slots)| (state.to_owned(), slots))
            .into(),
        learning_ends_in: Some(3540),
        tracking: Tracking {
            changes: vec![
                TrackedChange {
                    seconds_ago: 0,
                    slots: 50,
                    learning_ends_in: 3600,
                    why: vec!["web-3 is new".into(), "web-2 is down: timeout".into()],
                },
                TrackedChange { seconds_ago: 72, slots: 31, learning_ends_in: 3528, why: vec![] },
            ],
            learning_from: [("web-1".to_owned(), 50), ("web-2".to_owned(), 31)].into(),
            learning_from_old_ring: 0,
            window_seconds: 3600,
            flows: 7,
            flows_elsewhere: Some(3),
        },
        health: Some("http :8080/healthz every 1s".into()),
        ring: "maglev".into(),
        slow_start: Some("30s".into()),
        min_healthy: Some("50%".into()),
        health_ignored: Some("0 of 2 backends healthy, min_healthy is 50%".into()),
        health_ignored_times: 3,
        correlated_failure: None,
        correlated_failures: 0,
        settings: serde_json::Map::new(),
        backends_in_ring: 1,
        notes: vec!["health is ignored: 0 of 2 backends healthy, min_healthy is 50%".into()],
        check_durations: None,
        totals: Totals { packets: 1000, bytes: 65536, new_connections: 10 },
        backends: vec![backend::tests::backend("web-1", "up"), backend::tests::backend("web-2", "down")],
    }
}

#[test]
fn a_list_has_a_line_for_each_service() {
    let expected = "\
SERVICE  LISTEN                ENCAPSULATION  BACKENDS  UP  SLOTS  LEARNING  PACKETS  SYNS  NOTE
web      tcp/203.0.113.10:443  ipip                  2   1  16381        81     1000    10  \
health is ignored: 0 of 2 backends healthy, min_healthy is 50%
";
    assert_eq!(rendered(&[service()]), expected);
    assert_eq!(rendered(&[]), "no services\n");
}

#[test]
fn a_service_is_shown_with_its_ring_and_backends() {
    let text = render(&service(), &Style::plain());
    let expected = "\
service           web
id                1
listen            tcp/203.0.113.10:443
encapsulation     ipip
max_backends      100
track             on-change
hash              five-tuple
balance           hash
slots             16381 (81 learning, 1 remembering, 16299 stable)
learning ends in  59m
changed           just now: web-3 is new, web-2 is down: timeout (50 slots, 1h more); 1m 12s ago: before \
the agent started (31 slots, 58m 48s more)
learning from     web-1 (50 slots), web-2 (31 slots): unknown flows belong there
remembering       1 slot remembers until the flows elsewhere have ended or were silent for 1h
tracked flows     7, of which 3 not at their slot's owner
ring              maglev
health            http :8080/healthz every 1s
min_healthy       50%
note              health is ignored: 0 of 2 backends healthy, min_healthy is 50%
slow_start        30s
packets           1000
bytes             65536 (64.0 KiB)
SYNs              10

BACKEND";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("web/web-2"), "{text}");
}

#[test]
fn settings_without_a_line_of_their_own_are_shown_where_they_differ() {
    let settings = json!({ "hold": "10s", "all_down": "keep", "track": "always", "handover": "0s" });
    let settings = settings.as_object().unwrap().clone();
    let text = render(&Service { settings, ..service() }, &Style::plain());
    assert!(text.contains("\nsettings          hold \"10s\", handover \"0s\"\n"), "{text}");
}
