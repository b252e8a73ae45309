//! A spec as a file: sorted, with every default that has a value. The same spec always gives the same text.

use super::{
    check::MASK,
    settings::Fields,
    spec::{BACKEND, LIMITS, NODE, Node, SERVICE, Service, Spec, health_fields},
};

/// The file that says exactly this; [`super::parse`] makes the same spec of it.
pub fn render(spec: &Spec) -> String {
    let mut text = String::new();
    table(&mut text, "[node]", &NODE.fields(&spec.node));
    table(&mut text, "[limits]", &LIMITS.fields(&spec.limits));
    for service in &spec.services {
        table(&mut text, "[[service]]", &service_fields(service));
        for backend in &service.backends {
            table(&mut text, "[[service.backend]]", &BACKEND.fields(backend));
        }
    }
    text
}

/// The same with a mask in the place of the seed; [`super::parse`] refuses the mask.
pub fn render_masked(spec: &Spec) -> String {
    let node = Node { seed: MASK.to_owned(), ..spec.node.clone() };
    let masked = render(&Spec { node, ..spec.clone() });
    let line = format!("seed = \"{MASK}\"\n");
    masked.replacen(&line, &format!("{} # not shown: lbctl config show --show-secrets\n", line.trim_end()), 1)
}

fn service_fields(service: &Service) -> Fields {
    let mut all = SERVICE.fields(service);
    let health = service.health.as_ref().map_or_else(
        || "false".to_owned(),
        |health| {
            let pairs: Vec<String> =
                health_fields(health).iter().map(|(key, value)| format!("{key} = {value}")).collect();
            format!("{{ {} }}", pairs.join(", "))
        },
    );
    all.push(("health", health));
    all
}

fn table(text: &mut String, header: &str, fields: &Fields) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(header);
    text.push('\n');
    for (key, value) in fields {
        text.push_str(&format!("{key} = {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{parse, testing};

    #[test]
    fn every_default_is_spelled_out() {
        let text = render(&testing::spec(testing::SMALL));
        assert_eq!(
            text,
            r#"[node]
interface = "eth0"
seed = "s"
mode = "auto"
unserved = "pass"
ping = "answer"
too_big = "answer"
health_concurrency = 65536
state_directory = "/var/lib/lb"
metrics_of_backends = true

[limits]
services = 2048
backends = 16384
slots = 4194304
flows = 1048576

[[service]]
name = "web"
listen = "tcp/192.0.2.1:80"
encapsulation = "auto"
hold = "3s"
all_down = "keep"
handover = "30s"
track = "on-change"
hash = "five-tuple"
balance = "hash"
ring = "maglev"
track_window = "135m"
idle_after = "5m"
health = { kind = "tcp", port = 80, interval = "500ms", fast_interval = "100ms", timeout = "500ms", rise = 2, fall = 2 }

[[service.backend]]
name = "web-1"
address = "10.0.0.11"
weight = 100
state = "enabled"
"#
        );
    }

    #[test]
    fn a_masked_file_shows_all_but_the_seed_and_is_refused() {
        let spec = testing::spec(&testing::SMALL.replace("seed = \"s\"", "seed = \"my own\""));
        let masked = render_masked(&spec);
        assert!(!masked.contains("my "), "{masked}");
        let shown = "seed = \"***\" # not shown: lbctl config show --show-secrets\n";
        assert_eq!(masked.replace(shown, "seed = \"my own\"\n"), render(&spec));
        let errors = parse(masked.as_bytes(), "lb.toml").unwrap_err();
        assert_eq!(
            testing::lines(&errors),
            "lb.toml:3:8: node: seed \"***\" is what `lbctl config show` prints in place of the seed: `lbctl config show \
             --show-secrets` prints the seed itself\n"
        );
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back_as_the_same_spec(spec in testing::any_spec()) {
            let text = render(&spec);
            match parse(text.as_bytes(), "f") {
                Ok(document) => prop_assert_eq!(document.spec, spec),
                Err(errors) => prop_assert!(false, "{}\n{:?}", text, errors),
            }
        }
    }
}
