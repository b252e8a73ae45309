//! What came of a run: the table of events, the figures around it, and the verdict.

use std::time::Duration;

use serde::Serialize;

use super::{
    book::{Moment, Seen, Totals},
    memory::Table,
};
use crate::ui;

/// Whether flows are to keep their backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Expect {
    NothingBreaks,
    /// The contrast: a rig that sees nothing break there would see nothing anywhere.
    SomethingBreaks,
}

/// The numbers of a run that are not of one event.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Around {
    pub(super) seed: u64,
    pub(super) scenario: &'static str,
    pub(super) track: &'static str,
    pub(super) seconds: u64,
    /// Long-lived TCP connections that were held, and those established at the end.
    pub(super) held: usize,
    pub(super) alive_at_end: usize,
    /// Long-lived connections opened in all, short requests and flows of datagrams.
    pub(super) connections: u64,
    pub(super) requests: u64,
    pub(super) udp_flows: u64,
    pub(super) answers: u64,
    /// Times a flow was recorded, and a handshake; counters of the program.
    pub(super) flow_inserted: u64,
    pub(super) flow_pending: u64,
    pub(super) flow_insert_failed: u64,
    pub(super) no_backend: u64,
    /// Tracked flows at the end.
    pub(super) flows_at_end: u64,
    /// The table of flows: its memory, and how many it holds.
    pub(super) table_bytes: u64,
    pub(super) table_flows: u64,
    pub(super) agent_starts: usize,
    pub(super) programs_replaced: usize,
    pub(super) health_downs: usize,
    pub(super) false_downs: Vec<String>,
    pub(super) early_resizes: usize,
    pub(super) refused: Vec<String>,
    /// What the agent has in force and the script has not, at the end.
    pub(super) differences: Vec<String>,
    pub(super) incidents: Vec<String>,
    /// What a scenario has to add, for people.
    pub(super) notes: Vec<String>,
    /// What a scenario asks for in addition; it is among the checks.
    #[serde(skip)]
    pub(super) extra: Vec<Check>,
}

impl Around {
    pub(super) fn count(&mut self, totals: Totals) {
        let Totals { connections, requests, udp_flows, answers } = totals;
        self.connections = connections;
        self.requests = requests;
        self.udp_flows = udp_flows;
        self.answers = answers;
    }

    /// Of the flows that were begun, the share that was recorded, in percent. A flow that was recorded twice
    /// counts twice.
    fn share(&self) -> f64 {
        let begun = self.connections + self.requests + self.udp_flows;
        100.0 * self.flow_inserted as f64 / begun.max(1) as f64
    }
}

/// All events of one kind together.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) event: &'static str,
    pub(super) events: usize,
    /// TCP connections that were established when it happened, at least.
    pub(super) alive: usize,
    pub(super) broken: usize,
    pub(super) moved: usize,
    pub(super) ended_with_backend: usize,
    pub(super) requests: usize,
    pub(super) slow: usize,
    pub(super) failed: usize,
    pub(super) failed_with_reason: usize,
    pub(super) worst_gap_ms: u128,
}

impl Row {
    fn new(event: &'static str, events: usize, seen: Seen) -> Self {
        let Seen {
            alive,
            broken,
            moved,
            ended_with_backend,
            failed,
            failed_with_reason,
            requests,
            slow,
            gap,
        } = seen;
        Self {
            event,
            events,
            alive,
            broken,
            moved,
            ended_with_backend,
            requests,
            slow,
            failed,
            failed_with_reason,
            worst_gap_ms: gap.as_millis(),
        }
    }

    fn is_clean(&self) -> bool {
        self.broken == 0 && self.moved == 0 && self.failed == 0
    }
}

/// One thing that had to be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) what: String,
    pub(super) good: bool,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) expect: Expect,
    pub(super) events: Vec<Row>,
    pub(super) total: Row,
    #[serde(flatten)]
    pub(super) around: Around,
    pub(super) checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(moments: &[Moment], around: Around, expect: Expect) -> Self {
        let mut kinds: Vec<(&'static str, usize, Seen)> = Vec::new();
        for Moment { label, seen, .. } in moments {
            match kinds.iter_mut().find(|(known, ..)| known == label) {
                Some((_, count, all)) => {
                    *count += 1;
                    all.add(*seen);
                }
                None => kinds.push((label, 1, *seen)),
            }
        }
        let happened = moments.len().saturating_sub(1);
        let mut all = moments.get(1).or(moments.first()).map(|moment| moment.seen).unwrap_or_default();
        // Before the first event connections were being opened: what breaks counts, how many there were does not.
        all = moments.iter().fold(Seen { alive: all.alive, ..Seen::default() }, |mut sum, moment| {
            let alive = if moment.at == moments[0].at { sum.alive } else { moment.seen.alive };
            sum.add(Seen { alive, ..moment.seen });
            sum
        });
        let mut events: Vec<Row> =
            kinds.into_iter().map(|(label, count, seen)| Row::new(label, count, seen)).collect();
        // The stretch before the first event is a row of its own and no event.
        events.iter_mut().take(1).for_each(|row| row.events = 0);
        events[1..].sort_by_key(|row| row.event);
        let total = Row::new("all", happened, all);
        let checks = checks(&events, &total, &around, expect);
        Self { expect, events, total, around, checks }
    }

    pub(super) fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.good)
    }

    /// For people; the closing line is read by `cargo xtask test`.
    pub(super) fn text(&self) -> String {
        let head = [
            "event",
            "count",
            "alive",
            "broken",
            "moved",
            "killed*",
            "requests",
            "slow",
            "failed",
            "excused*",
            "worst gap",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.events.iter().chain([&self.total]).map(|row| {
            let number = |number: usize| number.to_string();
            let bad = |count: usize| if count > 0 { ui::red(&number(count)) } else { number(count) };
            vec![
                row.event.to_owned(),
                number(row.events),
                number(row.alive),
                bad(row.broken),
                bad(row.moved),
                number(row.ended_with_backend),
                number(row.requests),
                number(row.slow),
                bad(row.failed),
                number(row.failed_with_reason),
                format!("{} ms", row.worst_gap_ms),
            ]
        }));
        let mut text = ui::table(&rows);
        text += &ui::dim(
            "* killed: ended with their backend, which was killed. excused: failed before a killed backend was out, or \
             while a service had no backend.\n",
        );
        text += &self.figures();
        for (name, list) in [
            ("went wrong", &self.around.incidents),
            ("refused", &self.around.refused),
            ("differs", &self.around.differences),
            ("false verdict", &self.around.false_downs),
        ] {
            for line in list.iter().take(12) {
                text += &format!("{} {line}\n", ui::red(&format!("{name}:")));
            }
            if list.len() > 12 {
                text += &format!("  … and {} more\n", list.len() - 12);
            }
        }
        for Check { what, good } in &self.checks {
            let mark = if *good { ui::green("ok") } else { ui::red("failed") };
            text += &format!("{mark} {what}\n");
        }
        let good = self.checks.iter().filter(|check| check.good).count();
        text += &format!(
            "churn: {good} of {} steps did what they say (seed {}, {} events, track {}, {})\n",
            self.checks.len(),
            self.around.seed,
            self.total.events,
            self.around.track,
            self.around.scenario,
        );
        text
    }

    fn figures(&self) -> String {
        let around = &self.around;
        let table = Table { bytes: around.table_bytes, flows: around.table_flows };
        let mut text = format!(
            "{} connections held ({} opened), {} requests and {} flows of datagrams in {}; {} answers checked\n",
            around.held,
            around.connections,
            around.requests,
            around.udp_flows,
            ui::duration(Duration::from_secs(around.seconds)),
            around.answers,
        );
        text += &format!(
            "flows recorded: {} (at most {:.1} % of those begun), {} at the end; handshakes {}; refused by the \
             table {}\n",
            around.flow_inserted,
            around.share(),
            around.flows_at_end,
            around.flow_pending,
            around.flow_insert_failed,
        );
        text += &format!(
            "a tracked flow takes {} bytes; the table of {} MB holds {}\n",
            table.bytes_per_flow(),
            table.bytes / 1_000_000,
            table.flows,
        );
        text += &format!(
            "agent started {} times, program replaced {} times; {} verdicts \"down\", {} of them false; \
             {} resizes refused because the one before was not over\n",
            around.agent_starts,
            around.programs_replaced,
            around.health_downs + around.false_downs.len(),
            around.false_downs.len(),
            around.early_resizes,
        );
        for note in &around.notes {
            text += &format!("{note}\n");
        }
        text
    }
}

fn checks(events: &[Row], total: &Row, around: &Around, expect: Expect) -> Vec<Check> {
    let check = |what: String, good: bool| Check { what, good };
    let mut checks = Vec::new();
    match expect {
        Expect::SomethingBreaks => checks.push(check(
            format!("without tracking connections break: {} broken, {} moved", total.broken, total.moved),
            total.broken > 0,
        )),
        Expect::NothingBreaks => {
            for row in events {
                let Row { event, events, broken, moved, failed, .. } = row;
                let what = if *events == 0 {
                    "before the first event".to_owned()
                } else {
                    format!("{event} × {events}")
                };
                checks.push(check(
                    format!("{what}: {broken} broken, {moved} moved, {failed} requests failed"),
                    row.is_clean(),
                ));
            }
            checks.push(check(
                format!("{} of {} connections established at the end", around.alive_at_end, around.held),
                // Those that are just being opened again after their backend was killed may be missing.
                around.alive_at_end * 10 >= around.held * 9,
            ));
        }
    }
    checks.push(check(
        format!("{} acts refused, {} differences at the end", around.refused.len(), around.differences.len()),
        around.refused.is_empty() && around.differences.is_empty(),
    ));
    checks.extend(around.extra.iter().cloned());
    if around.scenario == "last" {
        let what = format!("{} packets met a service without backends", around.no_backend);
        checks.push(check(what, around.no_backend > 0));
    }
    if around.scenario == "flap" {
        let what = format!("the agent called the backend down {} times", around.health_downs);
        checks.push(check(what, around.health_downs >= 30));
    }
    checks.push(check(
        format!("the program was replaced at {} of {} starts", around.programs_replaced, around.agent_starts),
        around.programs_replaced == around.agent_starts,
    ));
    checks
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn moment(label: &'static str, seen: Seen) -> Moment {
        Moment { label, at: Instant::now(), seen }
    }

    fn around() -> Around {
        Around { held: 10, alive_at_end: 10, ..Around::default() }
    }

    fn alive(alive: usize) -> Seen {
        Seen { alive, ..Seen::default() }
    }

    #[test]
    fn events_of_a_kind_are_one_row_with_the_least_that_were_alive() {
        let moments = [
            moment("nothing", Seen::default()),
            moment("drain", Seen { gap: Duration::from_millis(3), ..alive(9) }),
            moment("drain", Seen { gap: Duration::from_millis(7), ..alive(8) }),
        ];
        let report = Report::new(&moments, around(), Expect::NothingBreaks);
        let row = &report.events[1];
        assert_eq!((row.events, row.alive, row.worst_gap_ms), (2, 8, 7));
        assert_eq!((report.total.events, report.total.alive), (2, 8));
        assert!(report.is_good(), "{:?}", report.checks);
    }

    #[test]
    fn one_broken_connection_is_a_failure_and_so_is_one_failed_request() {
        for bad in
            [Seen { broken: 1, ..alive(9) }, Seen { moved: 1, ..alive(9) }, Seen { failed: 1, ..alive(9) }]
        {
            let moments = [moment("nothing", Seen::default()), moment("drain", bad)];
            assert!(!Report::new(&moments, around(), Expect::NothingBreaks).is_good());
        }
        let excused = Seen { ended_with_backend: 5, failed_with_reason: 5, ..alive(9) };
        let moments = [moment("nothing", Seen::default()), moment("kill", excused)];
        assert!(Report::new(&moments, around(), Expect::NothingBreaks).is_good());
    }

    #[test]
    fn the_contrast_fails_when_nothing_breaks() {
        let moments = [moment("nothing", Seen::default()), moment("drain", alive(9))];
        assert!(!Report::new(&moments, around(), Expect::SomethingBreaks).is_good());
        let moments = [moment("nothing", Seen::default()), moment("drain", Seen { broken: 3, ..alive(9) })];
        assert!(Report::new(&moments, around(), Expect::SomethingBreaks).is_good());
    }

    #[test]
    fn the_closing_line_counts_the_checks() {
        let report = Report::new(&[moment("nothing", Seen::default())], around(), Expect::NothingBreaks);
        let text = report.text();
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("churn: 4 of 4 steps did what they say (seed 0, 0 events"), "{last}");
    }
}
