//! Slots that learn: unknown flows belong to `previous` and are recorded, new flows belong to `current`.

use anyhow::Result;
use lb_common::{
    counter::Counter::{
        FlowEvicted, FlowEvictedUnproven, FlowInserted, FlowPending, TrackedCurrent, TrackedHit,
        TrackedPrevious,
    },
    flow::Record,
    flow_table::Role,
    slot::Slot,
    wire::Tcp,
};
use lb_tests::{
    frame::{self, Segment::*},
    need_bpf,
    world::Sizes,
};

use crate::{
    scene::{PORT, V4, client, vip},
    slots::{A, B, C, Slots, tcp_key, udp_key},
};

/// Slots that went from A to B.
fn learning() -> Result<Slots> {
    Slots::new(Slot::learning(B, A, 0))
}

#[test]
fn a_syn_goes_to_current_as_unconfirmed() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedCurrent, FlowPending]));
    assert_eq!(slots.recorded(1)?, (None, Some(B)));
    Ok(())
}

#[test]
fn the_next_packet_confirms_it() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    slots.tcp(1, Syn)?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit, FlowInserted]));
    assert_eq!(slots.recorded(1)?, (Some(B), None), "moved, not copied");
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit]));
    Ok(())
}

#[test]
fn a_repeated_syn_follows_the_first_across_changes() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    slots.tcp(1, Syn)?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedHit]));
    slots.set(Slot::learning(C, A, 0))?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedHit]));
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit, FlowInserted]));
    Ok(())
}

#[test]
fn an_unknown_flow_belongs_to_previous_and_is_recorded() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    for (port, segment) in [(1, Data), (2, Fin)] {
        assert_eq!(slots.tcp(port, segment)?, (A, vec![TrackedPrevious, FlowInserted]));
        assert_eq!(slots.recorded(port)?, (Some(A), None));
        assert!(slots.flags(port)? & Record::ONCE != 0, "so far it proves nothing");
        assert_eq!(slots.tcp(port, Data)?, (A, vec![TrackedHit]));
        assert!(slots.flags(port)? & Record::ONCE == 0);
    }
    Ok(())
}

#[test]
fn an_unknown_rst_and_backscatter_are_not_recorded() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    for _ in 0..3 {
        assert_eq!(slots.tcp(1, Rst)?, (A, vec![TrackedPrevious]));
        for flags in [Tcp::SYN | Tcp::ACK, Tcp::SYN | Tcp::FIN, Tcp::SYN | Tcp::RST, Tcp::FIN, 0] {
            let mut packet = frame::tcp(client(V4, 2), vip(V4, PORT), Syn, 0, 0);
            let at = frame::transport(&packet) + 13;
            packet[at] = flags;
            assert_eq!(slots.send(&packet)?, (A, vec![TrackedPrevious]), "{flags:#x}");
        }
    }
    assert_eq!(slots.count()?, (0, 0));
    Ok(())
}

#[test]
fn an_unknown_udp_flow_belongs_to_previous() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    assert_eq!(slots.udp(1)?, (A, vec![TrackedPrevious, FlowInserted]));
    assert_eq!(slots.world.record(Role::Flow, &udp_key(1))?.map(|record| record.backend), Some(A));
    assert_eq!(slots.udp(1)?, (A, vec![TrackedHit]));
    Ok(())
}

#[test]
fn tcp_and_udp_flows_of_one_client_port_are_two() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    slots.tcp(1, Syn)?;
    slots.tcp(1, Data)?;
    assert_eq!(slots.udp(1)?, (A, vec![TrackedPrevious, FlowInserted]));
    assert_eq!(slots.count()?, (2, 0));
    Ok(())
}

#[test]
fn a_forged_syn_does_not_move_a_flow() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    slots.tcp(1, Data)?;
    slots.tcp(1, Data)?;
    assert_eq!(slots.tcp(1, Syn)?, (A, vec![TrackedHit, FlowPending]));
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
    Ok(())
}

#[test]
fn a_closed_flow_stays_until_a_new_one_is_confirmed() -> Result<()> {
    need_bpf!();
    for (end, flag) in [(Fin, Record::FIN), (Rst, Record::RST)] {
        let mut slots = learning()?;
        slots.tcp(1, Data)?;
        slots.tcp(1, Data)?;
        assert_eq!(slots.tcp(1, end)?, (A, vec![TrackedHit]));
        assert_eq!(slots.flags(1)?, flag);
        let syn = frame::with_sequence(frame::tcp(client(V4, 1), vip(V4, PORT), Syn, 0, 0), 0x4000_0000);
        assert_eq!(slots.send(&syn)?, (B, vec![TrackedCurrent, FlowPending]), "a new flow begins");
        assert_eq!(slots.recorded(1)?, (Some(A), Some(B)), "next to it");
        // The last acknowledgement of the handshake; it cancels an RST.
        assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
        let data = frame::with_sequence(frame::tcp(client(V4, 1), vip(V4, PORT), Data, 0, 0), 0x4000_0001);
        assert_eq!(slots.send(&data)?, (B, vec![TrackedHit, FlowInserted]));
        assert_eq!(slots.recorded(1)?, (Some(B), Some(A)), "the one before is kept");
        assert_eq!(slots.flags(1)?, Record::BEGAN, "the new flow is not closing");
        assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]), "what is late of the one before");
        assert_eq!(slots.send(&data)?, (B, vec![TrackedHit]));
    }
    Ok(())
}

#[test]
fn closing_segments_with_wrong_numbers_close_nothing() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    slots.tcp(1, Data)?;
    slots.tcp(1, Data)?;
    for segment in [Fin, Rst, Syn, Data, Rst, Syn, Fin] {
        let forged = frame::tcp(client(V4, 1), vip(V4, PORT), segment, 0, 0);
        assert_eq!(slots.send(&frame::with_sequence(forged, 0x9000_0000))?.0, A, "{segment:?}");
        assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
        assert_eq!(slots.flags(1)? & Record::CLOSING, 0, "{segment:?}");
    }
    Ok(())
}

#[test]
fn a_draining_backend_keeps_flows_and_gets_no_new_ones() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    slots.tcp(1, Data)?;
    slots.tcp(1, Data)?;
    slots.drain(A)?;
    assert_eq!(slots.tcp(1, Data)?, (A, vec![TrackedHit]));
    assert_eq!(slots.tcp(2, Data)?, (A, vec![TrackedPrevious, FlowInserted]), "it is alive");
    assert_eq!(slots.tcp(1, Syn)?, (A, vec![TrackedHit, FlowPending]), "a SYN takes no live flow away");
    slots.tcp(1, Fin)?;
    let syn = frame::with_sequence(frame::tcp(client(V4, 1), vip(V4, PORT), Syn, 0, 0), 0x4000_0000);
    assert_eq!(slots.send(&syn)?, (B, vec![TrackedCurrent, FlowPending]), "the client has closed");
    assert_eq!(slots.tcp(3, Syn)?, (B, vec![TrackedCurrent, FlowPending]));
    Ok(())
}

#[test]
fn a_drain_lets_a_handshake_finish() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    slots.tcp(1, Syn)?;
    slots.drain(B)?;
    slots.set(Slot::learning(C, A, 0))?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedHit]));
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit, FlowInserted]));
    Ok(())
}

#[test]
fn records_say_when_they_were_made() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    let before = slots.world.clock()? as u32;
    slots.tcp(1, Syn)?;
    slots.tcp(2, Data)?;
    let after = slots.world.clock()? as u32;
    for (role, port) in [(Role::Pending, 1), (Role::Flow, 2)] {
        let record = slots.world.record(role, &tcp_key(port))?.expect("it was recorded");
        // A record's time is that of the beginning of a step.
        let passed = record.last_seen.wrapping_sub(before / Record::REFRESH * Record::REFRESH);
        let most = after.wrapping_sub(before) + Record::REFRESH;
        assert!(passed <= most, "{record:?} between {before} and {after}");
    }
    Ok(())
}

#[test]
fn a_record_is_stamped_again_only_after_a_while() -> Result<()> {
    need_bpf!();
    let mut slots = learning()?;
    let key = tcp_key(1);
    let now = slots.world.clock()? as u32;
    let seen = |ago| Record { backend: C, sequence: 1000, last_seen: now.wrapping_sub(ago), ..Record::NONE };
    slots.world.set_record(Role::Flow, &key, seen(1))?;
    slots.tcp(1, Data)?;
    let then = seen(0).last_seen;
    // The check is left out if the record's step of time is over, or soon over.
    let step = |now: u32| now / Record::REFRESH;
    if step(slots.world.clock()? as u32 + 1) == step(then) {
        let record = slots.world.record(Role::Flow, &key)?.expect("it is there");
        assert_eq!(step(record.last_seen), step(seen(1).last_seen));
    }
    slots.world.set_record(Role::Flow, &key, seen(3 * Record::REFRESH))?;
    slots.tcp(1, Data)?;
    let record = slots.world.record(Role::Flow, &key)?.expect("it is still there");
    assert!(step(record.last_seen) >= step(now), "{record:?} at {now}");
    Ok(())
}

#[test]
fn a_flood_of_syns_pushes_no_flow_out() -> Result<()> {
    need_bpf!();
    let sizes = Sizes { flows: 1024, ..Sizes::default() };
    let mut slots = Slots::with_sizes(Slot::learning(B, A, 0), sizes)?;
    for port in (1..=100).chain(1..=100) {
        slots.tcp(port, Data)?;
    }
    // Three times as many as the table has room for.
    let mut lost = 0;
    for port in 1000..4000 {
        let (backend, events) = slots.tcp(port, Syn)?;
        assert_eq!(backend, B);
        assert!(!events.contains(&FlowEvicted), "{port}");
        lost += usize::from(events.contains(&FlowEvictedUnproven));
    }
    let (flows, handshakes) = slots.count()?;
    assert_eq!(handshakes + lost, 3000, "each that is gone was counted");
    assert!(flows + handshakes > 1000, "{flows} and {handshakes} of 1280 places");
    for port in 1..=100 {
        assert_eq!(slots.tcp(port, Data)?, (A, vec![TrackedHit]));
    }
    assert_eq!(slots.count()?.0, 100);
    Ok(())
}
