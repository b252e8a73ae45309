//! What a record is worth: which records give their places to others when a table is full.

use super::facts;
use crate::flow::Record;

/// What a record has proved. A record takes the place of a record of its own class or of a lower one, and never of a
/// higher one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// One segment or datagram of an unknown flow, which any sender can make.
    Once,
    /// A SYN that no segment has continued, or a flow that is closed.
    Unconfirmed,
    /// An unknown flow of which a second packet fitted the first one.
    Known,
    /// A flow whose handshake was seen.
    Began,
}

/// The class of an entry, as a number. An elder is worth what it was worth as a flow. Without a branch, see
/// [`super::Arithmetic::sign`].
#[inline(always)]
pub(super) const fn of(owner: u64, facts: u64) -> u64 {
    let flags = facts >> facts::FLAGS;
    let is_syn = owner >> super::BACKEND_BITS & !(flags >> Record::ELDER.trailing_zeros()) & 1;
    let case = flags >> Record::RST.trailing_zeros() & 7 | is_syn << 3;
    CLASSES >> (2 * case) & 3
}

/// Two bits for each combination of [`Record::RST`], [`Record::ONCE`], [`Record::BEGAN`], and of being a SYN that waits, from
/// the lowest bit on.
const CLASSES: u64 = {
    let (rst, once, began, syn) = (1, 2, 4, 8);
    let mut classes = 0;
    let mut case = 0;
    while case < 16 {
        let class = if case & once != 0 {
            Class::Once
        } else if case & (rst | syn) != 0 {
            Class::Unconfirmed
        } else if case & began == 0 {
            Class::Known
        } else {
            Class::Began
        };
        classes |= (class as u64) << (2 * case);
        case += 1;
    }
    classes
};

/// Bits of a score below its class.
const WITHIN: u32 = 32;

/// How soon a record gives its place away: the lowest score goes first. Of two records of flows the older one goes first;
/// of two that prove nothing, one by chance: a queue in which the oldest goes first would let a flood push out every
/// handshake that takes longer than the flood needs to fill the table, where chance lets a share of them live.
#[inline(always)]
pub(super) const fn score(owner: u64, facts: u64, now: u32, random: u32) -> u64 {
    let class = of(owner, facts);
    let chance = (owner as u32 ^ random).wrapping_mul(0x9e37_79b1);
    let within = super::select(class >> 1, chance as u64, !facts::age(facts, now) as u64);
    class << WITHIN | within
}

/// The class of the entry that has a score.
#[inline(always)]
pub(super) const fn of_score(score: u64) -> u64 {
    score >> WITHIN
}

/// The class with that number.
#[inline(always)]
pub(super) const fn named(class: u64) -> Class {
    match class {
        0 => Class::Once,
        1 => Class::Unconfirmed,
        2 => Class::Known,
        _ => Class::Began,
    }
}

const _: () = {
    // The three flags are neighbours.
    assert!(Record::ONCE == 2 * Record::RST && Record::BEGAN == 4 * Record::RST);
};
