//! Where all numbers are taken: what is new waits until what was removed has given up its own.

use super::*;
use crate::dataplane::twin::Twin;

const NEW: &str = "10.0.0.13";

/// Two numbers, and both are taken.
fn full() -> Bench {
    let directory = TempDir::new().unwrap();
    fs::write(file(&directory), text(&directory, WEB)).unwrap();
    start(directory, Twin::new(Sizes::new(8, 2, 4096)), false)
}

fn replaced() -> String {
    WEB.replace("10.0.0.12", NEW)
}

/// What time brings, with the clock of the tables ahead by so many of its steps.
fn later(bench: &mut Bench, steps: u16) {
    bench.agent.reconciler.sweep(clock::since().wrapping_add(steps) & 0x7fff).unwrap();
    bench.agent.tick();
}

fn waits(backend: &view::Backend) -> bool {
    backend.state == "waiting"
        && backend.reason.as_ref().is_some_and(|why| why.contains("limits.backends = 2"))
}

#[test]
fn a_replaced_backend_waits_for_a_number_and_a_tick_brings_it_in() {
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
fn what_waits_is_there_after_a_restart_and_may_be_replaced_itself() {
    let mut first = full();
    apply(&mut first, &replaced());
    let mut second = start(first.directory, first.agent.reconciler.into_tables(), true);
    assert!(waits(&second.backend("web-2")));
    // The old one has lost its number with the change, and waits as any other.
    apply(&mut second, WEB);
    assert!(waits(&second.backend("web-2")));
    later(&mut second, 3);
    assert_eq!(second.backend("web-2").state, "up");
}

#[test]
fn a_backend_that_the_operator_disabled_stays_disabled_while_it_waits() {
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
fn more_backends_than_numbers_are_refused_also_where_numbers_will_be_free() {
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
