//! The rule of evidence, one fact a test. What holds for all inputs is in `properties`.

mod elders;

use super::*;

const A: u32 = 1;
const B: u32 = 2;
const C: u32 = 3;

/// A slot that went from A to B, and a slot whose unknown flows are at B.
const LEARNING: Slot = Slot::learning(B, A, 0);
const REMEMBERING: Slot = Slot::remembering(B);

/// Both tables, for one tuple.
#[derive(Clone, Copy, Debug, Default)]
struct Tuple {
    flow: Record,
    pending: Record,
    now: u32,
    /// A backend that is down; 0 = none.
    dead: u32,
}

impl Tuple {
    /// A live flow at a backend, with its numbers.
    fn live(backend: u32, sequence: u32) -> Self {
        Self { flow: Record { backend, sequence, ..Record::NONE }, ..Self::default() }
    }

    /// One packet: the backend, and whether a record named it.
    fn packet(&mut self, slot: Slot, segment: Segment, sequence: u32) -> (u32, bool) {
        self.of(slot, false, segment, sequence)
    }

    fn of(&mut self, slot: Slot, always: bool, segment: Segment, sequence: u32) -> (u32, bool) {
        self.now += 100;
        let packet = Packet { segment, sequence, now: self.now };
        let flow = if self.flow.backend == self.dead { Record::NONE } else { self.flow };
        let asks = asks_pending(&packet, &flow);
        let pending = if asks { self.pending } else { Record::NONE };
        let dead = |backend: u32| self.dead != 0 && backend == self.dead;
        let (dead_flow, dead_pending) = (dead(self.flow.backend), dead(pending.backend));
        let away = dead(slot.owner_of_unknown());
        let unknown = if away { slot.current() } else { slot.owner_of_unknown() };
        let known = Known { flow: self.flow, pending, dead_flow, dead_pending, away };
        let decision = decide(slot, always, &packet, &known, unknown);
        self.flow = decision.flow_after(&self.flow);
        self.pending = match decision.pending() {
            Write::Keep => self.pending,
            Write::Refresh | Write::Put => decision.pending_record(),
            Write::Remove => Record::NONE,
        };
        (decision.backend(), decision.is_hit())
    }
}

const SYN: Segment = Segment::Syn;
const DATA: Segment = Segment::Ordinary { fin: false };
const FIN: Segment = Segment::Ordinary { fin: true };
const RST: Segment = Segment::Reset;
/// A number far from those of the flows here.
const FORGED: u32 = 0x9000_0000;

#[test]
fn the_flags_say_what_a_segment_is() {
    for (flags, segment) in [
        (Tcp::SYN, SYN),
        (Tcp::SYN | 0xc0, SYN),
        (Tcp::ACK, DATA),
        (Tcp::ACK | 0x28, DATA),
        (Tcp::ACK | Tcp::FIN, FIN),
        (Tcp::RST, RST),
        (Tcp::RST | Tcp::ACK, RST),
        (Tcp::RST | Tcp::FIN, RST),
        (Tcp::SYN | Tcp::ACK, Segment::Stray),
        (Tcp::SYN | Tcp::FIN, Segment::Stray),
        (Tcp::SYN | Tcp::RST, Segment::Stray),
        (Tcp::FIN, Segment::Stray),
        (0, Segment::Stray),
    ] {
        assert_eq!(Segment::of_tcp(flags), segment, "{flags:#x}");
    }
}

#[test]
fn a_handshake_in_a_learning_slot_ends_where_it_began() {
    let mut tuple = Tuple::default();
    assert_eq!(tuple.packet(LEARNING, SYN, 5), (B, false));
    assert_eq!(tuple.packet(Slot::learning(C, A, 0), SYN, 5), (B, true), "sent again after another change");
    assert_eq!(tuple.packet(Slot::remembering(C), DATA, 6), (B, true));
    assert_eq!((tuple.flow.backend, tuple.flow.flags), (B, Record::BEGAN));
    assert!(!tuple.pending.is_there(), "moved, not copied");
}

#[test]
fn a_syn_takes_nothing_from_a_live_flow() {
    for slot in [LEARNING, REMEMBERING] {
        let mut tuple = Tuple::live(C, 1000);
        for sequence in [FORGED, 1000, 7] {
            assert_eq!(tuple.packet(slot, SYN, sequence), (C, true));
            assert_eq!(tuple.packet(slot, DATA, 1001), (C, true));
        }
    }
}

#[test]
fn a_new_connection_on_a_live_tuple_stays_at_its_backend() {
    for slot in [LEARNING, REMEMBERING] {
        let mut tuple = Tuple::live(C, 1000);
        tuple.flow.flags = Record::BEGAN;
        assert_eq!(tuple.packet(slot, SYN, 0x4000_0000), (C, true));
        for more in 1..4 {
            assert_eq!(tuple.packet(slot, DATA, 0x4000_0000 + more * 1000), (C, true));
        }
        assert_eq!(tuple.packet(slot, FIN, 0x4000_1000), (C, true));
        assert!(tuple.flow.has(Record::FIN), "its numbers are the new ones");
    }
}

#[test]
fn fin_and_rst_count_inside_the_window_only() {
    for (end, flag) in [(FIN, Record::FIN), (RST, Record::RST)] {
        let mut tuple = Tuple::live(C, 1000);
        assert_eq!(tuple.packet(LEARNING, end, FORGED), (C, true));
        assert!(!tuple.flow.has(Record::CLOSING));
        assert_eq!(tuple.packet(LEARNING, end, 1000), (C, true));
        assert!(tuple.flow.has(flag));
    }
}

#[test]
fn fin_and_rst_that_fit_by_chance_close_nothing() {
    for end in [FIN, RST] {
        for ahead in [Record::ADVANCE + 1, Record::AHEAD - 1, Record::ADVANCE.wrapping_neg() - 1] {
            let mut tuple = Tuple::live(C, 1 << 30);
            assert_eq!(tuple.packet(LEARNING, end, (1_u32 << 30).wrapping_add(ahead)), (C, true));
            assert!(!tuple.flow.has(Record::CLOSING), "{end:?} {ahead}");
        }
    }
}

#[test]
fn numbers_that_go_on_behind_a_fin_take_it_back() {
    let mut tuple = Tuple::live(C, 1000);
    tuple.packet(LEARNING, FIN, 1000);
    for sequence in [1001, 1000 + Record::FIRST_FLIGHT, 900, 1000] {
        tuple.packet(LEARNING, DATA, sequence);
        assert!(tuple.flow.has(Record::FIN), "{sequence} is the client's that has closed");
    }
    tuple.packet(LEARNING, DATA, 1001 + Record::FIRST_FLIGHT);
    assert!(!tuple.flow.has(Record::FIN));
}

#[test]
fn a_close_of_forged_numbers_does_not_count() {
    for handshake in [false, true] {
        let mut tuple = Tuple::live(C, 1000);
        tuple.packet(REMEMBERING, if handshake { SYN } else { DATA }, FORGED);
        for segment in [DATA, FIN, RST] {
            assert_eq!(tuple.packet(REMEMBERING, segment, FORGED + 1), (C, true));
        }
        assert_eq!(tuple.flow.flags & Record::TAKEN, Record::TAKEN);
        assert_eq!(tuple.packet(REMEMBERING, SYN, 0xa000_0000), (C, true));
        assert_eq!(tuple.packet(REMEMBERING, DATA, 0xa000_0001), (C, true));
        assert_eq!(tuple.packet(REMEMBERING, DATA, 1001), (C, true));
    }
}

#[test]
fn a_new_connection_after_a_closed_one_is_its_own() {
    let mut tuple = Tuple::live(B, 1000);
    tuple.packet(REMEMBERING, FIN, 1000);
    for (segment, sequence) in [(SYN, FORGED), (DATA, FORGED + 1), (DATA, 1001), (FIN, FORGED + 1)] {
        assert_eq!(tuple.packet(REMEMBERING, segment, sequence).0, B);
    }
    assert_eq!(tuple.flow.plain_flags(), Record::BEGAN | Record::FIN);
    let to = Slot::learning(C, B, 0);
    assert_eq!(tuple.packet(to, SYN, 0x2000_0000), (C, false), "its FIN counts");
}

#[test]
fn forged_connections_evict_no_flow_of_a_down_backend() {
    for slot in [LEARNING, REMEMBERING] {
        for back in 0..4 {
            let mut tuple = Tuple { dead: C, ..Tuple::live(C, 1000) };
            for round in 0..4 {
                if round == back {
                    tuple.dead = 0;
                }
                let number = FORGED + (round << 27);
                for (segment, sequence) in [
                    (SYN, number),
                    (DATA, number + 1),
                    (DATA, number + 2),
                    (FIN, number + 2),
                    (RST, number + 3),
                ] {
                    tuple.packet(slot, segment, sequence);
                }
            }
            tuple.dead = 0;
            assert_eq!(tuple.packet(slot, DATA, 1000), (C, true), "back in round {back}: {tuple:?}");
        }
    }
}

#[test]
fn an_old_forged_handshake_moves_no_unrecorded_flow() {
    let mut tuple = Tuple::default();
    assert_eq!(tuple.packet(Slot::learning(C, B, 0), SYN, FORGED), (C, false));
    assert_eq!(tuple.packet(REMEMBERING, DATA, FORGED + 1), (C, true));
    for sequence in [1000, 2000, 0x2000_0000] {
        assert_eq!(tuple.packet(REMEMBERING, DATA, sequence).0, B);
    }
}

#[test]
fn a_later_segment_undoes_an_rst_but_not_a_fin() {
    let mut tuple = Tuple::live(C, 1000);
    tuple.packet(LEARNING, RST, 1000);
    tuple.packet(LEARNING, DATA, 1001);
    assert!(!tuple.flow.has(Record::CLOSING));
    tuple.packet(LEARNING, FIN, 1001);
    assert_eq!(tuple.packet(LEARNING, DATA, 1002), (C, true), "it acknowledges what the server still sends");
    assert!(tuple.flow.has(Record::FIN));
}

#[test]
fn a_forged_number_that_fits_keeps_the_window() {
    for (began, ahead) in [(0, 0x03ff_ffff), (Record::BEGAN, 0x03ff_ffff), (Record::BEGAN, 0x0200_0000)] {
        let mut tuple = Tuple::live(C, 1000);
        tuple.flow.flags = began;
        for round in 0..50 {
            let client = 1000 + round;
            for _ in 0..if round == 0 { 10 } else { 1 } {
                assert_eq!(tuple.packet(LEARNING, DATA, client + ahead), (C, true));
            }
            assert_eq!(
                tuple.packet(LEARNING, DATA, FORGED + round),
                (if began == 0 { C } else { A }, began == 0)
            );
            assert_eq!(tuple.packet(LEARNING, DATA, client), (C, true), "round {round}");
            tuple.pending = Record::NONE;
        }
    }
}

#[test]
fn a_client_that_is_far_ahead_is_followed() {
    let mut tuple = Tuple::live(C, 1000);
    for step in 0..200 {
        let sequence = 1000 + 0x03ff_0000 + step * 65_536;
        assert_eq!(tuple.packet(REMEMBERING, DATA, sequence), (C, true));
    }
    assert_eq!(tuple.flow.sequence, 1000 + 0x03ff_0000 + 199 * 65_536);
}

#[test]
fn a_new_flow_next_to_a_closed_one_moves_neither() {
    for slot in [LEARNING, REMEMBERING] {
        let mut tuple = Tuple::live(C, 1000);
        tuple.packet(slot, FIN, 1000);
        assert_eq!(tuple.packet(slot, SYN, 0x4000_0000), (B, false), "it begins at the slot's owner");
        assert_eq!(tuple.packet(slot, DATA, 1001), (C, true), "and so far the one before goes on");
        assert_eq!(tuple.packet(slot, DATA, FORGED), (C, true));
        assert_eq!(tuple.packet(slot, DATA, 0x4000_0001), (B, true), "continued");
        assert_eq!(tuple.packet(slot, DATA, 1001), (C, true), "what is late of the one before");
        assert_eq!(tuple.packet(slot, DATA, 0x4000_0002), (B, true));
        assert_eq!((tuple.flow.backend, tuple.pending.backend), (B, C));
    }
}

#[test]
fn a_forged_handshake_moves_no_half_closed_flow() {
    let mut tuple = Tuple::live(C, 1000);
    tuple.packet(LEARNING, FIN, 1000);
    for (segment, sequence) in [(SYN, FORGED), (DATA, FORGED + 1), (FIN, FORGED + 1)] {
        tuple.packet(LEARNING, segment, sequence);
    }
    assert_eq!(tuple.packet(LEARNING, DATA, 1001), (C, true));
}

#[test]
fn a_forged_handshake_moves_no_silent_older_flow() {
    let mut tuple = Tuple::default();
    tuple.packet(LEARNING, SYN, FORGED);
    tuple.packet(LEARNING, DATA, FORGED + 1);
    assert_eq!(tuple.flow.backend, B);
    assert_eq!(tuple.packet(LEARNING, DATA, 1000), (A, false), "it does not fit");
    assert_eq!(tuple.packet(REMEMBERING, DATA, 1001), (A, true), "and is known when learning has ended");
    assert_eq!(tuple.packet(REMEMBERING, DATA, FORGED + 2), (B, true));
}

#[test]
fn a_second_fitting_segment_confirms_an_unknown_flow() {
    for (segment, sequence) in [(DATA, 1000), (Segment::Datagram, 0)] {
        let mut tuple = Tuple::default();
        assert_eq!(tuple.packet(LEARNING, segment, sequence), (A, false));
        assert_eq!((tuple.flow.backend, tuple.flow.flags), (A, Record::ONCE));
        assert_eq!(tuple.packet(LEARNING, segment, sequence), (A, true));
        assert_eq!((tuple.flow.backend, tuple.flow.flags), (A, 0));
    }
    let mut tuple = Tuple::default();
    tuple.packet(LEARNING, DATA, FORGED);
    assert_eq!(tuple.packet(LEARNING, DATA, 1000), (A, true));
    assert!(tuple.flow.has(Record::ONCE), "they do not fit each other");
}

#[test]
fn backscatter_and_an_unknown_rst_are_not_recorded() {
    for always in [false, true] {
        for segment in [Segment::Stray, RST] {
            let mut tuple = Tuple::default();
            for _ in 0..3 {
                assert_eq!(tuple.of(LEARNING, always, segment, 5), (A, false));
            }
            assert!(!tuple.flow.is_there() && !tuple.pending.is_there());
        }
    }
}

#[test]
fn what_proves_nothing_renews_no_record() {
    for segment in [Segment::Stray, SYN, FIN, RST, DATA] {
        let mut tuple = Tuple::live(C, 1000);
        tuple.packet(REMEMBERING, segment, FORGED);
        assert_eq!(tuple.flow.last_seen, 0, "{segment:?}");
    }
}

#[test]
fn two_fitting_segments_teach_numbers_that_went_on() {
    let mut tuple = Tuple::live(C, 1000);
    assert_eq!(tuple.packet(REMEMBERING, DATA, 0x7000_0000), (C, true));
    assert_eq!(tuple.flow.sequence, 1000);
    assert_eq!(tuple.packet(REMEMBERING, DATA, 0x7000_1000), (C, true));
    assert_eq!((tuple.flow.sequence, tuple.flow.flags), (0x7000_1000, Record::TAKEN));
}

#[test]
fn a_record_of_an_older_version_takes_any_number() {
    let mut tuple = Tuple::live(C, 0);
    tuple.flow.flags = Record::ANY | Record::FIN;
    assert_eq!(tuple.packet(LEARNING, DATA, FORGED), (C, true));
    assert_eq!((tuple.flow.sequence, tuple.flow.flags), (FORGED, Record::FIN));
    let pending = Record { backend: C, flags: Record::ANY, ..Record::NONE };
    let mut tuple = Tuple { pending, ..Tuple::default() };
    assert_eq!(tuple.packet(LEARNING, DATA, FORGED), (C, true), "a handshake goes on");
    assert_eq!(tuple.flow.backend, C);
}

#[test]
fn a_remembering_slot_records_nothing_that_is_unknown() {
    let mut tuple = Tuple::default();
    for segment in [SYN, DATA, FIN, RST, Segment::Stray, Segment::Datagram] {
        assert_eq!(tuple.packet(REMEMBERING, segment, 5), (B, false));
        assert!(!tuple.flow.is_there() && !tuple.pending.is_there(), "{segment:?}");
    }
}

#[test]
fn a_service_that_tracks_always_records_every_flow() {
    for segment in [DATA, Segment::Datagram] {
        let mut tuple = Tuple::default();
        assert_eq!(tuple.of(REMEMBERING, true, segment, 0), (B, false));
        assert_eq!(tuple.flow.backend, B);
    }
    let mut tuple = Tuple::default();
    tuple.of(REMEMBERING, true, SYN, 5);
    assert_eq!(tuple.pending.backend, B);
}

#[test]
fn segments_while_the_backend_is_down_change_nothing() {
    for slot in [LEARNING, REMEMBERING, Slot::learning(A, B, 0)] {
        for (segment, sequence) in
            [(DATA, 1000), (DATA, FORGED), (FIN, 1000), (RST, 1000), (Segment::Stray, 0)]
        {
            let before = Tuple { dead: C, ..Tuple::live(C, 1000) };
            let mut tuple = before;
            for _ in 0..3 {
                assert_eq!(tuple.packet(slot, segment, sequence), (slot.owner_of_unknown(), false));
            }
            assert_eq!((tuple.flow, tuple.pending), (before.flow, before.pending), "{segment:?}");
            tuple.dead = 0;
            assert_eq!(tuple.packet(slot, DATA, 1000), (C, true));
        }
    }
}

#[test]
fn segments_of_flows_that_are_away_are_not_recorded() {
    for (segment, sequence) in [(DATA, 1000), (DATA, FORGED), (FIN, 1000), (RST, 1000), (Segment::Stray, 0)] {
        let mut tuple = Tuple { dead: A, ..Tuple::default() };
        for always in [false, true] {
            assert_eq!(tuple.of(LEARNING, always, segment, sequence), (B, false));
            assert!(!tuple.flow.is_there() && !tuple.pending.is_there(), "{segment:?}");
        }
    }
    // A datagram may begin a flow.
    let mut tuple = Tuple { dead: A, ..Tuple::default() };
    tuple.packet(LEARNING, Segment::Datagram, 0);
    tuple.dead = 0;
    assert_eq!(tuple.packet(LEARNING, Segment::Datagram, 0), (B, true));
}

#[test]
fn a_new_flow_on_a_down_backends_tuple_goes_elsewhere() {
    for slot in [LEARNING, REMEMBERING] {
        let mut tuple = Tuple { dead: C, ..Tuple::live(C, 1000) };
        assert_eq!(tuple.packet(slot, SYN, 0x4000_0000), (B, false));
        assert_eq!(tuple.packet(slot, SYN, 0x4000_0000), (B, true), "sent again");
        assert_eq!(tuple.packet(slot, DATA, 0x4000_0001), (B, true));
        tuple.dead = 0;
        assert_eq!(tuple.packet(slot, DATA, 0x4000_0002), (B, true), "and stays there");
        assert_eq!(tuple.packet(slot, DATA, 1000), (C, true), "next to the one that was there");
    }
}

#[test]
fn a_handshake_begun_elsewhere_is_finished_there() {
    for slot in [LEARNING, REMEMBERING] {
        let mut tuple = Tuple { dead: C, ..Tuple::live(C, 1000) };
        assert_eq!(tuple.packet(slot, SYN, 999), (B, false), "with the numbers of before");
        tuple.dead = 0;
        assert_eq!(tuple.packet(slot, DATA, 1000), (B, true));
        // Where the SYN was forged, the flow's next segment takes that back.
        let mut tuple = Tuple { dead: C, ..Tuple::live(C, 1000) };
        tuple.packet(slot, SYN, FORGED);
        tuple.dead = 0;
        assert_eq!(tuple.packet(slot, DATA, 1000), (C, true));
        assert_eq!(tuple.flow.flags, 0);
    }
}

#[test]
fn a_forged_handshake_moves_no_flow_of_a_down_backend() {
    let mut tuple = Tuple { dead: C, ..Tuple::live(C, 1000) };
    for (segment, sequence) in [(SYN, FORGED), (DATA, FORGED + 1), (FIN, FORGED + 1), (RST, FORGED + 2)] {
        tuple.packet(REMEMBERING, segment, sequence);
    }
    tuple.dead = 0;
    assert_eq!(tuple.packet(REMEMBERING, DATA, 1000), (C, true));
}

#[test]
fn a_repeated_syn_leaves_a_backend_that_is_down() {
    for slot in [LEARNING, REMEMBERING] {
        let pending = Record { backend: C, sequence: 5, ..Record::NONE };
        let mut tuple = Tuple { pending, dead: C, ..Tuple::default() };
        assert_eq!(tuple.packet(slot, SYN, 5), (B, false));
        tuple.dead = 0;
        assert_eq!(tuple.packet(slot, DATA, 6), (B, true));
    }
}

#[test]
fn a_datagram_elsewhere_replaces_a_down_backends_record() {
    let mut tuple = Tuple { dead: C, ..Tuple::live(C, 0) };
    assert_eq!(tuple.packet(Slot::remembering(0), Segment::Datagram, 0), (0, false));
    assert_eq!(tuple.flow.backend, C);
    assert_eq!(tuple.packet(REMEMBERING, Segment::Datagram, 0), (B, false));
    assert!(!tuple.flow.is_there());
}
