//! What `lbctl stats` shows of services and backends: filtered, sorted, cut off, in every form.

use std::{cmp::Reverse, collections::HashSet};

use serde_json::{Value, json};

use super::cli::select::{Noun, Select};
use crate::{
    api::view::{Stats, Totals},
    config::words::plural,
};

/// The key of what came since the look before.
pub const RATE: &str = "rate";

/// What `lbctl stats` lists.
#[derive(Debug)]
pub enum Traffic {}

impl Noun for Traffic {
    const STATES: &'static [&'static str] = &[];
    const ATTENTION: bool = false;
    const BACKENDS: bool = true;

    fn keys() -> Vec<&'static str> {
        vec!["name", "packets", "bytes", "syns", RATE]
    }
}

/// What is left of the statistics.
#[derive(Debug)]
pub struct Left<'a> {
    pub services: Vec<(&'a str, Totals)>,
    /// Names are `service/backend`.
    pub backends: Vec<(&'a str, Totals)>,
}

/// Picks services and backends.
pub fn left<'a>(now: &'a Stats, before: Option<&Stats>, select: &Select<Traffic>) -> Left<'a> {
    let grown = |now: &Totals, before: Option<&Totals>| {
        now.packets.saturating_sub(before.map_or(now.packets, |before| before.packets))
    };
    let order = |rows: &mut Vec<(&'a str, Totals)>, before: &dyn Fn(&str) -> Option<Totals>| {
        match select.sort.as_deref() {
            Some("packets") => rows.sort_by_key(|(_, totals)| Reverse(totals.packets)),
            Some("bytes") => rows.sort_by_key(|(_, totals)| Reverse(totals.bytes)),
            Some("syns") => rows.sort_by_key(|(_, totals)| Reverse(totals.new_connections)),
            Some(RATE) => rows.sort_by_key(|(name, totals)| Reverse(grown(totals, before(name).as_ref()))),
            // They are in the order of their names.
            _ => {}
        }
        if select.reverse {
            rows.reverse();
        }
        rows.truncate(select.top.unwrap_or(usize::MAX));
    };
    let mut services: Vec<(&str, Totals)> = now
        .services
        .iter()
        .filter(|(name, _)| select.names(name, None))
        .map(|(name, totals)| (name.as_str(), *totals))
        .collect();
    order(&mut services, &|name| before?.services.get(name).copied());
    let mut backends: Vec<(&str, Totals)> = now
        .backends
        .iter()
        .filter(|(name, _)| {
            let (service, backend) = name.split_once('/').unwrap_or((name, ""));
            select.names(service, Some(backend))
        })
        .map(|(name, totals)| (name.as_str(), *totals))
        .collect();
    order(&mut backends, &|name| before?.backends.get(name).copied());
    Left { services, backends }
}

impl Left<'_> {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.backends.is_empty()
    }

    /// The answer with only these services and backends.
    pub fn of(&self, answer: &Value) -> Value {
        let mut answer = answer.clone();
        for (key, rows) in [("services", &self.services), ("backends", &self.backends)] {
            let names: HashSet<&str> = rows.iter().map(|(name, _)| *name).collect();
            if let Some(all) = answer.get_mut(key).and_then(Value::as_object_mut) {
                all.retain(|name, _| names.contains(name.as_str()));
            }
        }
        answer
    }

    pub fn names(&self) -> Vec<String> {
        self.services.iter().chain(&self.backends).map(|(name, _)| (*name).to_owned()).collect()
    }

    /// The rows of CSV: `kind` is `service`, `backend`, a verdict or `event`.
    pub fn rows(&self, now: &Stats, all: bool, filtered: bool) -> Vec<Value> {
        let row = |kind: &str, name: &str, packets: u64, more: Option<&Totals>| {
            json!({
                "kind": kind,
                "name": name,
                "packets": packets,
                "bytes": more.map(|totals| totals.bytes),
                "new_connections": more.map(|totals| totals.new_connections),
            })
        };
        let traffic = [("service", &self.services), ("backend", &self.backends)];
        let counters = now.counters.iter().filter(|counter| !filtered && (all || counter.value > 0));
        counters
            .map(|counter| row(&counter.kind, &counter.name, counter.value, None))
            .chain(traffic.into_iter().flat_map(|(kind, rows)| {
                rows.iter().map(move |(name, totals)| row(kind, name, totals.packets, Some(totals)))
            }))
            .collect()
    }
}

/// Why nothing is shown.
pub fn no_match(now: &Stats, select: &Select<Traffic>) -> String {
    format!(
        "no service or backend fits {}; there are {} and {}",
        select.describe(),
        plural(now.services.len() as u64, "service", "services"),
        plural(now.backends.len() as u64, "backend", "backends")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::pattern::Pattern;

    fn stats() -> Stats {
        let totals = |packets, bytes| Totals { packets, bytes, new_connections: 0 };
        Stats {
            at_ms: 0,
            counters: Vec::new(),
            services: [("dns".to_owned(), totals(1, 900)), ("web".to_owned(), totals(5, 500))].into(),
            backends: [
                ("dns/d".to_owned(), totals(1, 900)),
                ("web/a".to_owned(), totals(2, 300)),
                ("web/b".to_owned(), totals(3, 200)),
            ]
            .into(),
            egress_dropped: Vec::new(),
            flows: 0,
            pending_flows: 0,
            flows_age_ms: None,
            flows_evicted: 0,
            pending_flows_evicted: 0,
        }
    }

    fn names(select: &Select<Traffic>, before: Option<&Stats>) -> String {
        left(&stats(), before, select).names().join(" ")
    }

    #[test]
    fn services_and_backends_are_picked_by_name() {
        let of =
            |pattern: &str| Select { patterns: vec![Pattern::parse(pattern).unwrap()], ..Select::default() };
        assert_eq!(names(&of("web"), None), "web web/a web/b");
        assert_eq!(names(&of("w*/b"), None), "web/b", "a pattern of backends is none of services");
        assert_eq!(names(&of("mail"), None), "");
        assert_eq!(
            no_match(&stats(), &of("mail")),
            "no service or backend fits `mail`; there are 2 services and 3 backends"
        );
        let left = left(&stats(), None, &of("web/a")).of(&serde_json::to_value(stats()).unwrap());
        assert_eq!(left["backends"].as_object().unwrap().keys().collect::<Vec<_>>(), ["web/a"]);
        assert_eq!(left["services"], json!({}));
        assert_eq!(left["flows"], 0, "the rest of the answer stays");
    }

    #[test]
    fn the_largest_come_first_and_growth_needs_a_look_before() {
        let by = |key: &str| Select { sort: Some(key.into()), top: Some(2), ..Select::default() };
        assert_eq!(names(&by("packets"), None), "web dns web/b web/a");
        assert_eq!(names(&by("bytes"), None), "dns web dns/d web/a");
        let mut before = stats();
        before.backends.insert("web/b".into(), Totals { packets: 3, ..Totals::default() });
        before.backends.insert("web/a".into(), Totals::default());
        assert_eq!(names(&by(RATE), Some(&before)), "dns web web/a dns/d");
        let reversed = Select { reverse: true, ..by("name") };
        assert_eq!(names(&reversed, None), "web dns web/b web/a");
    }
}
