//! What a change makes of a service's health check.

use serde_json::{Value, json};

use super::*;
use crate::config::{Configuration, overlay::Overlay, parse, testing::lines};

const FILE: &str = "[node]\ninterface = \"eth0\"\nseed = \"s\"\n[[service]]\nname = \"web\"\nlisten = \"tcp/192.0.2.1:80\"\n\
                    health = { kind = \"http\", port = 8080, path = \"/healthz\", expect = [200], body = \"ok\" }\n";

fn configuration(text: &str) -> Configuration {
    match parse(text.as_bytes(), "lb.toml") {
        Ok(document) => Configuration::new(document, &Overlay::default()),
        Err(errors) => panic!("{}", lines(&errors)),
    }
}

fn set(text: &str, health: &Value) -> Result<Vec<String>, String> {
    let change = Change::ServiceSet { service: "web".into(), body: json!({ "health": health }) };
    configuration(text).change(&change).map(|changed| changed.summary).map_err(|refusal| refusal.to_string())
}

#[test]
fn a_part_of_a_health_check_changes_nothing_else_of_it() {
    assert_eq!(set(FILE, &json!({ "fall": 5 })), Ok(vec!["service web: health.fall from 2 to 5".to_owned()]));
    assert_eq!(
        set(FILE, &json!({ "body": null, "port": 8081 })),
        Ok(vec![
            "service web: health.port from 8080 to 8081".to_owned(),
            "service web: health.body no longer set, was \"ok\"".to_owned(),
        ])
    );
}

#[test]
fn a_kind_replaces_the_health_check_whole() {
    let reported = set(FILE, &json!({ "kind": "http", "port": 8080 })).unwrap();
    assert_eq!(
        reported,
        [
            "service web: health.path from \"/healthz\" to \"/\"",
            "service web: health.expect from 200 to \"200-399\"",
            "service web: health.body no longer set, was \"ok\"",
        ]
    );
}

#[test]
fn a_partial_check_is_merged_with_the_defaults() {
    let defaults = FILE.replace("[[service]]", "[health]\nkind = \"http\"\npath = \"/up\"\n[[service]]");
    let silent = defaults.lines().filter(|line| !line.starts_with("health =")).collect::<Vec<_>>().join("\n");
    for text in [silent.clone(), silent + "\nhealth = true"] {
        assert_eq!(
            set(&text, &json!({ "rise": 3 })),
            Ok(vec!["service web: health.rise from 2 to 3".to_owned()])
        );
    }
}

#[test]
fn a_part_of_a_disabled_check_is_refused() {
    let off = FILE.replace("health = {", "#").replace("[[service]]", "[[service]]\nhealth = false");
    let all_off = format!("health = false\n{}", FILE.replace("health = {", "#"));
    for text in [off, all_off] {
        let why = set(&text, &json!({ "fall": 5 })).unwrap_err();
        assert!(
            why.contains(
                "service web: health is off, so there is no check of which a part could be changed: give its kind, too, \
                 \"tcp\", \"http\""
            ),
            "{why}"
        );
        assert!(set(&text, &json!({ "kind": "tcp", "fall": 5 })).is_ok());
    }
}

#[test]
fn what_does_not_fit_the_check_there_is_is_refused() {
    let tcp = FILE.replace(
        "kind = \"http\", port = 8080, path = \"/healthz\", expect = [200], body = \"ok\"",
        "kind = \"tcp\"",
    );
    let why = set(&tcp, &json!({ "path": "/x" })).unwrap_err();
    assert!(why.contains("health.path"), "{why}");
}

const WEIGHTS: &str = "[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\nweight = 40\n\
                       [[service.backend]]\nname = \"b\"\naddress = \"10.0.0.2\"\n";

fn weigh(configuration: &Configuration, backend: &str, weight: &str) -> Result<Configuration, String> {
    let (service, backend) = ("web".to_owned(), backend.to_owned());
    let change = Change::BackendSet { service, backend, body: json!({ "weight": weight }) };
    configuration.change(&change).map(|changed| changed.configuration).map_err(|refusal| refusal.to_string())
}

fn weight(configuration: &Configuration, backend: &str) -> u16 {
    configuration.spec().services[0].backends.iter().find(|known| known.name == backend).unwrap().weight
}

#[test]
fn a_weight_in_percent_is_a_share_of_the_one_in_the_file() {
    let file = configuration(&format!("{FILE}{WEIGHTS}"));
    let mut now = file.clone();
    for (share, is) in [("50%", 20), ("50%", 20), ("1%", 1), ("0%", 0), ("250%", 100), ("100%", 40)] {
        now = weigh(&now, "a", share).unwrap();
        assert_eq!(weight(&now, "a"), is, "{share}");
    }
    assert_eq!(now.overlay_changes(), 0, "100% is the way back");
    assert_eq!(weight(&weigh(&file, "b", "33%").unwrap(), "b"), 33);
    for (share, why) in [
        ("half%", "backend web/a: weight \"half%\" is not a share: write 50%, or a number from 0 to 1000"),
        ("-5%", "backend web/a: weight \"-5%\" is not a share: write 50%, or a number from 0 to 1000"),
        ("2600%", "backend web/a: weight \"2600%\" of 40 is 1040, which is out of range: 0 to 1000"),
    ] {
        assert_eq!(weigh(&file, "a", share).unwrap_err(), why);
    }
    let add =
        Change::BackendAdd { service: "web".into(), body: json!({ "name": "c", "address": "10.0.0.3" }) };
    let more = file.change(&add).unwrap().configuration;
    assert_eq!(
        weigh(&more, "c", "50%").unwrap_err(),
        "backend web/c: weight \"50%\": the file does not have this backend, so there is no weight to take a share of: give a \
         number"
    );
}
