//! `lbctl service list`: the columns of a service.

use serde_json::Value;

use super::{
    cli::{monitor::Watch, select::Select},
    exit::Failure,
    listing::{self, Column, Item, Key},
    output::{Context, plural},
    service::note,
    style::Paint,
    table::{Cell, number},
    units,
};
use crate::api::{attention, view::Service};

pub async fn run(context: &Context, watch: Watch, select: &Select<Service>) -> Result<(), Failure> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    listing::show(context, watch, "/v1/services", select, list).await
}

impl Item for Service {
    const NOUN: (&'static str, &'static str) = ("service", "services");
    const STATES: &'static [&'static str] = attention::STATES;
    const NONE: &'static str = "no services";
    const BACKENDS: bool = false;
    const COLUMNS: &'static [Column<Self>] = &[
        Column::<Self>::new("SERVICE", |service| Cell::from(&service.name))
            .sorted("name", |service| Key::Text(service.name.clone())),
        Column::<Self>::new(">ID", |service| number(service.id)).wide(),
        Column::<Self>::new("STATE", |service| Cell::painted(state(service), paint(service))).wide(),
        Column::<Self>::new("LISTEN", |service| Cell::from(&service.listen))
            .sorted("listen", |service| Key::Text(service.listen.clone())),
        Column::<Self>::new("ENCAPSULATION", |service| Cell::from(&service.encapsulation)),
        Column::<Self>::new(">BACKENDS", |service| number(service.backends.len()))
            .sorted("backends", |service| Key::Number(service.backends.len() as u64)),
        Column::<Self>::new(">UP", |service| {
            let up = up(service);
            let paint = match up {
                0 => Paint::Bad,
                n if n < service.backends.len() => Paint::Warn,
                _ => Paint::Good,
            };
            Cell::painted(up.to_string(), paint)
        })
        .sorted("up", |service| Key::Number(up(service) as u64)),
        Column::<Self>::new(">IN RING", |service| number(service.backends_in_ring)).wide(),
        Column::<Self>::new(">SLOTS", |service| number(service.slots))
            .sorted("slots", |service| Key::Number(service.slots.into())),
        Column::<Self>::new(">LEARNING", |service| number(learning(service)))
            .sorted("learning", |service| Key::Number(learning(service).into())),
        Column::<Self>::new(">FLOWS", |service| number(service.tracking.flows))
            .sorted("flows", |service| Key::Number(service.tracking.flows))
            .wide(),
        Column::<Self>::new(">PACKETS", |service| number(service.totals.packets))
            .sorted("packets", |service| Key::Number(service.totals.packets)),
        Column::<Self>::new(">BYTES", |service| units::bytes(service.totals.bytes).into())
            .sorted("bytes", |service| Key::Number(service.totals.bytes))
            .wide(),
        Column::<Self>::new(">SYNS", |service| number(service.totals.new_connections))
            .sorted("syns", |service| Key::Number(service.totals.new_connections)),
        Column::<Self>::new("TRACK", |service| Cell::from(&service.track)).wide(),
        Column::<Self>::new("HASH", |service| Cell::from(&service.hash)).wide(),
        Column::<Self>::new("BALANCE", |service| Cell::from(&service.balance)).wide(),
        Column::<Self>::new("RING", |service| Cell::from(&service.ring)).wide(),
        Column::<Self>::new("HEALTH", |service| service.health.as_deref().unwrap_or("not checked").into())
            .wide(),
        Column::<Self>::new("NOTE", |service| {
            note(&service.notes, service.backends_in_ring, service.health_ignored.is_some())
        }),
    ];

    fn service(&self) -> &str {
        &self.name
    }

    fn backend(&self) -> Option<&str> {
        None
    }

    fn state(&self) -> &str {
        state(self)
    }

    fn needs_attention(&self) -> bool {
        state(self) != "up" || !self.notes.is_empty()
    }

    fn total(rows: &[&Self]) -> String {
        let sum = |pick: fn(&Self) -> u64| rows.iter().map(|row| pick(row)).fold(0, u64::saturating_add);
        format!(
            "{}, {} up; {}, {}",
            plural(sum(|row| row.backends.len() as u64), "backend", "backends"),
            sum(|row| up(row) as u64),
            plural(sum(|row| row.totals.packets), "packet", "packets"),
            plural(sum(|row| row.totals.new_connections), "SYN", "SYNs")
        )
    }
}

fn state(service: &Service) -> &'static str {
    let enabled = service.backends.iter().filter(|backend| backend.admin == "enabled").count();
    attention::state(service.backends_in_ring, enabled)
}

fn paint(service: &Service) -> Paint {
    match state(service) {
        "up" => Paint::Good,
        "down" => Paint::Bad,
        _ => Paint::Warn,
    }
}

fn up(service: &Service) -> usize {
    service.backends.iter().filter(|backend| backend.state == "up").count()
}

fn learning(service: &Service) -> u32 {
    service.slot_states.get("learning").copied().unwrap_or(0)
}
