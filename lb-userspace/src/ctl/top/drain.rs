//! What draining a backend would do, before it is done: the configuration in force with that one word changed, as a plan of the
//! agent's.

use hyper::Method;
use serde_json::json;
use toml_edit::{DocumentMut, Item, Table, value};

use crate::{
    api::view::{Config, Plan},
    config::words::plural,
    ctl::{client::Client, exit::Failure},
};

/// What would change, a line each.
pub(super) async fn plan(client: &Client, service: &str, backend: &str) -> Result<Vec<String>, Failure> {
    // The seed, too: a configuration without it is none.
    let (_, config) = client.get::<Config>("/v1/config?secrets=true").await?;
    let text = drained(&config.text, service, backend).ok_or_else(|| {
        Failure::Failed(format!("backend {service}/{backend} is not in the configuration in force"))
    })?;
    let body = json!({ "text": text, "name": config.file });
    let (_, plan) = client.call::<Plan>(Method::POST, "/v1/plan", Some(&body)).await?;
    Ok(lines(&plan, service, backend))
}

/// The configuration in which this backend drains; `None` = it is not there.
fn drained(text: &str, service: &str, backend: &str) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    let services = document.get_mut("service")?.as_array_of_tables_mut()?;
    let service = services.iter_mut().find(|table| names(table, service))?;
    let backends = service.get_mut("backend")?.as_array_of_tables_mut()?;
    let backend = backends.iter_mut().find(|table| names(table, backend))?;
    backend.insert("state", value("draining"));
    Some(document.to_string())
}

/// A backend without a name has its address for one.
fn names(table: &Table, name: &str) -> bool {
    let said = table.get("name").or_else(|| table.get("address"));
    said.and_then(Item::as_str) == Some(name)
}

fn lines(plan: &Plan, service: &str, backend: &str) -> Vec<String> {
    let mut lines = plan.summary.clone();
    if lines.is_empty() {
        lines.push(format!("nothing: backend {service}/{backend} drains already"));
    }
    for planned in plan.services.iter().filter(|planned| planned.name == service) {
        let slots = plural(planned.slots_moved.into(), "slot gets", "slots get");
        lines.push(format!("{slots} another owner ({:.1} %)", planned.moved_percent));
        let least = if planned.flows_known { "" } else { "at least " };
        let flows = plural(
            planned.flows_in_moved_slots,
            "live tracked flow stays where it is",
            "live tracked flows stay where they are",
        );
        lines.push(format!("{least}{flows}"));
        if planned.flows_cut > 0 {
            lines.push(format!("{} cut", plural(planned.flows_cut, "flow is", "flows are")));
        }
    }
    lines.extend(plan.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::PlannedService;

    #[test]
    fn one_backend_of_one_service_drains_and_the_rest_stays() {
        let text = "[node]\nseed = \"s\" # kept\n\n[[service]]\nname = \"web\"\n[[service.backend]]\nname = \"a\"\n\
                    address = \"10.0.0.1\"\n[[service.backend]]\naddress = \"10.0.0.2\"\n";
        let changed = drained(text, "web", "10.0.0.2").unwrap();
        assert_eq!(changed, format!("{text}state = \"draining\"\n"));
        assert!(
            drained(text, "web", "a").unwrap().contains("address = \"10.0.0.1\"\nstate = \"draining\"\n")
        );
        assert_eq!(drained(text, "web", "b"), None);
        assert_eq!(drained(text, "dns", "a"), None);
        assert_eq!(drained("nonsense", "web", "a"), None);
    }

    #[test]
    fn a_plan_says_what_moves_and_what_is_cut() {
        let plan = Plan {
            summary: vec!["backend web/a drains".into()],
            services: vec![
                PlannedService {
                    name: "web".into(),
                    slots_moved: 50,
                    moved_percent: 33.33,
                    flows_in_moved_slots: 1,
                    ..PlannedService::default()
                },
                PlannedService { name: "dns".into(), ..PlannedService::default() },
            ],
            warnings: vec!["service web: no usable backend".into()],
            writes: 1,
            needs_restart: vec![],
        };
        assert_eq!(
            lines(&plan, "web", "a"),
            [
                "backend web/a drains",
                "50 slots get another owner (33.3 %)",
                "at least 1 live tracked flow stays where it is",
                "warning: service web: no usable backend",
            ]
        );
    }
}
