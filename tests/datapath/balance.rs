//! Services that balance other than by the hash: turn or chance chooses the backend of a new flow, and the flow stays
//! there because it is recorded.

use anyhow::Result;
use lb_common::{
    backend::Backend,
    balance::Balance,
    counter::Counter::{
        self, FlowInserted, FlowPending, TrackedBalanced, TrackedCurrent, TrackedHit, TrackedPrevious,
    },
    flow::Record,
    flow_table::Role,
    map::name,
    service::Service,
    slot::{Slot, Track},
};
use lb_tests::{
    frame::{self, Segment::*},
    need_bpf,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    scene::{PORT, V4, add_backend, client, vip},
    slots::{A, B, C, Slots, TCP_SERVICE, UDP_SERVICE, tcp_key},
};

/// Owners in the order of the turns: `A` has three of the seven turns, `B` and `C` have two each.
const TURNS: [u32; 7] = [A, B, C, A, B, C, A];

/// Both services balance in this way, over slots that `word` makes of their owners.
fn balanced(balance: Balance, word: impl Fn(u32) -> Slot) -> Result<Slots> {
    // Turns are counted for each CPU.
    let mut one = CpuSet::new();
    one.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let mut slots = Slots::new(Slot::EMPTY)?;
    for service in [TCP_SERVICE, UDP_SERVICE] {
        let ring = slots.world.service(service)?.ring;
        slots.world.write_ring(ring, &TURNS.map(&word))?;
        slots.world.change_service(service, |record| {
            record.flags = Service::flags_of(Track::Always, balance);
        })?;
    }
    Ok(slots)
}

#[test]
fn new_flows_take_turns_and_stay_there() -> Result<()> {
    need_bpf!();
    let mut slots = balanced(Balance::RoundRobin, Slot::remembering)?;
    for port in 1..=21 {
        let turn = TURNS[usize::from(port - 1) % TURNS.len()];
        assert_eq!(slots.tcp(port, Syn)?, (turn, vec![FlowPending, TrackedBalanced]), "port {port}");
        assert_eq!(slots.tcp(port, Syn)?, (turn, vec![TrackedHit]), "again, port {port}");
        assert_eq!(slots.tcp(port, Data)?, (turn, vec![TrackedHit, FlowInserted]), "port {port}");
    }
    for port in 1..=21 {
        let turn = TURNS[usize::from(port - 1) % TURNS.len()];
        assert_eq!(slots.tcp(port, Data)?, (turn, vec![TrackedHit]), "port {port}");
        assert_eq!(slots.recorded(port)?, (Some(turn), None));
    }
    let shares = [A, B, C].map(|backend| slots.world.tally("BK_TALLY", backend).unwrap());
    // Four packets for each flow. Each flow is counted as two connections, since its SYN was repeated.
    assert_eq!(shares.map(|(packets, _, new)| (packets, new)), [(36, 18), (24, 12), (24, 12)]);
    Ok(())
}

#[test]
fn datagrams_of_a_new_flow_take_turns_of_their_own() -> Result<()> {
    need_bpf!();
    let mut slots = balanced(Balance::RoundRobin, Slot::remembering)?;
    for port in 1..=14 {
        let turn = TURNS[usize::from(port - 1) % TURNS.len()];
        assert_eq!(slots.udp(port)?, (turn, vec![FlowInserted, TrackedBalanced]), "port {port}");
        assert_eq!(slots.udp(port)?, (turn, vec![TrackedHit]), "port {port}");
    }
    assert_eq!(slots.tcp(1, Syn)?.0, TURNS[0], "the other service has not given one");
    Ok(())
}

#[test]
fn random_follows_the_shares_of_the_slots() -> Result<()> {
    need_bpf!();
    let mut slots = balanced(Balance::Random, Slot::remembering)?;
    let mut met = [0u32; 4];
    for port in 1..=1400 {
        let (backend, events) = slots.tcp(port, Syn)?;
        assert_eq!(events, [FlowPending, TrackedBalanced]);
        assert_eq!(slots.tcp(port, Data)?, (backend, vec![TrackedHit, FlowInserted]));
        met[backend as usize] += 1;
    }
    // 600, 400 and 400 are expected; five standard deviations are 93 and 85.
    for (backend, expected) in [(A, 600), (B, 400), (C, 400)] {
        let got = met[backend as usize];
        assert!(got.abs_diff(expected) < 100, "{met:?}");
    }
    Ok(())
}

#[test]
fn who_is_unknown_and_not_new_is_not_balanced() -> Result<()> {
    need_bpf!();
    for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastConnections] {
        let mut slots = balanced(balance, |_| Slot::remembering(B))?;
        assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedCurrent, FlowInserted]), "from before");
        let mut slots = balanced(balance, |_| Slot::learning(B, A, 5))?;
        assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedPrevious, FlowInserted]));
        assert_eq!(slots.udp(1)?, (A, vec![TrackedPrevious, FlowInserted]), "it may be an old flow");
        assert_eq!(slots.tcp(2, Syn)?, (B, vec![FlowPending, TrackedBalanced]));
    }
    Ok(())
}

#[test]
fn a_slot_that_learns_from_its_owner_keeps_datagrams() -> Result<()> {
    need_bpf!();
    let mut slots = balanced(Balance::RoundRobin, |_| Slot::learning(B, B, 5))?;
    slots.world.write_ring(lb_common::ring::Ring::new(0, 1), &[Slot::learning(A, B, 5)])?;
    for port in 1..=7 {
        let (backend, events) = slots.udp(port)?;
        assert_eq!(backend, B, "it may have begun before the service balanced");
        assert!(events.contains(&FlowInserted) && !events.contains(&TrackedBalanced), "{events:?}");
    }
    Ok(())
}

#[test]
fn a_flow_that_begins_again_is_balanced_again() -> Result<()> {
    need_bpf!();
    let mut slots = balanced(Balance::RoundRobin, Slot::remembering)?;
    slots.tcp(1, Syn)?;
    slots.tcp(1, Data)?;
    assert_eq!(slots.tcp(1, Fin)?.0, TURNS[0]);
    assert_eq!(slots.tcp(1, Syn)?, (TURNS[1], vec![FlowPending, TrackedBalanced]), "the client has closed");
    slots.tcp(1, Data)?;
    slots.kill(TURNS[1])?;
    assert_eq!(slots.tcp(1, Syn)?, (TURNS[2], vec![FlowPending, TrackedBalanced]), "its backend is down");
    Ok(())
}

#[test]
fn without_an_owner_no_backend_is_chosen() -> Result<()> {
    need_bpf!();
    for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastConnections] {
        let mut slots = balanced(balance, |_| Slot::remembering(0))?;
        assert_eq!(slots.tcp(1, Syn)?, (0, vec![TrackedCurrent]));
        assert_eq!(slots.udp(1)?, (0, vec![TrackedCurrent]));
        assert_eq!(slots.count()?, (0, 0));
        let outcome: Vec<Counter> = slots.tcp(2, Data)?.1;
        assert_eq!(outcome, [TrackedCurrent]);
    }
    Ok(())
}

/// Both services balance by the number of live flows, over backends of these weights.
fn by_live_flows(weights: [u16; 3]) -> Result<Slots> {
    let mut slots = balanced(Balance::LeastConnections, Slot::remembering)?;
    for (backend, weight) in [A, B, C].into_iter().zip(weights) {
        slots.world.change_backend(backend, |record| record.weight = weight)?;
    }
    Ok(slots)
}

fn live(slots: &mut Slots) -> [i64; 3] {
    [A, B, C].map(|backend| slots.world.live(backend).unwrap())
}

/// Begins a flow that stays open. Returns its backend.
fn begin(slots: &mut Slots, port: u16) -> Result<u32> {
    let (backend, events) = slots.tcp(port, Syn)?;
    assert_eq!(events, [FlowPending, TrackedBalanced]);
    assert_eq!(slots.tcp(port, Data)?, (backend, vec![TrackedHit, FlowInserted]));
    Ok(backend)
}

#[test]
fn a_flow_is_live_from_second_segment_to_close() -> Result<()> {
    need_bpf!();
    let mut slots = by_live_flows([100; 3])?;
    let (backend, _) = slots.tcp(1, Syn)?;
    assert_eq!(live(&mut slots), [0; 3], "a SYN may be a flood's");
    let one = [A, B, C].map(|other| i64::from(other == backend));
    slots.tcp(1, Data)?;
    slots.tcp(1, Data)?;
    let syn = frame::tcp(client(V4, 1), vip(V4, PORT), Syn, 0, 0);
    slots.send(&frame::with_sequence(syn, 0x9000_0000))?;
    assert_eq!(live(&mut slots), one);
    slots.tcp(1, Fin)?;
    assert_eq!(live(&mut slots), [0; 3]);
    slots.tcp(1, Fin)?;
    slots.tcp(1, Data)?;
    assert_eq!(live(&mut slots), [0; 3], "once only");
    let again = begin(&mut slots, 1)?;
    assert_eq!(live(&mut slots), [A, B, C].map(|other| i64::from(other == again)));
    Ok(())
}

#[test]
fn a_datagram_begins_a_live_flow() -> Result<()> {
    need_bpf!();
    let mut slots = by_live_flows([100; 3])?;
    for port in 1..=30 {
        slots.udp(port)?;
        slots.udp(port)?;
    }
    assert_eq!(live(&mut slots).iter().sum::<i64>(), 30);
    Ok(())
}

#[test]
fn a_live_flow_counts_while_its_backend_is_down() -> Result<()> {
    need_bpf!();
    let mut slots = by_live_flows([100; 3])?;
    let (dead, flows) = (begin(&mut slots, 1)?, 1);
    slots.kill(dead)?;
    let [other, _] = [A, B, C].into_iter().filter(|backend| *backend != dead).collect::<Vec<_>>()[..] else {
        unreachable!("two of three are left")
    };
    slots.set(Slot::remembering(other))?;
    for _ in 0..2 {
        assert_eq!(slots.tcp(1, Data)?.0, other);
    }
    assert_eq!(live(&mut slots), [A, B, C].map(|backend| if backend == dead { flows } else { 0 }));
    // The flow begins again at another backend, and counts there.
    let begun = begin(&mut slots, 1)?;
    assert_ne!(begun, dead);
    assert_eq!(live(&mut slots), [A, B, C].map(|backend| if backend == begun { flows } else { 0 }));
    Ok(())
}

#[test]
fn live_flows_follow_the_weights_not_the_slots() -> Result<()> {
    need_bpf!();
    for (weights, shares) in [([100, 100, 100], [200, 200, 200]), ([200, 100, 100], [300, 150, 150])] {
        let mut slots = by_live_flows(weights)?;
        for port in 1..=600 {
            begin(&mut slots, port)?;
        }
        let live = live(&mut slots);
        assert_eq!(live.iter().sum::<i64>(), 600);
        for (live, share) in live.into_iter().zip(shares) {
            assert!(i64::abs_diff(live, share) <= 15, "{weights:?}: {live} of {share}");
        }
    }
    Ok(())
}

#[test]
fn who_is_behind_catches_up() -> Result<()> {
    need_bpf!();
    let mut slots = by_live_flows([100; 3])?;
    let first: Vec<u32> = (1..=300).map(|port| begin(&mut slots, port)).collect::<Result<_>>()?;
    // All flows of backend B end.
    for (port, _) in (1..=300).zip(&first).filter(|(_, backend)| **backend == B) {
        slots.tcp(port, Fin)?;
    }
    assert_eq!(live(&mut slots)[1], 0);
    for port in 301..=900 {
        begin(&mut slots, port)?;
    }
    let [a, b, c] = live(&mut slots);
    assert!(b + 20 > a.min(c), "{a}, {b} and {c}");
    Ok(())
}

#[test]
fn only_least_connections_counts_live_flows() -> Result<()> {
    need_bpf!();
    for balance in [Balance::Hash, Balance::RoundRobin, Balance::Random] {
        let mut slots = balanced(balance, Slot::remembering)?;
        slots.tcp(1, Syn)?;
        slots.tcp(1, Data)?;
        slots.udp(1)?;
        assert_eq!(live(&mut slots), [0; 3]);
    }
    Ok(())
}

/// A TCP service over backends of these weights. Each backend has ten slots for each hundred of its weight. The ring has the
/// order that the agent gives it for `least-connections`.
fn in_runs(weights: &[u16]) -> Result<Slots> {
    let mut slots = balanced(Balance::LeastConnections, Slot::remembering)?;
    let mut words = Vec::new();
    for (number, weight) in (1u32..).zip(weights) {
        if number > C {
            add_backend(&mut slots.world, number, V4, V4)?;
        }
        slots.world.change_backend(number, |record| record.weight = *weight)?;
        words.extend(std::iter::repeat_n(Slot::remembering(number), usize::from(*weight / 10)));
    }
    let ring = slots.world.add_ring(&words)?;
    slots.world.change_service(TCP_SERVICE, |record| {
        (record.ring, record.longest, record.idle_after) = (ring, u32::from(weights[0] / 10), IDLE_AFTER);
    })?;
    Ok(slots)
}

/// In jiffies: longer than a test, and less than the value at which the kernel's count starts.
const IDLE_AFTER: u32 = 1 << 25;

/// How many of `flows` new flows go to a backend whose flows never end, while those of the others end at once.
fn sent_to_the_stuck_one(weights: &[u16], stuck: u32, flows: u16) -> Result<u32> {
    let mut slots = in_runs(weights)?;
    let mut sent = 0;
    for port in 1..=flows {
        if begin(&mut slots, port)? == stuck {
            sent += 1;
        } else {
            slots.tcp(port, Fin)?;
        }
    }
    Ok(sent)
}

#[test]
fn a_stuck_backend_gets_hardly_a_new_flow() -> Result<()> {
    need_bpf!();
    for (weights, stuck) in [
        (&[100, 100][..], 1),
        (&[900, 100], 1),
        (&[900, 100], 2),
        (&[100, 100, 100], 2),
        (&[500, 100, 100], 1),
        (&[500, 100, 100], 3),
        (&[100; 10], 7),
    ] {
        let sent = sent_to_the_stuck_one(weights, stuck, 1000)?;
        // The flows that its weight allows it while each other backend has one flow.
        let most = weights.iter().max().unwrap_or(&1) / weights.iter().min().unwrap_or(&1) + 1;
        println!("{weights:?}: backend {stuck} that is stuck gets {sent} of 1,000 flows");
        assert!(sent <= u32::from(most), "{weights:?}: {sent} of 1,000 flows went to backend {stuck}");
    }
    Ok(())
}

#[test]
fn what_is_stuck_is_spread_over_all_others() -> Result<()> {
    need_bpf!();
    let mut slots = in_runs(&[500, 100, 100, 100, 100])?;
    slots.world.array::<i64>(name::LIVE)?.set(1, 1_000_000, 0)?;
    let mut met = [0u32; 6];
    for port in 1..=800 {
        met[begin(&mut slots, port)? as usize] += 1;
    }
    assert_eq!(met[1], 0);
    for backend in 2..=5 {
        // By chance: six standard deviations.
        assert!(met[backend].abs_diff(200) <= 75, "{met:?}");
    }
    Ok(())
}

#[test]
fn a_failing_or_leaving_backend_is_the_last_choice() -> Result<()> {
    need_bpf!();
    let leaving = |flags: u8| flags | Backend::DRAINING;
    let failing = |flags: u8| flags | Backend::FAILING;
    let dead = |flags: u8| flags & !Backend::ALIVE;
    for change in [leaving, failing, dead] {
        let mut slots = in_runs(&[100, 100])?;
        // The working backend has all the flows, so the load speaks for the other one.
        slots.world.array::<i64>(name::LIVE)?.set(2, 1000, 0)?;
        slots.world.change_backend(1, |record| record.flags = change(record.flags))?;
        for port in 1..=100 {
            assert_eq!(slots.tcp(port, Syn)?.0, 2);
        }
    }
    let mut slots = in_runs(&[100, 100])?;
    for backend in [1, 2] {
        slots.world.change_backend(backend, |record| record.flags = failing(record.flags))?;
    }
    slots.world.array::<i64>(name::LIVE)?.set(2, 1000, 0)?;
    for port in 1..=100 {
        assert_eq!(slots.tcp(port, Syn)?.0, 1, "of two that fail the lighter one");
    }
    Ok(())
}

/// Makes the record of the flow from `port` that of a flow which has been silent for a very long time.
fn fall_silent(slots: &mut Slots, port: u16) -> Result<()> {
    let key = tcp_key(port);
    let record = slots.world.record(Role::Flow, &key)?.expect("a confirmed flow");
    let long_ago = (slots.world.clock()? as u32).wrapping_sub(1 << 26);
    slots.world.set_record(Role::Flow, &key, Record { last_seen: long_ago, ..record })
}

#[test]
fn an_idle_flow_counts_again_when_it_sends() -> Result<()> {
    need_bpf!();
    let mut slots = in_runs(&[100, 100, 100])?;
    let mut backends = Vec::new();
    for port in 1..=3 {
        backends.push(begin(&mut slots, port)?);
        fall_silent(&mut slots, port)?;
    }
    // As after the agent's sweep, which takes idle flows off the count: all three are gone from it.
    for backend in [A, B, C] {
        slots.world.array::<i64>(name::LIVE)?.set(backend, 0, 0)?;
    }
    assert_eq!(slots.tcp(1, Data)?, (backends[0], vec![TrackedHit]), "where it was");
    let one = [A, B, C].map(|backend| i64::from(backend == backends[0]));
    assert_eq!(live(&mut slots), one, "it speaks again");
    slots.tcp(1, Data)?;
    assert_eq!(live(&mut slots), one, "and counts once");
    slots.tcp(2, Fin)?;
    assert_eq!(live(&mut slots), one, "it was not counted any more");
    slots.tcp(3, Syn)?;
    assert_eq!(live(&mut slots), one, "a SYN proves nothing");
    slots.tcp(1, Fin)?;
    assert_eq!(live(&mut slots), [0; 3]);
    Ok(())
}
