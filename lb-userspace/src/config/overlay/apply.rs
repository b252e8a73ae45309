//! Lays an overlay over a file that may have been edited since: entries that still fit take effect, the others are returned as
//! stale.

use std::sync::Arc;

use super::{Entry, Key, Overlay, Stale};
use crate::config::{
    by_name::{Object, Objects},
    check::{self, Outside},
    diagnostic::Place,
    spec::Spec,
    value_tree::{Data, Node, Table},
};

/// The result of laying an overlay over a file.
pub(in crate::config) struct Laid {
    pub(in crate::config) objects: Objects,
    pub(in crate::config) spec: Spec,
    pub(in crate::config) stale: Vec<Stale>,
}

type Item<'a> = (&'a Key, &'a Entry);

/// Lays `overlay` over the objects of a file that has passed the checks, `spec` being what it says.
pub(in crate::config) fn lay_over(file: &Objects, spec: &Spec, overlay: &Overlay) -> Laid {
    let mut items: Vec<Item<'_>> = overlay.0.iter().collect();
    // First removals, which make room, then changes, then additions; services before their backends. In this order no entry
    // depends on a later one.
    items.sort_by_key(|(key, entry)| {
        let order = match entry {
            Entry::Remove => 0,
            Entry::Set(_) => 1,
            Entry::Add(_) => 2,
        };
        (key.backend.is_some(), order)
    });
    let mut laid = Laid { objects: file.clone(), spec: spec.clone(), stale: Vec::new() };
    settle(&mut laid, &items);
    laid
}

/// Lays an overlay over the objects that it was made from; `None` = it was made from other objects.
pub(in crate::config) fn apply_all(file: &Objects, overlay: &Overlay) -> Option<Objects> {
    let mut objects = file.clone();
    for (key, entry) in &overlay.0 {
        apply(&mut objects, key, entry).ok()?;
    }
    Some(objects)
}

/// Tries all entries at once, which nearly always works; else it tries halves, down to the single entries that do not fit.
fn settle(laid: &mut Laid, items: &[Item<'_>]) {
    if items.is_empty() {
        return;
    }
    match attempt(&laid.objects, items) {
        Ok((objects, spec)) => {
            laid.objects = objects;
            laid.spec = spec;
        }
        Err(reason) => match items {
            [(key, entry)] => {
                laid.stale.push(Stale { key: (*key).clone(), entry: (*entry).clone(), reason });
            }
            _ => {
                let (first, second) = items.split_at(items.len() / 2);
                settle(laid, first);
                settle(laid, second);
            }
        },
    }
}

fn attempt(base: &Objects, items: &[Item<'_>]) -> Result<(Objects, Spec), String> {
    let mut objects = base.clone();
    for (key, entry) in items {
        apply(&mut objects, key, entry)?;
    }
    match check::check(&objects.to_tree(), Outside::default()) {
        Ok(spec) => Ok((objects, spec)),
        Err(errors) => {
            Err(errors.first().map_or_else(|| "it does not fit".to_owned(), |error| error.message.clone()))
        }
    }
}

fn apply(objects: &mut Objects, key: &Key, entry: &Entry) -> Result<(), String> {
    match &key.backend {
        None => apply_to_service(objects, &key.service, entry),
        Some(backend) => {
            let service = objects.services.get_mut(&key.service);
            let service = match (service, entry) {
                (Some(service), _) => service,
                // The backend to remove is gone already, with its service.
                (None, Entry::Remove) => return Ok(()),
                (None, _) => return Err("the service no longer exists".to_owned()),
            };
            apply_to_backend(Arc::make_mut(service), key, backend, entry)
        }
    }
}

fn apply_to_service(objects: &mut Objects, name: &str, entry: &Entry) -> Result<(), String> {
    match entry {
        Entry::Remove => {
            objects.services.remove(name);
        }
        Entry::Set(values) => match objects.services.get_mut(name) {
            Some(service) => set(&mut Arc::make_mut(service).settings, values),
            None => return Err("the service no longer exists".to_owned()),
        },
        Entry::Add(values) => match objects.services.get(name) {
            None => {
                let service = Object::from_node(&node(name, values));
                objects.services.insert(name.to_owned(), Arc::new(service));
            }
            Some(service) if service.settings.same(&node(name, values)) => {}
            Some(_) => return Err("the file has a service of that name now".to_owned()),
        },
    }
    Ok(())
}

fn apply_to_backend(service: &mut Object, key: &Key, name: &str, entry: &Entry) -> Result<(), String> {
    match entry {
        Entry::Remove => {
            service.backends.remove(name);
        }
        Entry::Set(values) => match service.backends.get_mut(name) {
            Some(backend) => set(Arc::make_mut(backend), values),
            None => return Err("the backend no longer exists".to_owned()),
        },
        Entry::Add(values) => {
            let new = node(&format!("{}/{name}", key.service), values);
            match service.backends.get(name) {
                None => {
                    service.backends.insert(name.to_owned(), Arc::new(new));
                }
                Some(backend) if backend.same(&new) => {}
                Some(_) => return Err("the file has a backend of that name now".to_owned()),
            }
        }
    }
    Ok(())
}

/// Gives members other values; null removes a member.
pub(in crate::config) fn set(node: &mut Node, values: &Table) {
    let Some(table) = node.as_table_mut() else { return };
    for (name, member) in &values.0 {
        if matches!(member.value.data, Data::Null) {
            table.0.remove(name);
        } else {
            table.0.insert(name.clone(), member.clone());
        }
    }
}

fn node(path: &str, values: &Table) -> Node {
    Node { at: Place::Overlay(path.into()), data: Data::Table(values.clone()) }
}
