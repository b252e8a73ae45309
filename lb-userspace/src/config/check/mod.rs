//! From a tree to a [`Spec`]: reads every key, checks every range and every rule between objects, and collects all errors.
//! It reads the tree only; it asks for what the host has (interfaces, groups, ...) through [`Outside`].

mod backend;
mod cross;
mod health;
mod node;
mod service;

pub(super) use backend::identity as backend_name;
pub(super) use node::MASK;
pub(super) use service::service_name;

use super::{
    diagnostic::Diagnostic,
    host::OnHost,
    keys,
    reader::{Errors, Reader},
    spec::{LIMITS, Limits, Spec},
    value_tree::Node,
};

/// What the checker may ask about the host.
#[derive(Clone, Copy, Default)]
pub(super) struct Outside<'a> {
    /// `None` = do not ask.
    pub(super) host: Option<&'a dyn OnHost>,
}

/// The spec, or all errors in the order of places.
pub(super) fn check(root: &Node, outside: Outside<'_>) -> Result<Spec, Vec<Diagnostic>> {
    let errors = Errors::default();
    let spec = read(root, outside, &errors);
    let errors = errors.into_sorted();
    match spec {
        Some(spec) if errors.is_empty() => Ok(spec),
        _ => Err(errors),
    }
}

fn read(root: &Node, outside: Outside<'_>, errors: &Errors) -> Option<Spec> {
    let reader = Reader::open(root, "", "", &keys::ROOT, errors)?;
    let node = node::read(&reader, outside);
    let mut limits = Limits::default();
    let given = reader.get("limits");
    if let Some(reader) = given.and_then(|node| Reader::open(node, "limits", "", &keys::LIMITS, errors)) {
        LIMITS.read(&reader, &mut limits);
    }
    let defaults = health::defaults(&reader, outside);
    let found: Vec<service::Found<'_>> = reader
        .tables("service")
        .iter()
        .enumerate()
        .map(|(index, node)| service::read(node, index, &defaults, outside, errors))
        .collect();
    let limits = cross::check(&reader, node.as_ref(), &found, limits);
    let mut services: Vec<_> = found.into_iter().map(|found| found.service).collect::<Option<_>>()?;
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Spec { node: node?, limits, services })
}

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod circles;
#[cfg(test)]
mod placeholders;
#[cfg(test)]
mod tests;
