//! The table of kernels in `install.md`: written from a run, compared by `cargo xtask tidy`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, bail};

use super::{
    catalogue::{self, Wanted},
    report::{self, Group, Outcome, Report},
};
use crate::workspace;

/// The document that has the table, from the root of the repository.
pub(crate) const DOCUMENT: &str = "lb-userspace/doc/install.md";

const BEGIN: &str = "<!-- kernels: `cargo xtask kernels --write` writes this table -->\n";
const END: &str = "<!-- end of kernels -->\n";

/// Programs whose instructions are shown, in the order of their columns.
pub(crate) const PROGRAMS: [&str; 2] = ["lb_xdp", "lb_decap"];

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// `6.1`.
    name: String,
    /// Of Debian.
    debian: String,
    /// `6.1.0-50-cloud-amd64`.
    release: String,
    /// `yes`, or what did not work; one for each of [`Group::COLUMNS`].
    groups: Vec<String>,
    /// What the verifier counted; one for each of [`PROGRAMS`].
    instructions: Vec<String>,
}

impl Row {
    pub(crate) fn of(wanted: &Wanted, release: &str, report: &Report) -> Self {
        let verdict = |group| match report.count(group) {
            (0, 0, _) => "not tried".to_owned(),
            (_, 0, 0) => "yes".to_owned(),
            (_, 0, left) => format!("yes, {left} left out"),
            (_, failed, _) => format!("no, {failed} failed"),
        };
        let count = |program: &&str| report.instructions.get(*program).map_or("–".to_owned(), u64::to_string);
        Self {
            name: wanted.name.to_owned(),
            debian: wanted.debian.to_owned(),
            release: release.to_owned(),
            groups: Group::COLUMNS.into_iter().map(verdict).collect(),
            instructions: PROGRAMS.iter().map(count).collect(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let Self { name, debian, release, groups, instructions } = self;
        let mut cells = vec![name.clone(), debian.clone(), release.clone()];
        cells.extend(groups.iter().chain(instructions).cloned());
        cells
    }

    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, debian, release, rest @ ..] = cells.as_slice() else { return None };
        if rest.len() != Group::COLUMNS.len() + PROGRAMS.len() {
            return None;
        }
        let (groups, instructions) = rest.split_at(Group::COLUMNS.len());
        let owned = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        Some(Self {
            name: (*name).to_owned(),
            debian: (*debian).to_owned(),
            release: (*release).to_owned(),
            groups: owned(groups),
            instructions: owned(instructions),
        })
    }
}

/// The headings, above the lines of [`Row::cells`].
pub(crate) fn headings() -> Vec<String> {
    let mut cells: Vec<String> = ["kernel", "Debian", "tried"].map(str::to_owned).into();
    cells.extend(Group::COLUMNS.map(|group| group.name().to_owned()));
    cells.extend(PROGRAMS.map(|program| format!("`{program}`: instructions verified")));
    cells
}

/// All lines, for people at a terminal.
pub(crate) fn rows(rows: &[Row]) -> Vec<Vec<String>> {
    let mut all = vec![headings().into_iter().map(|heading| heading.replace('`', "")).collect()];
    all.extend(rows.iter().map(Row::cells));
    all
}

/// Who takes off what, on how many of the kernels that tried it.
pub(crate) fn judges<'a>(reports: impl Iterator<Item = &'a Report>) -> Vec<Vec<String>> {
    let mut cells: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for (_, name, outcome) in reports.flat_map(|report| &report.checks) {
        if let Some(pair) = report::judge(name) {
            let cell = cells.entry(pair).or_default();
            cell.0 += usize::from(matches!(outcome, Outcome::Passed(_)));
            cell.1 += 1;
        }
    }
    let kinds: BTreeSet<&str> = cells.keys().map(|(_, kind)| *kind).collect();
    let judges: BTreeSet<&str> = cells.keys().map(|(judge, _)| *judge).collect();
    let mut rows =
        vec![std::iter::once("taken off by").chain(kinds.iter().copied()).map(str::to_owned).collect()];
    for judge in judges {
        let cell = |kind: &&str| {
            cells.get(&(judge, *kind)).map_or("–".to_owned(), |(good, all)| format!("{good}/{all}"))
        };
        rows.push(std::iter::once(judge.to_owned()).chain(kinds.iter().map(cell)).collect());
    }
    rows
}

fn render(rows: &[Row]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let headings = headings();
    let mut text = line(&headings);
    text.push_str(&format!("|{}\n", "---|".repeat(headings.len())));
    for row in rows {
        text.push_str(&line(&row.cells()));
    }
    text
}

/// What is between the marks, and the line it begins on.
fn between(document: &str) -> Option<(&str, usize)> {
    let begin = document.find(BEGIN)? + BEGIN.len();
    let end = begin + document[begin..].find(END)?;
    Some((&document[begin..end], document[..begin].lines().count() + 1))
}

fn parse(table: &str) -> Vec<Row> {
    table.lines().skip(2).filter_map(Row::parse).collect()
}

/// Writes rows into the document, in place of those of the same kernels.
pub(crate) fn write(new: &[Row]) -> Result<()> {
    let path = workspace::root().join(DOCUMENT);
    let document = fs::read_to_string(&path)?;
    let no_place = || format!("{DOCUMENT} has no place for the table of kernels");
    let (table, _) = between(&document).with_context(no_place)?;
    let known = parse(table);
    let row = |wanted: &Wanted| {
        let named = |rows: &[Row]| rows.iter().find(|row| row.name == wanted.name).cloned();
        named(new).or_else(|| named(&known))
    };
    let rows: Vec<Row> = catalogue::ALL.iter().filter_map(row).collect();
    if rows.len() < catalogue::ALL.len() {
        bail!("{DOCUMENT} lacks kernels that were not run now; run all of them");
    }
    fs::write(&path, with_table(&document, &rows).with_context(no_place)?)?;
    Ok(())
}

/// The document with these rows between its marks.
fn with_table(document: &str, rows: &[Row]) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some([before, BEGIN, &render(rows), END, after].concat())
}

/// What is wrong with the table in the document, with its line; nothing if the last run wrote it.
pub(crate) fn check(document: &str) -> Option<(usize, String)> {
    let Some((table, line)) = between(document) else {
        return Some((0, "has no table of kernels between its marks".to_owned()));
    };
    let rows = parse(table);
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let wanted = catalogue::ALL.map(|kernel| kernel.name);
    let advice = "`cargo xtask kernels --write` writes it";
    if names != wanted {
        return Some((line, format!("the table has the kernels {}; {advice}", names.join(", "))));
    }
    (render(&rows) != table)
        .then(|| (line, format!("the table of kernels is not as it was generated; {advice}")))
}

#[cfg(test)]
mod tests {
    use super::{super::report::Fact, *};

    fn page() -> String {
        let mut report = Report::default();
        for group in Group::COLUMNS {
            let outcome = Outcome::Passed(String::new());
            report.take(&Fact::Check { group, name: "x".into(), outcome }.line());
        }
        report.take(&Fact::Instructions { program: "lb_xdp".into(), count: 7 }.line());
        let rows = catalogue::ALL.map(|wanted| Row::of(&wanted, "1.2.3", &report));
        format!("# x\n{BEGIN}{}{END}tail\n", render(&rows))
    }

    #[test]
    fn rows_take_the_place_between_the_marks_whatever_is_there() {
        let page = page();
        let rows = parse(between(&page).unwrap().0);
        for old in ["", "| one |\n", &render(&rows)] {
            let document = format!("# x\n{BEGIN}{old}{END}tail\n");
            assert_eq!(with_table(&document, &rows).as_deref(), Some(page.as_str()));
        }
        assert_eq!(with_table("# x\n", &rows), None);
    }

    #[test]
    fn a_table_from_a_run_is_as_it_should_be() {
        let page = page();
        assert!(page.contains("| 6.1 | 12 | 1.2.3 | yes | yes | yes | yes | 7 | – |\n"), "{page}");
        assert_eq!(check(&page), None);
    }

    #[test]
    fn a_table_that_was_edited_or_lacks_a_kernel_is_found() {
        let found = |from: &str, to: &str| check(&page().replace(from, to)).map(|(line, _)| line);
        assert_eq!(found("| 6.1 |", "| 6.2 |"), Some(3));
        assert_eq!(found("instructions", "steps"), Some(3));
        assert_eq!(found("7 | – |\n", "7 | – |\n\n"), Some(3));
        assert_eq!(found(END, ""), Some(0));
    }

    #[test]
    fn judges_are_counted_over_kernels() {
        let report = |outcome: Outcome| {
            let mut report = Report::default();
            let name = report::judged("tunl0", "ipip");
            report.take(&Fact::Check { group: Group::Tunnels, name, outcome }.line());
            report
        };
        let reports = [report(Outcome::Passed(String::new())), report(Outcome::Failed("why".into()))];
        assert_eq!(judges(reports.iter()), [["taken off by", "ipip"], ["tunl0", "1/2"]]);
    }

    #[test]
    fn what_failed_is_in_the_table() {
        let mut report = Report::default();
        let outcome = Outcome::Failed("why".into());
        report.take(&Fact::Check { group: Group::Load, name: "x".into(), outcome }.line());
        let row = Row::of(&catalogue::ALL[0], "5.10.0", &report);
        assert_eq!(row.groups, ["no, 1 failed", "not tried", "not tried", "not tried"]);
    }
}
