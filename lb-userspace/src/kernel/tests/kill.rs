//! For each kind of change, the agent is killed before every single store into the maps. Checked are: where packets go until
//! an agent is back, and what the next agent makes of the maps, whether it wants the new configuration or the old one.
//!
//! The expected results come from a list of flows with their backends, which is independent of slots and records.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::{TestRun, TestRunOptions, programs::Xdp};
use lb_common::{
    encap::Kind,
    slot::{Track, since},
};

use super::{
    image::Image,
    traffic::{desired, frame},
    *,
};
use crate::{
    config::spec::Protocol,
    fault,
    reconcile::{Desired, Reconciler},
    ring::{self, Entry},
    tables::{address, memory::Packet},
};

const VIRTUAL: &str = "203.0.113.10";
const UP: (bool, bool) = (true, true);
const DRAINING: (bool, bool) = (false, true);
const DOWN: (bool, bool) = (false, false);

/// The number of kill points between two real restarts, which load the program again and adopt the pins.
const REOPEN: u64 = 97;

/// Two TCP services, the second on every port, and a UDP service. All have these backends: number, in the ring, alive.
pub(super) fn wanted(backends: &[(u8, (bool, bool))], length: u32) -> Desired {
    let backends: Vec<_> = backends.iter().map(|(number, (ring, alive))| (*number, *ring, *alive)).collect();
    let mut wanted = desired(&backends, length, Track::OnChange);
    let mut udp = wanted.services[0].clone();
    udp.name = "dns".into();
    udp.listen.protocol = Protocol::Udp;
    wanted.services.push(udp);
    wanted
}

fn without(mut wanted: Desired, service: &str) -> Desired {
    wanted.services.retain(|s| s.name != service);
    wanted
}

/// The rule of a service: the backends that may get new flows, and the backends that may keep their flows.
#[derive(Default)]
struct Rule {
    takes: BTreeSet<IpAddr>,
    keeps: BTreeSet<IpAddr>,
}

/// The rules by virtual protocol and port.
type Rules = BTreeMap<(u8, u16), Rule>;

fn rules(wanted: &Desired) -> Rules {
    let rule = |service: &crate::reconcile::desired::Service| {
        let mut rule = Rule::default();
        for (place, backend) in (1..).zip(&service.backends) {
            if backend.record.is_alive() {
                rule.keeps.insert(backend.address);
            }
            if service.ring.contains(&place) {
                rule.takes.insert(backend.address);
            }
        }
        let protocol = if service.listen.protocol == Protocol::Udp { 17 } else { 6 };
        ((protocol, service.listen.port), rule)
    };
    wanted.services.iter().map(rule).collect()
}

/// The rule for a packet: that of its port, else that of every port.
fn rule<'a>(rules: &'a Rules, packet: &Packet) -> Option<&'a Rule> {
    let exact = rules.get(&(packet.protocol, packet.destination_port));
    exact.or_else(|| rules.get(&(packet.protocol, 0)))
}

/// A flow that has sent its first packets, and the backend that answered.
#[derive(Clone, Debug)]
struct Flow {
    packet: Packet,
    served_by: IpAddr,
}

pub(super) fn flow(client: u32, kind: u32) -> Packet {
    let (protocol, port) = [(6, 80), (6, 443), (17, 80)][kind as usize % 3];
    Packet {
        source: address::to_wire(IpAddr::from((0x0a01_0000 + client).to_be_bytes())),
        destination: address::to_wire(VIRTUAL.parse().unwrap()),
        source_port: 20_000,
        destination_port: port,
        protocol,
        syn: false,
        closes: false,
        sequence: 1000,
    }
}

/// What happened to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    To { backend: IpAddr, source: IpAddr, next_hop: [u8; 6] },
    Dropped,
    Passed,
}

impl Fate {
    pub(super) fn backend(self) -> Option<IpAddr> {
        match self {
            Self::To { backend, .. } => Some(backend),
            _ => None,
        }
    }
}

/// Sends one packet through the program in the kernel.
pub(super) fn send(kernel: &mut Kernel, packet: &Packet) -> Fate {
    send_through(kernel.program().unwrap(), packet)
}

pub(super) fn send_through(program: &Xdp, packet: &Packet) -> Fate {
    let frame = frame(packet);
    let mut out = [0u8; 128];
    let options = TestRunOptions { data_in: Some(&frame), data_out: Some(&mut out), ..TestRunOptions::new() };
    let result = program.test_run(options).unwrap();
    const DROP: u32 = 1;
    const PASS: u32 = 2;
    const TX: u32 = 3;
    match result.return_value {
        DROP => return Fate::Dropped,
        PASS => return Fate::Passed,
        TX => {}
        other => panic!("verdict {other}"),
    }
    assert_eq!(out[34..84], frame[14..], "the inner packet is untouched");
    let sum: u32 = out[14..34].chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum of the outer header");
    let address = |at: usize| IpAddr::from([out[at], out[at + 1], out[at + 2], out[at + 3]]);
    Fate::To { backend: address(30), source: address(26), next_hop: out[..6].try_into().unwrap() }
}

/// Begins a flow and sends a second packet. Returns which backend answered both. A client whose SYN gets no answer sends
/// nothing more.
pub(super) fn begin(kernel: &mut Kernel, packet: &Packet) -> Fate {
    let first = send(kernel, &Packet { syn: packet.protocol == 6, ..*packet });
    if packet.protocol == 6 && first.backend().is_none() {
        return first;
    }
    let second = send(kernel, packet);
    assert_eq!(first.backend(), second.backend(), "the second packet goes where the first went: {packet:?}");
    second
}

/// One kind of change.
struct Change {
    name: &'static str,
    /// The configurations that were in force before, in order.
    history: Vec<Desired>,
    to: Desired,
    /// Packets for living backends may be dropped while the agent is away, because the change sets a new next hop.
    may_drop: bool,
}

fn changes() -> Vec<Change> {
    let three = |third| vec![(1, UP), (2, UP), (3, third)];
    let two = [(1, UP), (2, UP)];
    let change = |name, history, to| Change { name, history, to, may_drop: false };
    let mut moved = wanted(&two, 251);
    for backend in moved.services.iter_mut().flat_map(|service| &mut service.backends) {
        let hop = crate::net::Hop {
            interface: 1,
            interface_name: "lo".into(),
            via: backend.address,
            mac: [6; 6],
            local_mac: [8; 6],
            mtu: 1400,
            source: IpAddr::from([10, 0, 9, 9]),
        };
        let standing = crate::reconcile::backend::Standing { alive: true, draining: false };
        let sources = crate::reconcile::backend::Sources::default();
        backend.record =
            crate::reconcile::backend::record(Kind::Ipip, hop.via, false, Some(&hop), &sources, standing);
    }
    vec![
        change("first start", vec![], wanted(&two, 251)),
        change("backend added", vec![wanted(&two, 251)], wanted(&three(UP), 251)),
        change("backend added while slots learn", vec![wanted(&two, 251), wanted(&three(UP), 251)], {
            wanted(&[(1, UP), (2, UP), (3, UP), (4, UP)], 251)
        }),
        change("backend removed", vec![wanted(&three(UP), 251)], wanted(&two, 251)),
        change("backend drained", vec![wanted(&three(UP), 251)], wanted(&three(DRAINING), 251)),
        change("backend down", vec![wanted(&three(UP), 251)], wanted(&three(DOWN), 251)),
        change(
            "backend up again",
            vec![wanted(&two, 251), wanted(&three(UP), 251), wanted(&three(DOWN), 251)],
            wanted(&three(UP), 251),
        ),
        change("all backends down", vec![wanted(&two, 251)], wanted(&[(1, DOWN), (2, DOWN)], 251)),
        // The arena has room for the rings of two services, of the old and of the new length.
        change("ring resized", vec![without(wanted(&two, 251), "any")], without(wanted(&two, 509), "any")),
        change(
            "ring resized with a new backend while slots learn",
            vec![without(wanted(&two, 251), "any"), without(wanted(&three(UP), 251), "any")],
            without(wanted(&[(1, UP), (2, DRAINING), (3, UP), (4, UP)], 509), "any"),
        ),
        change("service added", vec![without(wanted(&two, 251), "web")], wanted(&two, 251)),
        change("service removed", vec![wanted(&two, 251)], without(wanted(&two, 251), "any")),
        Change { may_drop: true, ..change("next hop changed", vec![wanted(&two, 251)], moved) },
    ]
}

/// The same with ring lengths that are possible now: slots may still learn flows from the last change of length.
fn fitted(agent: &Reconciler<Kernel>, mut wanted: Desired) -> Desired {
    for service in &mut wanted.services {
        let length = agent.ring_length(&service.listen, service.ring.len() as u32);
        if length as usize == service.ring.len() {
            continue;
        }
        let takes = |place: u32| u16::from(service.ring.contains(&place)) * 10;
        let entries: Vec<_> = (1..)
            .zip(&service.backends)
            .map(|(place, backend)| Entry { name: &backend.name, weight: takes(place) })
            .collect();
        let ring = ring::maglev(&wanted.seed, &entries, length);
        service.ring = ring.into();
    }
    wanted
}

/// Checks that `fate` is allowed for a packet of a known flow, by one of two configurations.
fn check_flow(name: &str, may_drop: bool, [before, after]: [&Rules; 2], flow: &Flow, fate: Fate, when: &str) {
    let what = format!("{name}, {when}: {flow:?} met {fate:?}");
    let (before, after) = (rule(before, &flow.packet), rule(after, &flow.packet));
    let keeps = |rule: Option<&Rule>| rule.is_some_and(|rule| rule.keeps.contains(&flow.served_by));
    if keeps(before) && keeps(after) {
        let kept = fate.backend() == Some(flow.served_by);
        assert!(kept || may_drop && fate == Fate::Dropped, "{what}");
        return;
    }
    // The flow's backend dies or comes back with the change: the packet may go to it, or to any backend that takes new flows
    // by the configuration before or after.
    let Some(backend) = fate.backend() else {
        let all_serve = [before, after].iter().all(|rule| rule.is_some_and(|rule| !rule.takes.is_empty()));
        assert!(!all_serve || may_drop, "{what}");
        return;
    };
    let takes = |rule: Option<&Rule>| rule.is_some_and(|rule| rule.takes.contains(&backend));
    assert!(backend == flow.served_by || takes(before) || takes(after), "{what}");
}

/// Whether a flow goes on. A backend that gets a segment of a connection that it does not have resets the connection; a
/// datagram is accepted by every backend.
fn goes_on(flow: &mut Flow, fate: Fate) -> bool {
    let Some(backend) = fate.backend() else { return true };
    let is_reset = flow.packet.protocol == 6 && backend != flow.served_by;
    flow.served_by = backend;
    !is_reset
}

/// Checks flows that begin now.
fn check_new(
    name: &str,
    may_drop: bool,
    [before, after]: [&Rules; 2],
    packet: &Packet,
    fate: Fate,
    when: &str,
) {
    let what = format!("{name}, {when}: new {packet:?} met {fate:?}");
    let both = [rule(before, packet), rule(after, packet)];
    if let Some(backend) = fate.backend() {
        // In a learning slot the first packet of a UDP flow looks like a later one: any living backend may get it.
        let may = |rule: &&Rule| {
            rule.takes.contains(&backend) || packet.protocol == 17 && rule.keeps.contains(&backend)
        };
        assert!(both.iter().flatten().any(may), "{what}");
    } else {
        let all_serve = both.iter().all(|rule| rule.is_some_and(|rule| !rule.takes.is_empty()));
        assert!(!all_serve || may_drop, "{what}");
    }
}

/// Applies the history to empty tables, with flows that begin at each stage.
fn live_through(kernel: Kernel, change: &Change) -> (Kernel, Vec<Flow>, u64) {
    let mut reconciler = Reconciler::new(kernel).unwrap();
    let mut flows: Vec<Flow> = Vec::new();
    let mut stage = 0u64;
    for wanted in &change.history {
        let plan = reconciler.plan(wanted, since(stage * 16)).unwrap();
        reconciler.apply(&plan).unwrap();
        let kernel = reconciler.tables_mut();
        let rules = &rules(wanted);
        flows.retain_mut(|flow| {
            let fate = send(kernel, &flow.packet);
            check_flow(change.name, false, [rules, rules], flow, fate, "in its history");
            goes_on(flow, fate)
        });
        for client in 0..12 {
            let packet = flow(stage as u32 * 100 + client, client);
            if let Some(served_by) = begin(kernel, &packet).backend() {
                flows.push(Flow { packet, served_by });
            }
        }
        stage += 1;
    }
    (reconciler.into_tables(), flows, stage)
}

/// Kills the agent at every store of one change. Returns the number of stores.
fn kill_everywhere(world: &World, kernel: Kernel, empty: &Image, change: &Change) -> (Kernel, u64) {
    let mut kernel = kernel;
    empty.put_back(&mut kernel);
    let (mut kernel, flows, stage) = live_through(kernel, change);
    let begun = Image::take(&kernel);
    let nothing = Desired { services: Vec::new(), ..change.to.clone() };
    let before = change.history.last().unwrap_or(&nothing);
    let (was, will) = (&rules(before), &rules(&change.to));
    for point in 0.. {
        begun.put_back(&mut kernel);
        let mut agent = Reconciler::new(kernel).unwrap();
        let plan = agent.plan(&change.to, since(stage * 16)).unwrap();
        fault::arm(point);
        let outcome = agent.apply(&plan);
        let stores = fault::disarm();
        kernel = agent.into_tables();
        // Every second flow sends a packet while the agent is away; some flows begin.
        let when = format!("killed before store {point}");
        let mut known = flows.clone();
        let mut speaks = false;
        known.retain_mut(|flow| {
            speaks = !speaks;
            let fate = speaks.then(|| send(&mut kernel, &flow.packet));
            fate.is_none_or(|fate| {
                check_flow(change.name, change.may_drop, [was, will], flow, fate, &when);
                goes_on(flow, fate)
            })
        });
        for client in 0..6 {
            let packet = flow(50_000 + client, client);
            let fate = begin(&mut kernel, &packet);
            check_new(change.name, change.may_drop, [was, will], &packet, fate, &when);
            if let Some(served_by) = fate.backend() {
                known.push(Flow { packet, served_by });
            }
        }
        let left_behind = Image::take(&kernel);
        for (target, then, when) in [(&change.to, will, "and went on"), (before, was, "and went back")] {
            let when = format!("killed before store {point} {when}");
            if point % REOPEN == REOPEN - 1 && left_behind.is_valid() {
                drop(kernel);
                let (again, opened) = open(&options(world)).unwrap();
                assert!(opened.adopted, "{when}");
                kernel = again;
            }
            left_behind.put_back(&mut kernel);
            let mut agent = Reconciler::new(kernel).unwrap();
            let now = since((stage + 1) * 16);
            let target = &fitted(&agent, target.clone());
            let plan = agent.plan(target, now).unwrap();
            agent.apply(&plan).unwrap();
            assert_eq!(agent.plan(target, now).unwrap().operations, [], "{}, {when}", change.name);
            kernel = agent.into_tables();
            for flow in &known {
                let fate = send(&mut kernel, &flow.packet);
                // A flow whose backend was declared dead meanwhile may have moved for good.
                let lived = rule(will, &flow.packet).is_some_and(|rule| rule.keeps.contains(&flow.served_by));
                let states = if lived { [then, then] } else { [will, then] };
                check_flow(change.name, false, states, flow, fate, &when);
                check_hop(target, flow, fate, &when);
            }
            for client in 0..6 {
                let packet = flow(60_000 + client, client);
                let fate = begin(&mut kernel, &packet);
                let states = if packet.protocol == 17 { [was, then] } else { [then, then] };
                check_new(change.name, false, states, &packet, fate, &when);
            }
        }
        if outcome.is_ok() {
            return (kernel, stores);
        }
    }
    unreachable!("a change ends")
}

/// Checks that the next hop and the source are those of the configuration in force.
fn check_hop(target: &Desired, flow: &Flow, fate: Fate, when: &str) {
    let Fate::To { backend, next_hop, source } = fate else { return };
    let mut backends = target.services.iter().flat_map(|service| &service.backends);
    let Some(known) = backends.find(|known| known.address == backend) else { return };
    assert_eq!(next_hop, known.record.ethernet[..6], "{when}: {flow:?}");
    let moved = known.record.ethernet[0] == 6;
    assert_eq!(source, IpAddr::from(if moved { [10, 0, 9, 9] } else { [10, 0, 0, 254] }), "{when}: {flow:?}");
}

/// Small flow tables, because every kill point reads them from beginning to end.
fn options(world: &World) -> Options {
    let limits = Limits { flows: 256, ..LIMITS };
    Options { limits, ..world.options() }
}

fn kill_at_every_store(name: &'static str, kinds: &'static [&'static str]) {
    isolated(name, move |world| {
        let mut kernel = open(&options(world)).unwrap().0;
        let empty = Image::take(&kernel);
        let changes: Vec<_> = changes().into_iter().filter(|change| kinds.contains(&change.name)).collect();
        assert_eq!(changes.len(), kinds.len());
        for change in changes {
            let (back, points) = kill_everywhere(world, kernel, &empty, &change);
            kernel = back;
            let _ = writeln!(std::io::stderr(), "kill points: {points:5} {}", change.name);
            assert!(points > 0, "{}", change.name);
        }
    });
}

#[test]
fn death_at_every_store_of_a_first_start_is_survived() {
    kill_at_every_store("killed_first_start", &["first start"]);
}

#[test]
fn death_while_backends_come_and_go_moves_no_flow() {
    kill_at_every_store(
        "killed_backends",
        &["backend added", "backend added while slots learn", "backend removed", "backend drained"],
    );
}

#[test]
fn death_while_backends_fail_moves_no_other_flow() {
    kill_at_every_store(
        "killed_health",
        &["backend down", "backend up again", "all backends down", "next hop changed"],
    );
}

#[test]
fn death_while_a_ring_is_replaced_moves_no_flow() {
    kill_at_every_store(
        "killed_services",
        &[
            "ring resized",
            "ring resized with a new backend while slots learn",
            "service added",
            "service removed",
        ],
    );
}
