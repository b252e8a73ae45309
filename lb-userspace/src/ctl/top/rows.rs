//! The rows of each view, with rates between two looks: filtered and sorted, and not yet drawn.

use std::collections::HashMap;

use super::model::{Model, View};
use crate::{
    api::{
        attention,
        view::{Service, Stats, Status, Totals},
    },
    ctl::{
        pattern::Pattern,
        style::{Paint, clean},
        units,
    },
};

/// What the agent answered at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    pub status: Status,
    pub services: Vec<Service>,
    pub stats: Stats,
}

/// The last look, and what it says together with the one before.
#[derive(Debug)]
pub struct Data {
    pub now: Look,
    /// Traffic in a second: of services by `service`, of backends by `service/backend`.
    rates: HashMap<String, Rate>,
    /// Packets in a second by reason.
    reasons: HashMap<String, f64>,
    /// Whether there was a look before.
    pub has_rates: bool,
    /// Why the agent does not answer; `None` = it does.
    pub absent: Option<String>,
}

/// Traffic in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    pub packets: f64,
    pub bytes: f64,
    pub syns: f64,
}

impl Data {
    pub fn new(now: Look) -> Self {
        Self { now, rates: HashMap::new(), reasons: HashMap::new(), has_rates: false, absent: None }
    }

    /// Takes the next look.
    pub fn look(&mut self, now: Look) {
        let before = std::mem::replace(&mut self.now, now);
        self.absent = None;
        let (now, before) = (&self.now.stats, &before.stats);
        let Some(seconds) =
            now.at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0).map(|ms| ms as f64 / 1e3)
        else {
            return;
        };
        let grown =
            |now: u64, before: Option<u64>| now.saturating_sub(before.unwrap_or(now)) as f64 / seconds;
        let rate = |now: &Totals, before: Option<&Totals>| Rate {
            packets: grown(now.packets, before.map(|t| t.packets)),
            bytes: grown(now.bytes, before.map(|t| t.bytes)),
            syns: grown(now.new_connections, before.map(|t| t.new_connections)),
        };
        let services =
            now.services.iter().map(|(name, t)| (name.clone(), rate(t, before.services.get(name))));
        let backends =
            now.backends.iter().map(|(name, t)| (name.clone(), rate(t, before.backends.get(name))));
        self.rates = services.chain(backends).collect();
        let old: HashMap<&str, u64> = before.counters.iter().map(|c| (c.name.as_str(), c.value)).collect();
        self.reasons = now
            .counters
            .iter()
            .map(|c| (c.name.clone(), grown(c.value, old.get(c.name.as_str()).copied())))
            .collect();
        self.has_rates = true;
    }

    pub fn rate(&self, name: &str) -> Rate {
        self.rates.get(name).copied().unwrap_or_default()
    }

    /// Packets in a second whose reason is of this verdict.
    pub fn verdict(&self, kind: &str) -> f64 {
        let of = self.now.stats.counters.iter().filter(|counter| counter.kind == kind);
        of.map(|counter| self.reasons.get(&counter.name).copied().unwrap_or(0.0)).sum()
    }
}

/// A row: what it is about, its cells, and what it can be sorted by.
#[derive(Clone, Debug)]
pub struct Row {
    pub service: String,
    pub backend: Option<String>,
    pub cells: Vec<String>,
    keys: Vec<f64>,
    pub paint: Paint,
}

/// What is shown of a view.
#[derive(Clone, Debug)]
pub struct Table {
    /// Heads; those of numbers begin with `>`.
    pub heads: &'static [&'static str],
    pub rows: Vec<Row>,
    /// How many rows there are without the filter.
    pub all: usize,
}

/// The heads that rows can be sorted by, besides the order in which they come.
pub fn sorts(view: &View) -> &'static [&'static str] {
    match view {
        View::Services => &["UP", "PACKETS/S", "BITS/S", "SYNS/S"],
        View::Backends(_) => &["SLOTS", "FLOWS", "PACKETS/S", "BITS/S", "SYNS/S"],
        View::Reasons => &["COUNT", "PACKETS/S"],
    }
}

/// The rows of the view that the model is at.
pub fn table(model: &Model, data: &Data) -> Table {
    let (heads, mut rows): (&[&str], Vec<Row>) = match &model.view {
        View::Services => (
            &["SERVICE", "LISTEN", "STATE", ">UP", ">BACKENDS", ">PACKETS/S", ">BITS/S", ">SYNS/S", "NOTE"],
            data.now.services.iter().map(|service| of_service(service, data)).collect(),
        ),
        View::Backends(name) => (
            &[
                "BACKEND",
                "ADDRESS",
                "STATE",
                ">WEIGHT",
                ">SLOTS",
                ">FLOWS",
                ">PACKETS/S",
                ">BITS/S",
                ">SYNS/S",
                "REASON",
            ],
            of_backends(name, data),
        ),
        View::Reasons => (&["VERDICT", "REASON", ">COUNT", ">PACKETS/S", "MEANING"], of_reasons(data)),
    };
    let all = rows.len();
    rows.retain(|row| fits(&model.filter, row));
    if let Some(place) = model.sort {
        let key = |row: &Row| row.keys.get(place).copied().unwrap_or(0.0);
        rows.sort_by(|one, other| key(other).total_cmp(&key(one)));
    }
    if model.reverse {
        rows.reverse();
    }
    Table { heads, rows, all }
}

/// A pattern is matched as in `lbctl backend list`, any other text anywhere in the row.
fn fits(filter: &str, row: &Row) -> bool {
    if filter.contains(['*', '?'])
        && let Ok(pattern) = Pattern::parse(filter)
    {
        return pattern.fits(&row.service, row.backend.as_deref());
    }
    let filter = filter.to_lowercase();
    row.cells.iter().any(|cell| cell.to_lowercase().contains(&filter))
}

/// A rate, or a dash before the second look.
fn shown(data: &Data, text: String) -> String {
    if data.has_rates { text } else { "-".to_owned() }
}

fn traffic(data: &Data, rate: Rate) -> [String; 3] {
    [units::rate(rate.packets), units::bit_rate(rate.bytes), units::rate(rate.syns)]
        .map(|text| shown(data, text))
}

fn of_service(service: &Service, data: &Data) -> Row {
    let rate = data.rate(&service.name);
    let enabled = service.backends.iter().filter(|backend| backend.admin == "enabled").count();
    let up = service.backends.iter().filter(|backend| backend.state == "up").count();
    let state = attention::state(service.backends_in_ring, enabled);
    let [packets, bits, syns] = traffic(data, rate);
    Row {
        service: service.name.clone(),
        backend: None,
        cells: vec![
            clean(&service.name),
            clean(&service.listen),
            state.to_owned(),
            up.to_string(),
            service.backends.len().to_string(),
            packets,
            bits,
            syns,
            clean(&service.notes.join("; ")),
        ],
        keys: vec![up as f64, rate.packets, rate.bytes, rate.syns],
        paint: match state {
            "down" => Paint::Bad,
            "degraded" => Paint::Warn,
            _ => Paint::Plain,
        },
    }
}

fn of_backends(name: &str, data: &Data) -> Vec<Row> {
    let service = data.now.services.iter().find(|service| service.name == name);
    let backends = service.into_iter().flat_map(|service| &service.backends);
    backends
        .map(|backend| {
            let rate = data.rate(&format!("{}/{}", backend.service, backend.name));
            let [packets, bits, syns] = traffic(data, rate);
            Row {
                service: backend.service.clone(),
                backend: Some(backend.name.clone()),
                cells: vec![
                    clean(&backend.name),
                    clean(&backend.address),
                    clean(&backend.state),
                    backend.weight.to_string(),
                    backend.slots.to_string(),
                    backend.flows.to_string(),
                    packets,
                    bits,
                    syns,
                    clean(backend.reason.as_deref().unwrap_or_default()),
                ],
                keys: vec![backend.slots.into(), backend.flows as f64, rate.packets, rate.bytes, rate.syns],
                paint: match backend.state.as_str() {
                    "up" => Paint::Plain,
                    "down" => Paint::Bad,
                    "disabled" => Paint::Dim,
                    _ => Paint::Warn,
                },
            }
        })
        .collect()
}

fn of_reasons(data: &Data) -> Vec<Row> {
    let counters = data.now.stats.counters.iter().filter(|counter| counter.value > 0);
    counters
        .map(|counter| {
            let rate = data.reasons.get(&counter.name).copied().unwrap_or(0.0);
            Row {
                service: counter.name.clone(),
                backend: None,
                cells: vec![
                    clean(&counter.kind),
                    clean(&counter.name),
                    counter.value.to_string(),
                    shown(data, units::rate(rate)),
                    clean(&counter.description),
                ],
                keys: vec![counter.value as f64, rate],
                paint: if counter.kind == "dropped" && rate > 0.0 { Paint::Bad } else { Paint::Plain },
            }
        })
        .collect()
}
