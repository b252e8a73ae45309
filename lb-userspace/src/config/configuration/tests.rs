//! Files, run-time changes, and what the two make together.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::{parse, testing::SMALL, testing::lines};

fn document(text: &str) -> Document {
    match parse(text.as_bytes(), "lb.toml") {
        Ok(document) => document,
        Err(errors) => panic!("{}", lines(&errors)),
    }
}

fn configuration(text: &str) -> Configuration {
    Configuration::new(document(text), &Overlay::default())
}

fn small() -> Configuration {
    configuration(SMALL)
}

#[track_caller]
fn changed(configuration: &Configuration, change: &Change) -> Configuration {
    match configuration.change(change) {
        Ok(changed) => changed.configuration,
        Err(refusal) => panic!("{refusal} {:?}", refusal.details()),
    }
}

fn refused(configuration: &Configuration, change: &Change) -> Refusal {
    configuration.change(change).expect_err("it was not refused")
}

fn add(body: Value) -> Change {
    Change::BackendAdd { service: "web".into(), body }
}

fn set(backend: &str, body: Value) -> Change {
    Change::BackendSet { service: "web".into(), backend: backend.into(), body }
}

fn remove(backend: &str) -> Change {
    Change::BackendRemove { service: "web".into(), backend: backend.into() }
}

fn weights(configuration: &Configuration) -> Vec<(&str, u16)> {
    let services = configuration.spec().services.iter();
    services.flat_map(|s| s.backends.iter().map(|b| (b.name.as_str(), b.weight))).collect()
}

#[test]
fn a_change_reports_itself_and_keeps_the_old_value() {
    let before = small();
    let after = before.change(&set("web-1", json!({"weight": 5}))).unwrap();
    assert_eq!(after.summary, ["backend web/web-1: weight from 100 to 5"]);
    assert_eq!(weights(&after.configuration), [("web-1", 5)]);
    assert_eq!(weights(&before), [("web-1", 100)]);
    assert_eq!(after.configuration.describe(), ["backend web/web-1: weight from 100 to 5"]);
}

#[test]
fn setting_twice_is_one_change_and_setting_back_is_none() {
    let once = changed(&small(), &set("web-1", json!({"weight": 5})));
    let twice = changed(&once, &set("web-1", json!({"weight": 7, "state": "draining"})));
    assert_eq!(twice.overlay_changes(), 1);
    let back = changed(&twice, &set("web-1", json!({"weight": 100, "state": null})));
    assert_eq!(back.overlay_changes(), 0);
    assert!(back.describe().is_empty());
}

#[test]
fn adding_and_removing_is_no_change() {
    let added = changed(&small(), &add(json!({"address": "10.0.0.12"})));
    assert_eq!(added.describe(), ["backend web/10.0.0.12 added: 10.0.0.12, weight 100"]);
    assert_eq!(changed(&added, &remove("10.0.0.12")).overlay_changes(), 0);
    let removed = changed(&small(), &remove("web-1"));
    let again = changed(&removed, &add(json!({"name": "web-1", "address": "10.0.0.11"})));
    assert_eq!((removed.overlay_changes(), again.overlay_changes()), (1, 0));
}

#[test]
fn a_service_comes_with_its_backends_and_goes_with_them() {
    let body = json!({"name": "dns", "listen": "udp/192.0.2.1:53", "health": false,
        "backend": [{"address": "10.0.0.53"}, {"address": "10.0.0.54"}]});
    let added = changed(&small(), &Change::ServiceAdd { body: body.clone() });
    assert_eq!(added.describe(), ["service dns added: udp/192.0.2.1:53, 2 backends"]);
    assert_eq!(added.overlay_changes(), 3);
    let removed = changed(&added, &Change::ServiceRemove { service: "dns".into() });
    assert_eq!(removed.overlay_changes(), 0);
    let conflict = refused(&added, &Change::ServiceAdd { body });
    assert_eq!(conflict.to_string(), "service dns: it exists already: set its values, or remove it first");
    let gone = changed(&small(), &Change::ServiceRemove { service: "web".into() });
    assert_eq!(gone.overlay_changes(), 1);
    assert!(gone.spec().services.is_empty());
}

#[test]
fn a_service_is_set_key_by_key_and_null_is_the_default() {
    let set = |body| Change::ServiceSet { service: "web".into(), body };
    let held = changed(&small(), &set(json!({"on_down": "hold", "health": {"fall": 9}})));
    assert_eq!(held.spec().services[0].health.as_ref().unwrap().fall, 9);
    let back = changed(&held, &set(json!({"on_down": null, "health": null})));
    assert_eq!(back.overlay_changes(), 0);
}

#[test]
fn a_wrong_body_gets_the_messages_of_the_file() {
    let refusal = refused(&small(), &set("web-1", json!({"weight": 2000, "state": "gone"})));
    assert_eq!(
        refusal.details(),
        [
            "backend web/web-1: state \"gone\" is none of \"enabled\", \"draining\", \"disabled\"",
            "backend web/web-1: weight 2000 is out of range: 0 to 1000",
        ]
    );
    assert_eq!(refusal.object(), "backend web/web-1");
    let refusal = refused(&small(), &add(json!({"name": "a/b", "adress": "10.0.0.12"})));
    assert_eq!(refusal.details().len(), 3, "{:?}", refusal.details());
    let body =
        json!({"name": "x", "listen": "tcp/192.0.2.2:1", "backend": [{"address": "10.0.0.1", "weight": -1}]});
    let refusal = refused(&small(), &Change::ServiceAdd { body });
    assert_eq!(refusal.to_string(), "backend x/10.0.0.1: weight -1 is out of range: 0 to 1000");
}

#[test]
fn a_clash_is_reported_for_the_value_of_the_request() {
    let refusal = refused(&small(), &add(json!({"name": "a", "address": "10.0.0.11"})));
    assert!(
        refusal
            .to_string()
            .starts_with("backend web/a: the address 10.0.0.11 is taken by the backend at lb.toml:10:11"),
        "{refusal}"
    );
    let once = changed(&small(), &add(json!({"name": "a", "address": "10.0.0.12"})));
    let refusal = refused(&once, &add(json!({"name": "0", "address": "10.0.0.12"})));
    let taken = "is taken by the backend at run-time change of web/a.address";
    assert!(refusal.to_string().contains(taken), "{refusal}");
}

#[test]
fn bodies_of_the_wrong_shape_are_refused() {
    for body in [json!(null), json!([1]), json!("x"), json!(5), json!({})] {
        for change in [
            Change::ServiceAdd { body: body.clone() },
            Change::ServiceSet { service: "web".into(), body: body.clone() },
            add(body.clone()),
            set("web-1", body.clone()),
        ] {
            assert!(matches!(refused(&small(), &change), Refusal::Invalid(errors) if !errors.is_empty()));
        }
    }
    for body in [json!({"name": "x"}), json!({"backend": []}), json!({"lisen": 1})] {
        refused(&small(), &Change::ServiceSet { service: "web".into(), body });
    }
    for body in [json!({"address": "10.0.0.12"}), json!({"name": "x"}), json!({"colour": 1})] {
        refused(&small(), &set("web-1", body));
    }
}

#[test]
fn what_is_not_there_is_not_found_with_a_guess() {
    let refusal = refused(&small(), &set("web-l", json!({"weight": 1})));
    assert_eq!(refusal.to_string(), "backend web/web-l: there is no such backend (did you mean web-1?)");
    assert!(matches!(refusal, Refusal::NotFound { .. }));
    let refusal = refused(&small(), &Change::ServiceRemove { service: "wbe".into() });
    assert_eq!(refusal.to_string(), "service wbe: there is no such service (did you mean web?)");
}

#[test]
fn asking_for_more_than_there_is_room_for_is_a_limit() {
    let tight = configuration(&format!("{SMALL}[limits]\nbackends = 1\n"));
    assert!(refused(&tight, &add(json!({"address": "10.0.0.12"}))).is_limit());
    assert!(!refused(&tight, &add(json!({"address": "10.0.0.11"}))).is_limit());
    let small_ring =
        configuration(&SMALL.replace("[[service.backend]]", "max_backends = 1\n[[service.backend]]"));
    assert!(refused(&small_ring, &add(json!({"address": "10.0.0.12"}))).is_limit());
}

mod edited_file {
    use super::*;

    fn changes() -> Configuration {
        let one = changed(&small(), &set("web-1", json!({"weight": 5})));
        changed(&one, &add(json!({"name": "web-2", "address": "10.0.0.12"})))
    }

    #[test]
    fn what_still_fits_takes_effect() {
        let edited = changes().with_document(document(&SMALL.replace("seed = \"s\"", "seed = \"t\"")));
        assert_eq!(weights(&edited), [("web-1", 5), ("web-2", 100)]);
        assert!(edited.stale().is_empty());
    }

    #[test]
    fn what_the_file_says_now_is_no_change_any_more() {
        let text =
            format!("{SMALL}weight = 5\n[[service.backend]]\nname = \"web-2\"\naddress = \"10.0.0.12\"\n");
        let edited = changes().with_document(document(&text));
        assert_eq!((edited.overlay_changes(), edited.stale().len()), (0, 0));
    }

    #[test]
    fn what_no_longer_fits_is_kept_without_effect() {
        let text = SMALL.replace("web-1", "web-9").replace("10.0.0.11", "10.0.0.12");
        let edited = changes().with_document(document(&text));
        assert_eq!(weights(&edited), [("web-9", 100)]);
        assert_eq!(
            edited.describe(),
            [
                "backend web/web-1: the run-time change (set weight = 5) is ignored: the backend no longer exists",
                "backend web/web-2: the run-time change (add address = \"10.0.0.12\", name = \"web-2\") is ignored: \
                 the address 10.0.0.12 is taken by the backend at lb.toml:10:11: to give it more flows, raise its weight",
            ]
        );
        assert_eq!(edited.overlay_changes(), 2);
        // The old file brings the changes back,
        assert_eq!(weights(&edited.with_document(document(SMALL))), [("web-1", 5), ("web-2", 100)]);
        // the next change drops them, and reports that.
        let next = edited.change(&set("web-9", json!({"weight": 1}))).unwrap();
        assert_eq!(next.summary.len(), 3, "{:?}", next.summary);
        assert_eq!(next.configuration.overlay_changes(), 1);
    }

    #[test]
    fn a_service_that_is_gone_takes_nothing_else_with_it() {
        let web = changes();
        let dns = json!({"name": "dns", "listen": "udp/192.0.2.1:53"});
        let both = changed(&web, &Change::ServiceAdd { body: dns });
        let text = SMALL.replace("\"web\"", "\"www\"");
        let edited = both.with_document(document(&text));
        let names: Vec<&str> = edited.spec().services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["dns", "www"]);
        assert_eq!(edited.stale().len(), 2);
    }

    #[test]
    fn a_file_that_took_the_name_of_a_run_time_object_wins() {
        let text = format!("{SMALL}[[service.backend]]\nname = \"web-2\"\naddress = \"10.0.0.99\"\n");
        let edited = changes().with_document(document(&text));
        assert_eq!(edited.stale().len(), 1);
        assert!(edited.stale()[0].to_string().contains("the file has a backend of that name now"));
    }

    #[test]
    fn limits_that_shrank_leave_what_fits() {
        let mut many = small();
        for host in 20..40 {
            many = changed(&many, &add(json!({"address": format!("10.0.0.{host}")})));
        }
        let edited = many.with_document(document(&format!("{SMALL}[limits]\nbackends = 11\n")));
        assert_eq!((weights(&edited).len(), edited.stale().len()), (11, 10));
    }

    #[test]
    fn revert_leaves_the_file() {
        let reverted = changes().reverted();
        assert_eq!((reverted.spec(), reverted.overlay_changes()), (small().spec(), 0));
    }
}

mod disk {
    use super::*;

    struct Home {
        _directory: tempfile::TempDir,
        file: PathBuf,
    }

    fn home(text: &str) -> Home {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lb.toml");
        let state = directory.path().join("state");
        let node = format!("[node]\nstate_directory = {:?}", state.display().to_string());
        std::fs::write(&file, text.replace("[node]", &node)).unwrap();
        Home { _directory: directory, file }
    }

    fn load(home: &Home) -> Configuration {
        Configuration::load(&home.file, "main").unwrap_or_else(|errors| panic!("{}", lines(&errors)))
    }

    #[test]
    fn run_time_changes_survive_a_restart() {
        let home = home(SMALL);
        let one = changed(&load(&home), &set("web-1", json!({"state": "draining"})));
        one.store_overlay("main").unwrap();
        let again = load(&home);
        assert_eq!((again.spec(), again.overlay_changes()), (one.spec(), 1));
        // Instances do not share run-time changes.
        assert_eq!(Configuration::load(&home.file, "other").unwrap().overlay_changes(), 0);
        again.reverted().store_overlay("main").unwrap();
        assert_eq!(load(&home).overlay_changes(), 0);
    }

    #[test]
    fn changes_without_effect_survive_it_too() {
        let home = home(SMALL);
        changed(&load(&home), &set("web-1", json!({"weight": 5}))).store_overlay("main").unwrap();
        let text = std::fs::read_to_string(&home.file).unwrap();
        std::fs::write(&home.file, text.replace("web-1", "web-9")).unwrap();
        let stale = load(&home);
        assert_eq!(stale.stale().len(), 1);
        stale.store_overlay("main").unwrap();
        assert_eq!(load(&home).stale().len(), 1);
    }

    #[test]
    fn a_broken_overlay_is_reported_with_its_path() {
        let home = home(SMALL);
        let path = load(&home).overlay_path("main");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "{").unwrap();
        let reported = lines(&Configuration::load(&home.file, "main").unwrap_err());
        assert!(reported.starts_with(&path.display().to_string()), "{reported}");
    }

    #[test]
    fn save_moves_all_changes_into_the_file() {
        let home = home(SMALL);
        let one = changed(&load(&home), &set("web-1", json!({"weight": 5})));
        one.store_overlay("main").unwrap();
        let saved = save(&one, &home.file);
        saved.store_overlay("main").unwrap();
        assert_eq!((saved.spec(), saved.overlay_changes()), (one.spec(), 0));
        let again = load(&home);
        assert_eq!((again.spec(), again.overlay_changes()), (one.spec(), 0));
        assert!(std::fs::read_to_string(&home.file).unwrap().ends_with("weight = 5\n"));
    }

    #[test]
    fn a_crash_between_saving_and_forgetting_does_no_harm() {
        let home = home(SMALL);
        let one = changed(&load(&home), &add(json!({"name": "web-2", "address": "10.0.0.12"})));
        one.store_overlay("main").unwrap();
        save(&one, &home.file);
        let again = load(&home);
        assert_eq!((again.spec(), again.overlay_changes()), (one.spec(), 0));
    }

    #[test]
    fn a_file_that_was_changed_since_is_not_overwritten() {
        let home = home(SMALL);
        let one = changed(&load(&home), &set("web-1", json!({"weight": 5})));
        let text = std::fs::read_to_string(&home.file).unwrap() + "# mine\n";
        std::fs::write(&home.file, &text).unwrap();
        assert!(matches!(one.saved(&home.file), Err(SaveError::Conflict { .. })));
        assert_eq!(std::fs::read_to_string(&home.file).unwrap(), text);
    }
}

/// Writes the run-time changes into the file.
fn save(configuration: &Configuration, path: &Path) -> Configuration {
    let (saved, text) = configuration.saved(path).unwrap();
    if let Some(text) = text {
        replace_file(path, text.as_bytes()).unwrap();
    }
    saved
}

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Save,
}

fn any_step() -> impl Strategy<Value = Step> {
    let service =
        prop::sample::select(vec!["web", "web-v6", "dns", "new-1", "new-2"]).prop_map(str::to_owned);
    let backend =
        prop::sample::select(vec!["web-1", "web-2", "b-1", "10.0.0.21", "10.9.0.1"]).prop_map(str::to_owned);
    let weight = prop_oneof![Just(Value::Null), (0u16..=1000).prop_map(Value::from)];
    let state =
        prop::sample::select(vec![json!(null), json!("draining"), json!("disabled"), json!("enabled")]);
    let host = 1u8..6;
    let health = prop::sample::select(vec![
        json!(null),
        json!(false),
        json!({"kind": "http", "port": 80, "path": "/x"}),
        json!({"port": 7, "fall": 3}),
    ]);
    prop_oneof![
        1 => Just(Step::Save),
        2 => (service.clone(), host.clone(), any::<bool>()).prop_map(|(name, host, full)| {
            let backends = if full { json!([{"address": "10.9.0.1"}, {"name": "b-1", "address": "10.9.0.2"}]) } else { json!([]) };
            let listen = format!("tcp/192.0.2.{host}:90");
            Step::Change(Change::ServiceAdd { body: json!({"name": name, "listen": listen, "backend": backends}) })
        }),
        3 => (service.clone(), health, any::<bool>()).prop_map(|(service, health, hold)| {
            let body = json!({"health": health, "on_down": if hold { "hold" } else { "move" }});
            Step::Change(Change::ServiceSet { service, body })
        }),
        1 => service.clone().prop_map(|service| Step::Change(Change::ServiceRemove { service })),
        4 => (service.clone(), backend.clone(), host, any::<bool>()).prop_map(|(service, name, host, named)| {
            let address = format!("10.9.0.{host}");
            let body = if named { json!({"name": name, "address": address}) } else { json!({"address": address}) };
            Step::Change(Change::BackendAdd { service, body })
        }),
        4 => (service.clone(), backend.clone(), weight, state).prop_map(|(service, backend, weight, state)| {
            Step::Change(Change::BackendSet { service, backend, body: json!({"weight": weight, "state": state}) })
        }),
        2 => (service, backend).prop_map(|(service, backend)| Step::Change(Change::BackendRemove { service, backend })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_change_survives_a_restart_and_a_save(
        steps in prop::collection::vec(any_step(), 1..25), inline: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lb.toml");
        let example = include_str!("../../../doc/lb.toml").replace("seed = \"…\"", "seed = \"s\"");
        let text = if inline { INLINE } else { &example };
        let node = format!("[node]\nstate_directory = {:?}", directory.path().display().to_string());
        std::fs::write(&file, text.replacen("[node]", &node, 1)).unwrap();
        let mut now = Configuration::load(&file, "main").unwrap();
        for step in steps {
            match step {
                Step::Save => now = save(&now, &file),
                Step::Change(change) => {
                    if let Ok(changed) = now.change(&change) {
                        let same = now.spec() == changed.configuration.spec();
                        prop_assert_eq!(changed.summary.is_empty(), same, "{:?}", changed.summary);
                        now = changed.configuration;
                    }
                }
            }
            now.store_overlay("main").unwrap();
            let again = Configuration::load(&file, "main").unwrap();
            prop_assert_eq!(again.spec(), now.spec());
            prop_assert_eq!(again.overlay_changes(), now.overlay_changes());
            prop_assert_eq!(now.overlay_changes() == 0, *now.spec() == now.document().spec);
            prop_assert!(now.stale().is_empty());
        }
        save(&now, &file);
        let saved = Configuration::load(&file, "main").unwrap();
        prop_assert_eq!(saved.spec(), now.spec());
        prop_assert_eq!(saved.overlay_changes(), 0);
        // The text before the services is still there, word for word.
        let before = |text: &str| text.split("[[service]]").next().unwrap_or_default().to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        prop_assert!(inline || before(&text).trim_end().starts_with(before(&text).trim_end()));
    }
}

/// The same content in TOML's inline forms.
const INLINE: &str = r#"
service = [
    { name = "web", listen = "tcp/192.0.2.9:80", backend = [{ address = "10.0.0.21" }, { name = "web-1", address = "10.0.0.22", weight = 7 }] }, # one
    { name = "dns", listen = "udp/192.0.2.9:53" },
]
health.fall = 3

[node]
interface = ["eth0"]
seed = 's'
"#;
