//! Metrics of the node and of the agent.

use lb_common::ABI_VERSION;

use super::{Family, counter, gauge, histogram};
use crate::api::{
    attention::{self, Level},
    view::API_VERSION,
};

pub(super) static FAMILIES: &[Family] = &[
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
    histogram(
        "lb_apply_duration_seconds",
        &[],
        "How long it took to write changes into the maps, since the agent was started; what packets notice of it is nothing.",
        |s, out| out.put_durations([], &s.status.applies),
    ),
    gauge(
        "lb_needs_attention",
        &["level"],
        "How many things of the node need attention, services apart; broken = packets are lost or do not come to the program.",
        |s, out| {
            let found = attention::of_node(s.status);
            for (name, level) in [("broken", Level::Broken), ("worse", Level::Worse)] {
                out.put([name], found.iter().filter(|attention| attention.level == level).count());
            }
        },
    ),
    counter("process_cpu_seconds_total", &[], "Processor time of the agent, user and kernel.", |s, out| {
        out.put([], s.status.process.cpu_seconds);
    }),
    gauge("process_resident_memory_bytes", &[], "Resident memory of the agent.", |s, out| {
        out.put([], s.status.process.resident_bytes);
    }),
    gauge("process_virtual_memory_bytes", &[], "Virtual memory of the agent.", |s, out| {
        out.put([], s.status.process.virtual_bytes);
    }),
    gauge("process_open_fds", &[], "File descriptors that the agent has open.", |s, out| {
        out.put([], s.status.process.open_files);
    }),
    gauge("process_max_fds", &[], "The most it may have open.", |s, out| {
        out.put([], s.status.process.most_files);
    }),
    gauge("process_threads", &[], "Threads of the agent.", |s, out| {
        out.put([], s.status.process.threads);
    }),
    gauge("process_start_time_seconds", &[], "When the agent was started, seconds since 1970.", |s, out| {
        out.put([], s.status.process.start_time);
    }),
];
