//! `lbctl stats`: counters, and with `--watch` what they grow by in a second. What is picked of it is in `stats_rows`.

use std::{cell::RefCell, collections::BTreeMap};

use serde::Deserialize as _;

use super::{
    cli::{monitor, select::Select},
    exit::Failure,
    output::{Answer, Context},
    stats_rows::{self, Traffic},
    style::{Paint, Style},
    table::{Cell, Table, list, number},
    units, watch,
};
use crate::api::view::{EgressDropped, Stats, Totals};

const PATH: &str = "/v1/stats";

pub async fn run(context: &Context, arguments: monitor::Stats) -> Result<(), Failure> {
    let monitor::Stats { all, watch, select } = arguments;
    if select.sort.as_deref() == Some(stats_rows::RATE) && !watch.watch {
        return Err(Failure::Usage("--sort rate needs --watch: a rate is between two looks".into()));
    }
    let last: RefCell<Option<Stats>> = RefCell::new(None);
    watch::run(context, watch, PATH, |value| {
        let now = Stats::deserialize(value).map_err(|why| watch::not_understood(PATH, &why))?;
        let before = last.take();
        let since = before.as_ref().and_then(|before| Since::new(&now, before));
        let left = stats_rows::left(&now, before.as_ref(), &select);
        let why = left.is_empty().then(|| stats_rows::no_match(&now, &select)).filter(|_| select.filters());
        let text = || match &why {
            Some(_) if !watch.watch => String::new(),
            Some(why) => format!("{why}\n"),
            None => render(&now, watch.watch.then_some(since), all, &select, &context.style),
        };
        let answer = Answer {
            value: &left.of(value),
            text: &text,
            rows: Some(&|| left.rows(&now, all, select.filters())),
            names: Some(&|| left.names()),
        };
        watch::put(context, watch, &answer)?;
        last.replace(Some(now.clone()));
        match why {
            Some(why) if !watch.watch => Err(Failure::NoMatch(why)),
            _ => Ok(()),
        }
    })
    .await
}

/// An earlier look and how long ago it was.
#[derive(Clone, Copy)]
struct Since<'a> {
    before: &'a Stats,
    seconds: f64,
}

impl<'a> Since<'a> {
    /// `None` where no time has passed, or the clock is another one: the host was started again.
    fn new(now: &Stats, before: &'a Stats) -> Option<Self> {
        let milliseconds = now.at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0)?;
        Some(Self { before, seconds: milliseconds as f64 / 1000.0 })
    }

    /// Growth in a second; 0 for a counter that began again.
    fn rate(&self, now: u64, before: Option<u64>) -> f64 {
        now.saturating_sub(before.unwrap_or(now)) as f64 / self.seconds
    }
}

/// `watched`: `None` = no rates are asked for; `Some(None)` = they are, and this is the first look.
fn render(
    now: &Stats,
    watched: Option<Option<Since<'_>>>,
    all: bool,
    select: &Select<Traffic>,
    style: &Style,
) -> String {
    let rate = |now, before: fn(&Stats, &str) -> Option<u64>, name: &str| match &watched {
        Some(Some(since)) => units::rate(since.rate(now, before(since.before, name))).into(),
        Some(None) => Cell::painted("-", Paint::Dim),
        None => "".into(),
    };
    let mut counters =
        Table::new(&["VERDICT", "REASON", ">COUNT", if watched.is_some() { ">RATE" } else { "" }, "MEANING"]);
    for counter in now.counters.iter().filter(|c| all || c.value > 0) {
        let paint = match counter.kind.as_str() {
            _ if counter.value == 0 => Paint::Dim,
            "forwarded" => Paint::Good,
            "dropped" => Paint::Bad,
            _ => Paint::Plain,
        };
        let before = |s: &Stats, name: &str| s.counters.iter().find(|c| c.name == name).map(|c| c.value);
        counters.row([
            Cell::painted(&counter.kind, paint),
            Cell::from(&counter.name),
            number(counter.value),
            rate(counter.value, before, &counter.name),
            Cell::painted(&counter.description, Paint::Dim),
        ]);
    }
    // What is of no service says nothing of those that were asked for.
    let whole = !select.filters();
    let mut text = match counters.is_empty() {
        _ if !whole => String::new(),
        true => "no packets yet\n".into(),
        false => counters.render(style),
    };
    let before = match &watched {
        Some(Some(since)) => Some(since),
        _ => None,
    };
    let left = stats_rows::left(now, before.map(|since| since.before), select);
    for (head, rows, old) in [
        ("SERVICE", &left.services, before.map(|s| (&s.before.services, s))),
        ("BACKEND", &left.backends, before.map(|s| (&s.before.backends, s))),
    ] {
        if !rows.is_empty() {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str(&table(head, rows, old, watched.is_some()).render(style));
        }
    }
    if !whole {
        return text;
    }
    if !now.egress_dropped.is_empty() {
        text.push('\n');
        text.push_str(&dropped(now, &watched).render(style));
    }
    text.push('\n');
    text.push_str(&list(
        style,
        [
            ("tracked flows", Some(number(now.flows))),
            ("unconfirmed flows", Some(number(now.pending_flows))),
            ("flows evicted", Some(number(now.flows_evicted))),
            ("unconfirmed evicted", Some(number(now.pending_flows_evicted))),
            ("flows counted", units::counted(now.flows_age_ms).map(Into::into)),
        ],
    ));
    text
}

/// What was lost behind the program.
fn dropped(now: &Stats, watched: &Option<Option<Since<'_>>>) -> Table {
    let rate = if watched.is_some() { ">RATE" } else { "" };
    let mut table = Table::new(&["LOST AT", "ERROR", ">FRAMES", rate]);
    for lost in &now.egress_dropped {
        let same = |old: &&EgressDropped| old.interface == lost.interface && old.error == lost.error;
        let rate = match watched {
            Some(Some(since)) => {
                let before = since.before.egress_dropped.iter().find(same).map_or(0, |old| old.frames);
                units::rate(since.rate(lost.frames, Some(before))).into()
            }
            Some(None) => Cell::painted("-", Paint::Dim),
            None => "".into(),
        };
        let frames = Cell::painted(lost.frames.to_string(), Paint::Bad);
        table.row([Cell::from(&lost.interface), Cell::from(&lost.error), frames, rate]);
    }
    table
}

fn table(
    head: &str,
    rows: &[(&str, Totals)],
    old: Option<(&BTreeMap<String, Totals>, &Since<'_>)>,
    watched: bool,
) -> Table {
    let rates = [">PACKETS/S", ">BANDWIDTH", ">SYNS/S"];
    let heads = [head, ">PACKETS", ">BYTES", ">SYNS"];
    let heads: Vec<&str> = heads.into_iter().chain(rates.into_iter().filter(|_| watched)).collect();
    let mut table = Table::new(&heads);
    for (name, now) in rows {
        let mut row: Vec<Cell> = vec![
            (*name).into(),
            number(now.packets),
            units::bytes(now.bytes).into(),
            number(now.new_connections),
        ];
        if let Some((old, since)) = old {
            let before = old.get(*name);
            let rate = |pick: fn(&Totals) -> u64| since.rate(pick(now), before.map(pick));
            row.push(units::rate(rate(|t| t.packets)).into());
            row.push(units::bit_rate(rate(|t| t.bytes)).into());
            row.push(units::rate(rate(|t| t.new_connections)).into());
        } else if watched {
            row.extend((0..3).map(|_| Cell::painted("-", Paint::Dim)));
        }
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::CounterValue;

    fn any() -> Select<Traffic> {
        Select::default()
    }

    fn stats(at_ms: u64, packets: u64) -> Stats {
        let counter = |name: &str, kind: &str, value| CounterValue {
            name: name.into(),
            kind: kind.into(),
            value,
            description: format!("{name}."),
        };
        let totals = Totals { packets, bytes: packets * 1000, new_connections: packets / 10 };
        Stats {
            at_ms,
            counters: vec![counter("forwarded_tx", "forwarded", packets), counter("fragment", "dropped", 0)],
            services: [("web".to_owned(), totals)].into(),
            backends: [("web/web-1".to_owned(), totals)].into(),
            egress_dropped: Vec::new(),
            flows: 4,
            pending_flows: 1,
            flows_age_ms: Some(0),
            flows_evicted: 3,
            pending_flows_evicted: 12,
        }
    }

    #[test]
    fn counters_that_are_0_wait_for_all() {
        let expected = "\
VERDICT    REASON        COUNT    MEANING
forwarded  forwarded_tx   1000    forwarded_tx.

SERVICE  PACKETS      BYTES  SYNS
web         1000  976.6 KiB   100

BACKEND    PACKETS      BYTES  SYNS
web/web-1     1000  976.6 KiB   100

tracked flows        4
unconfirmed flows    1
flows evicted        3
unconfirmed evicted  12
";
        assert_eq!(render(&stats(0, 1000), None, false, &any(), &Style::plain()), expected);
        assert!(render(&stats(0, 1000), None, true, &any(), &Style::plain()).contains("dropped    fragment"));
    }

    #[test]
    fn a_watch_shows_what_came_in_a_second() {
        let (before, now) = (stats(10_000, 1000), stats(12_000, 5000));
        let text = render(&now, Some(Since::new(&now, &before)), false, &any(), &Style::plain());
        let expected = "\
VERDICT    REASON        COUNT    RATE  MEANING
forwarded  forwarded_tx   5000  2.0k/s  forwarded_tx.

SERVICE  PACKETS    BYTES  SYNS  PACKETS/S    BANDWIDTH  SYNS/S
web         5000  4.8 MiB   500     2.0k/s  16.0 Mbit/s   200/s
";
        assert!(text.starts_with(expected), "{text}");
        let first = render(&now, Some(None), false, &any(), &Style::plain());
        assert!(first.contains("web         5000  4.8 MiB   500          -          -"), "{first}");
    }

    #[test]
    fn losses_are_shown_by_interface_and_error() {
        let lost = |frames| EgressDropped { interface: "veth1".into(), error: "ENXIO".into(), frames };
        let (mut before, mut now) = (stats(10_000, 0), stats(12_000, 0));
        assert!(!render(&now, None, true, &any(), &Style::plain()).contains("LOST AT"));
        (before.egress_dropped, now.egress_dropped) = (vec![lost(10)], vec![lost(4010)]);
        let text = render(&now, None, false, &any(), &Style::plain());
        assert!(text.contains("\nLOST AT  ERROR  FRAMES\nveth1    ENXIO    4010\n"), "{text}");
        let text = render(&now, Some(Since::new(&now, &before)), false, &any(), &Style::plain());
        assert!(text.contains("\nveth1    ENXIO    4010  2.0k/s\n"), "{text}");
    }

    #[test]
    fn counter_that_began_again_has_no_negative_rate() {
        let (before, now) = (stats(10_000, 1000), stats(11_000, 3));
        assert!(
            render(&now, Some(Since::new(&now, &before)), false, &any(), &Style::plain()).contains("0/s")
        );
        assert!(Since::new(&before, &now).is_none(), "a clock that went back");
        assert!(Since::new(&now, &now).is_none());
    }
}
