//! The writer of the text format: names, label escaping, numbers.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::fmt::{Display, Write};

use super::{Snapshot, families::Family};
use crate::api::view::Durations;

/// An exposition under way.
#[derive(Debug)]
pub struct Exposition {
    text: String,
}

/// Takes the samples of one family.
#[derive(Debug)]
pub struct Samples<'a> {
    text: &'a mut String,
    name: &'static str,
    labels: &'static [&'static str],
}

impl Exposition {
    pub fn with_capacity(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes) }
    }

    /// A family: what it is, and every sample of it.
    pub fn family(&mut self, family: &Family, snapshot: &Snapshot<'_>) {
        let Family { name, kind, labels, help, collect } = *family;
        let text = &mut self.text;
        text.push_str("# HELP ");
        text.push_str(name);
        text.push(' ');
        escape(text, help, false);
        text.push_str("\n# TYPE ");
        text.push_str(name);
        text.push(' ');
        text.push_str(kind.name());
        text.push('\n');
        collect(snapshot, &mut Samples { text, name, labels });
    }

    pub fn finish(self) -> String {
        self.text
    }
}

impl Samples<'_> {
    /// One sample; `values` are those of the family's labels, in their order.
    pub fn put<const N: usize>(&mut self, values: [&str; N], value: impl Display) {
        debug_assert_eq!(N, self.labels.len(), "{}: a value for each label", self.name);
        self.line("", &values, None, value);
    }

    /// A histogram: buckets in seconds, their sum and number.
    pub fn put_durations<const N: usize>(&mut self, values: [&str; N], durations: &Durations) {
        let Durations { bounds_us, counts, count, sum_us } = durations;
        let seconds = |microseconds: u64| microseconds as f64 / 1e6;
        let bounds = bounds_us.iter().map(|bound| seconds(*bound).to_string());
        for (bound, count) in bounds.zip(counts).chain([("+Inf".to_owned(), count)]) {
            self.line("_bucket", &values, Some(&bound), count);
        }
        self.line("_sum", &values, None, seconds(*sum_us));
        self.line("_count", &values, None, count);
    }

    fn line(&mut self, suffix: &str, values: &[&str], bound: Option<&str>, value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let labels = self.labels.iter().copied().zip(values.iter().copied());
        let mut before = '{';
        for (label, value) in labels.chain(bound.map(|bound| ("le", bound))) {
            self.text.push(before);
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(self.text, value, true);
            self.text.push('"');
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.text, " {value}");
    }
}

/// Backslash and line feed, and in label values the double quote.
fn escape(text: &mut String, raw: &str, quotes: bool) {
    for c in raw.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}
