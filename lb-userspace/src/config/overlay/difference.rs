//! The overlay that turns one configuration into another. Its values have places of the overlay (`Place::Overlay`), wherever
//! the values came from.

use std::sync::Arc;

use super::{Entry, Key, Overlay};
use crate::config::{
    by_name::{Object, Objects},
    diagnostic::Place,
    spec::{Backend, SERVICE, Service, Spec},
    value_tree::{Data, Member, Node, Table},
};

/// The overlay that makes `wanted` of `file`. Each comes with its spec: where the two specs agree on an object there is no
/// entry, even if the texts differ.
pub(in crate::config) fn difference(
    (file, file_spec): (&Objects, &Spec),
    (wanted, wanted_spec): (&Objects, &Spec),
) -> Overlay {
    let mut overlay = Overlay::default();
    let mut insert = |key: Key, entry: Entry| {
        let at = Place::Overlay(key.path().into());
        let entry = match entry {
            Entry::Add(values) => Entry::Add(values.moved(&at)),
            Entry::Set(values) => Entry::Set(values.moved(&at)),
            Entry::Remove => Entry::Remove,
        };
        overlay.0.insert(key, entry);
    };
    for name in file.services.keys().filter(|name| !wanted.services.contains_key(*name)) {
        insert(Key { service: name.clone(), backend: None }, Entry::Remove);
    }
    for (name, object) in &wanted.services {
        let old = file.services.get(name);
        if old.is_some_and(|old| Arc::ptr_eq(old, object)) {
            continue;
        }
        let specs = service_of(file_spec, name).zip(service_of(wanted_spec, name));
        let same = specs.is_some_and(|(old, new)| same_settings(old, new));
        if let Some(entry) = entry(old.map(|old| &old.settings), &object.settings, same) {
            insert(Key { service: name.clone(), backend: None }, entry);
        }
        backends(&mut insert, name, old.map(AsRef::as_ref), object, specs);
    }
    overlay
}

fn backends(
    insert: &mut impl FnMut(Key, Entry),
    service: &str,
    old: Option<&Object>,
    new: &Object,
    specs: Option<(&Service, &Service)>,
) {
    let key = |name: &String| Key { service: service.to_owned(), backend: Some(name.clone()) };
    let gone = old.into_iter().flat_map(|old| old.backends.keys());
    for name in gone.filter(|name| !new.backends.contains_key(*name)) {
        insert(key(name), Entry::Remove);
    }
    for (name, node) in &new.backends {
        let old = old.and_then(|old| old.backends.get(name));
        if old.is_some_and(|old| Arc::ptr_eq(old, node)) {
            continue;
        }
        let same = specs.is_some_and(|(old, new)| backend_of(old, name) == backend_of(new, name));
        if let Some(entry) = entry(old.map(AsRef::as_ref), node, same) {
            insert(key(name), entry);
        }
    }
}

/// `None` if the two agree.
fn entry(old: Option<&Node>, new: &Node, same: bool) -> Option<Entry> {
    let new = new.as_table()?;
    let Some(old) = old.and_then(Node::as_table) else {
        return Some(Entry::Add(new.clone()));
    };
    let mut set = Table::default();
    if !same {
        let differs = |name: &String, member: &Member| match old.get(name) {
            Some(old) => !old.same(&member.value),
            None => !matches!(member.value.data, Data::Null),
        };
        set.0.extend(
            new.0.iter().filter(|(name, new)| differs(name, new)).map(|(n, m)| (n.clone(), m.clone())),
        );
        for (name, member) in old.0.iter().filter(|(name, _)| new.get(name).is_none()) {
            set.set(name, Node { at: member.at.clone(), data: Data::Null });
        }
    }
    (!set.0.is_empty()).then_some(Entry::Set(set))
}

fn service_of<'a>(spec: &'a Spec, name: &str) -> Option<&'a Service> {
    let place = spec.services.binary_search_by(|service| service.name.as_str().cmp(name)).ok()?;
    spec.services.get(place)
}

fn backend_of<'a>(service: &'a Service, name: &str) -> Option<&'a Backend> {
    let place = service.backends.binary_search_by(|backend| backend.name.as_str().cmp(name)).ok()?;
    service.backends.get(place)
}

fn same_settings(old: &Service, new: &Service) -> bool {
    SERVICE.fields(old) == SERVICE.fields(new) && old.health == new.health
}
