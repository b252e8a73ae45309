//! The second word of an entry: what a record knows besides its backend.
//!
//! | role | from the highest bit on |
//! |---|---|
//! | flow | 20 bits of the sequence number, in steps of 4 KiB; 16 bits of the candidate; 8 flags; 20 bits of time |
//! | pending | 32 bits of the sequence number; 3 unused; 9 flags; 20 bits of time |
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

/// Where the flags are. Those of a flow have no [`Record::ELDER`], and [`Record::TAKEN`] in its place.
pub(super) const FLAGS: u32 = TIME_BITS;
const FLOW_FLAGS: u64 = 0xff;
const PENDING_FLAGS: u64 = 0x1ff;
const CANDIDATE: u32 = FLAGS + 8;
const SEQUENCE_BITS: u32 = 20;

/// The word of a record.
#[inline(always)]
pub(super) const fn pack(role: Role, record: &Record) -> u64 {
    let time = (record.last_seen >> STEP_SHIFT) as u64 & TIME;
    let flags = record.flags as u64;
    match role {
        Role::Flow => {
            let taken = flags >> 8 & 1;
            let kept = (flags & FLOW_FLAGS & !(Record::ELDER as u64)) | (taken * Record::ELDER as u64);
            let candidate = flags >> 16;
            let sequence = (record.sequence >> (u32::BITS - SEQUENCE_BITS)) as u64;
            sequence << (u64::BITS - SEQUENCE_BITS) | candidate << CANDIDATE | kept << FLAGS | time
        }
        Role::Pending => (record.sequence as u64) << 32 | (flags & PENDING_FLAGS) << FLAGS | time,
    }
}

/// The record of a word. `now`: the lower half of the kernel's jiffies; the record's time is at most [`STEP`] earlier
/// than the one that was written.
#[inline(always)]
pub(super) const fn unpack(role: Role, backend: u32, word: u64, now: u32) -> Record {
    let ahead = (now & !(STEP - 1)).wrapping_add(AHEAD << STEP_SHIFT);
    let last_seen = ahead.wrapping_sub(age(word, now) << STEP_SHIFT);
    match role {
        Role::Flow => {
            let kept = (word >> FLAGS & FLOW_FLAGS) as u32;
            let taken = (kept & Record::ELDER) / Record::ELDER * Record::TAKEN;
            let candidate = (word >> CANDIDATE) as u16 as u32;
            let sequence = (word >> (u64::BITS - SEQUENCE_BITS)) as u32;
            let flags = candidate << 16 | kept & !Record::ELDER | taken;
            Record { backend, flags, sequence: sequence << (u32::BITS - SEQUENCE_BITS), last_seen }
        }
        Role::Pending => {
            let flags = (word >> FLAGS & PENDING_FLAGS) as u32;
            Record { backend, flags, sequence: (word >> 32) as u32, last_seen }
        }
    }
}

/// Steps since the record was seen, and [`AHEAD`] more: never below 0.
#[inline(always)]
pub(super) const fn age(word: u64, now: u32) -> u32 {
    (now >> STEP_SHIFT).wrapping_add(AHEAD).wrapping_sub(word as u32) & TIME as u32
}

const _: () = {
    assert!(Record::ELDER == 1 << 6 && Record::TAKEN == 1 << 8 && Record::CONTESTED == 1 << 7);
    assert!(CANDIDATE + 16 + SEQUENCE_BITS == u64::BITS);
};
