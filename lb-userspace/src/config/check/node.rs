//! `[node]`.

use super::Outside;
use crate::config::{
    diagnostic::Kind,
    keys,
    reader::Reader,
    spec::{NODE, Node},
    value,
    value_tree::quote,
};

/// `None` if a required value is missing or wrong.
pub(super) fn read(root: &Reader<'_, '_>, outside: Outside<'_>) -> Option<Node> {
    let Some(node) = root.get("node") else {
        let message = "[node] is missing; it needs at least interface and seed".to_owned();
        root.errors.push(root.at, "node", message, Kind::Missing);
        return None;
    };
    let reader = Reader::open(node, "node", "", &keys::NODE, root.errors)?;
    let seed = reader.required(
        "seed",
        "\"…\" (the output of openssl rand -hex 16, the same on every node of a site)",
        secret,
    );
    let mut node = Node {
        interfaces: interfaces(&reader, outside),
        seed: seed.clone().unwrap_or_default(),
        ..Node::default()
    };
    NODE.read(&reader, &mut node);
    if let Some(host) = outside.host {
        let refused = |key: &str, answer: Result<(), String>| {
            if let Err(why) = answer {
                reader.wrong(reader.place(key), format!("{key} {why}"));
            }
        };
        refused("socket_group", node.socket_group.as_deref().map_or(Ok(()), |group| host.group(group)));
        refused("state_directory", host.state_directory(&node.state_directory));
        refused("metrics", node.metrics.map_or(Ok(()), |address| host.metrics(address)));
    }
    // Only here, after everything else was checked: a missing seed must not hide other errors.
    seed.map(|_| node)
}

/// Seeds that are, or were, in our own documents and messages. With a known seed an attacker could choose flows that all go
/// to one backend.
pub(super) const PLACEHOLDERS: [&str; 3] = ["…", "0f6c…", "a string shared by every node of one site"];

/// The text that is shown in place of a seed.
pub(in crate::config) const MASK: &str = "***";

fn secret(node: &crate::config::value_tree::Node) -> Result<String, String> {
    let seed = value::secret(node, 255)?;
    if seed == MASK {
        return Err(format!(
            "\"{MASK}\" is what `lbctl config show` prints in place of the seed: `lbctl config show --show-secrets` prints \
             the seed itself"
        ));
    }
    if PLACEHOLDERS.contains(&seed.as_str()) {
        return Err(format!(
            "{} is the example of the documentation, which everyone knows: put the output of `openssl rand -hex 16` there, \
             the same on every node of a site",
            quote(&seed)
        ));
    }
    Ok(seed)
}

/// One name or an array of names; each wrong name has an error at its own place.
fn interfaces(reader: &Reader<'_, '_>, outside: Outside<'_>) -> Vec<String> {
    const EXAMPLE: &str = "\"eth0\"";
    let Some(node) = reader.get("interface") else {
        reader.required("interface", EXAMPLE, value::interface);
        return Vec::new();
    };
    let elements = node.one_or_many();
    if elements.is_empty() {
        reader.wrong(&node.at, "interface is empty: name at least one".to_owned());
    }
    let mut names = Vec::with_capacity(elements.len());
    for element in elements {
        match value::interface(element) {
            Err(why) => reader.wrong(&element.at, format!("interface {why}")),
            Ok(name) if names.contains(&name) => {
                reader.wrong(&element.at, format!("interface {name} is named twice"));
            }
            Ok(name) => {
                if outside.host.is_some_and(|host| !host.interface(&name)) {
                    reader.wrong(
                        &element.at,
                        format!(
                            "there is no interface {name} on this host: see `ip link` for those there are"
                        ),
                    );
                }
                names.push(name);
            }
        }
    }
    names
}
