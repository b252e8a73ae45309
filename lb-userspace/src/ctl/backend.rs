//! `lbctl backend …`; waiting for a drain is in `drain`.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::{
    cli::{
        backend::{Command, Last, Target},
        value::Weight,
    },
    client::path,
    drain, events,
    exit::Failure,
    output::{Context, state_paint},
    style::{Paint, Style},
    table::{Cell, Table, list, number},
    units,
};
use crate::api::view::{Backend, Service};

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let state = |state: &str| json!({ "state": state });
    match command {
        Command::List { service: None } => list_all(context).await,
        Command::List { service: Some(service) } => {
            context
                .show(&path(&["services", &service, "backends"]), |b: &Vec<Backend>, style| {
                    render_list(b, style)
                })
                .await
        }
        Command::Show(target) => context.show(&place(&target)?, |b: &Backend, style| render(b, style)).await,
        Command::Events { target, selection } => {
            events::show(context, &format!("{}/events", place(&target)?), selection, Vec::new()).await
        }
        Command::Add { target, address, weight, state } => {
            let (service, name) = target.names().map_err(Failure::Usage)?;
            let mut body = json!({ "name": name, "address": address.to_string() });
            if let Some(weight) = weight {
                body["weight"] = weight.into();
            }
            if let Some(state) = state {
                body["state"] = state.into();
            }
            context.change(Method::POST, &path(&["services", service, "backends"]), Some(&body)).await
        }
        Command::Set { target, weight, state, last } => {
            let weight = weight.map(|weight| match weight {
                Weight::Whole(number) => Value::from(number),
                Weight::Share(share) => Value::from(share),
            });
            let fields = [("weight", weight), ("state", state.map(Value::from))];
            let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            set(context, &target, forced(Value::Object(fields.collect()), last)).await
        }
        Command::Drain { target, wait, last } if wait.wait => {
            let (service, name) = target.names().map_err(Failure::Usage)?;
            drain::run(context, service, name, &wait, forced(state("draining"), last)).await
        }
        Command::Drain { target, wait: _, last } => {
            set(context, &target, forced(state("draining"), last)).await
        }
        Command::Undrain(target) => {
            // A disabled backend was taken out for a reason that is no drain.
            let (_, backend) = context.client.get::<Backend>(&place(&target)?).await?;
            if backend.state == "disabled" {
                let name = format!("{}/{}", backend.service, backend.name);
                return Err(Failure::Usage(format!(
                    "backend {name} is disabled, not draining; `lbctl backend enable {name}` ends that"
                )));
            }
            set(context, &target, state("enabled")).await
        }
        Command::Enable(target) => set(context, &target, state("enabled")).await,
        Command::Disable { target, last } => set(context, &target, forced(state("disabled"), last)).await,
        Command::Remove { target, last } => {
            let body = last.force.then(|| forced(json!({}), last));
            context.change(Method::DELETE, &place(&target)?, body.as_ref()).await
        }
    }
}

fn place(target: &Target) -> Result<String, Failure> {
    let (service, backend) = target.names().map_err(Failure::Usage)?;
    Ok(path(&["services", service, "backends", backend]))
}

/// The body, with the word that it is meant also for the last usable backend.
fn forced(mut body: Value, last: Last) -> Value {
    if last.force {
        body["force"] = true.into();
    }
    body
}

async fn set(context: &Context, target: &Target, body: Value) -> Result<(), Failure> {
    context.change(Method::PATCH, &place(target)?, Some(&body)).await
}

async fn list_all(context: &Context) -> Result<(), Failure> {
    let (value, services) = context.client.get::<Vec<Service>>("/v1/services").await?;
    if context.is_json() {
        let all =
            value.as_array().into_iter().flatten().filter_map(|s| s.get("backends")?.as_array()).flatten();
        let all: Vec<&Value> = all.collect();
        return context.print(&format!("{:#}\n", json!(all)));
    }
    let all: Vec<Backend> = services.into_iter().flat_map(|service| service.backends).collect();
    context.print(&render_list(&all, &context.style))
}

pub fn render_list(backends: &[Backend], style: &Style) -> String {
    let mut table = Table::new(&[
        "BACKEND", "ADDRESS", ">WEIGHT", "STATE", "ADMIN", "HEALTH", ">SLOTS", ">FLOWS", ">PACKETS", ">SYNS",
        "REASON",
    ]);
    for backend in backends {
        table.row([
            format!("{}/{}", backend.service, backend.name).into(),
            Cell::from(&backend.address),
            match backend.slow_start_ends_in {
                Some(_) => format!("{}/{}", backend.effective_weight, backend.weight).into(),
                None => number(backend.weight),
            },
            Cell::painted(&backend.state, state_paint(&backend.state)),
            admin(backend),
            health(backend),
            number(backend.slots),
            flows(backend).map_or_else(|| "-".into(), number),
            number(backend.totals.packets),
            number(backend.totals.new_connections),
            backend.reason.as_deref().unwrap_or_default().into(),
        ]);
    }
    if table.is_empty() { "no backends\n".into() } else { table.render(style) }
}

fn admin(backend: &Backend) -> Cell {
    Cell::painted(&backend.admin, if backend.admin == "enabled" { Paint::Plain } else { Paint::Warn })
}

fn health(backend: &Backend) -> Cell {
    let paint = match backend.health.as_str() {
        "up" => Paint::Good,
        "down" => Paint::Bad,
        _ => Paint::Plain,
    };
    Cell::painted(backend.health.replace('_', " "), paint)
}

/// Live flows; `None` = they are not tracked, so that their number is not known.
fn flows(backend: &Backend) -> Option<u64> {
    (backend.flows > 0 || backend.flows_tracked != "none").then_some(backend.flows)
}

fn render(backend: &Backend, style: &Style) -> String {
    let hop = backend.next_hop.as_ref();
    let totals = &backend.totals;
    list(
        style,
        [
            ("backend", Some(Cell::painted(format!("{}/{}", backend.service, backend.name), Paint::Head))),
            ("id", Some(number(backend.id))),
            ("address", Some(Cell::from(&backend.address))),
            ("weight", Some(number(backend.weight))),
            (
                "slow start",
                backend.slow_start_ends_in.map(|seconds| {
                    let left = units::duration(Duration::from_secs(seconds));
                    format!("weight {} now, whole in {left}", backend.effective_weight).into()
                }),
            ),
            ("state", Some(Cell::painted(&backend.state, state_paint(&backend.state)))),
            ("admin", Some(admin(backend))),
            ("health", Some(health(backend))),
            ("reason", backend.reason.as_ref().map(Cell::from)),
            ("slots", Some(number(backend.slots))),
            (
                "live tracked flows",
                Some(
                    flows(backend)
                        .map_or_else(|| "- (not tracked: no slot of the service is)".into(), number),
                ),
            ),
            ("idle flows", (backend.flows_idle > 0).then(|| number(backend.flows_idle))),
            ("flows counted", units::counted(backend.flows_age_ms).map(Into::into)),
            ("slots still learning", Some(number(backend.learning_slots))),
            (
                "next hop",
                Some(match hop {
                    Some(hop) => {
                        format!("{} at {} on {}, MTU {}", hop.via, hop.mac, hop.interface, hop.mtu).into()
                    }
                    None => Cell::painted("not known", Paint::Warn),
                }),
            ),
            ("outer source", hop.map(|hop| Cell::from(&hop.source))),
            ("packets", Some(number(totals.packets))),
            ("bytes", Some(format!("{} ({})", totals.bytes, units::bytes(totals.bytes)).into())),
            ("SYNs", Some(number(totals.new_connections))),
        ],
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::view::{NextHop, Totals};

    pub(in crate::ctl) fn backend(name: &str, state: &str) -> Backend {
        let hop = NextHop {
            interface: "eth0".into(),
            via: "10.0.0.254".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
            source: "10.0.0.1".into(),
        };
        let up = state == "up";
        Backend {
            service: "web".into(),
            name: name.into(),
            id: 7,
            address: "10.0.0.11".into(),
            weight: 100,
            effective_weight: if up { 100 } else { 0 },
            slow_start_ends_in: None,
            state: state.into(),
            admin: if matches!(state, "draining" | "disabled") { state } else { "enabled" }.into(),
            health: if matches!(state, "down" | "checking") { state } else { "up" }.into(),
            reason: (!up).then(|| "connection refused".into()),
            slots: if up { 8191 } else { 0 },
            flows: 3,
            flows_tracked: "some".into(),
            flows_idle: 0,
            flows_age_ms: None,
            learning_slots: 2,
            next_hop: up.then_some(hop),
            totals: Totals { packets: 500, bytes: 2048, new_connections: 5 },
        }
    }

    #[test]
    fn a_list_has_a_line_for_each_backend() {
        let expected = "\
BACKEND    ADDRESS    WEIGHT  STATE  ADMIN    HEALTH  SLOTS  FLOWS  PACKETS  SYNS  REASON
web/web-1  10.0.0.11     100  up     enabled  up       8191      3      500     5
web/web-2  10.0.0.11     100  down   enabled  down        0      3      500     5  connection refused
";
        let backends = [backend("web-1", "up"), backend("web-2", "down")];
        assert_eq!(render_list(&backends, &Style::plain()), expected);
        assert_eq!(render_list(&[], &Style::plain()), "no backends\n");
        let coloured = render_list(&backends, &Style::coloured());
        assert!(coloured.contains("\u{1b}[32mup") && coloured.contains("\u{1b}[31mdown"), "{coloured:?}");
    }

    #[test]
    fn a_backend_is_shown_with_its_next_hop() {
        let expected = "\
backend               web/web-1
id                    7
address               10.0.0.11
weight                100
state                 up
admin                 enabled
health                up
slots                 8191
live tracked flows    3
slots still learning  2
next hop              10.0.0.254 at 02:00:00:00:00:01 on eth0, MTU 1500
outer source          10.0.0.1
packets               500
bytes                 2048 (2.0 KiB)
SYNs                  5
";
        assert_eq!(render(&backend("web-1", "up"), &Style::plain()), expected);
        let down = render(&backend("web-1", "down"), &Style::plain());
        assert!(
            down.contains("reason                connection refused\n") && down.contains("not known"),
            "{down}"
        );
    }

    #[test]
    fn operator_state_and_health_are_shown_apart() {
        let draining_and_down = Backend { admin: "draining".into(), ..backend("web-1", "down") };
        let unasked = Backend { health: "not_checked".into(), weight: 0, ..backend("web-2", "draining") };
        let unasked = Backend { admin: "enabled".into(), ..unasked };
        let text = render_list(&[draining_and_down, unasked], &Style::plain());
        assert!(text.contains("100  down      draining  down "), "{text}");
        assert!(text.contains("  0  draining  enabled   not checked "), "{text}");
    }

    #[test]
    fn untracked_flows_are_not_shown_as_none() {
        let untracked = Backend { flows: 0, flows_tracked: "none".into(), ..backend("web-1", "up") };
        let text = render_list(std::slice::from_ref(&untracked), &Style::plain());
        assert!(text.contains(" 8191      -      500"), "{text}");
        let text = render(&untracked, &Style::plain());
        assert!(
            text.contains("live tracked flows    - (not tracked: no slot of the service is)\n"),
            "{text}"
        );
        for known in ["some", "all", ""] {
            let none = Backend { flows_tracked: known.into(), ..untracked.clone() };
            assert!(render_list(&[none], &Style::plain()).contains(" 8191      0      500"), "{known}");
        }
    }

    #[test]
    fn a_weight_that_grows_is_shown_with_the_whole_and_its_end() {
        let starting =
            Backend { effective_weight: 20, slow_start_ends_in: Some(24), ..backend("web-1", "up") };
        assert!(render_list(std::slice::from_ref(&starting), &Style::plain()).contains(" 20/100  up "));
        let text = render(&starting, &Style::plain());
        assert!(text.contains("weight 20 now, whole in 24s"), "{text}");
    }
}
