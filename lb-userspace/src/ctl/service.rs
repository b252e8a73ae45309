//! `lbctl service …`; the list is in `service_list`.

use std::{cmp::Reverse, time::Duration};

use hyper::Method;
use serde_json::{Map, Value};

use super::{
    cli::{
        select::Select,
        service::{Command, Fields},
    },
    client::path,
    exit::Failure,
    listing,
    output::{Context, plural},
    service_list,
    style::{Paint, Style},
    table::{Cell, list, number},
    units,
};
use crate::{
    api::view::{Service, TrackedChange, Tracking},
    config::{
        keys::{self, Key},
        spec::Scheme,
        words::Word as _,
    },
};

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { watch, select } => service_list::run(context, watch, &select).await,
        Command::Show { service } => {
            context.show(&path(&["services", &service]), |s: &Service, style| render(s, style)).await
        }
        Command::Add { service, listen, fields } => {
            let mut body = body(Some(listen), fields).map_err(Failure::Usage)?;
            body.insert("name".into(), service.into());
            context.change(Method::POST, "/v1/services", Some(&Value::Object(body))).await
        }
        Command::Set { service, listen, fields, unset } => {
            let body = Value::Object(change(listen, fields, unset).map_err(Failure::Usage)?);
            context.change(Method::PATCH, &path(&["services", &service]), Some(&body)).await
        }
        Command::Remove { service } => {
            context.change(Method::DELETE, &path(&["services", &service]), None).await
        }
    }
}

/// The fields that were given, under the configuration's names.
fn body(listen: Option<String>, fields: Fields) -> Result<Map<String, Value>, String> {
    let Fields { mut settings, health, health_settings } = fields;
    let health = check(health.as_deref(), health_settings)?;
    let more = [("listen", listen.map(Value::from)), ("health", health)];
    settings.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Ok(settings)
}

/// The same with null for the fields whose default is to hold again.
fn change(listen: Option<String>, fields: Fields, unset: Vec<String>) -> Result<Map<String, Value>, String> {
    let mut body = body(listen, fields)?;
    for field in unset {
        if let Some(part) = field.strip_prefix("health_") {
            unset_health(&mut body, part)?;
            continue;
        }
        if body.get(&field).is_some_and(|value| !value.is_null()) {
            return Err(format!("{field} is both set and reset; give only one of them"));
        }
        body.insert(field, Value::Null);
    }
    Ok(body)
}

/// Takes a key of the health check away. A check that is given whole has none of the keys before.
fn unset_health(body: &mut Map<String, Value>, part: &str) -> Result<(), String> {
    let check = body.entry("health").or_insert_with(|| Value::Object(Map::new()));
    match check.as_object_mut() {
        Some(check) if !check.contains_key("kind") && !check.contains_key(part) => {
            check.insert(part.to_owned(), Value::Null);
            Ok(())
        }
        _ => Err(format!("health is set and health_{part} is reset; give only one of them")),
    }
}

/// The health check that was asked for; `None` = nothing was said of it.
fn check(health: Option<&str>, mut settings: Map<String, Value>) -> Result<Option<Value>, String> {
    let whole = match health {
        None if settings.is_empty() => return Ok(None),
        None => return Ok(Some(settings.into())),
        Some(kind) if Scheme::of_word(kind).is_some() => {
            settings.insert("kind".into(), kind.into());
            return Ok(Some(settings.into()));
        }
        Some("none") => Value::Bool(false),
        Some("default") => Value::Bool(true),
        Some(text) if text.starts_with('{') => {
            serde_json::from_str(text).map_err(|why| format!("--health: not valid JSON: {why}"))?
        }
        Some(other) => {
            let kinds: Vec<&str> = Scheme::WORDS.iter().map(|(word, _)| *word).collect();
            return Err(format!(
                "--health: `{other}` is none of {}, none, default, nor a JSON object in braces",
                kinds.join(", ")
            ));
        }
    };
    if let Some(other) = settings.keys().next() {
        return Err(format!(
            "--health {} says all of it: leave --health-{} out",
            health.unwrap_or_default(),
            other.replace('_', "-")
        ));
    }
    Ok(Some(whole))
}

/// What there is to say of a service, in one cell.
pub(super) fn note(notes: &[String], in_ring: usize, health_ignored: bool) -> Cell {
    let paint = if in_ring == 0 || health_ignored { Paint::Bad } else { Paint::Plain };
    Cell::painted(notes.join("; "), paint)
}

fn render(service: &Service, style: &Style) -> String {
    let states: Vec<String> = service.slot_states.iter().map(|(state, n)| format!("{n} {state}")).collect();
    let learning = |seconds| units::duration(Duration::from_secs(seconds)).into();
    let totals = &service.totals;
    let mut text = list(
        style,
        [
            ("service", Some(Cell::painted(&service.name, Paint::Head))),
            ("id", Some(number(service.id))),
            ("listen", Some(Cell::from(&service.listen))),
            ("encapsulation", Some(Cell::from(&service.encapsulation))),
            ("max_backends", Some(planned(service))),
            ("track", Some(Cell::from(&service.track))),
            ("hash", Some(Cell::from(&service.hash))),
            ("balance", Some(Cell::from(&service.balance))),
            ("slots", Some(format!("{} ({})", service.slots, states.join(", ")).into())),
            ("learning ends in", service.learning_ends_in.map(learning)),
            ("changed", changed(service)),
            ("learning from", learning_from(service)),
            ("remembering", remembering(service)),
            ("tracked flows", tracked_flows(service)),
            ("ring", Some(Cell::from(&service.ring))),
            ("health", Some(service.health.as_deref().unwrap_or("not checked").into())),
            ("min_healthy", service.min_healthy.as_deref().map(Cell::from)),
            (
                "note",
                (!service.notes.is_empty()).then(|| {
                    note(&service.notes, service.backends_in_ring, service.health_ignored.is_some())
                }),
            ),
            ("slow_start", service.slow_start.as_deref().map(Cell::from)),
            ("settings", other_settings(service)),
            ("packets", Some(number(totals.packets))),
            ("bytes", Some(format!("{} ({})", totals.bytes, units::bytes(totals.bytes)).into())),
            ("SYNs", Some(number(totals.new_connections))),
        ],
    );
    text.push('\n');
    let all = listing::pick(&service.backends, &Select::default());
    text.push_str(&listing::render(&service.backends, &all, false, style));
    text
}

/// The settings that differ from their defaults, without those that have a line of their own.
fn other_settings(service: &Service) -> Option<Cell> {
    const SHOWN: &[&str] = &[
        "name",
        "listen",
        "encapsulation",
        "max_backends",
        "track",
        "hash",
        "balance",
        "ring",
        "slow_start",
        "min_healthy",
    ];
    let other = |key: &Key| {
        let value = service.settings.get(key.name).filter(|_| !SHOWN.contains(&key.name))?.to_string();
        (value != key.default).then(|| format!("{} {value}", key.name))
    };
    let others: Vec<String> = keys::SERVICE.keys.iter().filter_map(other).collect();
    (!others.is_empty()).then(|| others.join(", ").into())
}

/// For how many backends, and whether anybody said so.
fn planned(service: &Service) -> Cell {
    match service.max_backends_by_default {
        true => format!("{} (by its number of backends)", service.max_backends).into(),
        false => number(service.max_backends),
    }
}

fn count(service: &Service, state: &str) -> u64 {
    service.slot_states.get(state).copied().unwrap_or(0).into()
}

/// Which changes slots still learn from, and until when.
fn changed(service: &Service) -> Option<Cell> {
    const MOST: usize = 5;
    let changes = &service.tracking.changes;
    let time = |seconds| units::duration(Duration::from_secs(seconds));
    let line = |change: &TrackedChange| {
        let TrackedChange { seconds_ago, slots, learning_ends_in, why } = change;
        let why = if why.is_empty() { "before the agent started".to_owned() } else { why.join(", ") };
        let slots = plural((*slots).into(), "slot", "slots");
        let ago =
            if *seconds_ago == 0 { "just now".to_owned() } else { format!("{} ago", time(*seconds_ago)) };
        format!("{ago}: {why} ({slots}, {} more)", time(*learning_ends_in))
    };
    let mut parts: Vec<String> = changes.iter().take(MOST).map(line).collect();
    if changes.len() > MOST {
        let before = plural((changes.len() - MOST) as u64, "change", "changes");
        parts.push(format!("and {before} before"));
    }
    (!parts.is_empty()).then(|| parts.join("; ").into())
}

/// Whose the unknown flows of learning slots are, those with most slots first.
fn learning_from(service: &Service) -> Option<Cell> {
    const MOST: usize = 5;
    let tracking = &service.tracking;
    let mut from: Vec<(&str, u32)> =
        tracking.learning_from.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    from.sort_by_key(|&(name, slots)| (Reverse(slots), name));
    if tracking.learning_from_old_ring > 0 {
        from.insert(
            0,
            ("the ring before its last change of length or hash", tracking.learning_from_old_ring),
        );
    }
    let slots = |n: u32| plural(n.into(), "slot", "slots");
    let mut parts: Vec<String> =
        from.iter().take(MOST).map(|&(name, n)| format!("{name} ({})", slots(n))).collect();
    if from.len() > MOST {
        parts.push(format!("and {} more", from.len() - MOST));
    }
    (!parts.is_empty()).then(|| format!("{}: unknown flows belong there", parts.join(", ")).into())
}

/// Until when slots remember.
fn remembering(service: &Service) -> Option<Cell> {
    let slots = count(service, "remembering");
    let window = units::duration(Duration::from_secs(service.tracking.window_seconds));
    (slots > 0).then(|| {
        let (slots, remember) =
            (plural(slots, "slot", "slots"), if slots == 1 { "remembers" } else { "remember" });
        format!("{slots} {remember} until the flows elsewhere have ended or were silent for {window}").into()
    })
}

fn tracked_flows(service: &Service) -> Option<Cell> {
    let tracked = count(service, "learning") + count(service, "remembering");
    let Tracking { flows, flows_elsewhere, .. } = &service.tracking;
    let elsewhere = flows_elsewhere.map(|flows| format!(", of which {flows} not at their slot's owner"));
    (tracked > 0).then(|| format!("{flows}{}", elsewhere.unwrap_or_default()).into())
}

#[cfg(test)]
pub(super) mod tests;
