//! `[node]`: the settings of the node as a whole.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

#[cfg(test)]
use proptest::prelude::*;

use super::{AttachMode, Ping, Source, TooBig, Unserved};
use crate::config::{
    settings::{
        Form, REQUIRED, settings,
        values::{Own, array, booleans, maybe, numbers, quoted, text, words},
    },
    value,
};

/// The default of `node.state_directory`.
pub(in crate::config) const DEFAULT_STATE: &str = "/var/lib/lb";

settings! {
    /// Settings of the node as a whole.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Node;

    table NODE = "[node]", "What holds for the node as a whole.";

    parts {
        /// Interfaces that receive packets for services; at least one.
        interfaces: Vec<String> = Vec::new(),
        /// Shared by every node of one site: same seed, same rings.
        seed: String = String::new(),
    }

    "interface" {
        takes: "string or array of strings",
        default: REQUIRED,
        about: "Interfaces on which packets for services come in. The program is attached to each of them.",
        show: |node| Some(array(node.interfaces.iter().map(quoted))),
    }

    "seed" {
        takes: "string",
        default: REQUIRED,
        about: "Any string of 1 to 255 bytes, the same on every node of a site: same seed, same rings, so that a flow that \
             moves to another node stays at its backend. Keep it to yourself: who knows it can aim flows at one backend. \
             `openssl rand -hex 16` makes a good one.",
        show: |node| Some(quoted(&node.seed)),
    }

    "mode" (mode: AttachMode = AttachMode::Auto) {
        values: words(),
        about: "How the program is attached. `auto`: in the driver where it can, else in the kernel's generic path, which is \
             said in the log and in `lbctl status`.",
    }

    "unserved" (
        /// What happens to packets for a virtual address that no service takes (another port or protocol).
        unserved: Unserved = Unserved::Pass
    ) {
        values: words(),
        about: "Packets for the address of a service that no service takes (another port, another protocol). `pass` leaves them \
             to the host: on one that forwards packets and has no route for the address they go back to the router, and \
             round and round until their TTL is used up; see install.md for the route that ends them. `drop` ends them here, \
             counted as `unserved`, and with them whatever the host itself offers or asks from that address. ICMP passes \
             in any case.",
    }

    "ping" (
        /// What happens to echo requests for addresses of services.
        ping: Ping = Ping::Answer
    ) {
        values: words(),
        about: "Echo requests (ping) to the address of a service. `answer`: the packet program replies, counted as `echo`. \
             `healthy`: it replies while a service of the address has a backend that is up, else the request is dropped as \
             `echo_unanswered`. `host`: the host gets the request, and replies where the address is its own. `drop`: no \
             one replies. A request with IP options or in fragments is the host's.",
    }

    "too_big" (
        /// What happens to packets that are too big for the way to their backend.
        too_big: TooBig = TooBig::Answer
    ) {
        values: words(),
        about: "A packet that is too big for the way to its backend. `answer` tells its sender how large a packet may be (ICMP \
             *fragmentation needed*, ICMPv6 *packet too big*, from the address of the service), counted as `packet_too_big`: \
             senders that ask for the path's MTU need nothing else. `drop` drops it, counted as `too_big`. In both cases a \
             packet is dropped without an answer that may be cut in pieces (IPv4 without don't-fragment), an IPv6 packet whose \
             way takes less than 1,280 bytes, and what is above 1,000 answers a second on each processor.",
    }

    "source" (
        /// Outer IPv4 source; `None` = the source address of the kernel's route to the backend.
        source_v4: Option<Source<Ipv4Addr>> = None
    ) {
        values: maybe(Own {
            takes: "IPv4 address or prefix".to_owned(),
            form: Form::Text("ADDRESS"),
            parse: value::source_v4,
            show: |source| Some(quoted(source)),
            #[cfg(test)]
            any: || {
                let source = |(bits, spread_bits): (u32, u8)| {
                    let address = (11 << 24 | bits & 0x00ff_ffff) & (u32::MAX << spread_bits);
                    Source { address: Ipv4Addr::from_bits(address), spread_bits }
                };
                (any::<u32>(), 0u8..=24).prop_map(source).boxed()
            },
        }),
        about: "Outer source address towards IPv4 backends. With a prefix (`/8` to `/31`) the flow hash fills in the low bits, \
             so that the receive queues of a backend share the load. Without it: the source address of the kernel's route.",
    }

    "source6" (
        /// Outer IPv6 source; `None` = the source address of the kernel's route to the backend.
        source_v6: Option<Source<Ipv6Addr>> = None
    ) {
        values: maybe(Own {
            takes: "IPv6 address or prefix".to_owned(),
            form: Form::Text("ADDRESS"),
            parse: value::source_v6,
            show: |source| Some(quoted(source)),
            #[cfg(test)]
            any: || {
                let address = Ipv6Addr::from_bits((0x2001_0db9 << 96) | (1 << 40));
                (0u8..=32).prop_map(move |spread_bits| Source { address, spread_bits }).boxed()
            },
        }),
        about: "The same towards IPv6 backends, prefixes `/96` to `/127`.",
    }

    "health_concurrency" (
        /// The most probes that are in flight at once, over all services.
        health_concurrency: usize = 65_536
    ) {
        values: numbers(1..=65_536),
        about: "Health probes in flight at once, over all services, as far as the limit of open files allows. By default every \
             backend can be asked at once, so that silent ones hold up no other check. Where fewer are allowed services take \
             turns, and a quarter of the places is for those that hold less than an equal share.",
    }

    "socket_group" (
        /// Group that may use the control socket; `None` = root's group only.
        socket_group: Option<String> = None
    ) {
        values: maybe(text("GROUP", |node| value::text(node, 255), "[a-z]{1,8}")),
        about: "Group whose members may use the control socket, as root may. It must be there.",
    }

    "state_directory" (
        /// The directory for the overlay of run-time changes.
        state_directory: PathBuf = PathBuf::from(DEFAULT_STATE)
    ) {
        values: Own {
            takes: "absolute path".to_owned(),
            form: Form::Text("PATH"),
            parse: value::absolute_path,
            show: |path| Some(quoted(path.display())),
            #[cfg(test)]
            any: || "/[a-z/ \"]{0,20}".prop_map(PathBuf::from).boxed(),
        },
        about: "Where changes made at run time are kept, in `<instance>.overlay.json`. Refused where it cannot be written, or \
             where every user may write in it. It is changed by the file only, never over the control socket.",
    }

    "metrics" (
        /// TCP address at which metrics are served too; `None` = on the control socket only.
        metrics: Option<SocketAddr> = None
    ) {
        values: maybe(Own {
            takes: "address:port".to_owned(),
            form: Form::Text("ADDRESS:PORT"),
            parse: value::socket_address,
            show: |address| Some(quoted(address)),
            #[cfg(test)]
            any: || any::<u16>().prop_map(|port| (Ipv6Addr::LOCALHOST, port).into()).boxed(),
        }),
        about: "TCP address at which metrics are served (`/metrics`), and whether the node works (`/healthz`, `/readyz`), for \
             example `\"127.0.0.1:9477\"`. Without it they are on the control socket only. The host must have the address, and no other process may listen there.",
    }

    "metrics_of_backends" (
        /// Whether a scrape that names no scope gets the series of backends.
        metrics_of_backends: bool = true
    ) {
        values: booleans(),
        about: "`false` leaves the series of each backend out of the metrics, about fifteen for each; those of services and of the \
             node stay. A scrape that asks for them (`?scope=backend`) gets them all the same.",
    }
}
