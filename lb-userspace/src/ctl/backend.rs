//! `lbctl backend …`; the list is in `backend_list`, waiting for a drain in `drain`.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::{
    backend_list,
    cli::{
        backend::{Command, Last, Target},
        value::Weight,
    },
    client::path,
    drain, events,
    exit::Failure,
    output::{Context, state_paint},
    style::{Paint, Style},
    table::{Cell, list, number},
    units,
};
use crate::api::view::Backend;

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let state = |state: &str| json!({ "state": state });
    match command {
        Command::List { watch, select } => backend_list::run(context, watch, &select).await,
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

pub(super) fn admin(backend: &Backend) -> Cell {
    Cell::painted(&backend.admin, if backend.admin == "enabled" { Paint::Plain } else { Paint::Warn })
}

pub(super) fn health(backend: &Backend) -> Cell {
    let paint = match backend.health.as_str() {
        "up" => Paint::Good,
        "down" => Paint::Bad,
        _ => Paint::Plain,
    };
    Cell::painted(backend.health.replace('_', " "), paint)
}

/// Live flows; `None` = they are not tracked, so that their number is not known.
pub(super) fn flows(backend: &Backend) -> Option<u64> {
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
            transitions: 0,
            totals: Totals { packets: 500, bytes: 2048, new_connections: 5 },
        }
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
    fn untracked_flows_are_not_shown_as_none() {
        let untracked = Backend { flows: 0, flows_tracked: "none".into(), ..backend("web-1", "up") };
        let text = render(&untracked, &Style::plain());
        assert!(
            text.contains("live tracked flows    - (not tracked: no slot of the service is)\n"),
            "{text}"
        );
    }

    #[test]
    fn a_weight_that_grows_is_shown_with_the_whole_and_its_end() {
        let starting =
            Backend { effective_weight: 20, slow_start_ends_in: Some(24), ..backend("web-1", "up") };
        let text = render(&starting, &Style::plain());
        assert!(text.contains("weight 20 now, whole in 24s"), "{text}");
    }
}
