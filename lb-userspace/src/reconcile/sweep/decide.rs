//! What a finished walk allows: learning that ends, slots that become stable, numbers and rings that become free. Pure;
//! [`super`] carries out the writes.

use std::{collections::BTreeSet, sync::atomic::AtomicU64, time::Duration};

use lb_common::{
    backend::Backend, elsewhere, map::NameRecord, ring::Ring, service::Service, slot::PREVIOUS_RING,
};

use super::{Candidates, Sweep, Swept, is_past};
use crate::{
    reconcile::{
        mirror::Mirror,
        operation::Operation,
        slot::{self, States},
        write_log::WriteLog,
    },
    tables::{Tables, clocks},
};

/// What may be written now that the flow tables were walked.
///
/// A slot settles when its clock says that no record has sent a packet elsewhere than to its owner for longer than the window
/// of its service: such records were too old for the walk. And only if the walk was about the slot: neither the slot nor the
/// record of its service was written since the walk began. Then no packet under way can have used an older word, and write a
/// record or set the clock behind the walk.
///
/// Learning ends when its window is over. It ends at once in slots of `unused` services: a service that has forwarded no
/// packet has no flow to learn. It also ends at once where unknown flows belong to a backend that keeps no flows any more, as
/// one that was down for longer than the grace. It goes on where the table has lost records (`reconcile/lost.rs`). It ends by remembering, so a flow that begins in this moment, and is recorded
/// as it begins, stays where it is.
pub(super) fn decide(
    tables: &impl Tables,
    mirror: &Mirror,
    sweep: &Sweep,
    changed: &WriteLog,
    unused: &BTreeSet<u32>,
    now: u16,
    swept: &mut Swept,
) -> Vec<Operation> {
    let Sweep { candidates, clock, .. } = sweep;
    let (slots, clocks) = (tables.slots(), tables.elsewhere());
    let over = given_up(mirror, now);
    let mut operations: Vec<_> = over
        .iter()
        .filter_map(|&number| {
            let meta = *mirror.backend_metas.get(number as usize)?;
            let meta = NameRecord { flags: meta.flags & !NameRecord::RETURNING, free_after: 0, ..meta };
            Some(Operation::BackendMeta { number, meta })
        })
        .collect();
    for (number, record) in mirror.present().map(|(number, record, _)| (number, record)) {
        if mirror.stable.contains(&number) {
            continue;
        }
        let states = States::of(slots, record.ring, now);
        let settles = !record.tracks_always() && !changed.services.contains(&number);
        let mut asks_old_ring = states.asks_old_ring;
        let window = mirror.windows.get(&number).map(Duration::as_secs);
        let jiffies = window.map_or(u64::MAX, |window| window.saturating_mul(clock.hz));
        let mut words = Vec::new();
        for (at, word) in slot::words(slots, record.ring) {
            let nothing_to_learn =
                word.is_learning() && unused.contains(&number) && !changed.slots.contains(at);
            let given_up = word.is_learning()
                && word.previous() != PREVIOUS_RING
                && (over.contains(&word.previous()) || !mirror.keeps_flows(word.previous()));
            let is_over = window.is_some_and(|window| word.window_over(now, window));
            let goes_on = window.is_some_and(|window| mirror.lost.prolongs(word, now, window));
            if is_over && goes_on && !nothing_to_learn && !given_up {
                swept.prolonged += 1;
            } else if nothing_to_learn || given_up || is_over {
                asks_old_ring -= u32::from(word.previous() == PREVIOUS_RING);
                swept.learning_ended += 1;
                words.push((at, word.end_learning().0));
            } else if settles
                && word.is_tracked()
                && !word.is_learning()
                && !changed.slots.contains(at)
                && elsewhere::is_over(clocks::get(clocks, at), clock.now as u32, jiffies)
            {
                swept.settled += 1;
                words.push((at, word.settle().0));
            }
        }
        if !words.is_empty() {
            operations.push(Operation::Slots { service: number, words });
        }
        if record.old_ring != Ring::NONE && asks_old_ring == 0 {
            swept.rings_freed += 1;
            let record = Service { old_ring: Ring::NONE, ..*record };
            operations.push(Operation::Service { number, record });
        }
    }
    if swept.rings_freed > 0 {
        operations.push(Operation::Barrier);
    }
    if !candidates.is_empty() {
        free_numbers(slots, mirror, candidates, &mut operations, swept);
    }
    operations
}

/// Backends that were down for so long that their flows are given up: these flows go where their slots say.
fn given_up(mirror: &Mirror, now: u16) -> BTreeSet<u32> {
    let returning = mirror.used_backends().filter(|number| mirror.may_return(*number));
    returning
        .filter(|number| mirror.backend_metas.get(*number as usize).is_some_and(|meta| is_past(meta, now)))
        .collect()
}

/// Frees retired numbers. A backend number is free when no slot names it. No flow names it either: the walk deleted such
/// records, and the grace was over before the walk began, so no packet could write another one.
fn free_numbers(
    slots: &[AtomicU64],
    mirror: &Mirror,
    candidates: &Candidates,
    operations: &mut Vec<Operation>,
    swept: &mut Swept,
) {
    let mut named = vec![false; mirror.backends.len()];
    for ring in mirror.regions() {
        slot::owners(slots, ring, |current, previous| {
            for number in [current, previous] {
                if let Some(named) = named.get_mut(number as usize) {
                    *named = true;
                }
            }
        });
    }
    let is_named = |number: u32| named.get(number as usize).copied().unwrap_or(true);
    let free: Vec<u32> = candidates.backends.iter().copied().filter(|&number| !is_named(number)).collect();
    swept.numbers_freed += (free.len() + candidates.services.len()) as u64;
    for number in free {
        operations.push(Operation::Backend { number, record: Backend::default() });
        operations.push(Operation::BackendMeta { number, meta: NameRecord::FREE });
    }
    for &number in &candidates.services {
        operations.push(Operation::ServiceMeta { number, meta: NameRecord::FREE });
    }
}
