//! Metrics of backends. They are left out of what is scraped where `node.metrics_of_backends` is false.

use super::{BACKEND, Family, counter, gauge};
use crate::{
    api::view::Backend,
    metrics::{Snapshot, text::Samples},
};

pub(super) static FAMILIES: &[Family] = &[
    counter("lb_backend_packets_total", BACKEND, "Packets sent to the backend.", |s, out| {
        backends(s, out, |b| b.totals.packets);
    }),
    counter(
        "lb_backend_bytes_total",
        BACKEND,
        "Bytes sent to the backend, from the inner IP header on.",
        |s, out| {
            backends(s, out, |b| b.totals.bytes);
        },
    ),
    counter(
        "lb_backend_new_connections_total",
        BACKEND,
        "TCP segments with SYN and without ACK sent to the backend.",
        |s, out| {
            backends(s, out, |b| b.totals.new_connections);
        },
    ),
    gauge(
        "lb_backend_state",
        &["service", "backend", "state"],
        "Always 1; the label is the state: up, down, draining, disabled, unresolved, checking or waiting.",
        |s, out| {
            for backend in s.services.iter().flat_map(|service| &service.backends) {
                out.put([&backend.service, &backend.name, &backend.state], 1);
            }
        },
    ),
    gauge("lb_backend_weight", BACKEND, "The backend's weight, 0 to 1000.", |s, out| {
        backends(s, out, |b| b.weight.into());
    }),
    gauge(
        "lb_backend_effective_weight",
        BACKEND,
        "The weight in the ring: 0 outside of it, a part of the whole while the backend starts slowly.",
        |s, out| {
            backends(s, out, |b| b.effective_weight.into());
        },
    ),
    gauge("lb_backend_slots", BACKEND, "Slots of the ring that the backend owns.", |s, out| {
        backends(s, out, |b| b.slots.into());
    }),
    gauge("lb_backend_flows", BACKEND, "Live tracked flows of the backend.", |s, out| {
        backends(s, out, |b| b.flows);
    }),
    gauge(
        "lb_backend_flows_idle",
        BACKEND,
        "Tracked flows of the backend that have sent nothing for idle_after, which neither balancing nor a drain counts.",
        |s, out| {
            backends(s, out, |b| b.flows_idle);
        },
    ),
    gauge(
        "lb_backend_learning_slots",
        BACKEND,
        "Slots whose unknown flows belong to the backend until their window ends.",
        |s, out| backends(s, out, |b| b.learning_slots.into()),
    ),
    gauge("lb_health_up", BACKEND, "1 = the health check calls the backend up.", |s, out| {
        for h in s.health {
            out.put([&h.service, &h.backend], u8::from(h.verdict == "up"));
        }
    }),
    counter(
        "lb_health_probes_total",
        BACKEND,
        "Probes that have ended, since the agent was started.",
        |s, out| {
            for h in s.health {
                out.put([&h.service, &h.backend], h.probes);
            }
        },
    ),
    counter(
        "lb_health_failures_total",
        BACKEND,
        "Probes that failed, since the agent was started.",
        |s, out| {
            for h in s.health {
                out.put([&h.service, &h.backend], h.failures);
            }
        },
    ),
    gauge("lb_health_probe_seconds", BACKEND, "How long the last probe took.", |s, out| {
        for h in s.health {
            if let Some(microseconds) = h.last_us {
                out.put([&h.service, &h.backend], microseconds as f64 / 1e6);
            }
        }
    }),
    gauge(
        "lb_backend_info",
        &["service", "backend", "address"],
        "Always 1; the label is the address that packets are sent to.",
        |s, out| {
            for backend in s.services.iter().flat_map(|service| &service.backends) {
                out.put([&backend.service, &backend.name, &backend.address], 1);
            }
        },
    ),
    counter(
        "lb_backend_transitions_total",
        BACKEND,
        "How often the state of the backend changed, since the agent was started.",
        |s, out| backends(s, out, |b| b.transitions),
    ),
];

fn backends(s: &Snapshot<'_>, out: &mut Samples<'_>, value: fn(&Backend) -> u64) {
    for backend in s.services.iter().flat_map(|service| &service.backends) {
        out.put([&backend.service, &backend.name], value(backend));
    }
}
