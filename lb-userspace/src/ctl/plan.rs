//! `lbctl plan`.

use std::{path::Path, time::Duration};

use hyper::Method;

use super::{
    config::{read, refused, replacement},
    exit::Failure,
    output::{Answer, Context, plural},
    style::{Paint, Style, clean},
    table::{Cell, Table, number},
    units,
};
use crate::api::view::{Plan, PlannedBackend, PlannedService};

pub async fn run(context: &Context, file: &Path) -> Result<(), Failure> {
    let (bytes, name) = read(file).map_err(|errors| refused(&errors))?;
    let body = replacement(bytes, &name)?;
    let (value, plan) = context.client.call::<Plan>(Method::POST, "/v1/plan", Some(&body)).await?;
    context.answer(&Answer::new(&value, &|| render(&plan, &context.style)))
}

/// Backends of one service that are shown; the rest is counted.
const MOST: usize = 20;

fn render(plan: &Plan, style: &Style) -> String {
    let mut text = String::new();
    if plan.summary.is_empty() {
        text.push_str("Nothing would change.\n");
    } else {
        text.push_str(&style.paint("Would change:", Paint::Head));
        text.push('\n');
        text.extend(plan.summary.iter().map(|line| format!("  {}\n", clean(line))));
    }
    let mut services =
        Table::new(&["SERVICE", "CHANGE", ">SLOTS", ">MOVED", ">COLLATERAL", ">FLOWS", ">CUT", "TRACKED"]);
    let mut backends = Table::new(&["BACKEND", "CHANGE", ">WEIGHT", ">NEW WEIGHT", ">SLOTS", ">NEW SLOTS"]);
    for service in plan.services.iter().filter(|service| is_shown(service)) {
        services.row([
            Cell::from(&service.name),
            Cell::from(&service.change),
            number(service.slots),
            share(service.slots_moved, service.moved_percent),
            share(service.slots_collateral, service.collateral_percent),
            flows(service.flows_in_moved_slots, service.flows_known).into(),
            match (service.flows_cut, service.flows_cut_known) {
                (0, true) => number(0),
                (n, known) => Cell::painted(flows(n, known), Paint::Bad),
            },
            tracked(service).into(),
        ]);
        for backend in service.backends.iter().take(MOST) {
            let PlannedBackend { name, change, weight_before, weight_after, slots_before, slots_after } =
                backend;
            backends.row([
                format!("{}/{name}", service.name).into(),
                Cell::from(change),
                number(weight_before),
                number(weight_after),
                number(slots_before),
                number(slots_after),
            ]);
        }
        if let Some(more) = service.backends.len().checked_sub(MOST).filter(|more| *more > 0) {
            backends.row([format!("{}: {more} more", service.name).into()]);
        }
    }
    for table in [services, backends] {
        if !table.is_empty() {
            text.push('\n');
            text.push_str(&table.render(style));
        }
    }
    if plan.services.iter().any(is_shown) {
        text.push_str(
            "\nMOVED: slots that get another owner. COLLATERAL: of these, between backends that stay as they are. FLOWS: live \
             flows in them, which stay where they are. CUT: those at backends that lose their flows. Flows of slots that are \
             not tracked are not known: \"at least\" counts the others, \"unknown\" is where there are none. New \
             backends are taken for healthy and reachable.\n",
        );
    }
    for warning in &plan.warnings {
        text.push_str(&style.paint(&clean(warning), Paint::Bad));
        text.push('\n');
    }
    for setting in &plan.needs_restart {
        text.push_str(
            &style
                .paint(&format!("{} takes effect when the agent starts again", clean(setting)), Paint::Warn),
        );
        text.push('\n');
    }
    text.push_str(&style.paint(
        &format!("{} would be written; nothing was", plural(plan.writes, "map entry", "map entries")),
        Paint::Dim,
    ));
    text.push('\n');
    text
}

fn is_shown(service: &PlannedService) -> bool {
    service.change != "unchanged" || !service.backends.is_empty()
}

/// A number of flows, or as much as is known of it.
fn flows(n: u64, known: bool) -> String {
    match (n, known) {
        (n, true) => n.to_string(),
        (0, false) => "unknown".to_owned(),
        (n, false) => format!("at least {n}"),
    }
}

fn share(slots: u32, percent: f64) -> Cell {
    format!("{slots} ({percent:.1}%)").into()
}

fn tracked(service: &PlannedService) -> String {
    let slots = plural(service.slots_tracked.into(), "slot", "slots");
    match service.tracked_for_seconds {
        None if service.slots_tracked == 0 => "-".to_owned(),
        None => format!("{slots} always"),
        Some(seconds) => format!("{slots} for {}", units::duration(Duration::from_secs(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_moves_and_for_how_long_it_is_tracked() {
        let plan = Plan {
            summary: vec!["backend web/web-3 added: 10.0.0.13, weight 100".into()],
            services: vec![
                PlannedService {
                    name: "web".into(),
                    change: "changed".into(),
                    slots: 1021,
                    slots_moved: 345,
                    moved_percent: 33.8,
                    slots_collateral: 5,
                    collateral_percent: 0.5,
                    flows_in_moved_slots: 12,
                    flows_known: false,
                    flows_cut: 0,
                    flows_cut_known: false,
                    slots_tracked: 345,
                    tracked_for_seconds: Some(3600),
                    backends: vec![PlannedBackend {
                        name: "web-3".into(),
                        change: "added".into(),
                        weight_before: 0,
                        weight_after: 100,
                        slots_before: 0,
                        slots_after: 340,
                    }],
                },
                PlannedService {
                    name: "dns".into(),
                    change: "unchanged".into(),
                    ..PlannedService::default()
                },
            ],
            writes: 350,
            warnings: vec!["backend web/web-2 would lose its flows at once".into()],
            needs_restart: vec!["limits".into()],
        };
        let expected = "\
Would change:
  backend web/web-3 added: 10.0.0.13, weight 100

SERVICE  CHANGE   SLOTS        MOVED  COLLATERAL        FLOWS      CUT  TRACKED
web      changed   1021  345 (33.8%)    5 (0.5%)  at least 12  unknown  345 slots for 1h

BACKEND    CHANGE  WEIGHT  NEW WEIGHT  SLOTS  NEW SLOTS
web/web-3  added        0         100      0        340

MOVED: slots that get another owner. COLLATERAL: of these, between backends that stay as they are. FLOWS: live flows \
in them, which stay where they are. CUT: those at backends that lose their flows. Flows of slots that are not \
tracked are not known: \"at least\" counts the others, \"unknown\" is where there are none. New \
backends are taken for healthy and reachable.
backend web/web-2 would lose its flows at once
limits takes effect when the agent starts again
350 map entries would be written; nothing was
";
        assert_eq!(render(&plan, &Style::plain()), expected);
    }

    #[test]
    fn a_count_that_is_not_known_is_not_shown_as_one() {
        let words = [(0, true), (3, true), (0, false), (3, false)].map(|(n, known)| flows(n, known));
        assert_eq!(words, ["0", "3", "unknown", "at least 3"]);
    }

    #[test]
    fn a_plan_without_changes_says_so() {
        let plan =
            Plan { summary: vec![], services: vec![], warnings: vec![], writes: 0, needs_restart: vec![] };
        assert_eq!(
            render(&plan, &Style::plain()),
            "Nothing would change.\n0 map entries would be written; nothing was\n"
        );
    }
}
