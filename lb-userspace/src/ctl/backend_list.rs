//! `lbctl backend list`: the columns of a backend.

use serde_json::Value;

use super::{
    backend::{admin, flows, health},
    cli::{monitor::Watch, select::Select},
    client::path,
    exit::Failure,
    listing::{self, Column, Item, Key},
    output::{Context, plural, state_paint},
    table::{Cell, number},
    units,
};
use crate::api::view::Backend;

pub async fn run(context: &Context, watch: Watch, select: &Select<Backend>) -> Result<(), Failure> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    // The agent knows what is like the name of a service that there is not.
    if let [pattern] = &select.patterns[..]
        && let Some(service) = pattern.service_name()
    {
        return listing::show(context, watch, &path(&["services", service, "backends"]), select, list).await;
    }
    let of_all = |value: &Value| {
        let services = value.as_array().into_iter().flatten();
        let backends = services.filter_map(|service| service.get("backends")?.as_array());
        backends.flatten().cloned().collect()
    };
    listing::show(context, watch, "/v1/services", select, of_all).await
}

impl Item for Backend {
    const NOUN: (&'static str, &'static str) = ("backend", "backends");
    const STATES: &'static [&'static str] =
        &["up", "down", "draining", "disabled", "unresolved", "checking", "waiting"];
    const NONE: &'static str = "no backends";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::<Self>::new("BACKEND", |backend| backend.name().into())
            .sorted("name", |backend| Key::Text(backend.name())),
        Column::<Self>::new(">ID", |backend| number(backend.id)).wide(),
        Column::<Self>::new("ADDRESS", |backend| Cell::from(&backend.address)),
        Column::<Self>::new(">WEIGHT", |backend| match backend.slow_start_ends_in {
            Some(_) => format!("{}/{}", backend.effective_weight, backend.weight).into(),
            None => number(backend.weight),
        })
        .sorted("weight", |backend| Key::Number(backend.weight.into())),
        Column::<Self>::new("STATE", |backend| Cell::painted(&backend.state, state_paint(&backend.state)))
            .sorted("state", |backend| Key::Text(backend.state.clone())),
        Column::<Self>::new("ADMIN", admin),
        Column::<Self>::new("HEALTH", health),
        Column::<Self>::new(">SLOTS", |backend| number(backend.slots))
            .sorted("slots", |backend| Key::Number(backend.slots.into())),
        Column::<Self>::new(">LEARNING", |backend| number(backend.learning_slots)).wide(),
        Column::<Self>::new(">FLOWS", |backend| flows(backend).map_or_else(|| "-".into(), number))
            .sorted("flows", |backend| Key::Number(backend.flows)),
        Column::<Self>::new(">IDLE", |backend| number(backend.flows_idle)).wide(),
        Column::<Self>::new(">PACKETS", |backend| number(backend.totals.packets))
            .sorted("packets", |backend| Key::Number(backend.totals.packets)),
        Column::<Self>::new(">BYTES", |backend| units::bytes(backend.totals.bytes).into())
            .sorted("bytes", |backend| Key::Number(backend.totals.bytes))
            .wide(),
        Column::<Self>::new(">SYNS", |backend| number(backend.totals.new_connections))
            .sorted("syns", |backend| Key::Number(backend.totals.new_connections)),
        Column::<Self>::new("NEXT HOP", |backend| hop(backend, |hop| hop.via.clone())).wide(),
        Column::<Self>::new("MAC", |backend| hop(backend, |hop| hop.mac.clone())).wide(),
        Column::<Self>::new("INTERFACE", |backend| hop(backend, |hop| hop.interface.clone())).wide(),
        Column::<Self>::new(">MTU", |backend| hop(backend, |hop| hop.mtu.to_string())).wide(),
        Column::<Self>::new("SOURCE", |backend| hop(backend, |hop| hop.source.clone())).wide(),
        Column::<Self>::new("REASON", |backend| backend.reason.as_deref().unwrap_or_default().into()),
    ];

    fn service(&self) -> &str {
        &self.service
    }

    fn backend(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn state(&self) -> &str {
        &self.state
    }

    /// Not what an operator wanted out.
    fn needs_attention(&self) -> bool {
        let wanted = matches!(self.state.as_str(), "up" | "disabled" | "draining");
        !wanted || self.health == "down" || (self.state == "up" && self.reason.is_some())
    }

    fn total(rows: &[&Self]) -> String {
        let sum = |pick: fn(&Self) -> u64| rows.iter().map(|row| pick(row)).fold(0, u64::saturating_add);
        format!(
            "{}, {}, {}",
            plural(sum(|row| row.flows), "live tracked flow", "live tracked flows"),
            plural(sum(|row| row.totals.packets), "packet", "packets"),
            plural(sum(|row| row.totals.new_connections), "SYN", "SYNs")
        )
    }
}

fn hop(backend: &Backend, part: fn(&crate::api::view::NextHop) -> String) -> Cell {
    backend.next_hop.as_ref().map_or_else(|| "-".into(), |hop| part(hop).into())
}

#[cfg(test)]
mod tests {
    use super::{super::backend::tests::backend, *};
    use crate::{api::view::Totals, ctl::style::Style};

    fn render(backends: &[Backend], style: &Style) -> String {
        listing::render(backends, &listing::pick(backends, &Select::default()), false, style)
    }

    #[test]
    fn a_list_has_a_line_for_each_backend() {
        let expected = "\
BACKEND    ADDRESS    WEIGHT  STATE  ADMIN    HEALTH  SLOTS  FLOWS  PACKETS  SYNS  REASON
web/web-1  10.0.0.11     100  up     enabled  up       8191      3      500     5
web/web-2  10.0.0.11     100  down   enabled  down        0      3      500     5  connection refused
2 backends: 1 up, 1 down; 6 live tracked flows, 1000 packets, 10 SYNs
";
        let backends = [backend("web-1", "up"), backend("web-2", "down")];
        assert_eq!(render(&backends, &Style::plain()), expected);
        assert_eq!(render(&[], &Style::plain()), "no backends\n");
        let coloured = render(&backends, &Style::coloured());
        assert!(coloured.contains("\u{1b}[32mup") && coloured.contains("\u{1b}[31mdown"), "{coloured:?}");
    }

    #[test]
    fn operator_state_and_health_are_shown_apart() {
        let draining_and_down = Backend { admin: "draining".into(), ..backend("web-1", "down") };
        let unasked = Backend { health: "not_checked".into(), weight: 0, ..backend("web-2", "draining") };
        let unasked = Backend { admin: "enabled".into(), ..unasked };
        let text = render(&[draining_and_down, unasked], &Style::plain());
        assert!(text.contains("100  down      draining  down "), "{text}");
        assert!(text.contains("  0  draining  enabled   not checked "), "{text}");
    }

    #[test]
    fn untracked_flows_are_not_listed_as_none() {
        let untracked = Backend { flows: 0, flows_tracked: "none".into(), ..backend("web-1", "up") };
        let text = render(std::slice::from_ref(&untracked), &Style::plain());
        assert!(text.contains(" 8191      -      500"), "{text}");
        for known in ["some", "all", ""] {
            let none = Backend { flows_tracked: known.into(), ..untracked.clone() };
            assert!(render(&[none], &Style::plain()).contains(" 8191      0      500"), "{known}");
        }
    }

    #[test]
    fn a_weight_that_grows_is_listed_with_the_whole() {
        let starting =
            Backend { effective_weight: 20, slow_start_ends_in: Some(24), ..backend("web-1", "up") };
        assert!(render(&[starting], &Style::plain()).contains(" 20/100  up "));
    }

    #[test]
    fn rows_are_filtered_sorted_and_cut_off() {
        use crate::ctl::pattern::Pattern;
        let with = |name: &str, state: &str, packets| Backend {
            totals: Totals { packets, ..Totals::default() },
            ..backend(name, state)
        };
        let all =
            [with("a", "up", 1), with("b", "down", 30), with("c", "draining", 20), with("d", "down", 10)];
        let names = |select: &Select<Backend>| {
            let names: Vec<String> =
                listing::render(&all, &listing::pick(&all, select), false, &Style::plain())
                    .lines()
                    .filter_map(|line| Some(line.split_whitespace().next()?.strip_prefix("web/")?.to_owned()))
                    .collect();
            names.concat()
        };
        let any = Select::<Backend>::default;
        assert_eq!(names(&any()), "abcd");
        assert_eq!(names(&Select { states: vec!["down", "up"], ..any() }), "abd");
        assert_eq!(names(&Select { attention: true, ..any() }), "bd", "draining is wanted");
        assert_eq!(names(&Select { sort: Some("packets".into()), top: Some(3), ..any() }), "bcd");
        assert_eq!(names(&Select { sort: Some("packets".into()), reverse: true, ..any() }), "adcb");
        assert_eq!(names(&Select { sort: Some("state".into()), ..any() }), "bdca");
        let one = vec![Pattern::parse("web2").unwrap(), Pattern::parse("*/c").unwrap()];
        assert_eq!(names(&Select { patterns: one, ..any() }), "c");
        let cut = listing::render(
            &all,
            &listing::pick(&all, &Select { top: Some(1), ..any() }),
            false,
            &Style::plain(),
        );
        assert!(cut.ends_with("\n1 of 4 backends: 1 up; 3 live tracked flows, 1 packet, 0 SYNs\n"), "{cut}");
    }

    #[test]
    fn a_wide_list_has_the_next_hop() {
        let backends = [backend("web-1", "up"), backend("web-2", "down")];
        let text =
            listing::render(&backends, &listing::pick(&backends, &Select::default()), true, &Style::plain());
        assert!(
            text.lines().next().unwrap().contains("NEXT HOP    MAC                INTERFACE   MTU  SOURCE"),
            "{text}"
        );
        assert!(text.contains("10.0.0.254  02:00:00:00:00:01  eth0       1500  10.0.0.1"), "{text}");
    }
}
