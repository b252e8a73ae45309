//! ICMP errors in tracked slots: they read the records of their flow, and change nothing.

use std::collections::BTreeSet;

use anyhow::Result;
use lb_common::{
    backend::Backend,
    balance::Balance,
    counter::Counter::{self, *},
    flow::Record,
    flow_table::Role,
    map::name,
    service::Service,
    slot::{Slot, Track},
    wire::protocol::{TCP, UDP},
};
use lb_tests::{
    fuzz::Random,
    need_bpf,
    world::{World, flows::Tuple},
};

use crate::{
    icmp::{error, quote, too_big},
    scene::V4,
    slots::{A, B, C, Slots, TCP_SERVICE, UDP_SERVICE, tcp_key, udp_key},
};

/// Maps that a packet without a record may change: what counts it.
const COUNTING: [&str; 2] = [name::COUNTERS, name::BK_TALLY];

/// Sends an error for the flow from a client's port: its backend (0 = dropped as `no_backend`), and the events.
fn send(slots: &mut Slots, protocol: u8, port: u16) -> Result<(u32, Vec<Counter>)> {
    slots.send(&error(V4, too_big(V4), &quote(V4, protocol, port, 8)))
}

fn record(backend: u32, flags: u32) -> Record {
    Record { backend, flags, sequence: 0x1000, last_seen: 7 }
}

/// Every map but those that count is as it was.
fn changed_nothing_else(world: &World, before: &lb_tests::world::snapshot::Snapshot) -> Result<()> {
    let changed = before.changed(&world.snapshot()?);
    let allowed: BTreeSet<String> = COUNTING.map(str::to_owned).into();
    assert!(changed.is_subset(&allowed), "{changed:?}");
    Ok(())
}

#[test]
fn an_error_reads_records_and_writes_none_in_any_state() -> Result<()> {
    need_bpf!();
    let states = [
        (Slot::stable(B), B),
        (Slot::remembering(B), B),
        (Slot::learning(B, C, 5), C),
        (Slot::remembering(0), 0),
    ];
    let flags = [0, Record::ONCE, Record::BEGAN, Record::FIN, Record::RST, Record::TAKEN, Record::CONTESTED];
    for track in [Track::OnChange, Track::Always] {
        for (slot, unknown) in states {
            let mut slots = Slots::new(slot)?;
            for service in [TCP_SERVICE, UDP_SERVICE] {
                slots.world.change_service(service, |record| {
                    record.flags = Service::flags_of(track, Balance::Hash);
                })?;
            }
            let mut wanted = Vec::new();
            for (port, flags) in (100..).zip(flags) {
                for (protocol, key) in
                    [(TCP, tcp_key as fn(u16) -> Tuple), (UDP, udp_key as fn(u16) -> Tuple)]
                {
                    slots.world.set_record(Role::Flow, &key(port), record(A, flags))?;
                    slots.world.set_record(Role::Pending, &key(port + 50), record(A, flags))?;
                    slots.world.set_record(Role::Flow, &key(port + 100), record(A, flags))?;
                    slots.world.set_record(Role::Pending, &key(port + 100), record(C, Record::ELDER))?;
                    let known = if slot.is_tracked() { A } else { B };
                    let elder = record(A, flags | Record::ELDER);
                    slots.world.set_record(Role::Pending, &key(port + 150), elder)?;
                    wanted.extend([0, 100, 150].map(|more| (protocol, port + more, known)));
                    // A SYN that waits is no flow: anyone can send one.
                    wanted.extend([50, 1000].map(|more| (protocol, port + more, unknown)));
                }
            }
            let before = slots.world.snapshot()?;
            for (protocol, port, backend) in wanted {
                let events = if backend == 0 { vec![] } else { vec![IcmpSteered] };
                assert_eq!(send(&mut slots, protocol, port)?, (backend, events), "{slot:?} {port}");
            }
            changed_nothing_else(&slots.world, &before)?;
        }
    }
    Ok(())
}

#[test]
fn the_record_of_a_dead_backend_counts_for_nothing() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::remembering(B))?;
    slots.world.set_record(Role::Flow, &tcp_key(1), record(A, 0))?;
    slots.world.set_record(Role::Flow, &tcp_key(2), record(A, 0))?;
    slots.world.set_record(Role::Pending, &tcp_key(2), record(C, Record::ELDER))?;
    slots.kill(A)?;
    let before = slots.world.snapshot()?;
    assert_eq!(send(&mut slots, TCP, 1)?, (B, vec![IcmpSteered]), "where unknown flows go");
    assert_eq!(send(&mut slots, TCP, 2)?, (C, vec![IcmpSteered]), "to the record next to it");
    changed_nothing_else(&slots.world, &before)?;
    slots.revive(A)?;
    assert_eq!(send(&mut slots, TCP, 1)?.0, A);
    // A draining backend keeps its flows, and with them their errors.
    slots.drain(A)?;
    assert_eq!(send(&mut slots, TCP, 1)?.0, A);
    Ok(())
}

#[test]
fn unknown_flows_of_a_learning_slot_are_at_its_old_owner_while_that_lives() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(B, C, 5))?;
    assert_eq!(send(&mut slots, TCP, 1)?.0, C);
    slots.kill(C)?;
    assert_eq!(send(&mut slots, TCP, 1)?.0, B);
    // A slot that asks the ring of before.
    slots.revive(C)?;
    let old = slots.world.add_ring(&[Slot::stable(A); 3])?;
    slots.world.change_service(TCP_SERVICE, |service| service.old_ring = old)?;
    slots.world.set_slots(TCP_SERVICE, Slot::after_resize(B, 5))?;
    assert_eq!(send(&mut slots, TCP, 1)?.0, A);
    Ok(())
}

#[test]
fn an_unknown_flow_of_a_balanced_service_is_a_guess() -> Result<()> {
    need_bpf!();
    for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastConnections] {
        let mut slots = Slots::new(Slot::remembering(B))?;
        slots.world.change_service(TCP_SERVICE, |record| {
            record.flags = Service::flags_of(Track::Always, balance);
        })?;
        slots.world.set_record(Role::Flow, &tcp_key(1), record(A, 0))?;
        let before = slots.world.snapshot()?;
        assert_eq!(send(&mut slots, TCP, 1)?, (A, vec![IcmpSteered]));
        assert_eq!(send(&mut slots, TCP, 2)?, (B, vec![IcmpSteered, IcmpGuessed]));
        changed_nothing_else(&slots.world, &before)?;
        assert_eq!(send(&mut slots, UDP, 2)?, (B, vec![IcmpSteered]), "a service without balancing knows");
    }
    Ok(())
}

#[test]
fn an_error_goes_by_the_source_of_the_flow_where_the_service_does() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::stable(A))?;
    let ring = slots.world.service(TCP_SERVICE)?.ring;
    slots.world.write_ring(ring, &[A, B, C, A, B, C, A].map(Slot::stable))?;
    slots.world.change_service(TCP_SERVICE, |record| record.ring = record.ring.with_source_prefix(32))?;
    // The router that reports the error has another address than the client, and it does not matter.
    let (wanted, _) = slots.tcp(1, lb_tests::frame::Segment::Data)?;
    for port in 1..20 {
        assert_eq!(send(&mut slots, TCP, port)?.0, wanted);
    }
    Ok(())
}

#[test]
fn a_flood_of_forged_errors_changes_nothing_but_counters() -> Result<()> {
    need_bpf!();
    const FORGED: u64 = 10_000;
    let mut slots = Slots::new(Slot::learning(B, C, 5))?;
    for port in 1..200 {
        slots.world.set_record(Role::Flow, &tcp_key(port), record(A, Record::BEGAN))?;
    }
    let before = (slots.world.snapshot()?, slots.world.counters()?);
    let random = Random::new(1);
    for _ in 0..FORGED {
        let protocol = random.one(&[TCP, UDP]);
        let mut bytes = quote(V4, protocol, random.below(400) as u16, random.below(40));
        for _ in 0..random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = random.byte();
        }
        bytes.truncate(random.between(20, bytes.len()));
        slots.world.run("lb_xdp", &error(V4, (random.one(&[3, 11, 12]), 1), &bytes))?;
    }
    changed_nothing_else(&slots.world, &before.0)?;
    let after = slots.world.counters()?;
    let counted = |counter: Counter| after[counter as usize] - before.1[counter as usize];
    assert!(counted(IcmpQuote) > 100 && counted(IcmpSteered) > 100, "both kinds were among them");
    assert_eq!(
        Counter::ALL
            .iter()
            .filter(|c| !matches!(**c, IcmpSteered | IcmpGuessed))
            .map(|c| counted(*c))
            .sum::<u64>(),
        FORGED,
        "each has one verdict"
    );
    assert_eq!(slots.count()?, (199, 0), "no record more");
    Ok(())
}

#[test]
fn an_error_for_a_backend_without_next_hop_is_dropped_like_its_flow() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::stable(A))?;
    slots.world.change_backend(A, |backend: &mut Backend| backend.interface = 0)?;
    let outcome = slots.world.run("lb_xdp", &error(V4, too_big(V4), &quote(V4, TCP, 1, 8)))?;
    assert_eq!(outcome.counters, [(NoNextHop, 1)]);
    Ok(())
}
