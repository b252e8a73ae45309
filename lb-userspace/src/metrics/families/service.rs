//! Metrics of services.

use super::{Family, SERVICE, counter, gauge, histogram};
use crate::{
    api::view::Totals,
    metrics::{Snapshot, text::Samples},
};

pub(super) static FAMILIES: &[Family] = &[
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
    gauge(
        "lb_service_info",
        &["service", "listen", "encapsulation"],
        "Always 1; the labels say where the service listens, and how its packets go to backends.",
        |s, out| {
            for service in s.services {
                out.put([&service.name, &service.listen, &service.encapsulation], 1);
            }
        },
    ),
    histogram(
        "lb_health_check_duration_seconds",
        SERVICE,
        "How long health checks of the service took, successful or not, since the agent was started.",
        |s, out| {
            for service in s.services {
                if let Some(checks) = &service.check_durations {
                    out.put_durations([&service.name], checks);
                }
            }
        },
    ),
];

fn services(s: &Snapshot<'_>, out: &mut Samples<'_>, value: fn(&Totals) -> u64) {
    for service in s.services {
        out.put([&service.name], value(&service.totals));
    }
}
