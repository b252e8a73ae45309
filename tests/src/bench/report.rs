//! The rows for people and for scripts.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Outcome, Settings, machine, row::Row};

/// The table as text.
pub fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.id.chars().count()).max().unwrap_or(0).max(3);
    let mut text =
        format!("{:width$} {:>10} {:>10} {:>10} {:>8}  unit\n", "row", "median", "min", "max", "net");
    for row in rows {
        let net = row.net.map_or(String::new(), number);
        let [median, min, max] = [row.median, row.min, row.max].map(number);
        let unit = &row.unit;
        write!(text, "{:width$} {median:>10} {min:>10} {max:>10} {net:>8}  {unit}", row.id).ok();
        if let Some(target) = &row.target {
            let met = match row.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "unknown",
            };
            write!(text, "   target {target}: {met}").ok();
        }
        text.push('\n');
    }
    text
}

/// A number with three significant places.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 || size == 0.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The rows that were not measured, a line for each reason.
pub fn skipped(skipped: &[(String, String)]) -> String {
    let mut reasons: Vec<&str> = skipped.iter().map(|(_, why)| why.as_str()).collect();
    reasons.dedup();
    let mut text = String::new();
    for (place, why) in reasons.iter().enumerate() {
        if reasons[..place].contains(why) {
            continue;
        }
        let rows: Vec<&str> =
            skipped.iter().filter(|(_, other)| other == why).map(|(row, _)| row.as_str()).collect();
        let more = if rows.len() > 1 { format!(" and {} more", rows.len() - 1) } else { String::new() };
        writeln!(text, "not measured: {}{more}: {why}", rows.first().unwrap_or(&"")).ok();
    }
    text
}

/// Ids of the rows that missed their targets; and separately, of those that missed where this machine has too little cache.
pub fn missed(rows: &[Row]) -> (Vec<&str>, Vec<&str>) {
    let enough = machine::cache_share(rows).is_none_or(|share| share >= machine::ENOUGH);
    let missed = rows.iter().filter(|row| row.met == Some(false));
    let (excused, missed): (Vec<&Row>, Vec<&Row>) = missed.partition(|row| row.wants_cache && !enough);
    (missed.iter().map(|row| row.id.as_str()).collect(), excused.iter().map(|row| row.id.as_str()).collect())
}

/// The share of the last-level cache that is left to us here, where it was measured.
pub fn cache(rows: &[Row]) -> String {
    let Some(share) = machine::cache_share(rows) else { return String::new() };
    format!(
        "an access behind the caches costs {} ns here, and the last-level cache leaves us about {} KiB\n",
        rows.iter().find(|row| row.id == "memory/access/64M").map_or(String::new(), |row| number(row.median)),
        share >> 10
    )
}

/// All rows, and where they were measured.
pub fn json(outcome: &Outcome, settings: &Settings) -> Value {
    let rows: Vec<Value> = outcome
        .rows
        .iter()
        .map(|row| {
            let Row { id, what, unit, median, min, max, noise, floor, net, target, met, wants_cache } = row;
            json!({
                "id": id, "what": what, "unit": unit, "median": median, "min": min, "max": max, "noise": noise,
                "floor": floor, "net": net, "target": target, "met": met, "wants_cache": wants_cache,
            })
        })
        .collect();
    let skipped: Vec<Value> =
        outcome.skipped.iter().map(|(row, why)| json!({ "id": row, "why": why })).collect();
    let Settings { rounds, packets, cpu: _ } = settings;
    json!({ "machine": machine(), "rounds": rounds, "packets": packets, "rows": rows, "skipped": skipped })
}

fn machine() -> Value {
    let line = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpus = line("/proc/cpuinfo");
    let model =
        cpus.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()));
    json!({
        "kernel": line("/proc/sys/kernel/osrelease").trim(),
        "processor": model,
        "processors": cpus.lines().filter(|line| line.starts_with("processor")).count(),
        "load": line("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()),
    })
}

/// The rows of a file that [`json`] wrote.
pub fn read(text: &str) -> Result<Vec<Row>> {
    let whole: Value = serde_json::from_str(text).context("no JSON")?;
    let rows = whole["rows"].as_array().context("no `rows`: not a file of `--json`")?;
    rows.iter().map(|row| parse(row).context("a row without id, unit or median")).collect()
}

fn parse(row: &Value) -> Option<Row> {
    let text = |key: &str| Some(row[key].as_str()?.to_owned());
    let median = row["median"].as_f64()?;
    Some(Row {
        id: text("id")?,
        what: text("what").unwrap_or_default(),
        unit: text("unit")?,
        median,
        min: row["min"].as_f64().unwrap_or(median),
        max: row["max"].as_f64().unwrap_or(median),
        noise: row["noise"].as_f64().unwrap_or(0.0),
        floor: row["floor"].as_f64(),
        net: row["net"].as_f64(),
        target: text("target"),
        met: row["met"].as_bool(),
        wants_cache: row["wants_cache"].as_bool().unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let row = Row {
            id: "packet/x".to_owned(),
            what: "something".to_owned(),
            unit: "ns".to_owned(),
            median: 50.5,
            min: 50.0,
            max: 61.0,
            noise: 0.02,
            floor: Some(40.0),
            net: Some(10.5),
            target: Some("≤ 3".to_owned()),
            met: Some(false),
            wants_cache: true,
        };
        let outcome = Outcome { rows: vec![row], skipped: vec![("a".to_owned(), "no b".to_owned())] };
        let settings = Settings { rounds: 3, packets: 1000, cpu: None };
        let rows = read(&json(&outcome, &settings).to_string()).unwrap();
        assert_eq!(format!("{rows:?}"), format!("{:?}", outcome.rows));
        assert_eq!(missed(&rows), (vec!["packet/x"], vec![]));
    }

    #[test]
    fn a_reason_is_said_once() {
        let because = |row: &str, why: &str| (row.to_owned(), why.to_owned());
        let list =
            [because("a/1", "no a"), because("a/2", "no a"), because("b", "no b"), because("a/3", "no a")];
        assert_eq!(skipped(&list), "not measured: a/1 and 2 more: no a\nnot measured: b: no b\n");
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        assert!(read("{}").unwrap_err().to_string().contains("not a file of `--json`"));
        assert!(read("x").is_err());
        assert!(read(r#"{"rows": [{"id": "a"}]}"#).is_err());
    }
}
