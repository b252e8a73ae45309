//! Backends that die under flows in tracked slots or come back, and slots without any backend.

use anyhow::Result;
use lb_common::{
    counter::Counter::{FlowInserted, FlowPending, TrackedCurrent, TrackedHit, TrackedPrevious},
    flow::Record,
    flow_table::Role,
    slot::Slot,
};
use lb_tests::{frame::Segment::*, need_bpf};

use crate::slots::{A, B, C, Slots, tcp_key, udp_key};

/// Slots in state `slot`, with the TCP and the UDP flow from port 1 recorded at C.
fn with_flow_at_c(slot: Slot) -> Result<Slots> {
    let mut slots = Slots::new(slot)?;
    let record = Record { backend: C, sequence: 1000, ..Record::NONE };
    slots.world.set_record(Role::Flow, &tcp_key(1), record)?;
    slots.world.set_record(Role::Flow, &udp_key(1), record)?;
    Ok(slots)
}

#[test]
fn a_learning_slot_treats_it_as_an_unknown_flow() -> Result<()> {
    need_bpf!();
    let mut slots = with_flow_at_c(Slot::learning(B, A, 0))?;
    slots.kill(C)?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedPrevious]));
    assert_eq!(slots.recorded(1)?, (Some(C), None));
    assert_eq!(slots.udp(1)?, (A, vec![TrackedPrevious, FlowInserted]));

    let mut slots = with_flow_at_c(Slot::learning(B, A, 0))?;
    slots.kill(C)?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedCurrent, FlowPending]));
    assert_eq!(slots.recorded(1)?, (Some(C), Some(B)));
    Ok(())
}

#[test]
fn a_remembering_slot_sends_its_flow_to_current() -> Result<()> {
    need_bpf!();
    let mut slots = with_flow_at_c(Slot::remembering(B))?;
    slots.kill(C)?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedCurrent]));
    assert_eq!(slots.udp(1)?, (B, vec![TrackedCurrent]));
    assert_eq!(
        slots.tcp(1, Syn)?,
        (B, vec![TrackedCurrent, FlowPending]),
        "another flow than the one before"
    );
    Ok(())
}

#[test]
fn only_segments_return_to_a_backend_that_is_back() -> Result<()> {
    need_bpf!();
    for slot in [Slot::remembering(B), Slot::learning(B, A, 0)] {
        for segment in [Data, Fin, Rst] {
            let mut slots = with_flow_at_c(slot)?;
            slots.kill(C)?;
            assert_ne!(slots.tcp(1, segment)?.0, C);
            let (heir, _) = slots.udp(1)?;
            slots.revive(C)?;
            assert_eq!(slots.tcp(1, Data)?, (C, vec![TrackedHit]), "{slot:?}, {segment:?}");
            assert_eq!(slots.udp(1)?.0, heir, "{slot:?}");
        }
    }
    Ok(())
}

#[test]
fn a_flow_begun_meanwhile_stays_where_it_began() -> Result<()> {
    need_bpf!();
    for slot in [Slot::remembering(B), Slot::learning(B, A, 0)] {
        let mut slots = with_flow_at_c(slot)?;
        slots.kill(C)?;
        assert_eq!(slots.tcp(1, Syn)?.0, B);
        assert_eq!(slots.tcp(1, Data)?.0, B);
        slots.revive(C)?;
        assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit]), "{slot:?}");
    }
    Ok(())
}

#[test]
fn a_handshake_begins_again_at_current() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(C, A, 0))?;
    slots.tcp(1, Syn)?;
    slots.kill(C)?;
    slots.set(Slot::learning(B, A, 0))?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedCurrent, FlowPending]));
    assert_eq!(slots.recorded(1)?, (None, Some(B)));
    slots.revive(C)?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit, FlowInserted]));
    Ok(())
}

#[test]
fn a_handshake_does_not_return_after_another_one() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(C, A, 0))?;
    slots.tcp(1, Syn)?;
    slots.kill(C)?;
    slots.set(Slot::learning(B, A, 0))?;
    // The flow's data goes to A now, which does not know the flow. Then a new flow uses the tuple, and goes to B.
    assert_eq!(slots.tcp(1, Data)?.0, A);
    assert_eq!(slots.recorded(1)?, (None, Some(C)));
    slots.set(Slot::remembering(B))?;
    assert_eq!(slots.tcp(1, Syn)?.0, B);
    slots.revive(C)?;
    assert_eq!(slots.tcp(1, Data)?.0, B);
    Ok(())
}

#[test]
fn a_remembering_slot_restarts_a_handshake_too() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(C, A, 0))?;
    slots.tcp(1, Syn)?;
    slots.kill(C)?;
    slots.set(Slot::remembering(B))?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedCurrent, FlowPending]));
    slots.revive(C)?;
    assert_eq!(slots.tcp(1, Data)?.0, B);
    Ok(())
}

#[test]
fn unknown_flows_of_a_dead_previous_go_to_current() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(B, A, 0))?;
    slots.kill(A)?;
    // A stranger could have sent this segment as well, so it leaves no record.
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedCurrent]));
    assert_eq!(slots.udp(1)?, (B, vec![TrackedCurrent, FlowInserted]));
    slots.revive(A)?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedPrevious, FlowInserted]));
    assert_eq!(slots.udp(1)?, (B, vec![TrackedHit]), "its flow may have begun there");
    Ok(())
}

#[test]
fn a_backend_that_is_down_on_hold_keeps_its_flows() -> Result<()> {
    need_bpf!();
    // `on_down = "hold"`: not in the ring, but alive.
    let mut slots = with_flow_at_c(Slot::learning(B, A, 0))?;
    assert_eq!(slots.tcp(1, Data)?, (C, vec![TrackedHit]));
    Ok(())
}

#[test]
fn a_new_flow_without_an_owner_is_dropped_unrecorded() -> Result<()> {
    need_bpf!();
    for slot in [Slot::learning(0, A, 0), Slot::remembering(0)] {
        let mut slots = Slots::new(slot)?;
        assert_eq!(slots.tcp(1, Syn)?, (0, vec![TrackedCurrent]), "{slot:?}");
        assert_eq!(slots.count()?, (0, 0), "{slot:?}");
    }
    Ok(())
}

#[test]
fn a_recorded_flow_goes_on_without_an_owner() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(0, A, 0))?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedPrevious, FlowInserted]));
    slots.set(Slot::remembering(0))?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
    Ok(())
}

#[test]
fn without_any_backend_nothing_is_recorded() -> Result<()> {
    need_bpf!();
    let mut slots = with_flow_at_c(Slot::learning(0, A, 0))?;
    slots.kill(A)?;
    slots.kill(C)?;
    for port in [1, 2] {
        for segment in [Data, Syn] {
            assert_eq!(slots.tcp(port, segment)?, (0, vec![TrackedCurrent]));
        }
        assert_eq!(slots.udp(port)?, (0, vec![TrackedCurrent]));
    }
    for role in [Role::Flow, Role::Pending] {
        for (key, record) in slots.world.records(role)? {
            assert_ne!(record.backend, 0, "{key:?}");
        }
    }
    Ok(())
}

#[test]
fn a_record_of_another_protocol_is_another_flow_s() -> Result<()> {
    need_bpf!();
    let mut slots = with_flow_at_c(Slot::remembering(B))?;
    let record = Record { backend: A, sequence: 1000, ..Record::NONE };
    slots.world.set_record(Role::Flow, &udp_key(2), record)?;
    assert_eq!(slots.tcp(2, Data)?, (B, vec![TrackedCurrent]));
    Ok(())
}
