//! Backends that die under flows in tracked slots, come back, or are none at all.

use anyhow::Result;
use lb_common::{
    counter::Counter::{FlowInserted, FlowPending, TrackedCurrent, TrackedHit, TrackedPrevious},
    flow::Record,
    map::name,
    slot::Slot,
};
use lb_tests::{frame::Segment::*, need_bpf};

use crate::slots::{A, B, C, Slots, tcp_key, udp_key};

/// Slots in state `slot`, with the TCP and the UDP flow from port 1 written down at C.
fn with_flow_at_c(slot: Slot) -> Result<Slots> {
    let mut slots = Slots::new(slot)?;
    let record = Record { backend: C, flags: 0, last_seen: 0 };
    slots.world.set_record(name::FLOWS, &tcp_key(1), record)?;
    slots.world.set_record(name::FLOWS, &udp_key(1), record)?;
    Ok(slots)
}

#[test]
fn a_learning_slot_takes_a_flow_of_a_dead_backend_as_unknown() -> Result<()> {
    need_bpf!();
    let mut slots = with_flow_at_c(Slot::learning(B, A, 0))?;
    slots.kill(C)?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedPrevious, FlowInserted]));
    assert_eq!(slots.recorded(1)?, (Some(A), None));
    assert_eq!(slots.udp(1)?, (A, vec![TrackedPrevious, FlowInserted]));

    let mut slots = with_flow_at_c(Slot::learning(B, A, 0))?;
    slots.kill(C)?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedCurrent, FlowPending]));
    assert_eq!(slots.recorded(1)?, (None, Some(B)));
    Ok(())
}

#[test]
fn a_remembering_slot_gives_a_flow_of_a_dead_backend_to_current() -> Result<()> {
    need_bpf!();
    for segment in [Data, Syn] {
        let mut slots = with_flow_at_c(Slot::remembering(B))?;
        slots.kill(C)?;
        assert_eq!(slots.tcp(1, segment)?, (B, vec![TrackedCurrent]));
        assert_eq!(slots.udp(1)?, (B, vec![TrackedCurrent]));
    }
    Ok(())
}

#[test]
fn a_flow_that_was_taken_over_stays_when_its_old_backend_returns() -> Result<()> {
    need_bpf!();
    for slot in [Slot::remembering(B), Slot::learning(B, A, 0)] {
        for first in [Data, Syn] {
            let mut slots = with_flow_at_c(slot)?;
            slots.kill(C)?;
            let (heir, _) = slots.tcp(1, first)?;
            let (udp_heir, _) = slots.udp(1)?;
            slots.revive(C)?;
            assert_eq!(slots.tcp(1, Data)?.0, heir, "{slot:?}, {first:?}");
            assert_eq!(slots.udp(1)?.0, udp_heir, "{slot:?}");
        }
    }
    Ok(())
}

#[test]
fn a_handshake_with_a_dead_backend_begins_again_at_current() -> Result<()> {
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
fn an_unconfirmed_record_of_a_dead_backend_never_comes_back_to_life() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(C, A, 0))?;
    slots.tcp(1, Syn)?;
    slots.kill(C)?;
    slots.set(Slot::learning(B, A, 0))?;
    // Its data goes to A now, is closed there, and the tuple used for a new flow, which goes to B.
    assert_eq!(slots.tcp(1, Data)?.0, A);
    assert_eq!(slots.recorded(1)?, (Some(A), None));
    assert_eq!(slots.tcp(1, Fin)?.0, A);
    slots.set(Slot::remembering(B))?;
    assert_eq!(slots.tcp(1, Syn)?.0, B);
    slots.revive(C)?;
    assert_eq!(slots.tcp(1, Data)?.0, B);
    Ok(())
}

#[test]
fn a_remembering_slot_forgets_a_handshake_with_a_dead_backend() -> Result<()> {
    need_bpf!();
    for first in [Syn, Data] {
        let mut slots = Slots::new(Slot::learning(C, A, 0))?;
        slots.tcp(1, Syn)?;
        slots.kill(C)?;
        slots.set(Slot::remembering(B))?;
        assert_eq!(slots.tcp(1, first)?, (B, vec![TrackedCurrent]));
        slots.revive(C)?;
        assert_eq!(slots.tcp(1, Data)?.0, B);
    }
    Ok(())
}

#[test]
fn unknown_flows_of_a_dead_previous_go_to_current() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(B, A, 0))?;
    slots.kill(A)?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedCurrent, FlowInserted]));
    assert_eq!(slots.udp(1)?, (B, vec![TrackedCurrent, FlowInserted]));
    // And stay there when it comes back.
    slots.revive(A)?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit]));
    assert_eq!(slots.udp(1)?, (B, vec![TrackedHit]));
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
fn a_new_flow_in_a_slot_that_nobody_owns_is_dropped_and_not_written_down() -> Result<()> {
    need_bpf!();
    for slot in [Slot::learning(0, A, 0), Slot::remembering(0)] {
        let mut slots = Slots::new(slot)?;
        assert_eq!(slots.tcp(1, Syn)?, (0, vec![TrackedCurrent]), "{slot:?}");
        assert_eq!(slots.count()?, (0, 0), "{slot:?}");
    }
    Ok(())
}

#[test]
fn an_old_flow_in_a_slot_that_nobody_owns_goes_on() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(0, A, 0))?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedPrevious, FlowInserted]));
    slots.set(Slot::remembering(0))?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
    Ok(())
}

#[test]
fn where_nobody_is_left_nothing_is_written_down() -> Result<()> {
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
    for map in [name::FLOWS, name::PENDING] {
        for (key, record) in slots.world.records(map)? {
            assert_ne!(record.backend, 0, "{key:?}");
        }
    }
    Ok(())
}

#[test]
fn a_flow_in_the_table_is_the_service_s_own() -> Result<()> {
    need_bpf!();
    let mut slots = with_flow_at_c(Slot::remembering(B))?;
    // The same tuple under another service's number.
    let record = Record { backend: A, flags: 0, last_seen: 0 };
    let mut other = tcp_key(2);
    other.service = 9;
    slots.world.set_record(name::FLOWS, &other, record)?;
    assert_eq!(slots.tcp(2, Data)?, (B, vec![TrackedCurrent]));
    Ok(())
}
