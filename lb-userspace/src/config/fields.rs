//! A spec as keys and values, the values as a file has them: [`super::render`] writes them and [`super::diff`] compares
//! them.

use std::{fmt::Display, ops::RangeInclusive};

use super::{
    spec::{Backend, Health, HttpProbe, Limits, MinHealthy, Node, Probe, Protocol, Service},
    words::{self, Word},
};

/// Keys with their values, in the order of the reference, without the keys that are not set.
pub(super) type Fields = Vec<(&'static str, String)>;

pub(super) fn node(node: &Node) -> Fields {
    let Node {
        interfaces,
        seed,
        mode,
        unserved,
        source_v4,
        source_v6,
        health_concurrency,
        socket_group,
        state_directory,
        metrics,
    } = node;
    let mut fields = vec![
        ("interface", array(interfaces.iter().map(quoted))),
        ("seed", quoted(seed)),
        ("mode", quoted(mode.word())),
        ("unserved", quoted(unserved.word())),
    ];
    push(&mut fields, "source", source_v4.map(quoted));
    push(&mut fields, "source6", source_v6.map(quoted));
    fields.push(("health_concurrency", health_concurrency.to_string()));
    push(&mut fields, "socket_group", socket_group.as_ref().map(quoted));
    fields.push(("state_directory", quoted(state_directory.display())));
    push(&mut fields, "metrics", metrics.map(quoted));
    fields
}

pub(super) fn limits(limits: &Limits) -> Fields {
    let Limits { services, backends, slots, flows, pending_flows } = limits;
    let mut fields = vec![
        ("services", services.to_string()),
        ("backends", backends.to_string()),
        ("slots", slots.to_string()),
        ("flows", flows.to_string()),
    ];
    push(&mut fields, "pending_flows", pending_flows.map(|flows| flows.to_string()));
    fields
}

/// Without health and backends.
pub(super) fn service(service: &Service) -> Fields {
    let Service {
        name,
        listen,
        encapsulation,
        max_backends,
        hold,
        all_down,
        handover,
        track,
        hash,
        balance,
        ring,
        slow_start,
        min_healthy,
        window,
        idle_after,
        health: _,
        backends: _,
    } = service;
    let window_key = match listen.protocol {
        Protocol::Tcp => "track_window",
        Protocol::Udp => "udp_idle",
    };
    let mut fields = vec![
        ("name", quoted(name)),
        ("listen", quoted(listen)),
        ("encapsulation", quoted(encapsulation.word())),
    ];
    push(&mut fields, "max_backends", max_backends.said().map(|backends| backends.to_string()));
    fields.extend([
        ("hold", quoted(hold)),
        ("all_down", quoted(all_down.word())),
        ("handover", quoted(words::duration(*handover))),
        ("track", quoted(track.word())),
        ("hash", quoted(hash)),
        ("balance", quoted(balance.word())),
        ("ring", quoted(ring.word())),
    ]);
    push(&mut fields, "slow_start", slow_start.map(|time| quoted(words::duration(time))));
    push(
        &mut fields,
        "min_healthy",
        min_healthy.map(|least| match least {
            MinHealthy::Count(count) => count.to_string(),
            MinHealthy::Percent(_) => quoted(least),
        }),
    );
    fields.push((window_key, quoted(words::duration(*window))));
    fields.push(("idle_after", quoted(words::duration(*idle_after))));
    fields
}

pub(super) fn backend(backend: &Backend) -> Fields {
    let Backend { name, address, weight, admin } = backend;
    vec![
        ("name", quoted(name)),
        ("address", quoted(address)),
        ("weight", weight.to_string()),
        ("state", quoted(admin.word())),
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

/// An array in TOML; one element is written without brackets.
fn array(elements: impl ExactSizeIterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    match elements.as_slice() {
        [one] => one.clone(),
        _ => format!("[{}]", elements.join(", ")),
    }
}

fn codes(range: &RangeInclusive<u16>) -> String {
    let (from, to) = (range.start(), range.end());
    if from == to { from.to_string() } else { format!("\"{from}-{to}\"") }
}

/// A string as TOML writes it.
fn quoted(text: impl Display) -> String {
    toml_edit::Value::from(text.to_string()).to_string()
}
