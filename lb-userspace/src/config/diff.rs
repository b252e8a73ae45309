//! Two specs compared, in words.

use super::{
    settings::Fields,
    spec::{BACKEND, Backend, LIMITS, NODE, SERVICE, Service, Spec, health_fields},
    words::plural,
};

/// What `new` changes of `old`, one sentence each, without full stops; empty = nothing.
pub fn spec_diff(old: &Spec, new: &Spec) -> Vec<String> {
    let mut sentences = Vec::new();
    compare(&mut sentences, "node", "", &NODE.fields(&old.node), &NODE.fields(&new.node));
    compare(&mut sentences, "limits", "", &LIMITS.fields(&old.limits), &LIMITS.fields(&new.limits));
    for (old, new) in paired(&old.services, &new.services, |service| &service.name) {
        match (old, new) {
            (Some(old), Some(new)) => service(&mut sentences, old, new),
            (None, Some(new)) => sentences.push(format!(
                "service {} added: {}, {}",
                new.name,
                new.listen,
                plural(new.backends.len() as u64, "backend", "backends")
            )),
            (Some(old), None) => sentences.push(format!(
                "service {} removed: {}, {}",
                old.name,
                old.listen,
                plural(old.backends.len() as u64, "backend", "backends")
            )),
            (None, None) => {}
        }
    }
    sentences
}

fn service(sentences: &mut Vec<String>, old: &Service, new: &Service) {
    if old == new {
        return;
    }
    let name = &new.name;
    let object = format!("service {name}");
    compare(sentences, &object, "", &SERVICE.fields(old), &SERVICE.fields(new));
    match (&old.health, &new.health) {
        (Some(old), Some(new)) => {
            compare(sentences, &object, "health.", &health_fields(old), &health_fields(new));
        }
        (Some(_), None) => sentences.push(format!("{object}: health check removed")),
        (None, Some(new)) => {
            let fields: Vec<String> =
                health_fields(new).iter().map(|(key, value)| format!("{key} {value}")).collect();
            sentences.push(format!("{object}: health check added: {}", fields.join(", ")));
        }
        (None, None) => {}
    }
    for pair in paired(&old.backends, &new.backends, |backend| &backend.name) {
        backend(sentences, name, pair);
    }
}

/// What `new` changes of each backend of `old`: its name with the name of its service (`web/web-1`), and the sentences.
/// Backends of a service that comes or goes come and go with it.
pub fn backend_diff(old: &Spec, new: &Spec) -> Vec<(String, Vec<String>)> {
    let mut changes = Vec::new();
    for (old, new) in paired(&old.services, &new.services, |service| &service.name) {
        let Some(Service { name: service, .. }) = new.or(old) else { continue };
        for pair in paired(backends(old), backends(new), |backend| &backend.name) {
            let (Some(Backend { name, .. }), mut sentences) = (pair.1.or(pair.0), Vec::new()) else {
                continue;
            };
            backend(&mut sentences, service, pair);
            if !sentences.is_empty() {
                changes.push((format!("{service}/{name}"), sentences));
            }
        }
    }
    changes
}

fn backends(service: Option<&Service>) -> &[Backend] {
    service.map_or(&[], |service| &service.backends)
}

fn backend(sentences: &mut Vec<String>, service: &str, pair: (Option<&Backend>, Option<&Backend>)) {
    match pair {
        (Some(old), Some(new)) if old == new => {}
        (Some(old), Some(new)) => {
            let object = format!("backend {service}/{}", new.name);
            compare(sentences, &object, "", &BACKEND.fields(old), &BACKEND.fields(new));
        }
        (None, Some(backend)) => sentences.push(presence(service, backend, "added")),
        (Some(backend), None) => sentences.push(presence(service, backend, "removed")),
        (None, None) => {}
    }
}

fn presence(service: &str, backend: &Backend, what: &str) -> String {
    let Backend { name, address, weight, admin: _ } = backend;
    format!("backend {service}/{name} {what}: {address}, weight {weight}")
}

fn compare(sentences: &mut Vec<String>, object: &str, prefix: &str, old: &Fields, new: &Fields) {
    let find = |fields: &Fields, key: &str| {
        fields.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
    };
    let gone = old.iter().filter(|(key, _)| find(new, key).is_none()).map(|(key, _)| *key);
    for key in new.iter().map(|(key, _)| *key).chain(gone) {
        let sentence = match (find(old, key), find(new, key)) {
            (old, new) if old == new => continue,
            // The seed is a secret, and diffs end up in logs.
            (Some(_), Some(_)) if key == "seed" => format!("{object}: seed changed"),
            (Some(old), Some(new)) => format!("{object}: {prefix}{key} from {old} to {new}"),
            (None, Some(new)) => format!("{object}: {prefix}{key} set to {new}"),
            (Some(old), None) => format!("{object}: {prefix}{key} no longer set, was {old}"),
            (None, None) => continue,
        };
        sentences.push(sentence);
    }
}

/// Pairs the objects of two lists that are sorted by `key`: objects with the same key are in one pair.
fn paired<'a, T>(
    old: &'a [T],
    new: &'a [T],
    key: impl Fn(&T) -> &String,
) -> Vec<(Option<&'a T>, Option<&'a T>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut pairs = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => key(old).cmp(key(new)),
        };
        pairs.push((old.next_if(|_| order.is_le()), new.next_if(|_| order.is_ge())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{SMALL, spec};

    fn changed(from: &str, to: &str) -> Vec<String> {
        assert!(SMALL.contains(from), "{from}");
        spec_diff(&spec(SMALL), &spec(&SMALL.replace(from, to)))
    }

    #[test]
    fn the_same_spec_makes_no_sentence() {
        assert!(changed("seed", "seed").is_empty());
    }

    #[test]
    fn a_changed_field_says_from_what_to_what() {
        assert_eq!(
            changed("address = \"10.0.0.11\"", "address = \"10.0.0.12\"\nweight = 5"),
            [
                "backend web/web-1: address from \"10.0.0.11\" to \"10.0.0.12\"",
                "backend web/web-1: weight from 100 to 5",
            ]
        );
        assert_eq!(
            changed("192.0.2.1:80\"", "192.0.2.1:80\"\nhealth = { fall = 3 }"),
            ["service web: health.fall from 2 to 3"]
        );
    }

    #[test]
    fn the_seed_is_not_shown() {
        assert_eq!(changed("seed = \"s\"", "seed = \"t\""), ["node: seed changed"]);
    }

    #[test]
    fn a_field_that_comes_or_goes_says_so() {
        let with = SMALL.replace("seed =", "source = \"10.0.0.1\"\nseed =");
        assert_eq!(spec_diff(&spec(SMALL), &spec(&with)), ["node: source set to \"10.0.0.1\""]);
        assert_eq!(spec_diff(&spec(&with), &spec(SMALL)), ["node: source no longer set, was \"10.0.0.1\""]);
    }

    #[test]
    fn services_and_backends_come_and_go() {
        let two = format!("{SMALL}[[service.backend]]\naddress = \"10.0.0.12\"\n");
        assert_eq!(
            spec_diff(&spec(SMALL), &spec(&two)),
            ["backend web/10.0.0.12 added: 10.0.0.12, weight 100"]
        );
        let dns = format!("{SMALL}[[service]]\nname = \"dns\"\nlisten = \"udp/192.0.2.1:53\"\n");
        assert_eq!(
            spec_diff(&spec(&dns), &spec(SMALL)),
            ["service dns removed: udp/192.0.2.1:53, 0 backends"]
        );
        assert_eq!(
            changed("192.0.2.1:80\"", "192.0.2.1:80\"\nhealth = false"),
            ["service web: health check removed"]
        );
    }

    #[test]
    fn changes_are_found_by_backend() {
        let dns = "[[service]]\nname = \"dns\"\nlisten = \"udp/192.0.2.1:53\"\nbackend = [{ address = \"10.0.0.53\" }]\n";
        let new = SMALL.replace("address = \"10.0.0.11\"", "address = \"10.0.0.11\"\nweight = 5") + dns;
        let changes = backend_diff(&spec(SMALL), &spec(&new));
        let expected = [
            ("dns/10.0.0.53", "backend dns/10.0.0.53 added: 10.0.0.53, weight 100"),
            ("web/web-1", "backend web/web-1: weight from 100 to 5"),
        ];
        let expected = expected.map(|(backend, change)| (backend.to_owned(), vec![change.to_owned()]));
        assert_eq!(changes, expected);
        let back = backend_diff(&spec(&new), &spec(SMALL));
        assert_eq!(back[0].1, ["backend dns/10.0.0.53 removed: 10.0.0.53, weight 100"]);
        assert!(backend_diff(&spec(&new), &spec(&new)).is_empty());
    }
}
