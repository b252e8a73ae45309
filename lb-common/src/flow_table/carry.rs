//! A table of another size takes over the entries of this one, which do not say what their flows' hashes are.

use core::ops::Range;

use super::{BACKEND, Entry, Key, Memory, Put, Role, facts, find, put};
use crate::flow::Record;

impl Entry {
    /// What an entry in use says, and of which role it is. `now`: the lower half of the kernel's jiffies.
    pub const fn record(&self, now: u32) -> (Role, Record) {
        let role = Role::of(self.owner);
        (role, facts::unpack(role, (self.owner & BACKEND) as u32, self.facts, now))
    }
}

/// The buckets of a table of `new` buckets that records of a bucket of a table of `old` buckets may be in. In a larger
/// table these are as many as the tables differ in size, and a record that is copied into all of them is found: each
/// flow has its record in one of its two buckets. [`super::is_size`] holds for both sizes.
pub const fn heirs(bucket: u32, old: u32, new: u32) -> Range<u32> {
    if new >= old {
        let times = new / old;
        bucket * times..(bucket + 1) * times
    } else {
        let bucket = bucket / (old / new);
        bucket..bucket + 1
    }
}

/// Puts a record of another table into a bucket that is one of its [`heirs`], or into the other one of its flow. A
/// younger record of the same flow stays; that counts as [`Put::Replaced`]. `now` and `random` as for [`put`].
pub fn carry<M: Memory>(memory: &M, entry: Entry, bucket: u32, now: u32, random: u32) -> Put {
    let key = Key::at(entry.owner, bucket, memory.buckets());
    let (role, record) = entry.record(now);
    if let Some(found) = find(memory, &key, role) {
        let there = found.read(role, now);
        if there.last_seen.wrapping_sub(record.last_seen).cast_signed() >= 0 {
            return Put::Replaced;
        }
    }
    put(memory, &key, role, &record, now, random)
}
