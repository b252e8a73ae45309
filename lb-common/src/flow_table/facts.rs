//! The second word of an entry: what a record knows besides its backend.
//!
//! | record | from the highest bit on |
//! |---|---|
//! | flow, elder | 20 bits of the sequence number, in steps of 4 KiB; 16 bits of the candidate; 8 flags; 20 bits of time |
//! | SYN that waits | 32 bits of the sequence number; 4 unused; 8 flags; 20 bits of time |
//!
//! Time counts in steps of [`STEP`] jiffies and wraps after 2²⁰ of them: with 1,000 jiffies in a second, after 37 hours,
//! longer than any window.

use super::Role;
use crate::flow::Record;

/// Jiffies that one step of time has.
pub(super) const STEP: u32 = 1 << STEP_SHIFT;
const STEP_SHIFT: u32 = 7;
const TIME_BITS: u32 = 20;
pub(super) const TIME: u64 = (1 << TIME_BITS) - 1;
/// Steps that a record may be ahead of a packet, because another CPU saw its flow in this moment.
pub(super) const AHEAD: u32 = 64;

/// Where the flags are. [`Record::TAKEN`] lies beyond them, and has the place of a flag that the record cannot have: of
/// [`Record::ELDER`] in a flow, of [`Record::CONTESTED`] in an elder.
pub(super) const FLAGS: u32 = TIME_BITS;
const FLAG_BITS: u32 = 8;
const KEPT: u32 = (1 << FLAG_BITS) - 1;
const CANDIDATE: u32 = FLAGS + FLAG_BITS;
const SEQUENCE_BITS: u32 = 20;

/// The flag in whose place [`Record::TAKEN`] lies.
#[inline(always)]
const fn place_of_taken(role: Role) -> u32 {
    match role {
        Role::Flow => Record::ELDER,
        Role::Pending => Record::CONTESTED,
    }
}

/// The word of a record.
#[inline(always)]
pub(super) const fn pack(role: Role, record: &Record) -> u64 {
    let time = (record.last_seen >> STEP_SHIFT) as u64 & TIME;
    let place = place_of_taken(role);
    let taken = (record.flags & Record::TAKEN) / Record::TAKEN * place;
    let flags = (record.flags & KEPT & !place | taken) as u64;
    let numbers = if is_syn(role, record.flags) {
        (record.sequence as u64) << 32
    } else {
        let sequence = (record.sequence >> (u32::BITS - SEQUENCE_BITS)) as u64;
        sequence << (u64::BITS - SEQUENCE_BITS) | ((record.flags >> 16) as u64) << CANDIDATE
    };
    numbers | flags << FLAGS | time
}

/// Whether a record is that of a SYN that waits.
#[inline(always)]
const fn is_syn(role: Role, flags: u32) -> bool {
    matches!(role, Role::Pending) && flags & Record::ELDER == 0
}

/// The record of a word. `now`: the lower half of the kernel's jiffies; the record's time is at most [`STEP`] earlier
/// than the one that was written.
#[inline(always)]
pub(super) const fn unpack(role: Role, backend: u32, word: u64, now: u32) -> Record {
    let ahead = (now & !(STEP - 1)).wrapping_add(AHEAD << STEP_SHIFT);
    let last_seen = ahead.wrapping_sub(age(word, now) << STEP_SHIFT);
    let place = place_of_taken(role);
    let kept = (word >> FLAGS) as u32 & KEPT;
    let flags = (kept & !place) | ((kept & place) / place * Record::TAKEN);
    if is_syn(role, flags) {
        return Record { backend, flags, sequence: (word >> 32) as u32, last_seen };
    }
    let sequence = (word >> (u64::BITS - SEQUENCE_BITS)) as u32;
    let candidate = (word >> CANDIDATE) as u16 as u32;
    Record {
        backend,
        flags: candidate << 16 | flags,
        sequence: sequence << (u32::BITS - SEQUENCE_BITS),
        last_seen,
    }
}

/// Steps since the record was seen, and [`AHEAD`] more: never below 0.
#[inline(always)]
pub(super) const fn age(word: u64, now: u32) -> u32 {
    (now >> STEP_SHIFT).wrapping_add(AHEAD).wrapping_sub(word as u32) & TIME as u32
}

const _: () = {
    assert!(KEPT == Record::CONTESTED * 2 - 1 && Record::TAKEN > KEPT);
    assert!(CANDIDATE + 16 + SEQUENCE_BITS == u64::BITS);
};
