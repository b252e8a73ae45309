//! Packets through the real program over tables that reconciling wrote, compared with the results of the in-memory tables.

use std::{collections::HashMap, net::IpAddr, time::Instant};

use aya::{TestRun, TestRunOptions};
use lb_common::{
    checksum,
    encap::Kind,
    flow_table::Role,
    hash::Seed,
    slot::{Track, since},
};

use super::*;
use crate::{
    config::spec::{Balance, Hash, Listen, Protocol},
    net::Hop,
    reconcile::{
        Desired, Reconciler,
        backend::{Sources, Standing, record},
        desired,
    },
    ring::{self, Entry},
    tables::{
        Sizes, Tables, address,
        memory::{Packet, Twin, Verdict},
    },
};

const SEED: Seed = Seed([3, 5]);
/// The interface on which packets of BPF_PROG_TEST_RUN seem to arrive: loopback.
const LOOPBACK: u32 = 1;

/// An IPv4 TCP or UDP frame of 64 bytes.
pub(super) fn frame(packet: &Packet) -> Vec<u8> {
    let mut frame = vec![0u8; 64];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..34].copy_from_slice(&[
        0x45,
        0,
        0,
        50,
        0,
        0,
        0x40,
        0,
        64,
        packet.protocol,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    frame[26..30].copy_from_slice(&packet.source[3].to_ne_bytes());
    frame[30..34].copy_from_slice(&packet.destination[3].to_ne_bytes());
    let words: [u32; 5] = std::array::from_fn(|i| {
        let at = 14 + 4 * i;
        u32::from_ne_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
    });
    let sum = checksum::finish(checksum::sum(&words));
    frame[24..26].copy_from_slice(&sum.to_ne_bytes());
    frame[34..36].copy_from_slice(&packet.source_port.to_be_bytes());
    frame[36..38].copy_from_slice(&packet.destination_port.to_be_bytes());
    if packet.protocol == 17 {
        frame[38..40].copy_from_slice(&30u16.to_be_bytes());
        return frame;
    }
    frame[38..42].copy_from_slice(&packet.sequence.wrapping_sub(packet.syn.into()).to_be_bytes());
    let flags = if packet.syn { 0x02 } else { 0x10 } | if packet.closes { 0x01 } else { 0 };
    frame[46..48].copy_from_slice(&[0x50, flags]);
    frame
}

pub(super) fn packet(client: u32, port: u16, syn: bool, closes: bool) -> Packet {
    Packet {
        source: address::to_wire(IpAddr::from((0x0a01_0000 + client).to_be_bytes())),
        destination: address::to_wire("203.0.113.10".parse().unwrap()),
        source_port: 20_000,
        destination_port: port,
        protocol: 6,
        syn,
        closes,
        sequence: 1000,
    }
}

/// A configuration with these backends: number, in the ring, alive.
pub(super) fn desired(backends: &[(u8, bool, bool)], length: u32, track: Track) -> Desired {
    let names: Vec<String> = backends.iter().map(|(number, ..)| format!("b{number}")).collect();
    let entries: Vec<_> = names
        .iter()
        .zip(backends)
        .map(|(name, (_, in_ring, _))| Entry { name, weight: u16::from(*in_ring) * 10 })
        .collect();
    let ring: std::sync::Arc<[u32]> = ring::maglev(&SEED, &entries, length).into();
    let backend = |(name, (number, in_ring, alive)): (&String, &(u8, bool, bool))| {
        let hop = Hop {
            interface: LOOPBACK,
            interface_name: "lo".into(),
            via: IpAddr::from([10, 0, 0, *number]),
            mac: [2; 6],
            local_mac: [4; 6],
            mtu: 1500,
            source: IpAddr::from([10, 0, 0, 254]),
        };
        let standing = Standing { alive: *alive, draining: !in_ring };
        let record = record(Kind::Ipip, hop.via, false, Some(&hop), &Sources::default(), standing);
        desired::Backend { name: name.clone(), address: hop.via, record, returns: true }
    };
    let service = |name: &str, port| desired::Service {
        answers_ping: false,
        name: name.into(),
        listen: Listen { protocol: Protocol::Tcp, address: "203.0.113.10".parse().unwrap(), port },
        max_backends: 2,
        track,
        hash: Hash::FiveTuple,
        balance: Balance::Hash,
        window: std::time::Duration::from_secs(96),
        idle_after: std::time::Duration::from_secs(300),
        backends: names.iter().zip(backends).map(backend).collect(),
        ring: ring.clone(),
    };
    Desired {
        seed: SEED,
        configuration: 1,
        services: vec![service("web", 80), service("any", 0)],
        ..Desired::default()
    }
}

/// The program's result for a packet: the backend's address if the packet was encapsulated, else the XDP action.
pub(super) fn run_through(kernel: &mut Kernel, packet: &Packet) -> Result<IpAddr, u32> {
    let frame = frame(packet);
    let mut out = [0u8; 128];
    let options = TestRunOptions { data_in: Some(&frame), data_out: Some(&mut out), ..TestRunOptions::new() };
    let result = kernel.program().unwrap().test_run(options).unwrap();
    const TX: u32 = 3;
    if result.return_value != TX {
        return Err(result.return_value);
    }
    assert_eq!(result.data_size_out as usize, frame.len() + 20);
    assert_eq!(out[34..84], frame[14..], "the inner packet is untouched");
    Ok(IpAddr::from([out[30], out[31], out[32], out[33]]))
}

fn expect(twin: &Twin, verdict: Verdict) -> Result<IpAddr, u32> {
    const DROP: u32 = 1;
    const PASS: u32 = 2;
    match verdict {
        Verdict::Forwarded { backend, .. } => {
            Ok(address::from_wire(&twin.backend_metas().unwrap()[backend as usize].address))
        }
        Verdict::Dropped(_) => Err(DROP),
        Verdict::Passed(_) => Err(PASS),
    }
}

/// Backends and flags of all records of a role, by what tells their flows apart.
fn flows(tables: &impl Tables, role: Role) -> HashMap<u64, (u32, u32)> {
    let mut all = HashMap::new();
    tables.flow_table().walk(0..u32::MAX, 0, |seen| {
        if seen.role == role {
            let before = all.insert(seen.tag, (seen.record.backend, seen.record.flags));
            assert_eq!(before, None, "two records of one flow");
        }
        true
    });
    all
}

#[test]
fn program_and_memory_tables_agree_on_every_packet() {
    isolated("program_and_memory_tables_agree_on_every_packet", |world| {
        let mut kernel = Reconciler::new(world.open().0).unwrap();
        let limits =
            Sizes { flows: LIMITS.flows, ..Sizes::new(LIMITS.services, LIMITS.backends, LIMITS.slots) };
        let mut twin = Reconciler::new(Twin::new(limits)).unwrap();
        let (up, draining, down) = ((true, true), (false, true), (false, false));
        let stages = [
            ([up, up, up, down], 251, Track::OnChange),
            ([up, draining, up, up], 251, Track::OnChange),
            ([up, draining, down, up], 251, Track::OnChange),
            ([up, up, up, up], 509, Track::OnChange),
            ([down, up, draining, up], 509, Track::Always),
            ([down, down, down, down], 509, Track::Always),
            ([up, up, up, up], 509, Track::Always),
            ([up, up, up, draining], 509, Track::Never),
            ([up, up, down, draining], 509, Track::OnChange),
        ];
        let mut random = 1u64;
        for (stage, (standings, length, track)) in (0u64..).zip(stages) {
            let backends: Vec<_> =
                (1..).zip(standings).map(|(number, (in_ring, alive))| (number, in_ring, alive)).collect();
            let wanted = desired(&backends, length, track);
            let now = since(stage * 16);
            let plans = (kernel.plan(&wanted, now).unwrap(), twin.plan(&wanted, now).unwrap());
            assert_eq!(plans.0, plans.1, "the same tables, the same plan");
            kernel.apply(&plans.0).unwrap();
            twin.apply(&plans.1).unwrap();
            for i in 0..1500 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let dice = random >> 40;
                let port = [80, 80, 443][(dice % 3) as usize];
                let packet =
                    packet((dice >> 2) as u32 % 200, port, dice >> 12 & 7 == 0, dice >> 16 & 15 == 0);
                let wanted = twin.tables_mut().packet(&packet);
                let wanted = expect(twin.tables(), wanted);
                let got = run_through(kernel.tables_mut(), &packet);
                assert_eq!(got, wanted, "stage {stage} packet {i}: {packet:?}");
            }
            for role in [Role::Pending, Role::Flow] {
                assert_eq!(flows(kernel.tables(), role), flows(twin.tables(), role), "stage {stage}");
            }
        }
        assert!(!flows(kernel.tables(), Role::Flow).is_empty(), "the history shows nothing");
        // Both count the same traffic, summed over CPUs.
        let counted = |tables: &dyn Fn() -> Vec<lb_common::map::TrafficCounters>| -> Vec<(u64, u64)> {
            tables().iter().map(|tally| (tally.packets, tally.new_connections)).collect()
        };
        assert_eq!(
            counted(&|| kernel.tables().backend_tallies().unwrap()),
            counted(&|| twin.tables().backend_tallies().unwrap())
        );
        assert_eq!(
            counted(&|| kernel.tables().service_tallies().unwrap()),
            counted(&|| twin.tables().service_tallies().unwrap())
        );
        let counters = kernel.tables().counters().unwrap();
        assert_eq!(counters.len(), lb_common::counter::Counter::COUNT as usize);
        let verdicts: u64 = lb_common::counter::Counter::ALL
            .iter()
            .filter(|counter| counter.kind() != lb_common::counter::Kind::Event)
            .map(|counter| counters[*counter as usize])
            .sum();
        assert_eq!(verdicts, 9 * 1500, "one verdict a packet");
    });
}

#[test]
fn an_adopted_data_path_needs_no_write_and_goes_on() {
    isolated("an_adopted_data_path", |world| {
        let wanted = desired(&[(1, true, true), (2, true, true)], 251, Track::OnChange);
        let mut first = Reconciler::new(world.open().0).unwrap();
        let plan = first.plan(&wanted, 0).unwrap();
        first.apply(&plan).unwrap();
        let answers: Vec<_> = (0..100)
            .map(|client| run_through(first.tables_mut(), &packet(client, 80, true, false)))
            .collect();
        drop(first);
        let (kernel, opened) = world.open();
        assert!(opened.adopted);
        let mut second = Reconciler::new(kernel).unwrap();
        assert_eq!(second.plan(&wanted, 9).unwrap().operations, vec![]);
        let again: Vec<_> = (0..100)
            .map(|client| run_through(second.tables_mut(), &packet(client, 80, true, false)))
            .collect();
        assert_eq!(answers, again);
    });
}

#[test]
fn ten_thousand_backends_are_applied_within_a_second() {
    isolated("ten_thousand_backends_are_applied_within_a_second", |world| {
        let limits = Limits { backends: 10_000, slots: 1_000_003, ..LIMITS };
        let (kernel, _) = open(&Options { limits, ..world.options() }).unwrap();
        let mut reconciler = Reconciler::new(kernel).unwrap();
        let mut wanted = desired(&[(1, true, true)], 251, Track::OnChange);
        wanted.services.truncate(1);
        let service = &mut wanted.services[0];
        let one = service.backends.remove(0);
        let backends = (0..10_000u32).map(|i| desired::Backend {
            name: format!("b{i}"),
            address: IpAddr::from((0x0a00_0000 + i).to_be_bytes()),
            ..one.clone()
        });
        service.backends = backends.collect();
        service.ring = (0..1_000_003u32).map(|slot| slot % 10_000 + 1).collect();
        let begin = Instant::now();
        let plan = reconciler.plan(&wanted, 0).unwrap();
        let planned = begin.elapsed();
        let applied = reconciler.apply(&plan).unwrap();
        let elapsed = begin.elapsed();
        let _ = writeln!(
            std::io::stderr(),
            "10,000 backends, 1,000,003 slots: planned in {planned:?}, {} entries applied in {:?} (debug build: {})",
            applied.writes,
            elapsed - planned,
            cfg!(debug_assertions)
        );
        assert_eq!(reconciler.plan(&wanted, 0).unwrap().entries(), 0);
    });
}
