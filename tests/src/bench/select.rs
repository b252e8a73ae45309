//! Which rows are wanted: the ids as typed, with near names for a typing mistake, and the rows that those rows need.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::row::Definition;

/// How many near names an error offers.
const OFFERED: usize = 3;

/// The ids of the rows to print. `asked`: whole ids, or beginnings up to a `/`; empty = all (with `quick`: those of `--quick`).
///
/// # Errors
/// Every name that is the id of no row, each with near names.
pub fn select(definitions: &[Definition], asked: &[String], quick: bool) -> Result<BTreeSet<String>> {
    if asked.is_empty() {
        let all = definitions.iter().filter(|row| row.quick || !quick);
        return Ok(all.map(|row| row.id.clone()).collect());
    }
    let mut wanted = BTreeSet::new();
    let mut unknown = Vec::new();
    for name in asked {
        let group = format!("{}/", name.trim_end_matches('/'));
        let found = definitions.iter().filter(|row| row.id == *name || row.id.starts_with(&group));
        let before = wanted.len();
        let mut any = false;
        for row in found {
            any = true;
            wanted.insert(row.id.clone());
        }
        if !any && wanted.len() == before {
            unknown.push(format!(
                "no row is called `{name}`; close are {}",
                close(definitions, name).join(", ")
            ));
        }
    }
    if !unknown.is_empty() {
        bail!("{}; `--list` shows all", unknown.join("; "));
    }
    Ok(wanted)
}

/// The wanted rows, and the rows that they are computed from.
pub fn with_sources(definitions: &[Definition], wanted: &BTreeSet<String>) -> BTreeSet<String> {
    let mut all = wanted.clone();
    // A source may have a floor of its own.
    loop {
        let needed: Vec<String> = definitions
            .iter()
            .filter(|row| all.contains(&row.id))
            .flat_map(|row| row.needs().into_iter().map(str::to_owned))
            .collect();
        let before = all.len();
        all.extend(needed);
        if all.len() == before {
            return all;
        }
    }
}

/// The names most like `name`: groups and whole ids.
fn close<'a>(definitions: &'a [Definition], name: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = definitions.iter().map(|row| row.id.as_str()).collect();
    names.extend(definitions.iter().filter_map(|row| row.id.rsplit_once('/').map(|(group, _)| group)));
    names.sort_by(|a, b| {
        let distance = |other: &str| 1.0 - strsim::jaro_winkler(name, other);
        distance(a).total_cmp(&distance(b)).then(a.cmp(b))
    });
    names.dedup();
    names.truncate(OFFERED);
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::row::{Formula, Part};

    fn definitions() -> Vec<Definition> {
        let row = |id: &str| Definition::new(Part::Packet, id, "ns", "");
        let ratio = Formula::Ratio("packet/b".to_owned(), "packet/a/one".to_owned());
        vec![
            row("floor/grow"),
            row("packet/a/one").above("floor/grow"),
            row("packet/a/two").quick(false),
            row("packet/b"),
            row("flat/b").made_of(ratio),
        ]
    }

    fn names(wanted: &BTreeSet<String>) -> Vec<&str> {
        wanted.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_group_selects_its_rows() {
        let wanted = select(&definitions(), &["packet/a".to_owned()], false).unwrap();
        assert_eq!(names(&wanted), ["packet/a/one", "packet/a/two"]);
    }

    #[test]
    fn quick_leaves_rows_out_unless_they_are_asked_for() {
        assert!(!select(&definitions(), &[], true).unwrap().contains("packet/a/two"));
        let asked = select(&definitions(), &["packet/a/two".to_owned()], true).unwrap();
        assert_eq!(names(&asked), ["packet/a/two"]);
    }

    #[test]
    fn a_row_brings_what_it_is_computed_from() {
        let wanted = select(&definitions(), &["flat/b".to_owned()], false).unwrap();
        let all = with_sources(&definitions(), &wanted);
        assert_eq!(names(&all), ["flat/b", "floor/grow", "packet/a/one", "packet/b"]);
    }

    #[test]
    fn every_unknown_row_is_named_with_its_neighbours() {
        let asked = ["packet/a/tow".to_owned(), "flor".to_owned(), "packet/b".to_owned()];
        let error = select(&definitions(), &asked, false).unwrap_err().to_string();
        assert!(error.contains("no row is called `packet/a/tow`; close are packet/a/two"), "{error}");
        assert!(error.contains("no row is called `flor`; close are floor"), "{error}");
        assert!(!error.contains("`packet/b`"), "{error}");
    }
}
