//! The rule of tracking on change, one fact a test. The rule itself is in `slot.rs`.

use super::*;

const A: u32 = 1;
const B: u32 = 2;
const C: u32 = 3;
const NOW: u16 = 100;

fn all(_: u32) -> bool {
    true
}

#[test]
fn fields_do_not_run_into_each_other() {
    let slot = Slot::learning(MAX_BACKEND, PREVIOUS_RING, 0x7fff);
    assert_eq!((slot.current(), slot.previous(), slot.since()), (MAX_BACKEND, PREVIOUS_RING, 0x7fff));
    assert!(slot.is_tracked() && slot.is_learning());
    let slot = Slot::learning(A, B, 0xffff);
    assert_eq!((slot.current(), slot.previous(), slot.since()), (A, B, 0x7fff));
    assert!(!Slot::stable(MAX_BACKEND).is_tracked());
}

#[test]
fn a_change_of_a_stable_slot_learns_from_its_owner() {
    assert_eq!(Slot::stable(A).change(B, all, NOW), Slot::learning(B, A, NOW));
}

#[test]
fn a_second_change_keeps_previous_and_the_window() {
    let learning = Slot::stable(A).change(B, all, NOW);
    assert_eq!(learning.change(C, all, NOW + 9), Slot::learning(C, A, NOW));
}

#[test]
fn a_change_back_remembers_what_was_learnt() {
    let learning = Slot::stable(A).change(B, all, NOW);
    assert_eq!(learning.change(A, all, NOW + 1), Slot::remembering(A));
}

#[test]
fn a_changed_remembering_slot_learns_from_its_owner() {
    assert_eq!(Slot::remembering(A).change(B, all, NOW), Slot::learning(B, A, NOW));
}

#[test]
fn flows_of_a_dead_owner_go_to_the_new_one_at_once() {
    assert_eq!(Slot::stable(A).change(B, |b| b != A, NOW), Slot::stable(B));
    assert_eq!(Slot::learning(B, A, 7).change(B, |b| b != A, NOW), Slot::remembering(B));
    assert_eq!(Slot::learning(B, A, 7).change(C, |b| b != B, NOW), Slot::learning(C, A, 7));
    assert_eq!(Slot::remembering(A).change(B, |b| b != A, NOW), Slot::remembering(B));
}

#[test]
fn a_slot_without_an_owner_has_no_flows_to_learn() {
    assert_eq!(Slot::EMPTY.change(A, all, NOW), Slot::stable(A));
    assert_eq!(Slot::stable(A).change(0, all, NOW), Slot::learning(0, A, NOW));
    assert_eq!(Slot::stable(A).change(0, |_| false, NOW), Slot::EMPTY);
}

#[test]
fn the_same_change_twice_changes_nothing() {
    for slot in
        [Slot::EMPTY, Slot::stable(A), Slot::remembering(B), Slot::learning(A, B, 5), Slot::learning(C, A, 5)]
    {
        for new in [0, A, B] {
            for dead in [0, A, B, C] {
                let once = slot.change(new, |b| b != dead, NOW);
                assert_eq!(once.change(new, |b| b != dead, NOW + 50), once, "{slot:?} to {new}, {dead} dead");
            }
        }
    }
}

#[test]
fn an_unchanged_owner_leaves_the_word_alone() {
    for slot in [Slot::stable(A), Slot::remembering(A), Slot::learning(A, B, 5)] {
        assert_eq!(slot.change(A, all, NOW), slot);
    }
}

#[test]
fn a_learning_window_ends_also_across_the_wrap() {
    let slot = Slot::learning(A, B, 0x7ffe);
    assert!(!slot.window_over(since((0x7ffe + 10) * SINCE_STEP), 80));
    assert!(slot.window_over(since((0x7ffe + 11) * SINCE_STEP), 80));
    assert!(!Slot::remembering(A).window_over(NOW, 0));
    assert_eq!(slot.end_learning(), Slot::remembering(A));
    assert_eq!(slot.settle(), slot, "a learning slot never settles");
    assert_eq!(Slot::remembering(A).settle(), Slot::stable(A));
}

#[test]
fn a_service_that_tracks_always_has_no_stable_slot() {
    assert_eq!(Slot::fresh(Track::Always, A), Slot::remembering(A));
    for slot in [Slot::EMPTY, Slot::stable(A), Slot::remembering(A), Slot::learning(A, B, 5)] {
        for new in [0, A, B] {
            let next = slot.next(Track::Always, new, all, NOW);
            assert!(next.is_tracked(), "{slot:?} to {new}");
            assert_eq!(next.owner_of_unknown(), slot.change(new, all, NOW).owner_of_unknown());
        }
    }
    assert_eq!(Slot::stable(A).next(Track::Always, A, all, NOW), Slot::remembering(A));
    assert_eq!(Slot::stable(A).next(Track::Always, B, all, NOW), Slot::learning(B, A, NOW));
}

#[test]
fn without_tracking_a_slot_moves_with_its_flows() {
    assert_eq!(Slot::fresh(Track::Never, A), Slot::stable(A));
    assert_eq!(Slot::stable(A).next(Track::Never, B, all, NOW), Slot::stable(B));
}

#[test]
fn tracking_set_to_never_lets_what_was_begun_end() {
    for slot in [Slot::stable(A), Slot::remembering(A), Slot::learning(A, B, 5)] {
        assert_eq!(slot.next(Track::Never, A, all, NOW), slot, "no flow moves because of the setting");
    }
    // A recorded flow would mislead later if packets stopped asking the table before the sweep removes the record.
    assert_eq!(Slot::learning(A, B, 5).next(Track::Never, C, all, NOW), Slot::remembering(C));
    assert_eq!(Slot::learning(A, B, 5).next(Track::Never, A, |b| b != B, NOW), Slot::remembering(A));
}

#[test]
fn every_setting_is_idempotent() {
    for track in [Track::Never, Track::OnChange, Track::Always] {
        for slot in [Slot::EMPTY, Slot::stable(A), Slot::remembering(B), Slot::learning(A, B, 5)] {
            for (new, dead) in [(0, C), (A, B), (B, A), (C, A), (C, B), (A, C)] {
                let once = slot.next(track, new, |b| b != dead, NOW);
                assert_eq!(once.next(track, new, |b| b != dead, NOW + 50), once, "{track:?} {slot:?} {new}");
            }
        }
    }
}

#[test]
fn a_slot_learns_once_when_balancing_begins() {
    let alive = |backend| backend != C;
    for slot in [Slot::stable(A), Slot::remembering(A)] {
        for new in [A, B] {
            let begun = slot.next_balanced(false, new, alive, 5);
            assert_eq!(begun, Slot::learning(new, A, 5), "who is unknown was at A");
            // The record of the service says so now, and the window runs on.
            assert_eq!(begun.next_balanced(true, B, alive, 9), Slot::learning(B, A, 5));
            assert_eq!(begun.next_balanced(false, new, alive, 9), begun, "twice is once");
        }
    }
    assert_eq!(Slot::stable(C).next_balanced(false, A, alive, 5), Slot::remembering(A), "its flows are gone");
    assert_eq!(Slot::EMPTY.next_balanced(false, A, alive, 5), Slot::remembering(A));
    assert_eq!(Slot::learning(A, C, 3).next_balanced(true, A, alive, 5), Slot::remembering(A));
    assert_eq!(Slot::remembering(A).next_balanced(true, B, alive, 5), Slot::remembering(B), "all are known");
    let resized = Slot::after_resize(A, 3);
    assert_eq!(resized.next_balanced(true, B, alive, 5), Slot::learning(B, PREVIOUS_RING, 3));
}

#[test]
fn only_a_stable_slot_with_an_owner_says_so() {
    assert_eq!(Slot::stable(7).stable_owner(), Some(7));
    assert_eq!(Slot::stable(MAX_BACKEND).stable_owner(), Some(MAX_BACKEND));
    for word in [
        Slot::EMPTY,
        Slot::remembering(7),
        Slot::remembering(0),
        Slot::learning(7, 8, 9),
        Slot::after_resize(7, 9),
    ] {
        assert_eq!(word.stable_owner(), None, "{word:?}");
    }
}
