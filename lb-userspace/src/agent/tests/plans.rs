//! What a plan reports of a configuration before the agent applies it.

use super::*;

#[test]
fn a_plan_reports_that_all_new_slots_are_tracked() {
    let mut bench = bench(WEB);
    let second = "[[service]]\nname = \"calls\"\nlisten = \"tcp/203.0.113.12:80\"\nhealth = false\nmax_backends = 5\n\
                  track = \"always\"\n[[service.backend]]\nname = \"c\"\naddress = \"10.0.0.14\"\n";
    let planned = plan(&mut bench, &(WEB.to_owned() + second));
    let calls = planned.services.iter().find(|service| service.name == "calls").unwrap();
    assert_eq!((calls.change.as_str(), calls.slots_tracked), ("new", calls.slots));
    assert_eq!(calls.tracked_for_seconds, None);
}

#[test]
fn a_plan_tells_what_applying_does() {
    let mut bench = bench(WEB);
    let more = WEB.to_owned() + THIRD;
    let planned = plan(&mut bench, &more);
    let [web] = planned.services.as_slice() else { panic!("{planned:?}") };
    assert_eq!((web.name.as_str(), web.change.as_str(), web.slots), ("web", "changed", 509));
    let [backend] = web.backends.as_slice() else { panic!("{web:?}") };
    assert_eq!((backend.name.as_str(), backend.change.as_str()), ("web-3", "added"));
    let applied = apply(&mut bench, &more);
    assert_eq!(u64::from(web.slots_moved), applied.slots_changed);
    assert_eq!((web.slots_tracked, planned.writes), (web.slots_moved, applied.writes));
    assert_eq!(planned.summary, applied.summary);
    assert_eq!(backend.slots_after, bench.backend("web-3").slots);
    assert_eq!(web.slots_moved, backend.slots_after + web.slots_collateral);
    assert!(web.tracked_for_seconds.is_some_and(|seconds| (8100..=8116).contains(&seconds)), "{web:?}");
    assert_eq!(service(&mut bench).slot_states["learning"], web.slots_tracked);
    assert!(planned.warnings.is_empty());
}

#[test]
fn a_plan_for_what_runs_changes_nothing() {
    let planned = plan(&mut bench(WEB), WEB);
    assert_eq!((planned.writes, planned.summary.len(), planned.warnings.len()), (0, 0, 0));
    let [web] = planned.services.as_slice() else { panic!("{planned:?}") };
    assert_eq!((web.change.as_str(), web.slots_moved, web.tracked_for_seconds), ("unchanged", 0, None));
}

#[test]
fn a_plan_warns_of_cut_flows_but_not_of_drained_backends() {
    let mut bench = bench(&(WEB.to_owned() + THIRD));
    let planned = plan(&mut bench, WEB);
    assert!(planned.warnings[0].contains("web/web-3") && planned.warnings.len() == 1, "{planned:?}");
    let drained = WEB.to_owned() + THIRD + "state = \"draining\"\n";
    assert!(plan(&mut bench, &drained).warnings.is_empty());
}

#[test]
fn a_plan_assumes_new_backends_up_and_keeps_down_ones() {
    let checked = WEB.replace("health = false", "health = { kind = \"tcp\" }");
    let mut bench = bench(&checked);
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Up), ("web-2", "10.0.0.12", Verdict::Down)]);
    let planned = plan(&mut bench, &(checked + THIRD));
    let backends = &planned.services[0].backends;
    assert_eq!((backends.len(), backends[0].name.as_str()), (1, "web-3"), "{backends:?}");
    assert!(backends[0].slots_after.abs_diff(254) < 2, "{backends:?}");
}

#[test]
fn a_plan_tells_of_services_that_come_and_go() {
    let mut bench = bench(WEB);
    let other = WEB.replace("\"web\"", "\"dns\"").replace("tcp/203.0.113.10:443", "udp/203.0.113.10:53");
    let planned = plan(&mut bench, &other);
    let reported: Vec<_> = planned.services.iter().map(|s| (s.name.as_str(), s.change.as_str())).collect();
    assert_eq!(reported, [("dns", "new"), ("web", "removed")]);
    assert_eq!(planned.services[0].backends[0].change, "added");
    assert_eq!(planned.services[1].backends[0].change, "removed");
}

#[test]
fn a_plan_for_a_bad_file_tells_every_error_at_its_place() {
    let mut bench = bench(WEB);
    let bad = text(&bench.directory, &WEB.replace("10.0.0.12", "10.0.0.999")) + "wieght = 3\nport = true\n";
    let error = bench.refuse(&Request::Plan { text: bad, name: "new.toml".to_owned() });
    assert_eq!(error.code, Code::Invalid);
    assert!(error.details.len() >= 3, "{:?}", error.details);
    assert!(error.details.iter().all(|detail| detail.starts_with("new.toml:")), "{:?}", error.details);
}
