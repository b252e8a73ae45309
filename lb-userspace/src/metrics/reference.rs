//! The reference of metrics and reasons, out of the same definitions that make them. `doc/metrics.md` is its output;
//! `cargo xtask docs` writes it, and a test compares.

use std::fmt::Write;

use lb_common::counter::{Counter, Kind};

use super::families;

const HEAD: &str = "\
# Metrics

Generated from the definitions in `src/metrics/families` and `lb-common/src/counter.rs` by
`cargo xtask docs`; a test fails when it is out of date.

Prometheus text format, at `/v1/metrics` of the control socket and, where `node.metrics` names an address, at
`http://<address>/metrics`:

```
lbctl metrics
curl --unix-socket /run/lb/main.sock http://lb/v1/metrics
curl --compressed 'http://127.0.0.1:9477/metrics?scope=node,service'
```

`?scope=` asks for a part: `node`, `service` or `backend`, or several with commas between them; the column says what a metric is
about. Without it all of them are there, those of backends only where `node.metrics_of_backends` is not `false`. A client that says
`Accept-Encoding: gzip`, as Prometheus does, gets the text compressed.

| metric | type | about | labels | meaning |
|---|---|---|---|---|
";

/// The whole page.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for family in families::all() {
        let labels = family.labels.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ");
        let scope = family.scope().name();
        row(&mut page, &[&format!("`{}`", family.name), family.kind.name(), scope, &labels, family.help]);
    }
    page.push_str("\n# Reasons\n\nEvery packet that a program sees is counted under exactly one of these.\n");
    for (kind, title) in [
        (Kind::Forwarded, "Forwarded: `lb_packets_total{verdict=\"forwarded\"}`"),
        (Kind::Passed, "Passed to the host's own stack, untouched: `lb_packets_total{verdict=\"passed\"}`"),
        (Kind::Dropped, "Dropped: `lb_packets_total{verdict=\"dropped\"}`"),
        (Kind::Answered, "Answered by the program itself: `lb_packets_total{verdict=\"answered\"}`"),
        (Kind::Event, "Events, counted in addition to the verdict: `lb_packet_events_total`"),
    ] {
        // Writing to a string does not fail.
        let _ = write!(page, "\n## {title}\n\n| name | meaning |\n|---|---|\n");
        for counter in Counter::ALL.iter().filter(|c| c.kind() == kind) {
            row(&mut page, &[&format!("`{}`", counter.name()), counter.description()]);
        }
    }
    page
}

fn row(page: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents;

    #[test]
    fn generated_page_is_current() {
        documents::assert_current("metrics.md", &markdown());
    }

    #[test]
    fn every_counter_has_its_line() {
        let page = markdown();
        for counter in Counter::ALL {
            assert_eq!(page.matches(&format!("| `{}` | ", counter.name())).count(), 1, "{}", counter.name());
        }
    }
}
