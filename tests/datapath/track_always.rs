//! Services that record every flow (`track = "always"`): their slots are tracked, whichever backend owned them before.

use anyhow::Result;
use lb_common::{
    counter::Counter::{FlowInserted, FlowPending, TrackedCurrent, TrackedHit, TrackedPrevious},
    flow_table::Role,
    service::Service,
    slot::{Slot, Track},
};
use lb_tests::{
    frame::Segment::{self, *},
    need_bpf,
};

use crate::slots::{A, B, C, Slots, TCP_SERVICE, UDP_SERVICE, udp_key};

/// Slots that B has owned from the beginning.
fn always() -> Result<Slots> {
    let mut slots = Slots::new(Slot::fresh(Track::Always, B))?;
    for service in [TCP_SERVICE, UDP_SERVICE] {
        slots.world.change_service(service, |service| service.flags |= Service::ALWAYS)?;
    }
    Ok(slots)
}

#[test]
fn a_syn_is_unconfirmed_until_the_next_packet() -> Result<()> {
    need_bpf!();
    let mut slots = always()?;
    assert_eq!(slots.tcp(1, Syn)?, (B, vec![TrackedCurrent, FlowPending]));
    assert_eq!(slots.recorded(1)?, (None, Some(B)));
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit, FlowInserted]));
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit]));
    assert_eq!(slots.recorded(1)?, (Some(B), None));
    Ok(())
}

#[test]
fn an_older_flow_is_recorded_where_it_is() -> Result<()> {
    need_bpf!();
    let mut slots = always()?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedCurrent, FlowInserted]));
    assert_eq!(slots.udp(1)?, (B, vec![TrackedCurrent, FlowInserted]));
    assert_eq!(slots.world.record(Role::Flow, &udp_key(1))?.map(|record| record.backend), Some(B));
    Ok(())
}

#[test]
fn recorded_flows_stay_after_a_changes_window() -> Result<()> {
    need_bpf!();
    let mut slots = always()?;
    slots.tcp(1, Syn)?;
    slots.tcp(1, Data)?;
    slots.udp(1)?;
    let changed = Slot::remembering(B).next(Track::Always, C, |_| true, 5);
    for slot in [changed, changed.end_learning()] {
        slots.set(slot)?;
        assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit]), "{slot:?}");
        assert_eq!(slots.udp(1)?, (B, vec![TrackedHit]), "{slot:?}");
    }
    assert_eq!(slots.tcp(2, Syn)?, (C, vec![TrackedCurrent, FlowPending]));
    Ok(())
}

#[test]
fn an_evicted_flow_goes_where_unknown_ones_go() -> Result<()> {
    need_bpf!();
    let mut slots = always()?;
    slots.set(Slot::learning(C, B, 5))?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedPrevious, FlowInserted]));
    slots.set(Slot::remembering(A))?;
    assert_eq!(slots.tcp(2, Data)?, (A, vec![TrackedCurrent, FlowInserted]));
    Ok(())
}

#[test]
fn a_flow_finds_its_dead_backend_again_when_it_is_back() -> Result<()> {
    need_bpf!();
    let mut slots = always()?;
    slots.tcp(1, Data)?;
    slots.kill(B)?;
    slots.set(Slot::remembering(B).next(Track::Always, C, |backend| backend != B, 5))?;
    assert_eq!(slots.tcp(1, Data)?, (C, vec![TrackedCurrent]), "which resets it");
    slots.revive(B)?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit]));
    Ok(())
}

#[test]
fn without_an_owner_only_recorded_flows_are_served() -> Result<()> {
    need_bpf!();
    let mut slots = always()?;
    slots.tcp(1, Data)?;
    slots.set(Slot::remembering(0))?;
    assert_eq!(slots.tcp(1, Data)?, (B, vec![TrackedHit]), "a backend that drains");
    for segment in [Syn, Data] {
        assert_eq!(slots.tcp(2, segment)?, (0, vec![TrackedCurrent]));
    }
    assert_eq!(slots.count()?, (1, 0));
    Ok(())
}

/// For a flow of each age, a change of the setting must not change the backend that answers.
#[test]
fn no_flow_moves_when_the_setting_changes() -> Result<()> {
    need_bpf!();
    const SETTINGS: [Track; 3] = [Track::Never, Track::OnChange, Track::Always];
    let flows: [(u16, Segment); 3] = [(1, Data), (2, Data), (3, Data)];
    for from in SETTINGS {
        for to in SETTINGS {
            for word in [Slot::fresh(from, B), Slot::learning(B, A, 5), Slot::remembering(B)] {
                let mut slots = Slots::new(word)?;
                let set = |slots: &mut Slots, track: Track| {
                    slots.world.change_service(TCP_SERVICE, |service| {
                        service.flags = Service::PRESENT;
                        if track == Track::Always {
                            service.flags |= Service::ALWAYS;
                        }
                    })
                };
                set(&mut slots, from)?;
                // A flow that began with a SYN, a flow that existed before, and a flow that is silent until after the change.
                let silent = word.owner_of_unknown();
                slots.tcp(1, Syn)?;
                let before = (slots.tcp(1, Data)?.0, slots.tcp(2, Data)?.0, silent);
                set(&mut slots, to)?;
                slots.set(word.next(to, B, |_| true, 6))?;
                let [one, two, three] = flows.map(|(port, segment)| slots.tcp(port, segment));
                assert_eq!((one?.0, two?.0, three?.0), before, "{from:?} to {to:?}: {word:?}");
            }
        }
    }
    Ok(())
}
