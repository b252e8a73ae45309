//! What holds for the rule of evidence, [`crate::evidence`], for all packets and records.

use proptest::prelude::*;

use super::{owner, slot};
use crate::{
    evidence::{Decision, Known, Packet, Segment, Write, asks_pending, decide},
    flow::Record,
    slot::Slot,
};

fn segment() -> impl Strategy<Value = Segment> {
    prop_oneof![
        Just(Segment::Syn),
        any::<bool>().prop_map(|fin| Segment::Ordinary { fin }),
        Just(Segment::Reset),
        Just(Segment::Stray),
        Just(Segment::Datagram),
    ]
}

/// Few numbers, so that some fit each other.
fn number() -> impl Strategy<Value = u32> {
    let near = prop::sample::select(std::vec![0_u32, 1, 1000, 1 << 20, 1 << 25, 1 << 27, 1 << 31, 3 << 30]);
    prop_oneof![8 => (near, 0_u32..3).prop_map(|(near, more)| near + more), 1 => any::<u32>()]
}

fn packet() -> impl Strategy<Value = Packet> {
    (segment(), number(), 0_u32..200).prop_map(|(segment, sequence, now)| Packet { segment, sequence, now })
}

fn record() -> impl Strategy<Value = Record> {
    (0_u32..4, 0_u32..512, number(), 0_u32..200).prop_map(|(backend, flags, sequence, last_seen)| {
        if backend == 0 { Record::NONE } else { Record { backend, flags, sequence, last_seen } }
    })
}

/// A record in each table, both with backends that are alive.
fn known() -> impl Strategy<Value = Known> {
    (record(), record()).prop_map(|(flow, pending)| Known {
        flow: Record { flags: flow.flags & !Record::ELDER, ..flow },
        pending,
        dead_flow: false,
        dead_pending: false,
        away: false,
    })
}

/// The same where one of three backends is not alive.
fn some_dead() -> impl Strategy<Value = (Known, u32)> {
    (known(), 1_u32..4).prop_map(|(known, dead)| {
        let is_dead = |record: Record| record.backend == dead;
        let known = Known { dead_flow: is_dead(known.flow), dead_pending: is_dead(known.pending), ..known };
        (known, dead)
    })
}

fn asked(slot: Slot, always: bool, packet: &Packet, known: &Known, unknown: u32) -> Decision {
    let asks = asks_pending(packet, &known.live_flow());
    let pending = if asks { known.pending } else { Record::NONE };
    let known = Known { pending, dead_pending: asks && known.dead_pending, ..*known };
    decide(slot, always, packet, &known, unknown)
}

// What packets prove.
proptest! {
    #[test]
    fn a_flow_follows_the_record_that_claims_its_packet(slot in slot(), always in any::<bool>(), packet in packet(), known in known(), unknown in owner()) {
        let decision = asked(slot, always, &packet, &known, unknown);
        let Known { flow, pending, .. } = known;
        let is_live = flow.is_there() && !flow.has(Record::CLOSING | Record::ONCE);
        if is_live && packet.segment == Segment::Syn {
            let again = !pending.has(Record::ELDER) && decision.backend() == pending.backend;
            let elders = pending.has(Record::ELDER) && decision.backend() == pending.backend && (pending.is_live_elder() || pending.fits(packet.sequence));
            prop_assert!(decision.backend() == flow.backend || again || elders, "{decision:?}");
        } else if is_live && (packet.segment == Segment::Stray || packet.segment == Segment::Datagram || flow.is_near(packet.sequence) && !flow.has(Record::CONTESTED)) {
            prop_assert_eq!((decision.backend(), decision.is_hit()), (flow.backend, true));
        } else if is_live && flow.fits(packet.sequence) && !flow.has(Record::CONTESTED) {
            let nearer = pending.has(Record::ELDER) && pending.is_near(packet.sequence) || pending.is_continued_by(packet.sequence);
            prop_assert!(decision.backend() == flow.backend || nearer && decision.backend() == pending.backend, "{decision:?}");
        } else if flow.is_there() && packet.segment != Segment::Syn {
            let divided = flow.has(Record::BEGAN) && (slot.is_learning() || !always);
            let there = decision.backend() == flow.backend
                || pending.is_there() && decision.backend() == pending.backend
                || divided && decision.backend() == unknown;
            prop_assert!(there, "{decision:?}");
        }
    }

    #[test]
    fn only_a_segment_after_a_syn_replaces_a_flow(slot in slot(), always in any::<bool>(), packet in packet(), known in known(), unknown in owner()) {
        let decision = asked(slot, always, &packet, &known, unknown);
        let before = known.flow;
        let after = decision.flow_after(&before);
        if before.is_there() && after.backend != before.backend {
            prop_assert!(matches!(packet.segment, Segment::Ordinary { .. }), "{:?}", packet.segment);
            prop_assert!(known.pending.is_continued_by(packet.sequence));
            prop_assert_eq!(after.backend, known.pending.backend);
            prop_assert_eq!((decision.pending(), decision.pending_record().backend), (Write::Put, before.backend), "the one before is kept");
            prop_assert!(decision.pending_record().has(Record::ELDER));
        }
    }

    #[test]
    fn only_a_closed_elder_is_replaced(slot in slot(), always in any::<bool>(), packet in packet(), (known, _) in some_dead(), unknown in owner()) {
        let Known { flow, pending, dead_flow, dead_pending, .. } = known;
        let begins_for_dead = dead_flow && packet.segment == Segment::Syn && flow.fits(packet.sequence);
        if pending.is_live_elder() && (flow.is_there() && !dead_flow || !dead_pending) && !begins_for_dead {
            let decision = asked(slot, always, &packet, &known, unknown);
            let stays = match decision.pending() {
                Write::Keep => true,
                Write::Refresh | Write::Put => decision.pending_record().is_there() && decision.pending_record().backend == pending.backend && decision.pending_record().has(Record::ELDER),
                // The elder is the flow again.
                Write::Remove => !flow.is_there() && decision.flow() == Write::Put && decision.flow_record().backend == pending.backend,
            };
            prop_assert!(stays, "{decision:?}");
        }
    }

    #[test]
    fn only_a_fitting_segment_closes_a_flow(slot in slot(), always in any::<bool>(), packet in packet(), known in known(), unknown in owner()) {
        let decision = asked(slot, always, &packet, &known, unknown);
        let before = known.flow;
        let after = decision.flow_after(&before);
        let closes = after.flags & Record::CLOSING & !before.flags != 0;
        if before.is_there() && before.backend == after.backend && closes && !before.has(Record::ONCE) {
            let closing = matches!(packet.segment, Segment::Reset | Segment::Ordinary { fin: true });
            prop_assert!(closing && (before.fits(packet.sequence) || before.fits_candidate(packet.sequence) || known.pending.is_continued_by(packet.sequence)));
        }
    }

    #[test]
    fn what_proves_nothing_makes_and_renews_no_record(slot in slot(), always in any::<bool>(), packet in packet(), known in known(), unknown in owner()) {
        let decision = asked(slot, always, &packet, &known, unknown);
        match packet.segment {
            Segment::Stray => prop_assert!(!matches!(decision.flow(), Write::Put | Write::Refresh) && !matches!(decision.pending(), Write::Put | Write::Refresh)),
            Segment::Reset => prop_assert!(decision.flow() != Write::Put && decision.pending() != Write::Put),
            Segment::Syn => {
                prop_assert!(decision.flow() != Write::Put);
                if decision.flow() == Write::Refresh {
                    prop_assert_eq!(decision.flow_record().last_seen, known.flow.last_seen);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn one_packet_of_an_unknown_flow_counts_for_nothing(slot in slot(), always in any::<bool>(), packet in packet(), away in any::<bool>(), unknown in owner()) {
        let known = Known { flow: Record::NONE, pending: Record::NONE, dead_flow: false, dead_pending: false, away };
        let decision = asked(slot, always, &packet, &known, unknown);
        if decision.flow() == Write::Put {
            prop_assert!(decision.flow_record().has(Record::ONCE));
            prop_assert!(always || slot.is_learning());
            prop_assert!(!away || packet.segment == Segment::Datagram);
        }
    }

    #[test]
    fn only_a_syn_or_a_surely_new_datagram_is_balanced(slot in slot(), always in any::<bool>(), packet in packet(), known in known()) {
        let decision = asked(slot, always, &packet, &known, slot.owner_of_unknown());
        if decision.begins() {
            let datagram = packet.segment == Segment::Datagram && !slot.is_learning();
            prop_assert!(packet.segment == Segment::Syn || datagram);
            prop_assert_eq!(decision.backend(), slot.current());
            prop_assert!(!decision.is_hit());
            let written = [(decision.flow(), decision.flow_record()), (decision.pending(), decision.pending_record())];
            let put = written.iter().filter(|(write, _)| *write == Write::Put).count();
            prop_assert_eq!(put, 1, "what is chosen is recorded");
            prop_assert_eq!(decision.balanced(9).flow_after(&known.flow).backend == 9, datagram);
        }
    }

    #[test]
    fn nothing_is_recorded_for_a_packet_without_a_backend(slot in slot(), always in any::<bool>(), packet in packet(), known in known(), unknown in owner()) {
        let decision = asked(slot, always, &packet, &known, unknown);
        prop_assert!(decision.backend() != 0 || (decision.flow(), decision.pending()) == (Write::Keep, Write::Keep));
        prop_assert!(decision.flow() != Write::Put || decision.flow_record().backend == decision.backend());
    }

    #[test]
    fn a_segment_of_a_down_backend_leaves_its_records(slot in slot(), always in any::<bool>(), packet in packet(), (known, dead) in some_dead(), away in any::<bool>()) {
        let alive = |backend: u32| if backend == dead { 0 } else { backend };
        let slot = if slot.is_learning() { Slot::learning(alive(slot.current()), slot.previous(), slot.since()) } else { Slot::remembering(alive(slot.current())) };
        let known = Known { away, ..known };
        let decision = asked(slot, always, &packet, &known, slot.current());
        prop_assert!(decision.backend() != dead);
        let before = known.flow;
        if known.dead_flow && !matches!(packet.segment, Segment::Syn | Segment::Datagram) {
            let begins = known.pending.is_continued_by(packet.sequence) && !known.dead_pending;
            prop_assert!(decision.flow() == Write::Keep || begins);
            let is_kept = decision.flow() == Write::Keep || decision.pending_record() == Record { flags: before.plain_flags() & !Record::CONTESTED | Record::ELDER, ..before };
            prop_assert!(is_kept, "a new flow is recorded next to it");
        }
        if known.dead_flow && packet.segment == Segment::Syn && decision.backend() != 0 && !decision.is_hit() {
            prop_assert_eq!((decision.flow(), decision.pending()), (Write::Refresh, Write::Put), "the handshake is recorded apart from it");
            prop_assert_eq!(decision.flow_record(), Record { flags: before.flags | Record::CONTESTED, ..before });
        }
        if known.dead_flow && packet.segment == Segment::Datagram {
            prop_assert!(decision.backend() == 0 || decision.flow() != Write::Keep);
        }
    }
}
