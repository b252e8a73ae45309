//! Every reason why a packet was forwarded, passed or dropped, and every event that is counted in addition to it: one
//! table, from which the kernel half, the agent, `lbctl`, the metrics and the documentation take their names.

/// What a counter says of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Sent to a backend, or decapsulated for the host.
    Forwarded,
    /// Left to the host's own stack, untouched.
    Passed,
    /// Dropped.
    Dropped,
    /// A packet of our own goes back out of the interface that the packet came in on.
    Answered,
    /// Counted in addition to the verdict: something that happened on the packet's way.
    Event,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Passed => "passed",
            Self::Dropped => "dropped",
            Self::Answered => "answered",
            Self::Event => "event",
        }
    }
}

/// Counters that the `COUNTERS` map has room for. A counter more, as long as there is room, is not a new layout of the map:
/// programs and agents of different age use the same map, and each leaves the counters that it does not know as they are.
pub const ROOM: u32 = 128;

/// Entries of the `COUNTERS` map: what packets count in, and, [`ROOM`] entries further, what was counted in a map that this
/// one has replaced. Packets never write the second part, so the agent can write it while packets count.
pub const ENTRIES: u32 = 2 * ROOM;

const _: () = assert!(Counter::COUNT <= ROOM, "there is no room for another counter");

macro_rules! counters {
    ($($variant:ident = $kind:ident $name:literal $text:literal,)+) => {
        /// A counter; its number is its place in the `COUNTERS` map, in every version. For each packet that one of our programs sees,
        /// exactly one counter that is not a [`Kind::Event`] goes up.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Counter {
            $(#[doc = $text] $variant,)+
        }

        impl Counter {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The entry of the `COUNTERS` map with what maps before this one had counted.
            pub const fn carried(self) -> u32 {
                self as u32 + ROOM
            }

            #[inline(always)]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)+ }
            }

            /// The name, everywhere: `snake_case`, never changed once released.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for people.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

counters! {
    ForwardedTx = Forwarded "forwarded_tx" "Encapsulated and sent out of the interface it came in on.",
    ForwardedRedirect = Forwarded "forwarded_redirect" "Encapsulated and redirected to another interface.",
    PassedNotIp = Passed "passed_not_ip" "Neither IPv4 nor IPv6 in a plain Ethernet frame (ARP, VLAN tags and others).",
    PassedOtherProtocol = Passed "passed_other_protocol" "IP, but neither TCP nor UDP, and no ICMP that we answer or steer.",
    PassedNotService = Passed "passed_not_service" "TCP, UDP or a fragment for an address that is neither a service's nor this host's.",
    PassedMalformed = Passed "passed_malformed" "The IP header is cut short or wrong, so no service can be found.",
    PassedRoutingHeader = Passed "passed_routing_header" "An IPv6 routing header with segments left: the destination is not final.",
    PassedNotReady = Passed "passed_not_ready" "The agent has not configured the program yet.",
    Fragment = Dropped "fragment" "A fragment of a packet to a service: its ports are unknown.",
    Truncated = Dropped "truncated" "To a service, but the TCP or UDP header is cut short.",
    BadLength = Dropped "bad_length" "To a service, but a length field contradicts the packet.",
    ExtensionHeaders = Dropped "extension_headers" "To a service, but behind more IPv6 extension headers than we read.",
    NoBackend = Dropped "no_backend" "The service has no usable backend.",
    NoNextHop = Dropped "no_next_hop" "The backend's next hop is not known.",
    TooBig = Dropped "too_big" "With its outer header the packet exceeds the MTU towards the backend.",
    NoHeadroom = Dropped "no_headroom" "The driver left no room in front of the packet for the outer header.",
    NoEgress = Dropped "no_egress" "The egress interface is not in the device map.",
    TrackedHit = Event "tracked_hit" "In a tracked slot, and the flow was recorded.",
    TrackedPrevious = Event "tracked_previous" "In a tracked slot, unknown, served by the slot's previous owner.",
    TrackedCurrent = Event "tracked_current" "In a tracked slot, unknown, served by the slot's current owner.",
    FlowPending = Event "flow_pending" "A new flow was recorded as unconfirmed.",
    FlowInserted = Event "flow_inserted" "A flow was recorded, or moved over from the unconfirmed ones.",
    FlowInsertFailed = Event "flow_insert_failed" "A flow could not be recorded: the table refused it.",
    Decapsulated = Forwarded "decapsulated" "The outer header was taken off and the packet given to the host.",
    PassedNotTunnel = Passed "passed_not_tunnel" "Not a tunnelled packet of a kind that is decapsulated at its address.",
    DecapMalformed = Dropped "decap_malformed" "Tunnelled, but a length lies, or the inner header is cut short or contradicts the protocol.",
    DecapEcn = Dropped "decap_ecn" "Outer header says congestion experienced, inner one cannot carry it (RFC 6040, 4.2).",
    TrackedBalanced = Event "tracked_balanced" "In a tracked slot, a new flow, served by the backend that the service's balancing chose.",
    Merged = Dropped "merged" "Longer than the interface it came in on takes, and than the MTU towards the backend or the packet's length field: several packets merged into one (GRO, LRO, TSO, BIG TCP).",
    PassedHost = Passed "passed_host" "TCP, UDP or a fragment for an address of this host, and for no service of ours.",
    PassedUnserved = Passed "passed_unserved" "For the address of a service, but no service takes it (ICMP left out).",
    Unserved = Dropped "unserved" "The same, and `node.unserved` says to drop it.",
    MartianSource = Dropped "martian_source" "To a service, from an address that no client has: the packet's own destination, this network, loopback, multicast, reserved, mapped; or a datagram from an address and port of a UDP service here.",
    FlowEvicted = Event "flow_evicted" "The flow table was full, and a flow that more than one packet has confirmed lost its record.",
    FlowEvictedUnproven = Event "flow_evicted_unproven" "The flow table was full, and a handshake, a closed flow or a flow of which one packet was seen lost its record.",
    Echo = Answered "echo" "An echo request (ping) to the address of a service, and we sent the reply.",
    EchoUnanswered = Dropped "echo_unanswered" "An echo request (ping) to the address of a service, and `node.ping` says to send no reply.",
    PacketTooBig = Answered "packet_too_big" "Too big for the way to its backend, and its sender got an answer that says how large a packet may be.",
    IcmpQuote = Dropped "icmp_quote" "An ICMP error to the address of a service that quotes no packet of that service: forged, cut short, or of a later fragment.",
    IcmpSteered = Event "icmp_steered" "An ICMP error went to the backend of the flow that it quotes.",
    IcmpGuessed = Event "icmp_guessed" "The same, and the flow was unknown to a service that does not balance by hash alone: another backend may have it.",
    TooBigMayFragment = Event "too_big_may_fragment" "Too big, without don't-fragment (IPv4): its sender gets no answer, and only a larger MTU towards the backend helps.",
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counters by their numbers, as they are in maps that may be pinned on some host: an agent finds each count by its
    /// number. A new counter gets a line at the end; no line is ever moved, removed or renamed.
    const RELEASED: &[&str] = &[
        "forwarded_tx",
        "forwarded_redirect",
        "passed_not_ip",
        "passed_other_protocol",
        "passed_not_service",
        "passed_malformed",
        "passed_routing_header",
        "passed_not_ready",
        "fragment",
        "truncated",
        "bad_length",
        "extension_headers",
        "no_backend",
        "no_next_hop",
        "too_big",
        "no_headroom",
        "no_egress",
        "tracked_hit",
        "tracked_previous",
        "tracked_current",
        "flow_pending",
        "flow_inserted",
        "flow_insert_failed",
        "decapsulated",
        "passed_not_tunnel",
        "decap_malformed",
        "decap_ecn",
        "tracked_balanced",
        "merged",
        "passed_host",
        "passed_unserved",
        "unserved",
        "martian_source",
        "flow_evicted",
        "flow_evicted_unproven",
        "echo",
        "echo_unanswered",
        "packet_too_big",
        "icmp_quote",
        "icmp_steered",
        "icmp_guessed",
        "too_big_may_fragment",
    ];

    #[test]
    fn the_number_of_a_counter_never_changes() {
        let names: Vec<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        assert_eq!(names, RELEASED, "only a line at the end may differ, and belongs into the list then");
    }

    #[test]
    fn names_are_unique_snake_case_and_numbers_are_places() {
        for (i, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, i);
            let name = counter.name();
            assert!(
                name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit()),
                "{name}"
            );
            assert!(Counter::ALL[..i].iter().all(|c| c.name() != name), "{name} twice");
            assert!(counter.description().ends_with('.'), "{name}");
        }
    }
}
