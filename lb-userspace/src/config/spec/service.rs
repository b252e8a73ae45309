//! `[[service]]`: the settings of a service.

use std::{net::Ipv4Addr, time::Duration};

use lb_common::ring::MAX_BACKENDS;
#[cfg(test)]
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{
    AllDown, Backend, Balance, Encapsulation, Hash, Health, Hold, Listen, MinHealthy, Planned, Protocol,
    Track,
    hold::{self, OnDown},
};
use crate::{
    config::{
        reader::Reader,
        settings::{
            Form, NOTHING, REQUIRED, settings,
            values::{Own, Values as _, durations, maybe, quoted, words},
        },
        value,
        value_tree::{Data, Node, quote},
        words,
    },
    ring::Builder,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Linux sends the first keepalive of a silent connection after two hours (`tcp_keepalive_time`), and nine of them 75 s apart:
/// 131.25 minutes until it gives the connection up.
const TRACK_WINDOW: Duration = Duration::from_secs(135 * 60);
const UDP_IDLE: Duration = Duration::from_secs(120);
/// The clock in the slot words wraps after three times this time ([`lb_common::slot::SINCE_STEP`]).
const LONGEST_WINDOW: Duration = Duration::from_secs(24 * 3600);

settings! {
    #[derive(Clone, Debug, PartialEq)]
    pub struct Service;

    table SERVICE = "[[service]]", "One virtual address, protocol and port.";

    parts {
        name: String = String::new(),
        listen: Listen = Listen { protocol: Protocol::Tcp, address: Ipv4Addr::UNSPECIFIED.into(), port: 0 },
        /// How long the record of a silent flow is kept after a change: `track_window` for TCP, `udp_idle` for UDP.
        window: Duration = TRACK_WINDOW,
        /// `None` = backends are not probed and count as up.
        health: Option<Health> = None,
        /// Sorted by name; names are unique within the service.
        backends: Vec<Backend> = Vec::new(),
    }

    "name" {
        takes: "string",
        default: REQUIRED,
        about: "1 to 63 of the characters `A-Z a-z 0-9 . _ -`, the first no `.` or `-`. Unique.",
        show: |service| Some(quoted(&service.name)),
    }

    "listen" {
        takes: "string",
        default: REQUIRED,
        about: "Protocol, virtual address and port: `\"tcp/203.0.113.10:443\"`, `\"udp/[2001:db8::10]:53\"`. Port 0 is every \
             port of that address and protocol which no other service has. An address that this host itself speaks from is \
             refused: the service would take what is meant for the host.",
        show: |service| Some(quoted(service.listen)),
    }

    "encapsulation" (encapsulation: Encapsulation = Encapsulation::Auto) {
        values: words(),
        about: "How packets travel to the backends: `ipip` IPv4 in IPv4, `ip6ip6` IPv6 in IPv6, `ip6ip` IPv6 in IPv4, `ipip6` \
             IPv4 in IPv6; these refuse backends of the other family. `auto` takes the one that the families of `listen` and each \
             backend's `address` ask for. `l2` puts nothing in front and sends to the backend's Ethernet address, whatever the \
             families: each backend must be on a network of this host, or it is `unresolved`. `gue` is IP in UDP to port \
             6080, any family in any, for networks that spread packets by their ports or that drop IP in IP.",
        lbctl: "How packets travel to the backends",
    }

    "dscp" (
        /// The DSCP of the outer header, 0 to 63; `None` = that of the packet.
        dscp: Option<u8> = None
    ) {
        values: Own {
            takes: "\"copy\", or 0 to 63".to_owned(),
            form: Form::NumberOrText("copy|N"),
            parse: dscp,
            show: |dscp| dscp.map(|dscp| dscp.to_string()),
            #[cfg(test)]
            any: || prop::option::of(0u8..=63).boxed(),
        },
        about: "The DSCP of the outer header, by which the network between here and the backends tells urgent packets from others. \
             `copy`: that of the packet. A number: this one, whatever a client writes into its packets, for networks that act on it; \
             46 is EF. ECN is copied in any case, and the packet inside stays as it is. Not with `encapsulation = \"l2\"`. Can be set \
             at any time.",
        lbctl: "DSCP of the outer header: copy for that of the packet, or 0 to 63",
        default: "\"copy\"",
        read: |reader, service| {
            service.dscp = reader.or("dscp", dscp, None);
            let encapsulation = reader.get("encapsulation").and_then(|node| value::word(node).ok());
            if let (Some(dscp), Some(Encapsulation::L2)) = (service.dscp, encapsulation) {
                let message = format!(
                    "dscp {dscp} has no place: encapsulation \"l2\" puts no outer header in front; leave dscp out"
                );
                reader.wrong(reader.place("dscp"), message);
            }
        },
    }

    "max_backends" (
        /// The number of backends that the ring is sized for.
        max_backends: Planned = Planned::by_default(0)
    ) {
        values: Own {
            takes: format!("1 to {MAX_BACKENDS}"),
            form: Form::Number { name: "N", most: u32::MAX },
            parse: |node| value::number(node, 1..=MAX_BACKENDS).map(Planned::For),
            show: |planned| planned.said().map(|backends| backends.to_string()),
            #[cfg(test)]
            any: || {
                prop_oneof![(5..=MAX_BACKENDS).prop_map(Planned::For), Just(Planned::by_default(0))].boxed()
            },
        },
        about: "How many backends the service is planned for; decides the length of its ring. By default four times as many as the \
             configuration has, at least 16 (above 655 backends less room, above 2,621 none but what the length leaves), whatever \
             their state is: up to 5 backends get 2039 slots, up to 10 get \
             4093, up to 20 get 8191, and so on. A backend more or less may so change the length. Any change of the length makes every \
             slot remember flows for a while and cuts no connection; the next one waits until that is over. Set it where the number \
             of backends goes up and down all the time, or where nodes that share flows get their backends at different times: \
             nodes with rings of different lengths send many flows to different backends.",
        lbctl: "How many backends the ring is planned for; without it, four times those that it has",
        default: "by the number of backends",
        read: |reader, service| {
            let given = reader.optional("max_backends", |node| value::number(node, 1..=MAX_BACKENDS));
            service.max_backends = given.map_or_else(|| Planned::by_default(backends(reader)), Planned::For);
        },
    }

    "hold" (hold: Hold = Hold::For(hold::DEFAULT)) {
        values: Own {
            takes: "duration, 0s to 24h, or \"forever\"".to_owned(),
            form: Form::Text("DURATION|forever"),
            parse: value::hold,
            show: |hold| Some(quoted(hold)),
            #[cfg(test)]
            any: || {
                let times = durations(Duration::ZERO..=LONGEST_WINDOW).any();
                prop_oneof![times.prop_map(Hold::For), Just(Hold::Forever)].boxed()
            },
        },
        about: "How long the established flows of a backend that is down stay there before they go to another backend, which resets \
             them. New flows leave it at once in any case. A failure that is shorter than that, as checks see it, cuts no \
             connection; a backend that is really gone leaves its clients without an answer for so much longer. `0s`: \
             its flows go at once; for clients that begin again at once and must not wait. Longer: for connections that are dear and \
             backends that stall. `forever`: they stay until the client gives up. At most `track_window` or \
             `udp_idle`; the default is cut to it.",
        lbctl: "How long established flows stay at a backend that is down, as in 3s, or forever",
        read: |reader, service| {
            let protocol = listen(reader).map(|listen| listen.protocol);
            service.hold = hold::read(reader, protocol, window(reader, protocol));
        },
    }

    "on_down" {
        takes: words::<OnDown>().takes().leak(),
        default: NOTHING,
        about: "What `hold` was called before: `move` is `hold = \"0s\"`, `hold` is `hold = \"forever\"`. Not together with `hold`.",
        lbctl: "What --hold was called before: move is 0s, hold is forever" => words::<OnDown>().form(),
    }

    "all_down" (all_down: AllDown = AllDown::Keep) {
        values: words(),
        about: "What happens when no backend passes its check. `keep`: those that were in the ring stay there and go on taking \
             flows, since that all are gone is less likely than that the checks are wrong. `drop`: new flows are dropped as \
             `no_backend`; for services that announce elsewhere that they are out.",
        lbctl: "What happens when no backend passes its check: the ring stays, or new flows are dropped",
    }

    "handover" (
        /// How long backends that were removed from the configuration still serve while no backend of the configuration is known
        /// to work.
        handover: Duration = Duration::from_secs(30)
    ) {
        values: durations(Duration::ZERO..=HOUR),
        about: "How long backends that a new configuration no longer names serve on, while none of those it names is known to work: \
             until one passes its check, and not longer than this. `0s`: not at all.",
        lbctl: "How long backends that are no longer named serve on while no other one works, as in 30s",
    }

    "track" (track: Track = Track::OnChange) {
        values: words(),
        about: "Which flows are recorded, so that they stay at their backend. `on-change`: those of slots that changed \
             owner, for as long as it takes; all others cost no memory. `always`: all, at the price of a table look-up for \
             every packet; also keeps flows apart from what other nodes or a full table would say. `never`: none; a change of \
             backends moves the flows of the slots that change owner, so it is for services whose clients do not mind. Can be \
             set at any time and moves no flow by itself.",
        lbctl: "Which flows are tracked",
    }

    "hash" (hash: Hash = Hash::FiveTuple) {
        values: Own {
            takes: "\"five-tuple\", \"source\" or \"source/BITS\"".to_owned(),
            form: Form::Text("five-tuple|source[/BITS]"),
            parse: |node| value::hash(node, 128),
            show: |hash| Some(quoted(hash)),
            #[cfg(test)]
            any: || (0u32..=128).prop_map(Hash::of_source_bits).boxed(),
        },
        about: "What chooses the slot of a packet, and with it the backend of a new flow. `five-tuple`: addresses, ports and protocol, \
             so that flows spread as evenly as the ring; for nearly every service. `source`: the client's address alone, so that \
             all flows of a client go to one backend, also those to other services whose backends have the same names, \
             weights and `max_backends`; for backends that keep something of a client from one connection to the next. A \
             client that sends much, or many clients behind one address, are then one backend's alone. `source/24`: the same \
             for networks of clients, by that many leading bits of the address (1 to 32, with IPv6 to 128). Changing it \
             makes every slot learn, as `max_backends` does, and cuts no connection; a second change of either waits until that is over.",
        lbctl: "What chooses the slot of a packet: five-tuple, source, or source/24 for networks of clients",
        read: |reader, service| {
            let longest = if listen(reader).is_some_and(|listen| listen.address.is_ipv4()) { 32 } else { 128 };
            service.hash = reader.or("hash", |node| value::hash(node, longest), service.hash);
        },
    }

    "balance" (
        /// Other than [`Balance::Hash`] only with [`Track::Always`] and [`Hash::FiveTuple`].
        balance: Balance = Balance::Hash
    ) {
        values: words(),
        about: "How a new flow finds its backend. `hash`: by its slot; for nearly every service, costs no memory, and every node sends \
             a flow to the same backend. The others need `track = \"always\"`, since a flow is found again by its record alone: \
             they cost a table look-up for every packet, a flow that moves to another node, is evicted from a full table \
             or is silent for longer than `track_window` is cut, and a flood of SYNs hurts handshakes. `round-robin`: by turns, each \
             backend as often as its weight says, evenly interleaved; each CPU takes turns by itself. For few flows that are \
             much alike, where a hash would spread them by chance only. `random`: any backend, by weight. For new flows \
             that no client must be able to aim. `least-connections`: of two different backends, the first of them drawn by \
             weight, the one with fewer \
             live flows for its weight; one that fails its check (and is in the ring because of `min_healthy`) or is leaving only \
             if the other one is no better. For flows that last long and differ much in length. Flows count from their second \
             packet on (UDP: from the first) until the client closes them, they are idle (`idle_after`) or expire; each node \
             counts its own. Can be set at any time and moves no flow by itself.",
        lbctl: "How a new flow finds its backend; all but hash need --track always",
    }

    "ring" (
        /// How the slots are assigned to backends.
        ring: Builder = Builder::Maglev
    ) {
        values: words(),
        about: "How slots are assigned to the backends, unless `balance` is `round-robin` or `least-connections`. `maglev`: shares as exact as the ring allows; a change of backends also moves \
             a few slots between others. `rendezvous`: such slots stay where they are, and shares are as uneven as chance \
             (about 10 % at 100 slots a backend). The same on every node of a site. Changing it moves most slots, \
             and leaves established connections where they are, as any change does.",
        lbctl: "Ring algorithm: how slots are assigned to the backends",
    }

    "slow_start" (
        /// The time in which the weight of a backend that is new or up again grows to its full value; `None` = at once.
        slow_start: Option<Duration> = None
    ) {
        // Below 1 s its five steps are no different from one jump; above an hour the setting was probably forgotten.
        values: maybe(durations(SECOND..=HOUR)),
        about: "How long a new or recovered backend takes to reach its whole weight: a fifth at once, another fifth \
             after each quarter of the time, the whole at its end; for backends \
             that have to warm up. Backends that the agent finds when it starts have their whole weight at once.",
        lbctl: "How long a new or recovered backend takes to reach its whole weight, as in 30s",
    }

    "min_healthy" (
        /// With fewer healthy backends than this, health is ignored; `None` = health is never ignored.
        min_healthy: Option<MinHealthy> = None
    ) {
        values: maybe(Own {
            takes: format!("1 to {MAX_BACKENDS}, or \"1%\" to \"100%\""),
            form: Form::NumberOrText("N|N%"),
            parse: value::min_healthy,
            show: |least| {
                Some(match least {
                    MinHealthy::Count(count) => count.to_string(),
                    MinHealthy::Percent(_) => quoted(least),
                })
            },
            #[cfg(test)]
            any: || {
                let count = (1..=MAX_BACKENDS).prop_map(MinHealthy::Count);
                prop_oneof![count, (1u8..=100).prop_map(MinHealthy::Percent)].boxed()
            },
        }),
        about: "With fewer backends than that up, health is ignored and all enabled backends take flows: then it is more likely \
             that the checks are wrong, or that the rest would be overrun. Of draining and disabled backends nothing is \
             expected, nor of one that was added to others and waits for its first verdict.",
        lbctl: "With fewer backends up than that, health is ignored; a number, or a share as in 30%",
    }

    "track_window" {
        takes: durations(SECOND..=LONGEST_WINDOW).takes().leak(),
        default: durations(SECOND..=LONGEST_WINDOW).default(&TRACK_WINDOW).leak(),
        about: "TCP only: how long after a change of backends a silent flow is still remembered. The default covers the keep-alive \
             of Linux, which asks a silent connection after two hours.",
        lbctl: "TCP: how long a silent flow is remembered after a change, as in 1h" => Form::Text("DURATION"),
        read: |reader, service| read_window(reader, Protocol::Tcp, service),
        show: |service| show_window(service, Protocol::Tcp),
    }

    "udp_idle" {
        takes: durations(SECOND..=LONGEST_WINDOW).takes().leak(),
        default: durations(SECOND..=LONGEST_WINDOW).default(&UDP_IDLE).leak(),
        about: "UDP only: how long after a change of backends a silent flow is still remembered.",
        lbctl: "UDP: how long a silent flow is remembered after a change, as in 2m" => Form::Text("DURATION"),
        read: |reader, service| read_window(reader, Protocol::Udp, service),
        show: |service| show_window(service, Protocol::Udp),
    }

    "idle_after" (
        /// A flow that has sent nothing for this time counts neither for balancing nor for a drain.
        idle_after: Duration = Duration::from_secs(300)
    ) {
        values: durations(SECOND..=LONGEST_WINDOW),
        about: "After which silence of its client a recorded flow counts as idle. An idle flow is routed as before, but \
             `balance = \"least-connections\"`, `lbctl backend drain --wait` and the number of live flows leave it out, until it \
             sends something again. What a *server* resets or forgets is such a flow: its answers do not come through the \
             balancer, which cannot see that it has ended. Set it longer than the pauses of connections that a drain must wait for.",
        lbctl: "After which silence of its client a flow counts for neither balancing nor a drain, as in 5m",
    }

    "health" {
        takes: "table, true or false",
        default: NOTHING,
        about: "The health check of the backends, see below. `true` or left out: a check by the defaults. `false`: none, \
             backends count as up.",
    }

    "backend" {
        takes: "array of tables",
        default: NOTHING,
        about: "The backends.",
    }
}

impl Service {
    /// Every setting that has a value, as a request has it; health and backends are none.
    pub fn settings(&self) -> Map<String, Value> {
        SERVICE.json(self)
    }
}

#[cfg(test)]
impl Service {
    /// Settings that contradict others give way.
    pub(in crate::config) fn by_the_rules(self) -> Self {
        let by_hash = self.balance == Balance::Hash;
        let longest = if self.listen.address.is_ipv4() { 32 } else { 128 };
        Self {
            hold: match self.hold {
                Hold::For(time) => Hold::For(time.min(self.window)),
                Hold::Forever => Hold::Forever,
            },
            dscp: self.dscp.filter(|_| self.encapsulation != Encapsulation::L2),
            track: if by_hash { self.track } else { Track::Always },
            hash: match self.hash {
                Hash::Source(bits) if by_hash => Hash::Source(bits.min(longest)),
                _ => Hash::FiveTuple,
            },
            ..self
        }
    }
}

/// The service's protocol, address and port, where they can be read.
fn listen(reader: &Reader<'_, '_>) -> Option<Listen> {
    reader.get("listen").and_then(|node| value::listen(node).ok())
}

/// `"copy"`, or 0 to 63.
fn dscp(node: &Node) -> Result<Option<u8>, String> {
    match node.as_str() {
        Some("copy") => Ok(None),
        Some(text) => Err(format!("{} is neither \"copy\" nor a number from 0 to 63", quote(text))),
        None => value::number(node, 0..=63).map(Some),
    }
}

/// How many backends the service has.
fn backends(reader: &Reader<'_, '_>) -> usize {
    match reader.get("backend") {
        Some(Node { data: Data::Array(backends), .. }) => backends.len(),
        _ => 0,
    }
}

const fn window_key(protocol: Protocol) -> (&'static str, Duration) {
    match protocol {
        Protocol::Tcp => ("track_window", TRACK_WINDOW),
        Protocol::Udp => ("udp_idle", UDP_IDLE),
    }
}

fn parse_window(node: &Node) -> Result<Duration, String> {
    value::duration(node, SECOND..=LONGEST_WINDOW)
}

/// The window as [`read_window`] reads it.
fn window(reader: &Reader<'_, '_>, protocol: Option<Protocol>) -> Duration {
    let (key, default) = window_key(protocol.unwrap_or(Protocol::Tcp));
    reader.get(key).and_then(|node| parse_window(node).ok()).unwrap_or(default)
}

/// Reads the window of services of the protocol `of`; with the other protocol the key is refused.
fn read_window(reader: &Reader<'_, '_>, of: Protocol, service: &mut Service) {
    let (key, default) = window_key(of);
    let window = reader.or(key, parse_window, default);
    let instead = match listen(reader).map(|listen| listen.protocol) {
        None => return,
        Some(protocol) if protocol == of => {
            service.window = window;
            return;
        }
        Some(Protocol::Tcp) => "TCP services have track_window",
        Some(Protocol::Udp) => "UDP services have udp_idle",
    };
    if let Some(node) = reader.get(key) {
        reader.wrong(&node.at, format!("{key} does not apply here: {instead}"));
    }
}

fn show_window(service: &Service, of: Protocol) -> Option<String> {
    (service.listen.protocol == of).then(|| quoted(words::duration(service.window)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::{
        parse,
        testing::{SMALL, lines, spec},
    };

    #[test]
    fn settings_are_as_a_request_has_them() {
        let text = SMALL.replace("listen", "max_backends = 7\nhold = \"90s\"\nmin_healthy = \"50%\"\nlisten");
        let settings = serde_json::Value::Object(spec(&text).services[0].settings());
        assert_eq!(
            settings,
            json!({
                "name": "web", "listen": "tcp/192.0.2.1:80", "encapsulation": "auto", "max_backends": 7,
                "hold": "90s", "all_down": "keep", "handover": "30s", "track": "on-change", "hash": "five-tuple",
                "balance": "hash", "ring": "maglev", "min_healthy": "50%", "track_window": "135m", "idle_after": "5m",
            })
        );
    }
    #[test]
    fn a_dscp_is_copied_or_a_number_of_6_bits() {
        let small = |line: &str| SMALL.replace("listen", &format!("{line}\nlisten"));
        for (line, dscp) in
            [("", None), ("dscp = \"copy\"", None), ("dscp = 0", Some(0)), ("dscp = 63", Some(63))]
        {
            assert_eq!(spec(&small(line)).services[0].dscp, dscp, "{line}");
        }
        for (line, error) in [
            ("dscp = 64", "dscp 64 is out of range: 0 to 63"),
            ("dscp = \"EF\"", "dscp \"EF\" is neither \"copy\" nor a number from 0 to 63"),
            (
                "encapsulation = \"l2\"\ndscp = 1",
                "dscp 1 has no place: encapsulation \"l2\" puts no outer header in front; leave dscp out",
            ),
        ] {
            let errors = lines(&parse(small(line).as_bytes(), "f").unwrap_err());
            assert!(errors.ends_with(&format!("service web: {error}\n")), "{errors}");
        }
    }
}
