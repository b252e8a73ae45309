//! The packet rows: which packet goes through which tables, and the expected result.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::{
    known,
    service::port_protocol,
    service_cache::{self, entries_for, shift_for},
    wire::protocol,
};

use super::{
    super::{
        rig::Traffic,
        row::{Definition, Formula, Part, Target},
    },
    control,
    worlds::{self, HOST, Key, VIP, family, kind, stage, tracked, vip, vip6},
};
use crate::{
    frame::{self, Segment},
    world::address,
};

/// XDP actions (linux/bpf.h).
pub(super) const DROP: u32 = 1;
const PASS: u32 = 2;
pub(super) const TX: u32 = 3;

/// A row that is measured.
pub(super) struct Case {
    pub(super) row: Definition,
    /// `None` = a program of the benchmark's own object.
    pub(super) world: Option<Key>,
    pub(super) program: &'static str,
    pub(super) traffic: Traffic,
    /// The XDP action that the program must return.
    pub(super) action: u32,
    /// How often one run of the program repeats the measured work, for example a hash.
    pub(super) repeated: f64,
    /// Packets that fill the tables before the row is measured.
    pub(super) fill: u32,
}

/// Numbers of flows, by their names in row ids: k and M are powers of two.
const FLOWS: [(&str, u32); 5] =
    [("1", 1), ("1k", 1 << 10), ("64k", 1 << 16), ("1M", 1 << 20), ("16M", 1 << 24)];

pub(super) fn flows(name: &str) -> u32 {
    FLOWS.iter().find(|(known, _)| *known == name).map_or(1, |(_, flows)| *flows)
}

pub(super) fn client() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 40_000))
}

fn client6() -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1], 40_000))
}

/// 64 bytes on the wire, without the frame check sequence: 14 + 20 + 20 + 10.
pub(super) fn tcp(service: u32) -> Vec<u8> {
    frame::tcp(client(), vip(service), Segment::Data, 0, 10)
}

fn tcp6(service: u16) -> Vec<u8> {
    frame::tcp(client6(), vip6(service), Segment::Data, 0, 10)
}

pub(super) fn syn(service: u32) -> Vec<u8> {
    frame::tcp(client(), vip(service), Segment::Syn, 0, 10)
}

/// A packet that `lb_xdp` forwards.
pub(super) fn case(id: &str, what: &str, world: Key, frame: Vec<u8>, flows: u32) -> Case {
    Case {
        row: Definition::new(Part::Packet, id, "ns", what).above("floor/grow"),
        world: Some(world),
        program: "lb_xdp",
        traffic: Traffic::new(frame, flows),
        action: TX,
        repeated: 1.0,
        fill: 0,
    }
}

impl Case {
    pub(super) fn quick(mut self, quick: bool) -> Self {
        self.row = self.row.quick(quick);
        self
    }

    fn fill(mut self) -> Self {
        self.fill = self.traffic.flows;
        self
    }

    /// The packet is not forwarded, so the row is compared with the floor that does nothing.
    pub(super) fn ends(mut self, action: u32) -> Self {
        self.action = action;
        self.row = self.row.above("floor/pass");
        self
    }

    fn services(mut self, count: u32) -> Self {
        self.traffic.services = count;
        self.traffic.base = VIP;
        self
    }

    fn target(mut self, target: Target) -> Self {
        self.row = self.row.target(target);
        self
    }
}

/// All rows that are measured.
pub(super) fn cases() -> Vec<Case> {
    let own = [floors(), plain(), families(), strangers(), sizes(), tracking(), stages(), hashes(), tables()];
    own.into_iter().flatten().chain(control::cases()).collect()
}

fn own(id: &str, what: &str, program: &'static str, action: u32) -> Case {
    let row = Definition::new(Part::Packet, id, "ns", what);
    Case { row, world: None, program, action, ..case(id, what, Key::Plain, tcp(0), 1 << 20) }
}

fn floors() -> Vec<Case> {
    vec![
        own("floor/pass", "floor: a program that answers XDP_PASS at once", "floor_pass", PASS),
        own("floor/grow", "floor: one that makes room for 20 bytes and answers XDP_TX", "floor_grow", TX),
        Case {
            row: Definition::new(
                Part::Packet,
                "memory/8M",
                "ns",
                "the floor that makes room, behind one read of a random word of 8 MiB: what a miss costs here",
            )
            .above("floor/grow"),
            ..own("memory/8M", "", "floor_memory", TX)
        },
    ]
}

fn plain() -> Vec<Case> {
    let mut rows: Vec<Case> = FLOWS
        .iter()
        .map(|(name, flows)| {
            let what = format!("TCP over IPv4 in IPv4, 64 bytes, {name} flows, untracked");
            case(&format!("packet/tcp4-ipip/flows={name}"), &what, Key::Plain, tcp(0), *flows)
                .quick(*name != "1k")
        })
        .collect();
    let long = frame::tcp(client(), vip(0), Segment::Data, 0, 1400 - 40);
    rows.push(case("packet/tcp4-ipip/1400-bytes", "the same, 1,400 bytes, 1 flow", Key::Plain, long, 1));
    let what = "the same, a SYN of a new flow each time (16M), untracked: a flood touches no table";
    rows.push(case("packet/tcp4-ipip/syn-flood", what, Key::Plain, syn(0), flows("16M")));
    let what = "1 flow, a service that shares its place in front of the index: the longer way";
    rows.push(case("packet/tcp4-ipip/index", what, Key::Index, tcp(0), 1).quick(false));
    rows
}

fn families() -> Vec<Case> {
    let udp = frame::udp(client(), vip(family::UDP4), 0, 22);
    let kinds = [
        ("udp4-ipip", "UDP over IPv4 in IPv4", udp),
        ("tcp4-4in6", "TCP over IPv4 in IPv6", tcp(family::TCP4_IN_6)),
        ("tcp6-6in6", "TCP over IPv6 in IPv6", tcp6(family::TCP6_IN_6)),
        ("tcp6-6in4", "TCP over IPv6 in IPv4", tcp6(family::TCP6_IN_4)),
    ];
    let mut rows = Vec::new();
    for (id, what, frame) in kinds {
        for name in ["1", "64k", "1M"] {
            let id = format!("packet/{id}/flows={name}");
            let what = format!("{what}, {name} flows, untracked");
            rows.push(case(&id, &what, Key::Families, frame.clone(), flows(name)).quick(name == "1"));
        }
    }
    let kinds = [
        ("l2", "TCP over IPv4 without an outer header", kind::L2),
        ("gue4", "TCP over IPv4 in UDP over IPv4", kind::GUE_4),
        ("gue6", "TCP over IPv4 in UDP over IPv6, with a checksum", kind::GUE_6),
    ];
    for (id, what, service) in kinds {
        let (id, what) = (format!("packet/tcp4-{id}/flows=1"), format!("{what}, 1 flow, untracked"));
        rows.push(case(&id, &what, Key::Kinds, tcp(service), 1));
    }
    rows
}

/// A packet to an address that belongs to no service.
fn stranger() -> Vec<u8> {
    frame::tcp(client(), vip(89), Segment::Data, 0, 10)
}

/// The same to an address whose place in front of the index belongs to the first service.
fn stranger_in_its_place() -> Vec<u8> {
    let shift = shift_for(entries_for(worlds::SERVICES));
    let place = |to: SocketAddr| {
        service_cache::place(&address(to.ip()), port_protocol(to.port(), protocol::TCP), shift)
    };
    let others =
        (1..1 << 20).map(|number| SocketAddr::from((Ipv4Addr::from(0xc633_0000 + number), vip(0).port())));
    let is_no_services =
        |to: &SocketAddr| known::mark(&address(to.ip())) != known::mark(&address(vip(0).ip()));
    let found = others.filter(is_no_services).find(|other| place(*other) == place(vip(0)));
    frame::tcp(client(), found.unwrap_or(vip(89)), Segment::Data, 0, 10)
}

fn strangers() -> Vec<Case> {
    let other6 = frame::tcp(client6(), vip6(99), Segment::Data, 0, 10);
    let mut fragment = tcp(0);
    fragment[20] = 0x20;
    frame::repair_ipv4_checksum(&mut fragment, 14);
    let (IpAddr::V4(from), IpAddr::V4(to)) = (client().ip(), vip(0).ip()) else { return Vec::new() };
    let icmp = frame::ip(from.into(), to.into(), 1, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let host = frame::tcp(client(), vip(HOST), Segment::Data, 0, 10);
    let unserved = frame::tcp(client(), SocketAddr::new(vip(0).ip(), 444), Segment::Data, 0, 10);
    let not_ours = "TCP over IPv4 to an address that no service has, 1k flows: passed";
    vec![
        case("packet/not-ours", not_ours, Key::Plain, stranger(), flows("1k"))
            .ends(PASS)
            .target(Target::NetAtMost(5.0)),
        case(
            "packet/not-ours-taken",
            "the same to an address whose place in front of the index is a service's",
            Key::Plain,
            stranger_in_its_place(),
            flows("1k"),
        )
        .ends(PASS)
        .quick(false),
        case(
            "packet/not-ours-index",
            "the same where the index is asked",
            Key::Index,
            stranger(),
            flows("1k"),
        )
        .ends(PASS)
        .quick(false),
        case(
            "packet/not-ours-any-port",
            "the same where a service listens on every port",
            Key::AnyPort,
            stranger(),
            flows("1k"),
        )
        .ends(PASS)
        .quick(false),
        case(
            "packet/host",
            "TCP over IPv4 to the host itself, 1k flows: passed",
            Key::AnyPort,
            host,
            flows("1k"),
        )
        .ends(PASS)
        .quick(false),
        case(
            "packet/unserved",
            "to another port of a service's address: passed",
            Key::Plain,
            unserved,
            flows("1k"),
        )
        .ends(PASS)
        .quick(false),
        case("packet/not-ours-ipv6", "the same over IPv6", Key::Plain, other6, flows("1k"))
            .ends(PASS)
            .quick(false),
        case("packet/fragment", "a fragment to a service: dropped", Key::Plain, fragment, 1).ends(DROP),
        case("packet/icmp", "an ICMP echo to a service's address: passed", Key::Plain, icmp, 1).ends(PASS),
        case("packet/arp", "an ARP request: passed", Key::Plain, frame::arp([203, 0, 113, 10]), 1).ends(PASS),
    ]
}

fn sizes() -> Vec<Case> {
    let mut rows = Vec::new();
    for count in [1, 100, 1_000, 10_000] {
        let id = format!("packet/backends={count}");
        let what = format!("TCP4 IPIP, 1M flows, one service of {count} backends in the ring they get");
        let extreme = matches!(count, 1 | 10_000);
        rows.push(case(&id, &what, Key::Backends(count), tcp(0), flows("1M")).quick(extreme));
    }
    for count in [1, 100, 1_000] {
        let id = format!("packet/services={count}");
        let what = format!("TCP4 IPIP, 1M flows spread over {count} services of 10 backends");
        let row = case(&id, &what, Key::Services(count), tcp(0), flows("1M")).services(count);
        rows.push(row.quick(count != 100));
    }
    let what = "TCP4 IPIP, 1M flows spread over 250 services in the rings that services get by default";
    let row = case("packet/services=250/default", what, Key::ServicesByDefault(250), tcp(0), flows("1M"));
    rows.push(row.services(250));
    rows
}

fn tracking() -> Vec<Case> {
    let mut rows = Vec::new();
    let (always, learning, miss) = (tracked::ALWAYS, tracked::LEARNING, tracked::MISS);
    for (name, flows, quick) in [("1", 1, true), ("16k", 1 << 14, false), ("1M", 1 << 20, true)] {
        let id = format!("tracked/hit/flows={name}");
        let what = format!("TCP4 IPIP in slots that learn, {name} flows, recorded");
        rows.push(case(&id, &what, Key::Tracked, tcp(learning), flows).fill().quick(quick));
        let id = format!("tracked/miss/flows={name}");
        let what = format!("TCP4 IPIP in slots that remember, {name} flows, not recorded");
        rows.push(case(&id, &what, Key::Tracked, tcp(miss), flows).quick(quick));
        let id = format!("always/flows={name}");
        let what = format!("TCP4 IPIP, track = \"always\", {name} flows, recorded");
        rows.push(case(&id, &what, Key::Tracked, tcp(always), flows).fill().quick(quick));
    }
    let what = "a SYN of a new flow each time (16M) in slots that learn: table of 64k unconfirmed flows full";
    rows.push(case("tracked/syn-flood", what, Key::Flood, syn(learning), flows("16M")).quick(false));
    let what = "the same with track = \"always\"";
    rows.push(case("always/syn-flood", what, Key::Flood, syn(always), flows("16M")));
    rows
}

fn stages() -> Vec<Case> {
    let ends = [
        ("slot", "up to the slot, which has no owner: parse, service, hash, slot", stage::NO_BACKEND),
        ("backend", "up to the backend's record, which has no next hop", stage::NO_NEXT_HOP),
        ("length", "up to the MTU, which the packet exceeds", stage::TOO_BIG),
    ];
    let mut rows = Vec::new();
    for (id, what, service) in ends {
        for name in ["1", "64k", "1M"] {
            let id = format!("stage/{id}/flows={name}");
            let what = format!("{what}; {name} flows: dropped");
            let row = case(&id, &what, Key::Stages, tcp(service), flows(name)).ends(DROP);
            rows.push(row.quick(false));
        }
    }
    rows
}

fn hashes() -> Vec<Case> {
    let kinds = [
        ("hash/none", "64 empty rounds", "hash_none"),
        ("hash/ours-ipv4", "our flow hash", "hash_flow_v4"),
        ("hash/ours-ipv6", "our flow hash", "hash_flow_v6"),
        ("hash/jhash-ipv4", "jhash of three words", "hash_jhash_v4"),
        ("hash/siphash13-ipv4", "SipHash-1-3 of 16 bytes", "hash_siphash13_v4"),
    ];
    let row = |(id, what, program): (&'static str, &str, &'static str)| {
        let mut case = own(id, what, program, PASS).quick(false);
        case.repeated = 64.0;
        case.traffic.flows = 1;
        if id != "hash/none" {
            case.row = case.row.above("hash/none");
        }
        case
    };
    kinds.into_iter().map(row).collect()
}

fn tables() -> Vec<Case> {
    let none = own("table/none", "the flow hash of a packet, and no table", "table_none", PASS);
    let mut rows = vec![none.quick(false)];
    let kinds = [
        ("buckets", "the table of flows in an array map", "table_buckets", "table_buckets_full"),
        ("lru", "the kernel's LRU hash", "table_lru", "table_lru_full"),
    ];
    for (id, what, program, full) in kinds {
        for name in ["1", "16k", "1M"] {
            let (id, what) = (format!("table/{id}/flows={name}"), format!("a flow in {what}, {name} flows"));
            let mut row = own(&id, &what, program, PASS).quick(false);
            row.traffic.flows = if name == "16k" { 1 << 14 } else { flows(name) };
            row.row = row.row.above("table/none");
            rows.push(row.fill());
        }
        let (id, what) = (format!("table/{id}/full"), format!("a new flow in {what}, which is full (64k)"));
        let mut row = own(&id, &what, full, PASS).quick(false);
        row.traffic.flows = flows("1M");
        row.row = row.row.above("table/none");
        rows.push(row.fill());
    }
    rows
}

/// Rows that are computed from the rows above.
pub(super) fn derived() -> Vec<Definition> {
    let base = "packet/tcp4-ipip/flows=1".to_owned();
    let row = |id: &str, what: &str| Definition::new(Part::Packet, id, "ratio", what);
    let over = |a: &str, b: &str| Formula::Ratio(a.to_owned(), b.to_owned());
    let net = Formula::NetRatio([
        base.clone(),
        "floor/grow".to_owned(),
        "floor/grow".to_owned(),
        "floor/pass".to_owned(),
    ]);
    let mut rows = vec![
        row("flat/net", "what lb_xdp costs above making room, by what making room costs above XDP_PASS")
            .made_of(net)
            .target(Target::AtMost(0.75)),
        row("flat/flows", "total at 1M flows by total at 1 flow")
            .made_of(over("packet/tcp4-ipip/flows=1M", &base))
            .target(Target::AtMost(1.10))
            .wants_cache(),
        row("flat/backends", "total with 10,000 backends by total with 1, 1M flows")
            .made_of(over("packet/backends=10000", "packet/backends=1"))
            .target(Target::AtMost(1.25))
            .wants_cache(),
        row("flat/services", "total with 1,000 services by total with 1, 1M flows")
            .made_of(over("packet/services=1000", "packet/services=1"))
            .target(Target::AtMost(1.25))
            .wants_cache(),
        row("flat/services-by-default", "total with 250 services in default rings by total with 1, 1M flows")
            .made_of(over("packet/services=250/default", "packet/services=1"))
            .target(Target::AtMost(1.35))
            .wants_cache(),
    ];
    for kind in ["udp4-ipip", "tcp4-4in6", "tcp6-6in6", "tcp6-6in4"] {
        let what = format!("total of {kind} by that of tcp4-ipip, 1 flow");
        rows.push(
            row(&format!("flat/{kind}"), &what)
                .made_of(over(&format!("packet/{kind}/flows=1"), &base))
                .target(Target::AtMost(1.2)),
        );
    }
    rows
}
