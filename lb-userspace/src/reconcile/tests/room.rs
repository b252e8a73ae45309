//! Services that wait for room in the arena: what is said of them before comes true on the in-memory tables.

use lb_common::slot::SINCE_STEP;
use proptest::prelude::*;

use super::{State::Up, *};
use crate::reconcile::{Lack, Lacking, LackingService, PlanError, RingWish};

const LENGTHS: [u32; 6] = [13, 29, 61, 127, 251, 307];

fn wishes(lengths: &[u32]) -> Vec<Wish> {
    (0..).zip(lengths).map(|(number, length)| wish("any", 2 * number, *length, &[(1, Up)])).collect()
}

/// Plans as the agent does, with lengths that there is room for and without what is lacking, and applies. Returns what was
/// left out.
fn put_what_fits(reconciler: &mut Reconciler<Twin>, wishes: &[Wish], now: u16) -> Lacking {
    let asked: Vec<RingWish> = wishes.iter().map(|wish| service(wish).wish()).collect();
    let with_lengths = |reconciler: &Reconciler<Twin>, wishes: &[Wish]| -> Vec<Wish> {
        let asked: Vec<RingWish> = wishes.iter().map(|wish| service(wish).wish()).collect();
        let lengths = reconciler.ring_lengths(&asked);
        wishes.iter().zip(lengths).map(|(wish, length)| Wish { length, ..wish.clone() }).collect()
    };
    let all = desired(&with_lengths(reconciler, wishes));
    let lacking = match reconciler.plan(&all, now) {
        Ok(_) => Lacking::default(),
        Err(PlanError::Refused(_)) => reconciler.lacking(&all, &asked, now).unwrap(),
        Err(error) => panic!("{error}"),
    };
    let is_left_out = |place: &usize| lacking.services.iter().any(|lacking| lacking.place == *place);
    let rest: Vec<Wish> =
        (0..wishes.len()).filter(|place| !is_left_out(place)).map(|place| wishes[place].clone()).collect();
    let rest = with_lengths(reconciler, &rest);
    put(reconciler, &rest, now);
    lacking
}

/// Tables in which an agent before left rings of these lengths, so that all their slots count as used.
fn taken_over(lengths: &[u32]) -> Reconciler<Twin> {
    let mut first = new_reconciler();
    put_what_fits(&mut first, &wishes(lengths), 0);
    Reconciler::new(first.into_tables()).unwrap()
}

#[test]
fn a_new_service_waits_for_a_shrinking_ring_in_the_open() {
    let mut reconciler = taken_over(&[307, 29]);
    let lacking = put_what_fits(&mut reconciler, &wishes(&[61, 29, 307]), 1);
    let seconds = WINDOW.as_secs() + 2 * SINCE_STEP;
    assert_eq!(lacking.services, [LackingService { place: 2, lack: Lack::Room, within: Some(seconds) }]);
    // Half of the time is over.
    reconciler.sweep(8).unwrap();
    let lacking = put_what_fits(&mut reconciler, &wishes(&[61, 29, 307]), 8);
    assert_eq!(lacking.services[0].within, Some(seconds - 7 * SINCE_STEP));
    let later = 1 + (seconds / SINCE_STEP) as u16 + 1;
    reconciler.sweep(later).unwrap();
    assert_eq!(put_what_fits(&mut reconciler, &wishes(&[61, 29, 307]), later), Lacking::default());
    assert_says(&reconciler, &wishes(&[61, 29, 307]));
}

#[test]
fn a_service_that_nothing_makes_room_for_is_known_at_once() {
    let mut reconciler = taken_over(&[307, 251]);
    let lacking = put_what_fits(&mut reconciler, &wishes(&[307, 251, 127]), 1);
    assert_eq!(lacking.services, [LackingService { place: 2, lack: Lack::Room, within: None }]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// For all running services and all wishes: a service that is said to get its ring in a time has the ring then.
    #[test]
    fn who_is_said_to_get_a_ring_gets_it_in_that_time(
        running in prop::collection::vec(0usize..LENGTHS.len(), 0..5),
        asked in prop::collection::vec(0usize..LENGTHS.len(), 1..7),
    ) {
        let lengths = |of: &[usize]| -> Vec<u32> { of.iter().map(|length| LENGTHS[*length]).collect() };
        let mut reconciler = taken_over(&lengths(&running));
        let wishes = wishes(&lengths(&asked));
        let first = put_what_fits(&mut reconciler, &wishes, 1);
        let longest = first.services.iter().filter_map(|lacking| lacking.within).max();
        // The sweep and the plan after it see each round one step late at most.
        let slack = 2 * 8;
        let end = 1 + longest.map_or(0, |within| within / SINCE_STEP + slack) as u16;
        let mut last = first.clone();
        for now in 2..=end {
            reconciler.sweep(now).unwrap();
            last = put_what_fits(&mut reconciler, &wishes, now);
        }
        for lacking in first.services.iter().filter(|lacking| lacking.within.is_some()) {
            let waits = last.services.iter().any(|last| last.place == lacking.place);
            prop_assert!(!waits, "{lacking:?} still waits: {last:?}");
        }
        let runs = reconciler.running(0);
        for (place, wish) in wishes.iter().enumerate() {
            let is_left_out = last.services.iter().any(|lacking| lacking.place == place);
            let has_ring = runs.iter().any(|running| running.listen == listen(wish.listen));
            prop_assert_eq!(has_ring, !is_left_out, "place {}", place);
        }
    }
}
