//! Compares two runs: ratios, and the rows that moved by more than the noise that both runs measured.

use std::fmt::Write as _;

use super::{report::number, row::Row};

/// The noise that the kernel's clock and a quiet machine leave in any case.
const AT_LEAST: f64 = 0.02;

/// How a row differs from its earlier value.
#[derive(Debug, PartialEq)]
pub struct Change<'a> {
    pub id: &'a str,
    pub old: f64,
    pub new: f64,
    /// The new value divided by the old one.
    pub ratio: f64,
    /// The share by which the two values may differ without meaning.
    pub noise: f64,
}

impl Change<'_> {
    /// Whether the difference is more than noise.
    pub fn moved(&self) -> bool {
        (self.ratio - 1.0).abs() > self.noise
    }
}

/// Rows that both runs have, in the order of the new run. Rows whose units differ are left out.
pub fn changes<'a>(old: &[Row], new: &'a [Row]) -> Vec<Change<'a>> {
    let find = |row: &Row| old.iter().find(|other| other.id == row.id && other.unit == row.unit).cloned();
    let change = |row: &'a Row| {
        let before = find(row)?;
        let ratio = if before.median == row.median { 1.0 } else { row.median / before.median };
        let noise = AT_LEAST + before.noise + row.noise;
        Some(Change { id: &row.id, old: before.median, new: row.median, ratio, noise })
    };
    new.iter().filter_map(change).collect()
}

/// The table as text.
pub fn table(changes: &[Change<'_>]) -> String {
    let width = changes.iter().map(|change| change.id.chars().count()).max().unwrap_or(0).max(3);
    let mut text = format!("{:width$} {:>10} {:>10} {:>7} {:>7}\n", "row", "old", "new", "ratio", "noise");
    for change in changes {
        let Change { id, old, new, ratio, noise } = change;
        let (old, new) = (number(*old), number(*new));
        write!(text, "{id:width$} {old:>10} {new:>10} {ratio:>7.3} {noise:>7.3}").ok();
        if change.moved() {
            text.push_str(if *ratio > 1.0 { "  up" } else { "  down" });
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, unit: &str, median: f64, noise: f64) -> Row {
        Row {
            id: id.to_owned(),
            what: String::new(),
            unit: unit.to_owned(),
            median,
            min: median,
            max: median,
            noise,
            floor: None,
            net: None,
            target: None,
            met: None,
            wants_cache: false,
        }
    }

    #[test]
    fn what_moved_beyond_both_noises_is_marked() {
        let old = [row("a", "ns", 100.0, 0.01), row("b", "ns", 100.0, 0.10)];
        let new = [row("a", "ns", 110.0, 0.02), row("b", "ns", 110.0, 0.0), row("c", "ns", 1.0, 0.0)];
        let changes = changes(&old, &new);
        assert_eq!(changes.len(), 2, "a row that was not there has nothing to be compared with");
        assert!(changes[0].moved() && !changes[1].moved(), "{changes:?}");
        assert!(table(&changes).lines().nth(1).unwrap().ends_with("up"));
    }

    #[test]
    fn nothing_moved_where_both_are_0() {
        let rows = [row("writes", "entries", 0.0, 0.0)];
        assert!(!changes(&rows, &rows)[0].moved());
    }

    #[test]
    fn rows_of_another_unit_are_not_compared() {
        assert!(changes(&[row("a", "ms", 1.0, 0.0)], &[row("a", "ns", 1.0, 0.0)]).is_empty());
    }
}
