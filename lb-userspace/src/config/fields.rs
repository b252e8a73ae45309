//! A spec as keys and values, the values as a file has them: [`super::render`] writes them and [`super::diff`] compares
//! them.

pub(super) use super::settings::Fields;
use super::spec::Limits;

pub(super) fn limits(limits: &Limits) -> Fields {
    let Limits { services, backends, slots, flows, pending_flows } = limits;
    let mut fields = vec![
        ("services", services.to_string()),
        ("backends", backends.to_string()),
        ("slots", slots.to_string()),
        ("flows", flows.to_string()),
    ];
    fields.extend(pending_flows.map(|flows| ("pending_flows", flows.to_string())));
    fields
}
