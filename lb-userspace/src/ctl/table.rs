//! Columns that line up, and lists of a name and a value. Widths are counted before colours come in.

use super::style::{Paint, Style, clean};

/// A text and what it says of itself.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub fn painted(text: impl AsRef<str>, paint: Paint) -> Self {
        Self { text: clean(text.as_ref()), paint }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::painted(text, Paint::Plain)
    }
}

/// A number, for a right-aligned column.
pub fn number(value: impl std::fmt::Display) -> Cell {
    value.to_string().into()
}

/// A table with a head. A column whose head begins with `>` is aligned to the right.
#[derive(Debug)]
pub struct Table {
    heads: Vec<(String, bool)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(heads: &[&str]) -> Self {
        let head = |h: &&str| match h.strip_prefix('>') {
            Some(text) => (text.to_owned(), true),
            None => ((*h).to_owned(), false),
        };
        Self { heads: heads.iter().map(head).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Every line ends with a line feed, none with blanks.
    pub fn render(&self, style: &Style) -> String {
        let heads: Vec<Cell> = self.heads.iter().map(|(h, _)| Cell::painted(h, Paint::Head)).collect();
        let lines = || std::iter::once(&heads).chain(&self.rows);
        let width = |column: usize| {
            lines().filter_map(|row| row.get(column)).map(|c| c.text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.heads.len()).map(width).collect();
        let mut text = String::new();
        for row in lines() {
            // Blanks are owed until something follows them.
            let mut owed = 0;
            for ((cell, width), (_, right)) in row.iter().zip(&widths).zip(&self.heads) {
                let padding = width.saturating_sub(cell.text.chars().count());
                if *right {
                    owed += padding;
                }
                if !cell.text.is_empty() {
                    text.extend(std::iter::repeat_n(' ', owed));
                    text.push_str(&style.paint(&cell.text, cell.paint));
                    owed = 0;
                }
                owed += 2 + if *right { 0 } else { padding };
            }
            text.push('\n');
        }
        text
    }
}

/// `name   value` lines with the values in one column; those without a value are left out.
pub fn list<'a>(style: &Style, lines: impl IntoIterator<Item = (&'a str, Option<Cell>)>) -> String {
    let lines: Vec<(&str, Cell)> =
        lines.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(&str, Cell)| {
        let padding = " ".repeat(width - name.chars().count());
        format!("{}{padding}  {}\n", style.paint(name, Paint::Head), style.paint(&value.text, value.paint))
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", ">N", "STATE", "NOTE"]);
        table.row(["a".into(), number(7), Cell::painted("up", Paint::Good), "".into()]);
        table.row(["längst".into(), number(1234), Cell::painted("down", Paint::Bad), "x\u{1b}y".into()]);
        table
    }

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let expected = "\
NAME       N  STATE  NOTE
a          7  up
längst  1234  down   x\\u{1b}y
";
        assert_eq!(table().render(&Style::plain()), expected);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let text = table().render(&Style::coloured());
        assert!(text.contains("a          7  \u{1b}[32mup\u{1b}[0m\n"), "{text:?}");
        assert!(text.contains("1234  \u{1b}[31mdown\u{1b}[0m   x"), "{text:?}");
    }

    #[test]
    fn a_list_leaves_out_what_there_is_not() {
        let text = list(
            &Style::plain(),
            [("name", Some("web".into())), ("long name", None), ("id", Some(number(1)))],
        );
        assert_eq!(text, "name  web\nid    1\n");
    }
}
