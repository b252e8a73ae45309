//! Services that balance other than by the hash: a new flow goes to whom turn or chance choose, and stays there because
//! it is written down.

use anyhow::Result;
use lb_common::{
    balance::Balance,
    counter::Counter::{
        self, FlowInserted, FlowPending, TrackedBalanced, TrackedCurrent, TrackedHit, TrackedPrevious,
    },
    service::Service,
    slot::{Slot, Track},
};
use lb_tests::{frame::Segment::*, need_bpf};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::slots::{A, B, C, Slots, TCP_SERVICE, UDP_SERVICE};

/// Owners in the order of the turns: `A` has three of seven, `B` and `C` two.
const TURNS: [u32; 7] = [A, B, C, A, B, C, A];

/// Both services balance so, over slots that `word` makes of their owners.
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
fn new_flows_take_turns_and_stay_where_their_turn_put_them() -> Result<()> {
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
    // Four packets of each flow, one of which is counted as a connection twice over: its SYN was repeated.
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
    for balance in [Balance::RoundRobin, Balance::Random] {
        let mut slots = balanced(balance, |_| Slot::remembering(B))?;
        assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedCurrent, FlowInserted]), "from before");
        let mut slots = balanced(balance, |_| Slot::learning(B, A, 5))?;
        assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedPrevious, FlowInserted]));
        assert_eq!(slots.udp(1)?, (A, vec![TrackedPrevious, FlowInserted]), "nobody can tell");
        assert_eq!(slots.tcp(2, Syn)?, (B, vec![FlowPending, TrackedBalanced]));
    }
    Ok(())
}

#[test]
fn a_slot_that_learns_from_its_own_owner_keeps_datagrams_there() -> Result<()> {
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
fn a_flow_that_begins_anew_is_balanced_anew() -> Result<()> {
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
fn nobody_is_chosen_where_nobody_is() -> Result<()> {
    need_bpf!();
    for balance in [Balance::RoundRobin, Balance::Random] {
        let mut slots = balanced(balance, |_| Slot::remembering(0))?;
        assert_eq!(slots.tcp(1, Syn)?, (0, vec![TrackedCurrent]));
        assert_eq!(slots.udp(1)?, (0, vec![TrackedCurrent]));
        assert_eq!(slots.count()?, (0, 0));
        let outcome: Vec<Counter> = slots.tcp(2, Data)?.1;
        assert_eq!(outcome, [TrackedCurrent]);
    }
    Ok(())
}
