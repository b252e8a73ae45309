//! Every metric there is: name, kind, labels, one sentence, and where its samples come from. Names are never changed
//! once released.

use lb_common::ABI_VERSION;

use super::{Snapshot, text::Samples};
use crate::api::view::{API_VERSION, Backend, Totals};

/// A metric with all its samples.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub collect: fn(&Snapshot<'_>, &mut Samples<'_>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only, and begins again at 0 with new maps.
    Counter,
    Gauge,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    collect: fn(&Snapshot<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Counter, labels, help, collect }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    collect: fn(&Snapshot<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Gauge, labels, help, collect }
}

const SERVICE: &[&str] = &["service"];
const BACKEND: &[&str] = &["service", "backend"];

/// All of them, in the order in which they are written.
pub static FAMILIES: &[Family] = &[
    gauge(
        "lb_build_info",
        &["version", "abi_version", "api_version"],
        "Always 1; the labels say what runs.",
        |s, out| {
            out.put([&s.status.version, &ABI_VERSION.to_string(), &API_VERSION.to_string()], 1);
        },
    ),
    gauge("lb_uptime_seconds", &[], "Since the agent was started.", |s, out| {
        out.put([], s.status.uptime_seconds);
    }),
    gauge(
        "lb_adopted",
        &[],
        "1 = the agent took over the maps and the program of one before it.",
        |s, out| {
            out.put([], u8::from(s.status.adopted));
        },
    ),
    gauge(
        "lb_config_applied_timestamp_seconds",
        &[],
        "When the configuration in force was applied, seconds since 1970.",
        |s, out| out.put([], s.status.applied_at),
    ),
    gauge(
        "lb_config_last_apply_success",
        &[],
        "0 = the last configuration was refused, and the one before it is in force.",
        |s, out| out.put([], u8::from(s.status.last_error.is_none())),
    ),
    gauge(
        "lb_config_unconfirmed",
        &[],
        "1 = the configuration in force is rolled back unless it is confirmed.",
        |s, out| out.put([], u8::from(s.status.rolls_back_in.is_some())),
    ),
    gauge(
        "lb_config_fallback",
        &[],
        "1 = the file was refused at the start, and what was in force last is used.",
        |s, out| out.put([], u8::from(s.status.fallback.is_some())),
    ),
    gauge(
        "lb_pins_trouble",
        &[],
        "Pins that are gone or of another object; 0 = the next start takes over what runs.",
        |s, out| out.put([], s.status.pins_trouble),
    ),
    counter(
        "lb_pins_mended_total",
        &[],
        "Pins that another process took away and that were put back, since the agent was started.",
        |s, out| out.put([], s.status.pins_mended),
    ),
    gauge(
        "lb_management_trouble",
        &[],
        "How many of control socket, its group, lock file and scrape address are not as they should be.",
        |s, out| out.put([], s.status.management_trouble),
    ),
    counter(
        "lb_management_mended_total",
        &[],
        "How often one of control socket, its group, lock file and scrape address was mended, since the agent was started.",
        |s, out| out.put([], s.status.management_mended),
    ),
    gauge("lb_overlay_changes", &[], "Run-time changes that the file does not have.", |s, out| {
        out.put([], s.status.overlay_changes);
    }),
    gauge(
        "lb_ring_fingerprint_info",
        &["fingerprint"],
        "Always 1; the label is equal on nodes that send flows to the same backends.",
        |s, out| out.put([&s.status.fingerprint], 1),
    ),
    gauge(
        "lb_unknown_fingerprint_info",
        &["fingerprint"],
        "Always 1; the label is equal on nodes that also send flows from before a change to the same backends.",
        |s, out| out.put([&s.status.fingerprint_unknown], 1),
    ),
    gauge(
        "lb_interface_attached",
        &["interface", "mode"],
        "1 = the program is attached to the interface in this mode (native: in the driver; generic: slower, after it).",
        |s, out| {
            for interface in &s.status.interfaces {
                for mode in ["native", "generic"] {
                    out.put([&interface.name, mode], u8::from(interface.attached == mode));
                }
            }
        },
    ),
    counter(
        "lb_packets_total",
        &["verdict", "reason"],
        "Packets the programs saw, each under exactly one reason.",
        |s, out| {
            for c in s.stats.counters.iter().filter(|c| c.kind != "event") {
                out.put([&c.kind, &c.name], c.value);
            }
        },
    ),
    counter(
        "lb_packet_events_total",
        &["event"],
        "What happened on packets' way, in addition to their verdict.",
        |s, out| {
            for c in s.stats.counters.iter().filter(|c| c.kind == "event") {
                out.put([&c.name], c.value);
            }
        },
    ),
    gauge(
        "lb_egress_sends",
        &["interface"],
        "1 = the interface, which next hops leave by, sends what the program hands it, as far as is known; 0 = it does not, \
         or only in part.",
        |s, out| {
            for egress in &s.status.egress {
                out.put([&egress.name], u8::from(matches!(egress.sends.as_str(), "yes" | "unknown")));
            }
        },
    ),
    counter(
        "lb_egress_dropped_total",
        &["interface", "error"],
        "Packets that were counted as forwarded and lost behind the program; the error is the kernel's, or full (no room \
         for the rest of a bundle), or not_sent (the driver does not say why).",
        |s, out| {
            for lost in &s.stats.egress_dropped {
                out.put([&lost.interface, &lost.error], lost.frames);
            }
        },
    ),
    gauge(
        "lb_egress_losses_counted",
        &[],
        "0 = packets that are lost behind the program are not counted.",
        |s, out| out.put([], u8::from(s.status.losses_not_counted.is_none())),
    ),
    gauge(
        "lb_flows",
        &[],
        "Tracked flows: because a change made it necessary, or for track = \"always\".",
        |s, out| {
            out.put([], s.stats.flows);
        },
    ),
    gauge("lb_pending_flows", &[], "Tracked flows of which only the first SYN was seen.", |s, out| {
        out.put([], s.stats.pending_flows);
    }),
    counter(
        "lb_flows_evicted_total",
        &["map"],
        "Flows that lost their record in the full table since the maps were made. flows: more than one packet has \
         confirmed them; pending_flows: handshakes, closed flows, flows of which one packet was seen.",
        |s, out| {
            out.put(["flows"], s.stats.flows_evicted);
            out.put(["pending_flows"], s.stats.pending_flows_evicted);
        },
    ),
    counter("lb_service_packets_total", SERVICE, "Packets to the service.", |s, out| {
        services(s, out, |t| t.packets);
    }),
    counter(
        "lb_service_bytes_total",
        SERVICE,
        "Bytes to the service, from the inner IP header on.",
        |s, out| {
            services(s, out, |t| t.bytes);
        },
    ),
    counter(
        "lb_service_new_connections_total",
        SERVICE,
        "TCP segments with SYN and without ACK sent to the service: connections begun, each retransmission counted again.",
        |s, out| {
            services(s, out, |t| t.new_connections);
        },
    ),
    gauge(
        "lb_service_slots",
        &["service", "state"],
        "Slots of the service's ring: stable, learning, remembering or empty.",
        |s, out| {
            for service in s.services {
                for (state, slots) in &service.slot_states {
                    out.put([&service.name, state], slots);
                }
            }
        },
    ),
    gauge("lb_service_backends", SERVICE, "Backends the service has.", |s, out| {
        for service in &s.status.services {
            out.put([&service.name], service.backends);
        }
    }),
    gauge(
        "lb_service_backends_in_ring",
        SERVICE,
        "Backends of the service that take new flows.",
        |s, out| {
            for service in &s.status.services {
                out.put([&service.name], service.backends_in_ring);
            }
        },
    ),
    gauge(
        "lb_service_health_ignored",
        SERVICE,
        "1 = fewer backends than min_healthy are healthy, so that health is ignored.",
        |s, out| {
            for service in s.services {
                out.put([&service.name], u8::from(service.health_ignored.is_some()));
            }
        },
    ),
    counter(
        "lb_service_health_ignored_total",
        SERVICE,
        "How often health began to be ignored, since the agent was started.",
        |s, out| {
            for service in s.services {
                out.put([&service.name], service.health_ignored_times);
            }
        },
    ),
    gauge(
        "lb_service_correlated_failure",
        SERVICE,
        "1 = so many backends failed at once that their failing checks are not believed.",
        |s, out| {
            for service in s.services {
                out.put([&service.name], u8::from(service.correlated_failure.is_some()));
            }
        },
    ),
    counter(
        "lb_service_correlated_failures_total",
        SERVICE,
        "How often a correlated failure began, since the agent was started.",
        |s, out| {
            for service in s.services {
                out.put([&service.name], service.correlated_failures);
            }
        },
    ),
    gauge(
        "lb_service_checks_late_seconds",
        SERVICE,
        "How late health checks begin; 0 = in time.",
        |s, out| {
            for service in &s.status.services {
                out.put([&service.name], service.checks_late_ms as f64 / 1e3);
            }
        },
    ),
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
    gauge("lb_map_entries", &["map"], "Entries in use; the label is the setting in [limits].", |s, out| {
        for limit in &s.status.limits {
            out.put([&limit.name], limit.used);
        }
    }),
    gauge(
        "lb_map_size",
        &["map"],
        "Entries there is room for; the label is the setting in [limits].",
        |s, out| {
            for limit in &s.status.limits {
                out.put([&limit.name], limit.size);
            }
        },
    ),
    gauge("lb_map_memory_bytes", &[], "Memory that the kernel accounts for the maps.", |s, out| {
        out.put([], s.status.map_memory);
    }),
    gauge(
        "lb_map_limit_memory_bytes",
        &["map"],
        "Memory of the maps that a setting in [limits] gives its size; the label is the setting.",
        |s, out| {
            for limit in &s.status.limits {
                out.put([&limit.name], limit.bytes);
            }
        },
    ),
];

fn services(s: &Snapshot<'_>, out: &mut Samples<'_>, value: fn(&Totals) -> u64) {
    for service in s.services {
        out.put([&service.name], value(&service.totals));
    }
}

fn backends(s: &Snapshot<'_>, out: &mut Samples<'_>, value: fn(&Backend) -> u64) {
    for backend in s.services.iter().flat_map(|service| &service.backends) {
        out.put([&backend.service, &backend.name], value(backend));
    }
}
