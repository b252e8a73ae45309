//! JSON as CSV (RFC 4180, with plain line feeds): an object is a row, a column has the name of its key. The keys of an inner
//! object have its key and a dot before them, a list of texts is one text with `; ` between them, and of a list of objects the
//! column has the number.

use std::collections::HashSet;

use serde_json::Value;

/// Rows that are written one after the other below one head.
#[derive(Debug, Default)]
pub struct Sheet {
    columns: Vec<String>,
    begun: bool,
}

impl Sheet {
    /// A sheet whose columns are known before its rows.
    pub fn with_columns(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|column| (*column).to_owned()).collect(), begun: false }
    }

    /// The text of these rows, with the head before the first ones. The first rows say what the columns are.
    pub fn rows(&mut self, rows: &[Value]) -> String {
        let flat: Vec<Vec<(String, String)>> = rows.iter().map(flatten).collect();
        let mut text = String::new();
        if self.columns.is_empty() {
            let mut known = HashSet::new();
            for (name, _) in flat.iter().flatten() {
                if known.insert(name) {
                    self.columns.push(name.clone());
                }
            }
        }
        if !std::mem::replace(&mut self.begun, true) && !self.columns.is_empty() {
            line(&mut text, self.columns.iter().map(String::as_str));
        }
        for row in &flat {
            let cell =
                |column: &String| row.iter().find(|(name, _)| name == column).map_or("", |(_, value)| value);
            line(&mut text, self.columns.iter().map(cell));
        }
        text
    }
}

/// The rows of an answer: the elements of a list, or the one object.
pub fn rows(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        one => std::slice::from_ref(one),
    }
}

fn line<'a>(text: &mut String, cells: impl Iterator<Item = &'a str>) {
    for (number, cell) in cells.enumerate() {
        if number > 0 {
            text.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            text.push('"');
            text.push_str(&cell.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(cell);
        }
    }
    text.push('\n');
}

fn flatten(row: &Value) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    match row {
        Value::Object(_) => put(&mut flat, "", row),
        other => put(&mut flat, "value", other),
    }
    flat
}

fn put(flat: &mut Vec<(String, String)>, name: &str, value: &Value) {
    let text = match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                put(flat, &name, value);
            }
            return;
        }
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
        }
        Value::Array(items) => items.len().to_string(),
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    flat.push((name.to_owned(), text));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inner_objects_are_columns_and_lists_are_one_cell() {
        let value = json!([
            { "name": "a,b", "totals": { "packets": 7 }, "notes": ["x", "y\"z"], "backends": [{}, {}], "hop": null },
            { "name": "c\nd", "totals": { "packets": 8 }, "notes": [], "backends": [], "hop": { "mac": "02" } },
        ]);
        let expected = "\
backends,hop,name,notes,totals.packets,hop.mac
2,,\"a,b\",\"x; y\"\"z\",7,
,,\"c
d\",,8,02
";
        assert_eq!(Sheet::default().rows(rows(&value)), expected);
    }

    #[test]
    fn a_head_comes_once_and_columns_stay() {
        let mut sheet = Sheet::default();
        assert_eq!(sheet.rows(&[json!({ "a": 1 })]), "a\n1\n");
        assert_eq!(sheet.rows(&[json!({ "b": 2, "a": 3 })]), "3\n");
        let mut sheet = Sheet::with_columns(&["a", "b"]);
        assert_eq!(sheet.rows(&[json!({ "b": 2 })]), "a,b\n,2\n");
        assert_eq!(Sheet::default().rows(rows(&json!({ "ok": true }))), "ok\ntrue\n");
        assert_eq!(Sheet::default().rows(&[]), "");
    }
}
