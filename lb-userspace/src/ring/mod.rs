//! Rings: which backend owns which slot. A pure function of the seed, the names and the weights, so that every node
//! of a site builds the same ones. What a change of owner makes of a running slot is not decided here but in
//! [`lb_common::slot`].
//!
//! There are two builders ([`Builder`]); rendezvous hashing is in [`rendezvous`].
//!
//! The other table is Maglev's (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI '16,
//! section 3.4): every backend has a permutation of the slots and the backends take turns at claiming the next free
//! slot of theirs. Two things are ours: how many turns a backend gets follows its weight exactly ([`quota`]), and the
//! order of the turns does not depend on who else takes part ([`claim_order`]), which keeps the slots of the others in place
//! when one leaves, joins or changes its weight.

mod claim_order;
mod fingerprint;
mod permutation;
mod populate;
mod quota;
mod rendezvous;
mod seed;

pub use fingerprint::{combine, fingerprint};
pub use seed::seed;

use lb_common::hash::Seed;

/// How slots are assigned to backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Builder {
    /// Shares exact to the slot; a change also moves a few slots between backends that stay as they are.
    #[default]
    Maglev,
    /// A change moves no slot between backends that stay as they are; shares are as uneven as chance.
    Rendezvous,
    /// Slot after slot in the order in which turns are taken, shares exact to the slot; for balancing by turns. A change
    /// moves most slots.
    RoundRobin,
    /// The slots of each backend together, those of the one that has most first, then by name, shares exact to the slot; for
    /// balancing by live flows ([`lb_common::balance::other`]). A change moves most slots.
    Runs,
}

/// Somebody who wants slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Unique within the ring: it decides which slots the entry gets.
    pub name: &'a str,
    /// Slots in proportion to the sum of all weights; 0 = none.
    pub weight: u16,
}

/// The ring over `entries`: for each of `length` slots the place of its owner in `entries` plus 1, or 0 everywhere when
/// no backend has a weight.
///
/// The order of `entries` does not matter. `length` is one of [`lb_common::ring::LENGTHS`]; any other works too, with
/// Maglev a prime spreads best. Time O(length × log length), whatever the number of entries. Maglev takes
/// 56 ms for 10,000 backends in 1,000,003 slots and 3 ms for 1,000 in 65,537 (one core, release build); the benchmark's rows
/// `ring/` have both builders'.
pub fn build(builder: Builder, seed: &Seed, entries: &[Entry<'_>], length: u32) -> Vec<u32> {
    let mut order: Vec<u32> =
        (0..).zip(entries).filter(|(_, entry)| entry.weight > 0).map(|(place, _)| place).collect();
    order.sort_unstable_by(|&a, &b| entries[a as usize].name.cmp(entries[b as usize].name));
    if order.is_empty() || length == 0 {
        return vec![0; length as usize];
    }
    let ordered: Vec<Entry<'_>> = order.iter().map(|&place| entries[place as usize]).collect();
    let weights: Vec<u16> = ordered.iter().map(|entry| entry.weight).collect();
    let mut slots = match builder {
        Builder::Maglev => in_turn(seed, &ordered, &weights, length),
        Builder::RoundRobin => {
            let quotas = quota::quotas(&weights, length);
            claim_order::claim_order(&weights, &quotas, &vec![0; weights.len()]).collect()
        }
        Builder::Runs => runs(&quota::quotas(&weights, length)),
        Builder::Rendezvous => {
            let hits = ordered.iter().map(|entry| rendezvous::Draws::new(seed, entry.name)).collect();
            rendezvous::populate(hits, &weights, length)
        }
    };
    for slot in &mut slots {
        *slot = order[*slot as usize] + 1;
    }
    slots
}

/// The numbers of all backends, each as often as its quota says: first the one with most, then the others in their order.
fn runs(quotas: &[u32]) -> Vec<u32> {
    let most = quotas.iter().max().and_then(|most| quotas.iter().position(|quota| quota == most));
    let first = most.unwrap_or(0);
    let order = std::iter::once(first).chain((0..quotas.len()).filter(|place| *place != first));
    order.flat_map(|place| std::iter::repeat_n(place as u32, quotas[place] as usize)).collect()
}

/// How many slots the first owner of a ring has at its beginning; 0 where the ring has none.
pub fn first_run(owners: &[u32]) -> u32 {
    match owners.first() {
        None | Some(0) => 0,
        Some(first) => owners.iter().take_while(|owner| *owner == first).count() as u32,
    }
}

/// The ring by Maglev's table, see [`build`].
#[cfg(any(test, feature = "test-support"))]
pub fn maglev(seed: &Seed, entries: &[Entry<'_>], length: u32) -> Vec<u32> {
    build(Builder::Maglev, seed, entries, length)
}

/// Maglev's table: the place of each slot's owner in `entries`, all of which have a weight.
fn in_turn(seed: &Seed, entries: &[Entry<'_>], weights: &[u16], length: u32) -> Vec<u32> {
    let mut walks: Vec<permutation::Permutation> =
        entries.iter().map(|entry| permutation::Permutation::new(seed, entry.name, length)).collect();
    let quotas = quota::quotas(weights, length);
    let phases: Vec<u32> = walks.iter().map(permutation::Permutation::phase).collect();
    let turns = claim_order::claim_order(weights, &quotas, &phases);
    populate::populate(&mut walks, turns, length)
}

#[cfg(test)]
mod tests;
