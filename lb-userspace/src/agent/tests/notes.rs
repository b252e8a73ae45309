//! What the agent reports without being asked: the last usable backend, a part of a change that waits, a backend that
//! gets no slot.

use super::*;
use crate::ring::{self, Builder, Entry};

fn changed(value: Value) -> Changed {
    serde_json::from_value(value).unwrap()
}

const NONE_LEFT: &str = "service web: no usable backend: new flows are dropped as no_backend";

#[test]
fn the_last_usable_backend_is_taken_out_only_by_force() {
    let mut bench = bench(WEB);
    bench.set("web-2", json!({ "state": "disabled" }));
    let last: [(Request, Request); 4] = [
        (
            set("web-1", json!({ "state": "disabled" }), false),
            set("web-1", json!({ "state": "disabled" }), true),
        ),
        (
            set("web-1", json!({ "state": "draining" }), false),
            set("web-1", json!({ "state": "draining" }), true),
        ),
        (set("web-1", json!({ "weight": 0 }), false), set("web-1", json!({ "weight": 0 }), true)),
        (remove("web-1", false), remove("web-1", true)),
    ];
    for (plain, forced) in last {
        let (before, writes) = (status(&mut bench), bench.agent.reconciler.tables().writes());
        let error = bench.refuse(&plain);
        assert_eq!((error.code, error.object.as_str()), (Code::Conflict, "backend web/web-1"));
        assert_eq!(
            error.message,
            "backend web/web-1 is the last usable one of service web, whose new flows would be dropped as no_backend; \
             nothing was changed; --force (over HTTP `\"force\": true`) does it all the same"
        );
        assert_eq!(bench.agent.reconciler.tables().writes(), writes, "{plain:?}");
        assert_eq!(status(&mut bench).overlay_changes, before.overlay_changes, "{plain:?}");
        assert_eq!(changed(bench.ask(&forced)).warnings[0], NONE_LEFT, "{forced:?}");
        assert_eq!(status(&mut bench).services[0].notes, ["no usable backend"]);
        assert_eq!(service(&mut bench).notes, ["no usable backend"]);
        // A change that takes no usable backend away needs no force, and reports the state.
        assert_eq!(changed(bench.set("web-2", json!({ "weight": 7 }))).warnings[0], NONE_LEFT);
        bench.ask(&Request::ConfigRevert);
        bench.set("web-2", json!({ "state": "disabled" }));
        assert!(status(&mut bench).services[0].notes.is_empty());
    }
}

#[test]
fn one_of_two_backends_goes_without_force_or_warning() {
    let mut bench = bench(WEB);
    assert!(changed(bench.set("web-1", json!({ "state": "draining" }))).warnings.is_empty());
    let back = changed(bench.set("web-1", json!({ "state": "enabled" })));
    assert!(back.warnings.is_empty(), "{back:?}");
}

#[test]
fn an_empty_service_is_applied_with_a_warning() {
    let mut bench = bench(WEB);
    let none = WEB.replace("address = \"10.0.0.1", "weight = 0\naddress = \"10.0.0.1");
    assert_eq!(plan(&mut bench, &none).warnings, [NONE_LEFT]);
    assert_eq!(apply(&mut bench, &none).warnings, [NONE_LEFT]);
}

#[test]
fn an_undrained_backend_that_stays_out_says_why() {
    let mut bench = bench(WEB);
    bench.set("web-1", json!({ "weight": 0, "state": "draining" }));
    let shown = bench.backend("web-1");
    assert_eq!((shown.state.as_str(), shown.admin.as_str(), shown.weight), ("draining", "draining", 0));
    let undrained = changed(bench.set("web-1", json!({ "state": "enabled" })));
    let why = "backend web/web-1 takes no new flows: its weight is 0; `lbctl backend set web/web-1 --weight 100` gives it one";
    assert_eq!(undrained.warnings, [why]);
    let shown = bench.backend("web-1");
    assert_eq!((shown.state.as_str(), shown.admin.as_str()), ("draining", "enabled"));
    let again = changed(bench.set("web-1", json!({ "state": "enabled" })));
    assert_eq!((again.writes, again.warnings), (0, vec![why.to_owned()]));
}

#[test]
fn operator_state_and_health_are_separate() {
    let mut bench = bench(&WEB.replace("health = false", "health = { kind = \"tcp\" }"));
    let seen = |bench: &mut Bench, name: &str| {
        let backend = bench.backend(name);
        (backend.admin, backend.health)
    };
    let both = |admin: &str, health: &str| (admin.to_owned(), health.to_owned());
    assert_eq!(seen(&mut bench, "web-1"), both("enabled", "checking"));
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Up), ("web-2", "10.0.0.12", Verdict::Down)]);
    assert_eq!(seen(&mut bench, "web-1"), both("enabled", "up"));
    bench.set("web-2", json!({ "state": "draining" }));
    assert_eq!(seen(&mut bench, "web-2"), both("draining", "down"));
    let line = status(&mut bench).services.remove(0);
    assert_eq!(
        (line.backends, line.backends_enabled, line.backends_healthy, line.backends_in_ring),
        (2, 1, 1, 1)
    );
    bench.set("web-2", json!({ "state": "disabled" }));
    assert_eq!(seen(&mut bench, "web-2"), both("disabled", "not_checked"));
    let line = status(&mut bench).services.remove(0);
    assert_eq!((line.backends_enabled, line.backends_healthy), (1, 1));
}

#[test]
fn a_hash_that_waits_says_for_how_long() {
    let mut bench = bench(WEB);
    // The first change makes every slot learn.
    let hash = |hash: &str| Request::ServiceSet { service: "web".to_owned(), body: json!({ "hash": hash }) };
    // A ring that has forwarded something learns. The in-memory tables forward nothing here, so another agent takes them
    // over.
    let directory = bench.directory;
    let tables = bench.agent.reconciler.into_tables();
    bench = start(directory, tables, true);
    assert!(changed(bench.ask(&hash("source/24"))).warnings.is_empty());
    let waits = changed(bench.ask(&hash("source/16"))).warnings;
    let [said] = waits.as_slice() else { panic!("{waits:?}") };
    let (begin, end) = said.split_once(", in ").unwrap();
    assert_eq!(begin, "service web: hash source/16 waits until the flows of the change before are known");
    assert!(end.ends_with(" at most; until then source/24 holds") && end.starts_with("2h"), "{said}");
    assert!(status(&mut bench).services[0].notes[0].starts_with("hash source/16 waits until"));
    // Run-time changes would be applied over the file.
    bench.ask(&Request::ConfigRevert);
    let planned = plan(&mut bench, &WEB.replace("health = false", "health = false\nhash = \"source/8\""));
    assert!(
        planned.warnings.iter().any(|w| w.starts_with("service web: hash source/8 waits until")),
        "{planned:?}"
    );
}

/// A service of two backends by rendezvous hashing, and the name of the second backend, which wins no slot.
fn with_an_unlucky_backend() -> (String, String) {
    let wins = |name: &str| {
        let entries = [Entry { name: "web-1", weight: 1000 }, Entry { name, weight: 1 }];
        ring::build(Builder::Rendezvous, &ring::seed("tests"), &entries, 509).contains(&2)
    };
    let unlucky = (2..100).map(|n| format!("web-{n}")).find(|name| !wins(name)).unwrap();
    let text = WEB
        .replace("health = false", "health = false\nring = \"rendezvous\"")
        .replace("\"10.0.0.11\"", "\"10.0.0.11\"\nweight = 1000")
        .replace(
            "\"web-2\"\naddress = \"10.0.0.12\"",
            &format!("\"{unlucky}\"\naddress = \"10.0.0.12\"\nweight = 1"),
        );
    (text, unlucky)
}

#[test]
fn a_backend_whose_weight_is_too_small_for_a_slot_is_named() {
    let (thin, name) = with_an_unlucky_backend();
    let why = "it owns none of 509 slots: its weight is too small compared with the others; raise its weight or max_backends, or \
               set ring = \"maglev\", which gives each a slot";
    let mut first = bench(WEB);
    let warned = |warnings: &[String]| warnings.iter().any(|w| *w == format!("backend web/{name}: {why}"));
    assert!(warned(&plan(&mut first, &thin).warnings));
    assert!(warned(&apply(&mut first, &thin).warnings));
    let mut bench = bench(&thin);
    let none = bench.backend(&name);
    assert_eq!((none.state.as_str(), none.slots, none.reason.as_deref()), ("up", 0, Some(why)));
    assert_eq!(status(&mut bench).services[0].notes, [format!("backend {name} is up and owns no slot")]);
    bench.ask(&Request::ServiceSet { service: "web".to_owned(), body: json!({ "ring": "maglev" }) });
    assert_eq!((bench.backend(&name).slots, bench.backend(&name).reason), (1, None));
}

#[test]
fn flows_are_zero_only_where_all_are_recorded() {
    let mut bench = bench(WEB);
    assert_eq!(bench.backend("web-1").flows_tracked, "none");
    bench.ask(&Request::ServiceSet { service: "web".to_owned(), body: json!({ "track": "always" }) });
    assert!(matches!(bench.backend("web-1").flows_tracked.as_str(), "all" | "some"));
    let always = WEB.replace("health = false", "health = false\ntrack = \"always\"");
    let mut bench = super::bench(&always);
    assert_eq!(bench.backend("web-1").flows_tracked, "all");
    let never = WEB.replace("health = false", "health = false\ntrack = \"never\"");
    assert_eq!(super::bench(&never).backend("web-1").flows_tracked, "none");
    let planned = plan(&mut bench, &always.replace("address = \"10.0.0.12\"", "address = \"10.0.0.13\""));
    assert!(planned.services[0].flows_cut_known && planned.services[0].flows_known, "{planned:?}");
}

#[test]
fn a_plan_does_not_call_flows_none_that_are_not_known() {
    let mut first = bench(WEB);
    let moved = WEB.replace("address = \"10.0.0.12\"", "address = \"10.0.0.13\"");
    let planned = plan(&mut first, &moved);
    assert_eq!((planned.services[0].flows_cut, planned.services[0].flows_cut_known), (0, false));
    assert!(!planned.services[0].flows_known);
    assert!(planned.warnings[0].starts_with("backend web/web-2 would lose its flows at once"), "{planned:?}");
    let added = plan(&mut first, &(WEB.to_owned() + THIRD));
    assert!(added.services[0].flows_cut_known, "no client loses a flow: {added:?}");
    // web-2 is drained, and learning is over: no slot leads to it any longer.
    let drained = WEB.replace("address = \"10.0.0.12\"", "address = \"10.0.0.12\"\nweight = 0");
    let mut empty = bench(&drained);
    let without = WEB.replace("[[service.backend]]\nname = \"web-2\"\naddress = \"10.0.0.12\"\n", "");
    assert!(plan(&mut empty, &without).services[0].flows_cut_known);
}

#[test]
fn a_source_that_is_a_vip_is_named_as_the_reason() {
    let mut bench = bench(&WEB.replace("health = false", "health = { kind = \"tcp\" }"));
    for hop in bench.agent.hops.values_mut().flatten() {
        hop.source = [203, 0, 113, 10].into();
    }
    let why = "this host sends to it from 203.0.113.10, the virtual address of service web";
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Down), ("web-2", "10.0.0.12", Verdict::Up)]);
    for name in ["web-1", "web-2"] {
        let reason = bench.backend(name).reason.unwrap_or_default();
        assert!(reason.contains(why), "{name}: {reason}");
    }
    let events: Vec<_> = bench.agent.journal.since(0);
    assert!(
        events.iter().any(|event| event.object == "web/web-1" && event.message.contains(why)),
        "{events:?}"
    );
}
