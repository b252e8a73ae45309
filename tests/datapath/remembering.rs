//! Slots that remember: old flows are recorded, all other flows belong to `current` and are not recorded. And slots that
//! are not tracked, which never record a flow.

use anyhow::Result;
use lb_common::{
    counter::Counter::{FlowInserted, FlowPending, TrackedCurrent, TrackedHit},
    flow::Record,
    flow_table::Role,
    slot::Slot,
};
use lb_tests::{
    frame::{self, Segment::*},
    need_bpf,
};

use crate::{
    scene::{PORT, V4, client, vip},
    slots::{A, B, Slots, tcp_key, udp_key},
};

/// Slots of B, some of whose flows are still at A: the TCP and the UDP flow from port 1.
fn remembering() -> Result<Slots> {
    let mut slots = Slots::new(Slot::remembering(B))?;
    let record = Record { backend: A, sequence: 1000, ..Record::NONE };
    slots.world.set_record(Role::Flow, &tcp_key(1), record)?;
    slots.world.set_record(Role::Flow, &udp_key(1), record)?;
    Ok(slots)
}

#[test]
fn a_recorded_flow_stays_where_it_is() -> Result<()> {
    need_bpf!();
    let mut slots = remembering()?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
    assert_eq!(slots.udp(1)?, (A, vec![TrackedHit]));
    Ok(())
}

#[test]
fn unknown_flows_belong_to_current_and_are_not_recorded() -> Result<()> {
    need_bpf!();
    let mut slots = remembering()?;
    for segment in [Syn, Data, Fin, Rst] {
        assert_eq!(slots.tcp(2, segment)?, (B, vec![TrackedCurrent]));
    }
    assert_eq!(slots.udp(2)?, (B, vec![TrackedCurrent]));
    assert_eq!(slots.count()?, (2, 0));
    Ok(())
}

#[test]
fn a_forged_syn_does_not_move_a_flow() -> Result<()> {
    need_bpf!();
    let mut slots = remembering()?;
    assert_eq!(slots.tcp(1, Syn)?, (A, vec![TrackedHit, FlowPending]));
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
    Ok(())
}

#[test]
fn a_new_flow_on_a_closed_tuple_goes_to_current() -> Result<()> {
    need_bpf!();
    for end in [Fin, Rst] {
        let mut slots = remembering()?;
        assert_eq!(slots.tcp(1, end)?, (A, vec![TrackedHit]));
        let of = |segment, sequence| {
            frame::with_sequence(frame::tcp(client(V4, 1), vip(V4, PORT), segment, 0, 0), sequence)
        };
        assert_eq!(slots.send(&of(Syn, 0x4000_0000))?, (B, vec![TrackedCurrent, FlowPending]));
        assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]), "until then the old one goes on");
        assert_eq!(slots.send(&of(Data, 0x4000_0001))?, (B, vec![TrackedHit, FlowInserted]));
        assert_eq!(slots.recorded(1)?, (Some(B), Some(A)));
    }
    Ok(())
}

#[test]
fn a_syn_takes_nothing_from_a_draining_backends_flow() -> Result<()> {
    need_bpf!();
    let mut slots = remembering()?;
    slots.drain(A)?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
    assert_eq!(slots.tcp(1, Syn)?, (A, vec![TrackedHit, FlowPending]));
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
    assert_eq!(slots.udp(1)?, (A, vec![TrackedHit]), "UDP has no beginning");
    Ok(())
}

#[test]
fn a_handshake_of_a_learning_slot_is_finished() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(B, A, 0))?;
    slots.tcp(1, Syn)?;
    slots.set(Slot::remembering(A))?;
    assert_eq!(slots.tcp(1, Syn)?.0, B);
    assert_eq!(slots.tcp(1, Data)?.0, B);
    assert_eq!(slots.recorded(1)?, (Some(B), None));
    Ok(())
}

#[test]
fn an_untracked_slot_records_nothing() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::stable(A))?;
    for port in 1..=1000 {
        assert_eq!(slots.tcp(port, Syn)?, (A, vec![]));
        if port % 4 == 0 {
            assert_eq!(slots.tcp(port, Data)?, (A, vec![]));
            assert_eq!(slots.udp(port)?, (A, vec![]));
        }
    }
    assert_eq!(slots.count()?, (0, 0));
    Ok(())
}

#[test]
fn an_untracked_slot_reads_nothing_either() -> Result<()> {
    need_bpf!();
    let mut slots = remembering()?;
    slots.set(Slot::stable(B))?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![]));
    assert_eq!(slots.udp(1)?, (B, vec![]));
    Ok(())
}
