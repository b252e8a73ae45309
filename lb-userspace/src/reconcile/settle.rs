//! What becomes of the arena when nothing changes but what is under way: what learns has learnt, what is removed is gone, and
//! rings take the lengths that are asked for as soon as there is room. The result says whether a service that gets no ring
//! now gets one by waiting. Pure.

use std::collections::HashMap;

use lb_common::ring::Ring;

use super::{
    desired::RingWish,
    mirror::Mirror,
    places::{self, Place, Rings},
    ring::Arena,
};
use crate::config::spec::Listen;

/// How many rounds the code looks at. Each round but the first two lasts as long as flows are remembered: a service that needs
/// more rounds waits for hours, which is as good as never.
const MOST: usize = 8;

/// What becomes of the rings that are asked for, by rounds. Round 0 is now. In round 1, a moment later, rings that are not
/// asked for are gone. Before each further round everything that learns has learnt.
pub(super) struct Settled {
    /// For each wish the round in which its service has a ring; `None` = in no round that the code looked at.
    pub(super) rounds: Vec<Option<usize>>,
    /// For each round the wishes of running services that get another ring in it.
    pub(super) changed: Vec<Vec<usize>>,
}

/// Looks ahead from the tables as they are.
pub(super) fn settle(mirror: &Mirror, wishes: &[RingWish]) -> Settled {
    let mut rings: HashMap<Listen, Rings> = places::running(mirror)
        .into_iter()
        .map(|(listen, (_, record))| (listen, places::rings(record)))
        .collect();
    let mut settled = Settled { rounds: vec![None; wishes.len()], changed: Vec::new() };
    for round in 0..MOST {
        let arena = Arena::new(mirror.sizes.slots, rings.values().flat_map(|(ring, old)| [*ring, *old]));
        let running = |listen: &Listen| rings.get(listen).copied();
        // As a plan does it: with lengths that there is room for.
        let fitting = places::fitting(arena.clone(), running, wishes);
        let fitting = wishes.iter().zip(fitting).map(|(wish, length)| RingWish { length, ..*wish });
        let (mut next, mut changed) = (HashMap::new(), Vec::new());
        let found = places::placed(arena, running, fitting);
        for (place, (wish, found)) in wishes.iter().zip(found).enumerate() {
            let was = running(&wish.listen);
            let (ring, old) = match (found, was) {
                (Place::New(ring), Some((replaced, _))) => {
                    changed.push(place);
                    (ring, replaced)
                }
                (Place::New(ring), None) => (ring, Ring::NONE),
                (Place::Has(_) | Place::Learning(_) | Place::NoRoom(_), Some(rings)) => rings,
                (Place::Has(_) | Place::Learning(_) | Place::NoRoom(_), None) => continue,
            };
            settled.rounds[place].get_or_insert(round);
            let has_learnt = round > 0;
            next.insert(wish.listen, (ring, if has_learnt { Ring::NONE } else { old }));
        }
        settled.changed.push(changed);
        // Nothing more happens once nothing learns and a round leaves everything as it was.
        let learns = rings.values().any(|(_, old)| *old != Ring::NONE);
        if std::mem::replace(&mut rings, next) == rings && !learns {
            break;
        }
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::places::tests::{mirror, wish};

    fn rounds(services: &[(u16, u32, Option<u32>)], wishes: &[RingWish]) -> Vec<Option<usize>> {
        settle(&mirror(services), wishes).rounds
    }

    #[test]
    fn a_shrinking_ring_frees_room_when_learnt_from() {
        // 200 slots, 140 of them taken. The shorter ring lies behind these 140 first.
        let wishes = [wish(1, 30), wish(2, 20), wish(3, 100)];
        let settled = settle(&mirror(&[(1, 120, None), (2, 20, None)]), &wishes);
        assert_eq!(settled.rounds, [Some(0), Some(0), Some(2)]);
        assert_eq!((&*settled.changed[0], settled.changed[1..].concat().len()), (&[0][..], 0));
    }

    #[test]
    fn a_learning_ring_frees_room_later_a_removed_one_now() {
        assert_eq!(rounds(&[(1, 30, Some(120))], &[wish(1, 30), wish(2, 100)]), [Some(0), Some(2)]);
        assert_eq!(rounds(&[(1, 150, None)], &[wish(2, 100)]), [Some(1)]);
    }

    #[test]
    fn a_ring_that_waits_itself_makes_room_a_round_later() {
        // The second service has room for its shorter ring only where the ring of the first one was.
        let services = [(1, 90, None), (2, 100, None)];
        assert_eq!(rounds(&services, &[wish(1, 10), wish(2, 20), wish(3, 120)]), [Some(0), Some(0), Some(3)]);
    }

    #[test]
    fn what_has_no_room_in_the_end_gets_no_ring_by_waiting() {
        assert_eq!(
            rounds(&[(1, 190, None)], &[wish(1, 20), wish(2, 20)]),
            [Some(0), None],
            "no room to get shorter"
        );
        assert_eq!(rounds(&[(1, 120, None)], &[wish(1, 30), wish(2, 180)]), [Some(0), None], "too long");
        assert_eq!(
            rounds(&[(1, 120, None)], &[wish(1, 120), wish(2, 90)]),
            [Some(0), None],
            "nothing changes"
        );
    }
}
