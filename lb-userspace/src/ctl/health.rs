//! `lbctl health`.

use std::time::Duration;

use serde_json::Value;

use super::{
    cli::monitor,
    exit::Failure,
    listing::{self, Column, Item, Key},
    output::{Context, plural, state_paint},
    style::Paint,
    table::{Cell, number},
    units,
};
use crate::api::view::Health;

pub async fn run(context: &Context, arguments: monitor::Health) -> Result<(), Failure> {
    let monitor::Health { watch, select } = arguments;
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    listing::show(context, watch, "/v1/health", &select, items).await
}

impl Item for Health {
    const NOUN: (&'static str, &'static str) = ("checked backend", "checked backends");
    const STATES: &'static [&'static str] = &["up", "down", "checking"];
    const NONE: &'static str = "no backend is checked";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::<Self>::new("BACKEND", |health| health.name().into())
            .sorted("name", |health| Key::Text(health.name())),
        Column::<Self>::new("VERDICT", |health| Cell::painted(&health.verdict, state_paint(&health.verdict)))
            .sorted("verdict", |health| Key::Text(health.verdict.clone())),
        Column::<Self>::new(">SINCE", |health| {
            units::duration(Duration::from_millis(health.since_ms)).into()
        })
        .sorted("since", |health| Key::Number(health.since_ms)),
        Column::<Self>::new("LAST PROBE", |health| match health.last.as_deref() {
            None => Cell::painted("none yet", Paint::Dim),
            Some("ok") => match &health.said {
                Some(said) => format!("ok: says {said}").into(),
                None => "ok".into(),
            },
            Some(failure) => Cell::painted(failure, Paint::Bad),
        }),
        Column::<Self>::new(">TOOK", |health| health.last_us.map(units::short).unwrap_or_default().into())
            .sorted("took", |health| Key::Number(health.last_us.unwrap_or(0))),
        Column::<Self>::new(">STREAK", |health| number(health.streak)),
        Column::<Self>::new(">PROBES", |health| number(health.probes))
            .sorted("probes", |health| Key::Number(health.probes)),
        Column::<Self>::new(">FAILURES", |health| number(health.failures))
            .sorted("failures", |health| Key::Number(health.failures)),
    ];

    fn service(&self) -> &str {
        &self.service
    }

    fn backend(&self) -> Option<&str> {
        Some(&self.backend)
    }

    fn state(&self) -> &str {
        &self.verdict
    }

    fn needs_attention(&self) -> bool {
        self.verdict != "up" || self.last.as_deref().is_some_and(|last| last != "ok")
    }

    fn total(rows: &[&Self]) -> String {
        let sum = |pick: fn(&Self) -> u64| rows.iter().map(|row| pick(row)).fold(0, u64::saturating_add);
        format!(
            "{}, {}",
            plural(sum(|row| row.probes), "probe", "probes"),
            plural(sum(|row| row.failures), "failure", "failures")
        )
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::{cli::select::Select, style::Style};

    #[test]
    fn every_checked_backend_has_a_line() {
        let up = Health {
            service: "web".into(),
            backend: "web-1".into(),
            verdict: "up".into(),
            streak: 0,
            last: Some("ok".into()),
            last_us: Some(291),
            last_ms: Some(0),
            probes: 100,
            failures: 1,
            since_ms: 61_000,
            said: None,
        };
        let down = Health {
            backend: "web-2".into(),
            verdict: "down".into(),
            last: Some("status 503, expected 200-399".into()),
            streak: 1,
            since_ms: 700,
            ..up.clone()
        };
        let checking = Health {
            backend: "web-3".into(),
            verdict: "checking".into(),
            last: None,
            last_us: None,
            last_ms: None,
            ..up.clone()
        };
        let says = Health { backend: "web-4".into(), said: Some("75%, drain".into()), ..up.clone() };
        let expected = "\
BACKEND    VERDICT   SINCE  LAST PROBE                      TOOK  STREAK  PROBES  FAILURES
web/web-1  up        1m 1s  ok                            0.29ms       0     100         1
web/web-2  down      700ms  status 503, expected 200-399  0.29ms       1     100         1
web/web-3  checking  1m 1s  none yet                                   0     100         1
web/web-4  up        1m 1s  ok: says 75%, drain           0.29ms       0     100         1
4 checked backends: 2 up, 1 down, 1 checking; 400 probes, 4 failures
";
        let render = |all: &[Health]| {
            listing::render(all, &listing::pick(all, &Select::default()), false, &Style::plain())
        };
        assert_eq!(render(&[up, down, checking, says]), expected);
        assert_eq!(render(&[]), "no backend is checked\n");
    }
}
