//! A tree taken apart into services and backends by name, so that changes can be laid over it and two trees can be
//! compared. Only services and backends: the rest of a file is not changed at run time.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    check,
    value_tree::{Data, Node, Table},
};

/// The objects of the file, or of file and overlay. Copies share the objects that they do not change.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    /// Everything but the services.
    rest: Node,
    pub(super) services: BTreeMap<String, Arc<Object>>,
}

/// A service.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Everything but the backends.
    pub(super) settings: Node,
    pub(super) backends: BTreeMap<String, Arc<Node>>,
}

impl Objects {
    pub(super) fn from_tree(tree: &Node) -> Self {
        let (rest, services) = without(tree, "service");
        let mut objects = Self { rest, services: BTreeMap::new() };
        for service in services {
            let name = service.as_table().and_then(|table| table.get("name")).and_then(Node::as_str);
            let name = name.map_or_else(|| nameless(&objects.services), str::to_owned);
            objects.services.insert(name, Arc::new(Object::from_node(service)));
        }
        objects
    }

    /// Whether services without `health` are not checked (`health = false` of the file).
    pub(super) fn health_is_off(&self) -> bool {
        let health = self.rest.as_table().and_then(|table| table.get("health"));
        health.is_some_and(|node| matches!(node.data, Data::Bool(false)))
    }

    /// Makes the tree again, for the checker.
    pub(super) fn to_tree(&self) -> Node {
        let services = self.services.values().map(|service| Arc::new(service.to_node())).collect();
        with(&self.rest, "service", services)
    }
}

impl Object {
    /// A service of a file or a request. A backend without a name, or with a name that another one has, gets a key of its own,
    /// so that the checker sees it and reports the error.
    pub(super) fn from_node(service: &Node) -> Self {
        let (settings, all) = without(service, "backend");
        let mut object = Self { settings, backends: BTreeMap::new() };
        for backend in all {
            let name = check::backend_name(backend).filter(|name| !object.backends.contains_key(name));
            let name = name.unwrap_or_else(|| nameless(&object.backends));
            object.backends.insert(name, backend.clone());
        }
        object
    }

    fn to_node(&self) -> Node {
        with(&self.settings, "backend", self.backends.values().cloned().collect())
    }
}

/// A key that no object has: names do not begin with a tilde.
fn nameless<T>(others: &BTreeMap<String, T>) -> String {
    format!("~{}", others.len())
}

/// A table without one of its members, and the elements of that member. A member that is not an array stays in the table, so
/// that the checker sees it.
fn without<'a>(node: &'a Node, key: &str) -> (Node, &'a [Arc<Node>]) {
    let elements = match node.as_table().and_then(|table| table.get(key)) {
        Some(Node { data: Data::Array(elements), .. }) => elements.as_slice(),
        _ => return (node.clone(), &[]),
    };
    let table = node.as_table().map(|table| {
        Table(table.0.iter().filter(|(name, _)| *name != key).map(|(n, m)| (n.clone(), m.clone())).collect())
    });
    (Node { at: node.at.clone(), data: Data::Table(table.unwrap_or_default()) }, elements)
}

/// The reverse of [`without`]; with no elements there is no member.
fn with(node: &Node, key: &str, elements: Vec<Arc<Node>>) -> Node {
    let mut node = node.clone();
    if let (Some(first), Some(table)) = (elements.first(), node.as_table_mut()) {
        table.set(key, Node { at: first.at.clone(), data: Data::Array(elements) });
    }
    node
}
