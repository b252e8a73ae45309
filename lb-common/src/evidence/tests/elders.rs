//! What packets do on a tuple that has a flow and an elder.

use super::*;

#[test]
fn a_new_connection_on_a_tuple_with_a_live_elder_goes_to_one_backend_as_a_whole() {
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
fn a_handshake_next_to_an_elder_goes_to_one_backend_whatever_its_number_fits() {
    let elder = Record { backend: C, flags: Record::ELDER, sequence: 1000, last_seen: 0 };
    for sequence in [FORGED, 0x4000_0000, 999] {
        for dead in [0, A, B, C] {
            for flags in [0, Record::BEGAN, Record::ONCE, Record::FIN] {
                for (slot, always) in [(LEARNING, false), (REMEMBERING, false), (REMEMBERING, true)] {
                    for pending in [elder, Record { flags: elder.flags | Record::FIN, ..elder }] {
                        let flow = Record { backend: B, flags, sequence: 0x4000_0000, last_seen: 0 };
                        let mut tuple = Tuple { flow, pending, dead, now: 0 };
                        let slot = if dead == B { Slot::learning(A, A, 0) } else { slot };
                        let at = tuple.of(slot, always, SYN, sequence).0;
                        let got = tuple.of(slot, always, DATA, sequence + 1).0;
                        assert_eq!(got, at, "{sequence:#x} {dead} {flags:#x} {slot:?} {always} {pending:?}");
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
