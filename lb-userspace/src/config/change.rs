//! A change at run time: the configuration that it makes of the one in force, or why it is refused. No side effects.

use std::sync::Arc;

use serde_json::Value;

use super::{
    by_name::{Object, Objects},
    check::{self, Outside},
    diagnostic::{Diagnostic, Kind, Place},
    host::OnHost,
    overlay,
    reader::Errors,
    settings::values::{Values as _, words},
    spec::{MOST_WEIGHT, Scheme, Spec},
    suggest, value,
    value_tree::{Data, Node, Table, quote},
};

/// What can be changed at run time. Bodies are JSON objects with the keys of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A whole service, with or without its backends.
    ServiceAdd {
        body: Value,
    },
    /// Some keys of a service, not `name` and `backend`; null = back to the default. A `health` with a `kind` replaces the
    /// present check; a `health` without a `kind` changes only the keys that it names.
    ServiceSet {
        service: String,
        body: Value,
    },
    ServiceRemove {
        service: String,
    },
    BackendAdd {
        service: String,
        body: Value,
    },
    /// `weight`, `state`, or both; null = back to the default. A weight of `"50%"` is half of the weight in the file.
    BackendSet {
        service: String,
        backend: String,
        body: Value,
    },
    BackendRemove {
        service: String,
        backend: String,
    },
}

/// Why a change is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `object` does not exist.
    #[error("{object}: {message}")]
    NotFound { object: String, message: String },
    /// `object` exists already.
    #[error("{object}: {message}")]
    Conflict { object: String, message: String },
    /// The configuration that the change would make is wrong. Never empty.
    #[error("{}", first(.0))]
    Invalid(Vec<Diagnostic>),
}

fn first(errors: &[Diagnostic]) -> String {
    match errors {
        [] => "the configuration it makes is refused".to_owned(),
        [error] => error.to_string(),
        [error, more @ ..] => format!("{error} (and {} more)", more.len()),
    }
}

impl Refusal {
    /// The object of the refusal: `service web`, `backend web/web-1`; empty = the request.
    pub fn object(&self) -> &str {
        match self {
            Self::NotFound { object, .. } | Self::Conflict { object, .. } => object,
            Self::Invalid(errors) => errors.first().map_or("", |error| &error.object),
        }
    }

    /// All errors, one line each, where there are more of them than [`ToString`] says.
    pub fn details(&self) -> Vec<String> {
        match self {
            Self::Invalid(errors) if errors.len() > 1 => errors.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the only reason is that the change asks for more than `[limits]` or a ring has.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::Invalid(errors) if errors.iter().all(|error| error.kind == Kind::Limit))
    }
}

/// The changed objects, and the spec that they make.
///
/// `file` is the spec of the file alone: a weight in percent is a share of the weight in the file.
pub(super) fn change(
    file: &Spec,
    objects: &Objects,
    change: &Change,
    host: Option<&dyn OnHost>,
) -> Result<(Objects, Spec), Refusal> {
    let mut objects = objects.clone();
    match change {
        Change::ServiceAdd { body } => service_add(&mut objects, body)?,
        Change::ServiceSet { service, body } => {
            let off = objects.health_is_off();
            let object = find_service(&mut objects, service)?;
            let mut values = values(body, &format!("service {service}"))?;
            refuse(&values, &format!("service {service}"), |key| match key {
                "name" => Some("a name cannot be changed: remove the service and add it again"),
                "backend" => Some("backends are changed one by one: add, set or remove them"),
                _ => None,
            })?;
            if let Some(member) = values.0.get_mut("health") {
                merge_health(&object.settings, &mut member.value, off)
                    .map_err(|why| invalid(&member.at, &format!("service {service}"), why))?;
            }
            overlay::set(&mut object.settings, &values);
        }
        Change::ServiceRemove { service } => {
            find_service(&mut objects, service)?;
            objects.services.remove(service);
        }
        Change::BackendAdd { service, body } => {
            backend_add(find_service(&mut objects, service)?, service, body)?;
        }
        Change::BackendSet { service, backend, body } => {
            let object = find_service(&mut objects, service)?;
            let node = find_backend(object, service, backend)?;
            let label = format!("backend {service}/{backend}");
            let mut values = values(body, &label)?;
            if let Some(member) = values.0.get_mut("weight") {
                share_of_weight(file, (service, backend), &mut member.value)
                    .map_err(|why| invalid(&member.at, &label, why))?;
            }
            refuse(&values, &label, |key| match key {
                "weight" | "state" => None,
                "name" | "address" => Some("it cannot be changed: remove the backend and add it again"),
                _ => Some("only weight and state can be set"),
            })?;
            overlay::set(node, &values);
        }
        Change::BackendRemove { service, backend } => {
            let object = find_service(&mut objects, service)?;
            find_backend(object, service, backend)?;
            object.backends.remove(backend);
        }
    }
    let spec = check::check(&objects.to_tree(), Outside { host }).map_err(Refusal::Invalid)?;
    Ok((objects, spec))
}

fn service_add(objects: &mut Objects, body: &Value) -> Result<(), Refusal> {
    let node = node(body, "")?;
    let name = node.as_table().and_then(|table| table.get("name"));
    // The checker reports a name that is wrong or missing.
    let name = name.and_then(|name| check::service_name(name).ok()).unwrap_or_else(|| "~new".to_owned());
    if objects.services.contains_key(&name) {
        let message = "it exists already: set its values, or remove it first".to_owned();
        return Err(Refusal::Conflict { object: format!("service {name}"), message });
    }
    objects.services.insert(name, Arc::new(Object::from_node(&node)));
    Ok(())
}

fn backend_add(service: &mut Object, service_name: &str, body: &Value) -> Result<(), Refusal> {
    let node = node(body, &format!("service {service_name}"))?;
    let name = check::backend_name(&node).unwrap_or_else(|| "~new".to_owned());
    if service.backends.contains_key(&name) {
        let message = "it exists already: set its values, or remove it first".to_owned();
        return Err(Refusal::Conflict { object: format!("backend {service_name}/{name}"), message });
    }
    service.backends.insert(name, Arc::new(node));
    Ok(())
}

fn find_service<'a>(objects: &'a mut Objects, name: &str) -> Result<&'a mut Object, Refusal> {
    if !objects.services.contains_key(name) {
        let hint = suggest::hint(name, objects.services.keys().map(String::as_str));
        return Err(no_service(name, &hint));
    }
    let found = objects.services.get_mut(name);
    found.map(Arc::make_mut).ok_or_else(|| no_service(name, ""))
}

fn no_service(name: &str, hint: &str) -> Refusal {
    Refusal::NotFound {
        object: format!("service {name}"),
        message: format!("there is no such service{hint}"),
    }
}

fn find_backend<'a>(
    service: &'a mut Object,
    service_name: &str,
    name: &str,
) -> Result<&'a mut Node, Refusal> {
    // Look for the name first: `hint` compares it with all names, which is slow.
    if !service.backends.contains_key(name) {
        let hint = suggest::hint(name, service.backends.keys().map(String::as_str));
        return Err(no_backend(service_name, name, &hint));
    }
    let found = service.backends.get_mut(name);
    found.map(Arc::make_mut).ok_or_else(|| no_backend(service_name, name, ""))
}

fn no_backend(service: &str, name: &str, hint: &str) -> Refusal {
    Refusal::NotFound {
        object: format!("backend {service}/{name}"),
        message: format!("there is no such backend{hint}"),
    }
}

/// Makes a number of a weight that is given as a share of the weight in the file. The file's weight counts, not the present
/// one: so the same request twice has the same effect, and 100% restores the weight.
fn share_of_weight(file: &Spec, (service, backend): (&str, &str), given: &mut Node) -> Result<(), String> {
    let Data::Str(text) = &given.data else { return Ok(()) };
    let Some(percent) = text.strip_suffix('%') else { return Ok(()) };
    let percent: u64 = value::whole(percent).filter(|percent| *percent <= 100_000).ok_or_else(|| {
        format!("weight {} is not a share: write 50%, or a number from 0 to {MOST_WEIGHT}", quote(text))
    })?;
    let known = file.services.iter().filter(|known| known.name == service).flat_map(|known| &known.backends);
    let weight = known.filter(|known| known.name == backend).map(|known| u64::from(known.weight)).next();
    let weight = weight.ok_or_else(|| {
        format!("weight {}: the file does not have this backend, so there is no weight to take a share of: give a number", quote(text))
    })?;
    // A share above 0 never rounds to 0: weight 0 would be a drain.
    let part = ((weight * percent + 50) / 100).max(u64::from(weight > 0 && percent > 0));
    if part > MOST_WEIGHT.into() {
        return Err(format!(
            "weight {} of {weight} is {part}, which is out of range: 0 to {MOST_WEIGHT}",
            quote(text)
        ));
    }
    given.data = Data::Int(part.into());
    Ok(())
}

/// Completes a health check of which a change names some keys only: the other keys come from the check that the service has.
/// `off`: services without `health` are not checked.
fn merge_health(settings: &Node, given: &mut Node, off: bool) -> Result<(), String> {
    let is_null = |node: &Node| matches!(node.data, Data::Null);
    let Data::Table(changes) = &given.data else { return Ok(()) };
    if changes.get("kind").is_some_and(|kind| !is_null(kind)) {
        return Ok(());
    }
    let present = settings.as_table().and_then(|table| table.get("health")).filter(|node| !is_null(node));
    let mut merged = match present.map(|node| &node.data) {
        Some(Data::Table(table)) => table.clone(),
        Some(Data::Bool(false)) => return Err(no_check()),
        None if off => return Err(no_check()),
        _ => Table::default(),
    };
    let changes = changes.clone();
    merged.0.retain(|name, _| changes.get(name).is_none_or(|change| !is_null(change)));
    merged.0.extend(changes.0.into_iter().filter(|(_, member)| !is_null(&member.value)));
    given.data = Data::Table(merged);
    Ok(())
}

fn no_check() -> String {
    let kinds = words::<Scheme>().takes();
    format!(
        "health is off, so there is no check of which a part could be changed: give its kind, too, {kinds}"
    )
}

fn node(body: &Value, object: &str) -> Result<Node, Refusal> {
    let node = Node::from_json(body, Place::Body("$".into()));
    if node.as_table().is_none() {
        let message =
            format!("the body must be an object with the keys of the file, not {}", node.describe());
        return Err(invalid(&node.at, object, message));
    }
    Ok(node)
}

/// The values that a body sets; at least one.
fn values(body: &Value, object: &str) -> Result<Table, Refusal> {
    let node = node(body, object)?;
    match node.data {
        Data::Table(table) if !table.0.is_empty() => Ok(table),
        _ => Err(invalid(&node.at, object, "the body sets nothing: name at least one key".to_owned())),
    }
}

fn refuse(values: &Table, object: &str, why: impl Fn(&str) -> Option<&'static str>) -> Result<(), Refusal> {
    let errors = Errors::default();
    for (name, member) in &values.0 {
        if let Some(why) = why(name) {
            errors.push(&member.at, object, format!("{name}: {why}"), Kind::Wrong);
        }
    }
    match errors.into_sorted() {
        errors if errors.is_empty() => Ok(()),
        errors => Err(Refusal::Invalid(errors)),
    }
}

fn invalid(place: &Place, object: &str, message: String) -> Refusal {
    let object = object.to_owned();
    Refusal::Invalid(vec![Diagnostic { place: place.clone(), object, message, kind: Kind::Wrong }])
}

#[cfg(test)]
mod tests;
