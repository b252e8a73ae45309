//! `lbctl health`.

use std::time::Duration;

use super::{
    cli::monitor::Watch,
    exit::Failure,
    output::{Context, state_paint},
    style::{Paint, Style},
    table::{Cell, Table, number},
    units, watch,
};
use crate::api::view::Health;

pub async fn run(context: &Context, arguments: Watch) -> Result<(), Failure> {
    let style = context.style;
    watch::run(context, arguments, "/v1/health", |now: &Vec<Health>, _| render(now, &style)).await
}

fn render(all: &[Health], style: &Style) -> String {
    let mut table = Table::new(&[
        "BACKEND",
        "VERDICT",
        ">SINCE",
        "LAST PROBE",
        ">TOOK",
        ">STREAK",
        ">PROBES",
        ">FAILURES",
    ]);
    for health in all {
        let last = match health.last.as_deref() {
            None => Cell::painted("none yet", Paint::Dim),
            Some("ok") => match &health.said {
                Some(said) => format!("ok: says {said}").into(),
                None => "ok".into(),
            },
            Some(failure) => Cell::painted(failure, Paint::Bad),
        };
        table.row([
            format!("{}/{}", health.service, health.backend).into(),
            Cell::painted(&health.verdict, state_paint(&health.verdict)),
            units::duration(Duration::from_millis(health.since_ms)).into(),
            last,
            health.last_us.map(units::short).unwrap_or_default().into(),
            number(health.streak),
            number(health.probes),
            number(health.failures),
        ]);
    }
    if table.is_empty() { "no backend is checked\n".into() } else { table.render(style) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
";
        assert_eq!(render(&[up, down, checking, says], &Style::plain()), expected);
        assert_eq!(render(&[], &Style::plain()), "no backend is checked\n");
    }
}
