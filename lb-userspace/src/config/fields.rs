//! A spec as keys and values, the values as a file has them: [`super::render`] writes them and [`super::diff`] compares
//! them.

use std::ops::RangeInclusive;

pub(super) use super::settings::Fields;
use super::{
    settings::values::{array, quoted},
    spec::{Health, HttpProbe, Limits, Probe},
    words,
};

pub(super) fn limits(limits: &Limits) -> Fields {
    let Limits { services, backends, slots, flows, pending_flows } = limits;
    vec![
        ("services", services.to_string()),
        ("backends", backends.to_string()),
        ("slots", slots.to_string()),
        ("flows", flows.to_string()),
        ("pending_flows", pending_flows.to_string()),
    ]
}

pub(super) fn health(health: &Health) -> Fields {
    let Health { probe, port, interval, fast_interval, timeout, rise, fall } = health;
    let kind = match probe {
        Probe::Tcp => "tcp",
        Probe::Http(HttpProbe { tls: None, .. }) => "http",
        Probe::Http(HttpProbe { tls: Some(_), .. }) => "https",
    };
    let mut fields = vec![("kind", quoted(kind)), ("port", port.to_string())];
    if let Probe::Http(HttpProbe { tls, path, host, expect, body }) = probe {
        fields.push(("path", quoted(path)));
        push(&mut fields, "host", host.as_ref().map(quoted));
        fields.push(("expect", array(expect.iter().map(codes))));
        push(&mut fields, "body", body.as_ref().map(quoted));
        if let Some(tls) = tls {
            fields.push(("verify", tls.verify.to_string()));
            push(&mut fields, "ca", tls.ca.as_ref().map(|path| quoted(path.display())));
        }
    }
    fields.extend([
        ("interval", quoted(words::duration(*interval))),
        ("fast_interval", quoted(words::duration(*fast_interval))),
        ("timeout", quoted(words::duration(*timeout))),
        ("rise", rise.to_string()),
        ("fall", fall.to_string()),
    ]);
    fields
}

fn push(fields: &mut Fields, key: &'static str, value: Option<String>) {
    fields.extend(value.map(|value| (key, value)));
}

fn codes(range: &RangeInclusive<u16>) -> String {
    let (from, to) = (range.start(), range.end());
    if from == to { from.to_string() } else { format!("\"{from}-{to}\"") }
}
