//! Rings that follow the number of configured backends: when they grow, when they wait, what the agent reports of it,
//! and that no flow moves.

use super::*;
use crate::tables::memory::{Packet, Verdict as Way};

/// The service of the other tests, which does not say how many backends it is planned for.
fn web() -> String {
    WEB.replace("max_backends = 3\n", "")
}

/// An agent that has just taken over the tables of another one, so that slots have forwarded something: they learn.
fn taken_over(services: &str, slots: u32) -> Bench {
    let directory = TempDir::new().unwrap();
    fs::write(file(&directory), text(&directory, services)).unwrap();
    let first = start(directory, Twin::new(Sizes::new(8, 256, slots)), false);
    start(first.directory, first.agent.reconciler.into_tables(), true)
}

fn add(bench: &mut Bench, number: u8) -> Changed {
    let address = format!("10.0.1.{number}");
    bench.agent.found.hops.extend([hop(&address)]);
    bench.agent.judge();
    let body = json!({ "name": format!("more-{number}"), "address": address });
    serde_json::from_value(bench.ask(&Request::BackendAdd { service: "web".to_owned(), body })).unwrap()
}

fn shown(bench: &mut Bench) -> view::Service {
    serde_json::from_value(bench.ask(&Request::Service { service: "web".to_owned() })).unwrap()
}

fn notes(bench: &mut Bench) -> Vec<String> {
    let status: view::Status = serde_json::from_value(bench.ask(&Request::Status)).unwrap();
    status.services.into_iter().find(|line| line.name == "web").unwrap().notes
}

/// The backends of the flows of 300 clients.
fn ways(bench: &mut Bench, syn: bool) -> Vec<u32> {
    let address = |bytes: [u8; 4]| lb_common::mapped(u32::from_ne_bytes(bytes));
    let way = |client: u32| {
        let packet = Packet {
            source: address((0x0a01_0000 + client).to_be_bytes()),
            destination: address([203, 0, 113, 10]),
            source_port: 40_000,
            destination_port: 443,
            protocol: 6,
            syn,
            closes: false,
            sequence: 1000,
        };
        match bench.agent.reconciler.tables_mut().packet(&packet) {
            Way::Forwarded { backend, .. } => backend,
            other => panic!("client {client}: {other:?}"),
        }
    };
    (0..300).map(way).collect()
}

#[test]
fn adding_200_backends_one_by_one_moves_no_flow() {
    let mut bench = taken_over(&web(), 1 << 19);
    let before = ways(&mut bench, false);
    let is = shown(&mut bench);
    assert_eq!((is.slots, is.max_backends, is.max_backends_by_default), (2_039, 20, true));
    for number in 3..=200 {
        let said = add(&mut bench, number);
        let grows = said.summary.iter().any(|line| line.contains("ring"));
        assert_eq!(ways(&mut bench, false), before, "{number} backends");
        let slots = shown(&mut bench).slots;
        assert_eq!(slots, if number < 6 { 2_039 } else { 4_093 }, "{number} backends: {said:?}");
        let waits = said.warnings.iter().any(|line| line.contains("slots waits until the flows"));
        assert_eq!(waits, [11, 21, 41, 82, 164].contains(&number), "{number} backends: {said:?} {grows}");
    }
    let is = shown(&mut bench);
    assert_eq!((is.max_backends, is.backends.len()), (1_310, 200));
    let notes = notes(&mut bench);
    assert!(
        notes.iter().any(|note| note
            .starts_with("a ring of 131071 slots waits until the flows of the change before are known")
            && note.ends_with("until then one of 4093 goes on")),
        "{notes:?}"
    );
}

#[test]
fn a_plan_says_that_the_ring_grows_and_that_it_waits() {
    let mut bench = taken_over(&web(), 1 << 19);
    let backends = |from: u8, to: u8| -> String {
        let one = |n| format!("[[service.backend]]\nname = \"more-{n}\"\naddress = \"10.0.1.{n}\"\n");
        (from..=to).map(one).collect()
    };
    let planned = |bench: &mut Bench, services: &str| -> view::Plan {
        let text = text(&bench.directory, services);
        let Ok(run) = bench.agent.dry_run(&text, "new.toml") else { panic!("refused") };
        run.finish()
    };
    let six = web() + &backends(3, 6);
    let plan = planned(&mut bench, &six);
    assert_eq!((plan.services[0].slots, plan.warnings), (4_093, Vec::new()));
    fs::write(file(&bench.directory), text(&bench.directory, &six)).unwrap();
    let applied: Changed =
        serde_json::from_value(bench.ask(&Request::ConfigApply { replacement: None, confirm: None }))
            .unwrap();
    assert_eq!(applied.warnings, Vec::<String>::new());
    assert_eq!(shown(&mut bench).slots, 4_093);
    let plan = planned(&mut bench, &(web() + &backends(3, 11)));
    assert_eq!(plan.services[0].slots, 4_093, "what would be in force");
    let waits = "service web: a ring of 8191 slots waits until the flows of the change before are known";
    assert!(plan.warnings.iter().any(|warning| warning.starts_with(waits)), "{:?}", plan.warnings);
    // A change back waits as well, and reports it.
    let plan = planned(&mut bench, &web());
    assert!(
        plan.warnings.iter().any(|w| w.starts_with("service web: a ring of 2039 slots waits")),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn a_ring_without_room_grows_when_another_goes() {
    let other = "[[service]]\nname = \"x-dns\"\nlisten = \"udp/203.0.113.11:53\"\nmax_backends = 10\nhealth = false\n";
    let mut bench = taken_over(&(web() + other), 6_500);
    let before = ways(&mut bench, false);
    for number in 3..6 {
        assert_eq!(add(&mut bench, number).warnings, Vec::<String>::new());
    }
    let waits = "a ring of 4093 slots waits for room: limits.slots has no 4093 free at a stretch until other rings are shorter or \
                 gone; to have it sooner, raise it and restart lbd, which carries flows over; until then one of 2039 goes on";
    assert_eq!(add(&mut bench, 6).warnings, [format!("service web: {waits}")]);
    assert_eq!((shown(&mut bench).slots, notes(&mut bench)), (2_039, vec![waits.to_owned()]));
    bench.agent.tick();
    assert_eq!(shown(&mut bench).slots, 2_039);
    bench.ask(&Request::ServiceRemove { service: "x-dns".to_owned() });
    bench.agent.tick();
    assert_eq!((shown(&mut bench).slots, notes(&mut bench)), (4_093, Vec::new()));
    assert_eq!(ways(&mut bench, false), before);
}

#[test]
fn an_adopted_ring_shrinks_without_moving_a_flow() {
    let mut bench = taken_over(&WEB.replace("max_backends = 3", "max_backends = 100"), 1 << 19);
    let before = ways(&mut bench, false);
    assert_eq!(shown(&mut bench).slots, 16_381);
    fs::write(file(&bench.directory), text(&bench.directory, &web())).unwrap();
    let mut second = start(bench.directory, bench.agent.reconciler.into_tables(), true);
    assert_eq!((shown(&mut second).slots, ways(&mut second, false)), (2_039, before));
}

#[test]
fn an_older_ring_goes_on_without_room_for_a_shorter() {
    let mut bench = taken_over(&WEB.replace("max_backends = 3", "max_backends = 100"), 17_000);
    let before = ways(&mut bench, false);
    fs::write(file(&bench.directory), text(&bench.directory, &web())).unwrap();
    let mut second = start(bench.directory, bench.agent.reconciler.into_tables(), true);
    assert_eq!((shown(&mut second).slots, ways(&mut second, false)), (16_381, before));
    assert!(notes(&mut second)[0].starts_with("a ring of 2039 slots waits for room"));
}

#[test]
fn backend_state_and_replacement_keep_the_length() {
    let mut bench = taken_over(&web(), 1 << 19);
    for number in 3..6 {
        add(&mut bench, number);
    }
    for state in ["draining", "disabled", "enabled"] {
        bench.set("web-1", json!({ "state": state }));
        assert_eq!(shown(&mut bench).slots, 2_039, "{state}");
    }
    // A change of the length is not a setting: adding and removing a backend leaves no run-time change behind.
    add(&mut bench, 6);
    bench.ask(&Request::BackendRemove {
        service: "web".to_owned(),
        backend: "more-6".to_owned(),
        force: false,
    });
    let diff: view::Diff = serde_json::from_value(bench.ask(&Request::ConfigDiff)).unwrap();
    assert!(diff.overlay.iter().all(|line| !line.contains("max_backends")), "{diff:?}");
    assert_eq!(diff.overlay.len(), 3, "{diff:?}");
}
