//! What packets do on a tuple that has a flow and an elder.

use super::*;

#[test]
fn a_new_connection_next_to_an_elder_goes_to_one_backend() {
    for dead in [0, B, C] {
        let pending = Record { backend: C, flags: Record::ELDER, sequence: 1000, last_seen: 0 };
        let flow = Record { backend: B, flags: Record::BEGAN, sequence: 0x4000_0000, last_seen: 0 };
        let mut tuple = Tuple { flow, pending, dead, now: 0 };
        let at = tuple.packet(REMEMBERING, SYN, FORGED).0;
        assert!(at != 0 && at != dead);
        for more in 1..5 {
            assert_eq!(tuple.of(REMEMBERING, true, DATA, FORGED + more * 1000).0, at, "{dead} is down");
        }
        tuple.dead = 0;
        assert_eq!(tuple.of(REMEMBERING, true, DATA, 0x4000_0001), (B, true));
    }
}

#[test]
fn a_handshake_next_to_an_elder_goes_to_one_backend() {
    let elder = Record { backend: C, flags: Record::ELDER, sequence: 1000, last_seen: 0 };
    let flows = [0, Record::BEGAN, Record::ONCE, Record::FIN].map(|flags| Record {
        backend: B,
        flags,
        sequence: 0x4000_0000,
        last_seen: 0,
    });
    for (sequence, dead) in
        [FORGED, 0x4000_0000, 999].into_iter().flat_map(|n| [0, A, B, C].map(|dead| (n, dead)))
    {
        for flow in flows.into_iter().chain([Record::NONE]) {
            for (slot, always) in [(LEARNING, false), (REMEMBERING, false), (REMEMBERING, true)] {
                for pending in [elder, Record { flags: elder.flags | Record::FIN, ..elder }] {
                    let slot = if dead == B { Slot::learning(A, A, 0) } else { slot };
                    for next in [DATA, Segment::Reset] {
                        let mut tuple = Tuple { flow, pending, dead, now: 0 };
                        let at = tuple.of(slot, always, SYN, sequence).0;
                        let got = tuple.of(slot, always, next, sequence + 1).0;
                        assert_eq!(
                            got, at,
                            "{next:?} {sequence:#x} {dead} {flow:?} {slot:?} {always} {pending:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_closed_elder_claims_what_fits_it_and_nothing_else() {
    let pending = Record { backend: C, flags: Record::ELDER | Record::FIN, sequence: 1000, last_seen: 0 };
    let mut tuple = Tuple { pending, ..Tuple::live(B, 0x4000_0000) };
    assert_eq!(tuple.packet(REMEMBERING, DATA, 1001), (C, true));
    for (segment, sequence) in [(DATA, FORGED), (SYN, FORGED), (DATA, FORGED + 1), (DATA, 0x4000_0001)] {
        assert_eq!(tuple.packet(REMEMBERING, segment, sequence), (B, true));
    }
}

#[test]
fn repeated_forged_numbers_take_no_flow() {
    const OWN: u32 = 0x4000_0000;
    const MIB: u32 = 1 << 20;
    let mut divided = 0;
    for always in [false, true] {
        for guessed in (4..4092).step_by(4).map(|mib| OWN.wrapping_add(mib * MIB)) {
            let other = guessed.wrapping_add(1 << 31);
            let mut tuple = Tuple::live(B, OWN);
            tuple.flow.flags = Record::BEGAN;
            // Each segment comes twice: segments that fit each other look like a flow. That flow would be at A, where
            // the unknown flows of the slot are.
            let forged =
                [(FIN, guessed), (SYN, other), (FIN, other), (DATA, other), (SYN, guessed), (DATA, guessed)];
            for (segment, sequence) in forged.into_iter().chain(forged) {
                tuple.of(LEARNING, always, segment, sequence);
                let own = Tuple { ..tuple }.of(LEARNING, always, DATA, OWN + 1);
                assert_eq!(own, (B, true), "{segment:?} {guessed:#x} {always} {tuple:?}");
            }
            divided += u32::from(tuple.pending.has(Record::ELDER) && tuple.pending.backend == A);
        }
    }
    assert!(divided > 1900, "{divided}: elsewhere there is nothing that could take it");
}

#[test]
fn a_fin_and_a_syn_with_one_number_take_no_flow() {
    const OWN: u32 = 0x4000_0000;
    for flags in [0, Record::BEGAN] {
        for always in [false, true] {
            for guessed in (0..u32::MAX - 0x8000).step_by(0x7fff) {
                let mut tuple = Tuple::live(C, OWN);
                tuple.flow.flags = flags;
                for (segment, sequence) in
                    [(FIN, guessed), (SYN, guessed), (DATA, OWN + 1), (SYN, guessed), (DATA, OWN + 1001)]
                {
                    let at = tuple.of(REMEMBERING, always, segment, sequence).0;
                    assert!(segment != DATA || at == C, "{guessed:#x} {always} {tuple:?}");
                }
            }
        }
    }
}
