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
/// [`super::Memory::sign`].
#[inline(always)]
pub(super) const fn of(owner: u64, facts: u64) -> u64 {
    let is_pending = owner >> super::BACKEND_BITS & 1;
    let is_unconfirmed = is_pending & !flag(facts, Record::ELDER) | flag(facts, Record::RST);
    let is_seen_twice = 1 ^ flag(facts, Record::ONCE);
    let is_known = is_seen_twice & (1 ^ is_unconfirmed);
    is_seen_twice + is_known + (is_known & flag(facts, Record::BEGAN))
}

/// 1 where an entry has a flag, otherwise 0.
#[inline(always)]
const fn flag(facts: u64, flag: u32) -> u64 {
    facts >> (facts::FLAGS + flag.trailing_zeros()) & 1
}

/// Bits of a score below its class.
const WITHIN: u32 = 32;

/// How soon a record gives its place away: the lowest score goes first, and the score of no record is as low as the
/// number of places in a bucket. Of two records of flows the older one goes first; of two that prove nothing, one by
/// chance: a queue in which the oldest goes first would let a flood push out every handshake that takes longer than the
/// flood needs to fill the table, where chance lets a share of them live.
#[inline(always)]
pub(super) const fn score(owner: u64, facts: u64, now: u32, random: u32) -> u64 {
    let class = of(owner, facts);
    let chance = (owner as u32 ^ random).wrapping_mul(0x9e37_79b1);
    let within = super::select(class >> 1, chance as u64, !facts::age(facts, now) as u64);
    (1 + class) << WITHIN | within
}

/// The class of the entry that has a score; `None` for an empty place.
#[inline(always)]
pub(super) const fn of_score(score: u64) -> Option<Class> {
    match score >> WITHIN {
        0 => None,
        class => Some(named(class - 1)),
    }
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
