//! `[node]`.

use std::path::PathBuf;

use super::Outside;
use crate::config::{
    diagnostic::Kind,
    keys,
    reader::Reader,
    spec::{AttachMode, Node, Unserved},
    value,
};

/// `None` if something that must be there is not, or is wrong.
pub(super) fn read(root: &Reader<'_, '_>, outside: Outside<'_>) -> Option<Node> {
    let Some(node) = root.get("node") else {
        let message = "[node] is missing; it needs at least interface and seed".to_owned();
        root.errors.push(root.at, "node", message, Kind::Missing);
        return None;
    };
    let reader = Reader::open(node, "node", "", &keys::NODE, root.errors)?;
    let seed = reader
        .required("seed", "\"a string shared by every node of one site\"", |node| value::text(node, 255));
    let node = Node {
        interfaces: interfaces(&reader, outside),
        seed: seed.clone().unwrap_or_default(),
        mode: reader.or("mode", value::word, AttachMode::Auto),
        unserved: reader.or("unserved", value::word, Unserved::Pass),
        source_v4: reader.optional("source", value::source_v4),
        source_v6: reader.optional("source6", value::source_v6),
        health_concurrency: reader.or("health_concurrency", |node| value::number(node, 1..=65_536), 256),
        socket_group: reader.optional("socket_group", |node| value::text(node, 255)),
        state_directory: reader.or("state_directory", value::absolute_path, PathBuf::from("/var/lib/lb")),
        metrics: reader.optional("metrics", value::socket_address),
    };
    // Not before everything else has been looked at.
    seed.map(|_| node)
}

/// One name or an array of names; every wrong one is told at its own place.
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
                if outside.interface_exists.is_some_and(|exists| !exists(&name)) {
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
