//! All numbers are taken: what is new waits until what was removed has given up its number. And the arena is full of
//! rings that get shorter: what is new waits for room.

use super::*;
use crate::tables::memory::Twin;

const NEW: &str = "10.0.0.13";

/// Two numbers exist, and both are taken.
fn full() -> Bench {
    let directory = TempDir::new().unwrap();
    fs::write(file(&directory), text(&directory, WEB)).unwrap();
    start(directory, Twin::new(Sizes::new(8, 2, 4096)), false)
}

fn replaced() -> String {
    WEB.replace("10.0.0.12", NEW)
}

/// A sweep and a tick, with the clock of the tables ahead by this many steps.
fn later(bench: &mut Bench, steps: u16) {
    bench.agent.reconciler.sweep(clock::since().wrapping_add(steps) & 0x7fff).unwrap();
    bench.agent.tick();
}

fn waits(backend: &view::Backend) -> bool {
    backend.state == "waiting"
        && backend.reason.as_ref().is_some_and(|why| why.contains("limits.backends = 2"))
}

#[test]
fn a_replacement_waits_for_a_number_until_a_tick() {
    let mut bench = full();
    let planned = plan(&mut bench, &replaced());
    assert!(
        planned.warnings.iter().any(|why| why.contains("web/web-2 waits for a free number")),
        "{planned:?}"
    );
    let applied = apply(&mut bench, &replaced());
    assert!(
        applied.warnings.iter().any(|why| why.contains("web/web-2 waits for a free number")),
        "{applied:?}"
    );
    let (one, two) = (bench.backend("web-1"), bench.backend("web-2"));
    assert!(waits(&two) && two.slots == 0 && two.id == 0, "{two:?}");
    assert_eq!((one.state.as_str(), one.slots), ("up", 509));
    assert_eq!(service(&mut bench).notes, ["1 backend waits for a free number"]);

    later(&mut bench, 0);
    assert!(waits(&bench.backend("web-2")), "packets under way may still name the old one");
    later(&mut bench, 3);
    let two = bench.backend("web-2");
    assert_eq!((two.state.as_str(), two.address.as_str()), ("up", NEW));
    assert!(two.slots > 200 && service(&mut bench).notes.is_empty(), "{two:?}");
    assert!(!bench.agent.waits);
}

#[test]
fn a_waiting_backend_survives_a_restart() {
    let mut first = full();
    apply(&mut first, &replaced());
    let mut second = start(first.directory, first.agent.reconciler.into_tables(), true);
    assert!(waits(&second.backend("web-2")));
    // The old backend has lost its number with the change, and waits like any other.
    apply(&mut second, WEB);
    assert!(waits(&second.backend("web-2")));
    later(&mut second, 3);
    assert_eq!(second.backend("web-2").state, "up");
}

#[test]
fn a_disabled_backend_stays_disabled_while_it_waits() {
    let mut bench = full();
    apply(&mut bench, &(replaced() + "state = \"disabled\"\n"));
    let two = bench.backend("web-2");
    assert_eq!(two.state, "disabled");
    assert!(
        two.reason.is_some_and(|why| why.contains("waits for a free number") && why.contains("disabled by"))
    );
    later(&mut bench, 3);
    let reason = bench.backend("web-2").reason.unwrap();
    assert!(!reason.contains("waits"), "{reason}");
}

#[test]
fn more_backends_than_numbers_are_always_refused() {
    let mut bench = full();
    apply(&mut bench, &replaced());
    let add = Request::BackendAdd {
        service: "web".to_owned(),
        body: json!({ "name": "web-3", "address": "10.0.0.14" }),
    };
    let error = bench.refuse(&add);
    assert_eq!(error.code, Code::LimitExceeded);
    assert!(error.details.iter().any(|why| why.contains("limits.backends is 2")), "{error:?}");
    assert!(waits(&bench.backend("web-2")));
}

const API: &str = r#"
[[service]]
name = "api"
listen = "tcp/203.0.113.11:443"
max_backends = 20
health = false
[[service.backend]]
name = "api-1"
address = "10.0.0.13"
"#;

/// An agent that took over a ring of 16,381 slots, while the service now asks for 509: room for both, and for little
/// more.
fn after_an_upgrade() -> Bench {
    let directory = TempDir::new().unwrap();
    let longer = WEB.replace("max_backends = 3", "max_backends = 100");
    fs::write(file(&directory), text(&directory, &longer)).unwrap();
    let first = start(directory, Twin::new(Sizes::new(8, 64, 18_000)), false);
    fs::write(file(&first.directory), text(&first.directory, WEB)).unwrap();
    start(first.directory, first.agent.reconciler.into_tables(), true)
}

const ROOM: &str = "waits for room: limits.slots = 18000 has no 2039 free at a stretch until rings that became too long are \
                    shorter and their flows are known, in about 2h 15m";

fn api_is(bench: &mut Bench) -> (String, u32) {
    let service: view::Service =
        serde_json::from_value(bench.ask(&Request::Service { service: "api".to_owned() })).unwrap();
    (service.backends[0].state.clone(), service.slots)
}

#[test]
fn a_new_service_waits_for_a_ring_that_shrinks() {
    let mut bench = after_an_upgrade();
    let both = WEB.to_owned() + API;
    let planned = plan(&mut bench, &both);
    assert!(planned.warnings.contains(&format!("service api {ROOM}")), "{planned:?}");
    let applied = apply(&mut bench, &both);
    assert!(applied.warnings.contains(&format!("service api {ROOM}")), "{applied:?}");
    let lines = status(&mut bench).services;
    let line = lines.iter().find(|line| line.name == "api").unwrap();
    assert_eq!(line.notes, [ROOM]);
    assert_eq!(api_is(&mut bench), ("waiting".to_owned(), 0));
    // The agent does everything else meanwhile, and what waits may wait through a restart.
    bench.set("web-1", json!({ "state": "draining" }));
    assert_eq!(bench.backend("web-1").slots, 0);
    let mut bench = start(bench.directory, bench.agent.reconciler.into_tables(), true);
    assert_eq!(api_is(&mut bench).0, "waiting");
    let window = bench.agent.store.spec().services[0].window.as_secs();
    later(&mut bench, (window / lb_common::slot::SINCE_STEP) as u16 + 3);
    assert_eq!(api_is(&mut bench), ("up".to_owned(), 2_039));
    assert!(!bench.agent.waits);
}

#[test]
fn a_new_service_that_never_fits_is_refused() {
    let mut bench = after_an_upgrade();
    let longer = WEB.to_owned() + &API.replace("max_backends = 20", "max_backends = 200");
    fs::write(file(&bench.directory), text(&bench.directory, &longer)).unwrap();
    let error = bench.refuse(&Request::ConfigApply { replacement: None, confirm: None });
    assert_eq!(error.code, Code::LimitExceeded);
    assert!(error.details.iter().any(|why| why.contains("limits.slots is 18000")), "{error:?}");
    assert_eq!(bench.agent.effective.len(), 1);
}

#[test]
fn an_adopted_service_waits_for_room_without_limit() {
    let mut bench = after_an_upgrade();
    let longer = WEB.to_owned() + &API.replace("max_backends = 20", "max_backends = 200");
    let both = (text(&bench.directory, &longer), "new.toml".to_owned());
    let mut wanted = bench.agent.store.reloaded(Some(&both)).unwrap().wanted;
    assert!(bench.agent.plan_for(&wanted).is_err(), "it is asked for just now");
    // As if the tables had been made from that very configuration: then everything else in it goes on.
    wanted.fingerprint = bench.agent.reconciler.mirror().node.configuration;
    let Ok(proposal) = bench.agent.plan_for(&wanted) else { panic!("refused") };
    assert_eq!(
        proposal.waiting,
        [
            "service api waits for room: limits.slots = 18000 has no 32749 free at a stretch; raise it and restart lbd, which \
          carries flows over"
        ]
    );
    bench.agent.apply_plan(proposal).unwrap();
    assert!(bench.agent.waits);
    // Once it is in force, it does not block a change, either.
    wanted.fingerprint += 1;
    assert!(bench.agent.plan_for(&wanted).is_ok());
}
