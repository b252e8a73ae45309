//! Configurations that wait for their confirmation, also when the agent dies at any write of a file.

use super::*;
use crate::{
    config::{
        commit_confirm::{self, Unconfirmed},
        overlay,
    },
    fault,
};

fn apply(bench: &mut Bench, services: &str, seconds: u64) -> Result<Value, ApiError> {
    let replacement = Some((text(&bench.directory, services), "new.toml".to_owned()));
    bench.agent.answer(&Request::ConfigApply { replacement, confirm: Some(seconds) }).0
}

fn lighter() -> String {
    WEB.replace("address = \"10.0.0.12\"", "address = \"10.0.0.12\"\nweight = 7")
}

/// The content of the files: configuration, run-time changes.
fn files(directory: &TempDir) -> (String, Option<String>) {
    let overlay = fs::read_to_string(overlay::path(directory.path(), "test")).ok();
    (fs::read_to_string(file(directory)).unwrap(), overlay)
}

/// Lets the time for the confirmation pass.
fn let_time_pass(directory: &TempDir) {
    let place = commit_confirm::path(directory.path(), "test");
    if let Some(waiting) = Unconfirmed::load(&place).unwrap() {
        waiting.until(0).store(&place).unwrap();
    }
}

fn kinds(bench: &Bench) -> Vec<String> {
    bench.agent.journal.since(0).into_iter().map(|event| event.kind).collect()
}

#[test]
fn an_unconfirmed_change_is_rolled_back_with_the_overlay() {
    let mut bench = bench(WEB);
    bench.set("web-1", json!({ "weight": 3 }));
    let (before, fingerprint) = (files(&bench.directory), status(&mut bench).fingerprint);
    apply(&mut bench, &lighter(), 60).unwrap();
    bench.set("web-1", json!({ "weight": 4 }));
    assert!(status(&mut bench).rolls_back_in.is_some_and(|left| (59..=60).contains(&left)));
    assert!(bench.agent.due().is_some_and(|due| due > clock::milliseconds() + 50_000));
    bench.agent.do_what_is_due();
    assert_eq!(bench.backend("web-2").weight, 7, "it is not time yet");
    bench.agent.store.put_off(0);
    bench.agent.do_what_is_due();
    assert_eq!((bench.backend("web-1").weight, bench.backend("web-2").weight), (3, 100));
    assert_eq!((files(&bench.directory), status(&mut bench).fingerprint), (before, fingerprint));
    let kept = fs::read_to_string(commit_confirm::rejected(&file(&bench.directory))).unwrap();
    assert!(kept.contains("weight = 7"), "{kept}");
    assert_eq!((status(&mut bench).rolls_back_in, bench.agent.due()), (None, None));
    assert!(kinds(&bench).contains(&"config_rolled_back".to_owned()), "{:?}", kinds(&bench));
}

#[test]
fn what_is_confirmed_stays_also_after_a_restart() {
    let mut first = bench(WEB);
    apply(&mut first, &lighter(), 60).unwrap();
    first.ask(&Request::ConfigConfirm);
    assert_eq!((status(&mut first).rolls_back_in, first.agent.due()), (None, None));
    assert_eq!(first.refuse(&Request::ConfigConfirm).code, Code::Conflict);
    assert_eq!(first.refuse(&Request::ConfigRollback).code, Code::Conflict);
    let mut second = start(first.directory, first.agent.reconciler.into_tables(), true);
    assert_eq!(second.backend("web-2").weight, 7);
}

#[test]
fn a_restart_waits_for_the_rest_of_the_deadline() {
    let mut first = bench(WEB);
    apply(&mut first, &lighter(), 60).unwrap();
    let deadline = first.agent.store.unconfirmed().unwrap().deadline_ms();
    let mut second = start(first.directory, first.agent.reconciler.into_tables(), true);
    assert_eq!(second.backend("web-2").weight, 7);
    assert_eq!(second.agent.store.unconfirmed().unwrap().deadline_ms(), deadline);
    second.ask(&Request::ConfigConfirm);
    assert_eq!(second.agent.store.rolls_back_in(0), None);
}

#[test]
fn a_start_after_the_deadline_rolls_back() {
    let mut first = bench(WEB);
    apply(&mut first, &lighter(), 60).unwrap();
    let_time_pass(&first.directory);
    let mut second = start(first.directory, first.agent.reconciler.into_tables(), true);
    assert_eq!(second.backend("web-2").weight, 100);
    assert!(
        second.agent.store.rolled_back_at_start().is_some_and(|message| message.contains(".unconfirmed"))
    );
    assert_eq!(status(&mut second).rolls_back_in, None);
    let third = start(second.directory, second.agent.reconciler.into_tables(), true);
    assert_eq!(third.agent.store.rolled_back_at_start(), None, "it is reported once");
}

#[test]
fn a_second_unconfirmed_apply_rolls_back_both() {
    let mut bench = bench(WEB);
    apply(&mut bench, &lighter(), 60).unwrap();
    for request in [
        Request::ConfigApply { replacement: None, confirm: None },
        Request::ConfigSave,
        Request::ConfigRevert,
    ] {
        let error = bench.refuse(&request);
        assert_eq!(error.code, Code::Conflict, "{request:?}");
        assert!(error.message.contains("config confirm"), "{}", error.message);
    }
    apply(&mut bench, &(lighter() + THIRD), 90).unwrap();
    assert!(status(&mut bench).rolls_back_in > Some(60));
    bench.ask(&Request::ConfigRollback);
    assert_eq!(bench.backend("web-2").weight, 100);
    let third = Request::Backend { service: "web".to_owned(), backend: "web-3".to_owned() };
    assert_eq!(bench.refuse(&third).code, Code::NotFound);
}

#[test]
fn a_refused_change_is_reported_and_does_not_wait() {
    let mut bench = bench(WEB);
    let error = apply(&mut bench, &WEB.replace("10.0.0.12", "10.0.0.999"), 60).unwrap_err();
    assert_eq!(error.code, Code::Invalid);
    // In the test's own directory: elsewhere on the host there may be a file of that name.
    let elsewhere = bench.directory.path().join("elsewhere");
    let other = text(&bench.directory, WEB)
        .replace("state_directory = ", &format!("state_directory = \"{}\" # ", elsewhere.display()));
    let replacement = Some((other.clone(), "new.toml".to_owned()));
    let error = bench.refuse(&Request::ConfigApply { replacement, confirm: Some(60) });
    assert!(error.details[0].contains("cannot be changed over the socket"), "{error:?}");
    fs::write(file(&bench.directory), other).unwrap();
    let error = bench.refuse(&Request::ConfigApply { replacement: None, confirm: Some(60) });
    assert!(error.message.contains("node.state_directory"), "{}", error.message);
    let status = status(&mut bench);
    assert!(status.rolls_back_in.is_none() && status.last_refused.is_some(), "{status:?}");
    assert!(!commit_confirm::path(bench.directory.path(), "test").exists());
}

#[test]
fn a_rollback_whose_files_cannot_be_written_is_tried_again() {
    let mut bench = bench(WEB);
    apply(&mut bench, &lighter(), 60).unwrap();
    bench.agent.store.put_off(0);
    fault::arm_for(&[fault::Kind::File], 0);
    bench.agent.do_what_is_due();
    fault::disarm();
    assert_eq!(bench.backend("web-2").weight, 7, "what runs goes on");
    assert!(status(&mut bench).last_error.is_some());
    assert!(bench.agent.due().is_some_and(|due| due > clock::milliseconds()), "not at once");
    bench.agent.store.put_off(0);
    bench.agent.do_what_is_due();
    assert_eq!(bench.backend("web-2").weight, 100);
}

#[test]
fn death_during_apply_loses_no_run_time_change() {
    die_everywhere(
        |bench| {
            bench.set("web-2", json!({ "weight": 7 }));
        },
        |bench| {
            // The new file itself then says what was a run-time change of web-2 before.
            let replacement = Some((text(&bench.directory, &lighter()), "new.toml".to_owned()));
            let _died_or_not = bench.agent.answer(&Request::ConfigApply { replacement, confirm: None });
        },
        |directory, tables, points| {
            let mut bench = start(directory, tables, true);
            assert_eq!((bench.backend("web-1").weight, bench.backend("web-2").weight), (3, 7), "{points}");
        },
    );
}

/// Lets the agent die at each write of a file in `act`, which follows `prepare`, and checks what its successor finds.
fn die_everywhere(
    prepare: impl Fn(&mut Bench),
    act: impl Fn(&mut Bench),
    found: impl Fn(TempDir, Twin, u64),
) {
    for points in 0.. {
        let mut bench = bench(WEB);
        bench.set("web-1", json!({ "weight": 3 }));
        prepare(&mut bench);
        fault::arm_for(&[fault::Kind::File], points);
        act(&mut bench);
        let passed = fault::disarm();
        found(bench.directory, bench.agent.reconciler.into_tables(), points);
        if passed < points {
            assert!(points > 3, "nothing was written");
            return;
        }
    }
}

#[test]
fn death_during_unconfirmed_apply_still_rolls_back() {
    let before = {
        let mut bench = bench(WEB);
        bench.set("web-1", json!({ "weight": 3 }));
        files(&bench.directory).1
    };
    die_everywhere(
        |_| {},
        |bench| {
            let _died_or_not = apply(bench, &lighter(), 60);
        },
        |directory, tables, points| {
            let is_new = files(&directory).0.contains("weight = 7");
            let place = commit_confirm::path(directory.path(), "test");
            assert!(
                !is_new || Unconfirmed::load(&place).unwrap().is_some(),
                "{points}: nothing to go back to"
            );
            let_time_pass(&directory);
            let mut bench = start(directory, tables, true);
            assert_eq!(files(&bench.directory), (text(&bench.directory, WEB), before.clone()), "{points}");
            assert_eq!((bench.backend("web-1").weight, bench.backend("web-2").weight), (3, 100), "{points}");
        },
    );
}

#[test]
fn death_during_rollback_is_finished_by_the_successor() {
    die_everywhere(
        |bench| {
            apply(bench, &lighter(), 60).unwrap();
            bench.set("web-1", json!({ "weight": 4 }));
            let_time_pass(&bench.directory);
        },
        |bench| {
            let _died_or_not = bench.agent.answer(&Request::ConfigRollback);
        },
        |directory, tables, points| {
            let mut bench = start(directory, tables, true);
            assert_eq!((bench.backend("web-1").weight, bench.backend("web-2").weight), (3, 100), "{points}");
            assert!(files(&bench.directory).1.is_some_and(|overlay| overlay.contains('3')), "{points}");
        },
    );
}

#[test]
fn death_during_confirm_leaves_it_waiting_or_kept() {
    for points in 0..4 {
        let mut bench = bench(WEB);
        apply(&mut bench, &lighter(), 60).unwrap();
        fault::arm_for(&[fault::Kind::File], points);
        let said = bench.agent.answer(&Request::ConfigConfirm).0.is_ok();
        fault::disarm();
        let mut next = start(bench.directory, bench.agent.reconciler.into_tables(), true);
        assert_eq!(next.backend("web-2").weight, 7, "{points}");
        let waits = status(&mut next).rolls_back_in.is_some();
        assert!(!(said && waits), "{points}: lbctl reported that it is confirmed");
    }
}

#[test]
fn a_failed_rollback_at_start_stops_the_agent() {
    let mut bench = bench(WEB);
    apply(&mut bench, &lighter(), 60).unwrap();
    let_time_pass(&bench.directory);
    fault::arm_for(&[fault::Kind::File], 0);
    let refused = ConfigStore::open(&file(&bench.directory), "test").err();
    fault::disarm();
    let reported = refused.map(|lines| lines.join("\n")).unwrap_or_default();
    assert!(reported.contains("lb.toml") && reported.contains("cannot be put back"), "{reported}");
    let tables = bench.agent.reconciler.into_tables();
    assert_eq!(start(bench.directory, tables, true).backend("web-2").weight, 100);
}
