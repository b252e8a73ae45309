//! Rings that replaced a ring of another length: each slot asks the old ring which backend owns an unknown flow.

use anyhow::Result;
use lb_common::{
    counter::Counter::{FlowInserted, FlowPending, TrackedCurrent, TrackedHit, TrackedPrevious},
    ring::Ring,
    slot::Slot,
    wire::protocol::TCP,
};
use lb_tests::{frame::Segment::*, need_bpf};

use crate::{
    scene::{PORT, V4, client, vip},
    slots::{A, B, C, Slots, TCP_SERVICE},
};

/// A ring of 13 slots of `B` over an old one that has `old` slots.
fn resized(old: &[Slot]) -> Result<Slots> {
    let mut slots = Slots::new(Slot::stable(B))?;
    let new = slots.world.add_ring(&[Slot::after_resize(B, 0); 13])?;
    let old = slots.world.add_ring(old)?;
    slots.world.change_service(TCP_SERVICE, |service| {
        service.ring = new;
        service.old_ring = old;
    })?;
    Ok(slots)
}

#[test]
fn an_unknown_flow_belongs_to_the_old_rings_owner() -> Result<()> {
    need_bpf!();
    let owners = [Slot::stable(A), Slot::stable(C), Slot::stable(B), Slot::stable(A), Slot::stable(C)];
    let mut slots = resized(&owners)?;
    let old = slots.world.service(TCP_SERVICE)?.old_ring;
    for port in 1..=60 {
        let hash = slots.world.hash(client(V4, port), vip(V4, PORT), TCP);
        let owner = owners[(old.slot(hash) - old.offset()) as usize].current();
        let event = if owner == B { TrackedCurrent } else { TrackedPrevious };
        assert_eq!(slots.tcp(port, Data)?, (owner, vec![event, FlowInserted]), "port {port}");
        assert_eq!(slots.tcp(port, Data)?, (owner, vec![TrackedHit]));
    }
    Ok(())
}

#[test]
fn a_new_flow_belongs_to_its_owner_in_the_new_ring() -> Result<()> {
    need_bpf!();
    let mut slots = resized(&[Slot::stable(A); 5])?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedCurrent, FlowPending]));
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit, FlowInserted]));
    Ok(())
}

#[test]
fn a_flow_that_the_table_knows_stays_where_it_is() -> Result<()> {
    need_bpf!();
    // The old ring was still learning, and this flow began at C in between.
    let mut slots = Slots::new(Slot::learning(C, A, 0))?;
    slots.tcp(1, Syn)?;
    slots.tcp(1, Data)?;
    let old = slots.world.service(TCP_SERVICE)?.ring;
    let new = slots.world.add_ring(&[Slot::after_resize(B, 0); 13])?;
    slots.world.change_service(TCP_SERVICE, |service| {
        service.ring = new;
        service.old_ring = old;
    })?;
    assert_eq!(slots.tcp(1, Data)?, (C, vec![TrackedHit]));
    assert_eq!(slots.tcp(2, Data)?, (A, vec![TrackedPrevious, FlowInserted]), "from before both changes");
    Ok(())
}

#[test]
fn a_tracked_old_slot_names_the_owner_of_unknown_flows() -> Result<()> {
    need_bpf!();
    for (old, owner) in [
        (Slot::remembering(A), A),
        (Slot::learning(C, A, 0), A),
        // A ring that had itself just replaced another one no longer knows that older ring.
        (Slot::after_resize(C, 0), C),
    ] {
        let mut slots = resized(&[old; 5])?;
        assert_eq!(slots.tcp(1, Data)?.0, owner, "{old:?}");
    }
    Ok(())
}

#[test]
fn where_the_old_ring_has_no_answer_current_is_it() -> Result<()> {
    need_bpf!();
    let mut slots = resized(&[Slot::EMPTY; 5])?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedCurrent, FlowInserted]), "it had no owner");

    for ring in [Ring::NONE, Ring::new(4096, 5)] {
        let mut slots = resized(&[Slot::stable(A); 5])?;
        slots.world.change_service(TCP_SERVICE, |service| service.old_ring = ring)?;
        assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedCurrent, FlowInserted]), "{ring:?}");
    }

    let mut slots = resized(&[Slot::stable(A); 5])?;
    slots.kill(A)?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedCurrent]), "its owner is dead, and may come back");
    Ok(())
}

#[test]
fn a_draining_owner_in_the_old_ring_keeps_its_flows() -> Result<()> {
    need_bpf!();
    let mut slots = resized(&[Slot::stable(A); 5])?;
    slots.drain(A)?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedPrevious, FlowInserted]));
    assert_eq!(slots.tcp(2, Syn)?.0, B);
    Ok(())
}
