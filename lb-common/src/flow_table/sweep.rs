//! Going through a table: what is in it, and taking out what is too old. The agent does this in the memory of the map,
//! while packets use it.

use core::{
    ops::Range,
    ptr::addr_of_mut,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Class, Entry, LOW, Memory, PER_BUCKET, Role, class, facts_of, owner_of};
use crate::flow::Record;

/// A record that a sweep came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub role: Role,
    pub class: Class,
    pub record: Record,
    /// All but the lowest 21 bits of the flow's hash.
    pub tag: u64,
}

impl Seen {
    /// The upper half of the flow's hash, which decides its slot where a ring hashes whole flows
    /// ([`crate::ring::Ring::slot`]); the lower half is 0.
    pub const fn hash(&self) -> u64 {
        self.tag << LOW & !(u32::MAX as u64)
    }
}

/// Goes through some buckets and takes out the records for which `keep` says `false`; how many. A record that a packet
/// refreshes in this moment stays. `now`: the lower half of the kernel's jiffies.
pub fn sweep<M: Memory>(
    memory: &M,
    buckets: Range<u32>,
    now: u32,
    mut keep: impl FnMut(&Seen) -> bool,
) -> u32 {
    let mut taken = 0;
    for number in buckets {
        let Some(bucket) = memory.bucket(number) else { break };
        for at in 0..PER_BUCKET {
            // SAFETY: a place of a bucket of the memory.
            let entry = unsafe { addr_of_mut!((*bucket).entries[at]) };
            let (owner, facts) = (owner_of(entry), facts_of(entry));
            if owner == 0 {
                continue;
            }
            let (role, record) = Entry { owner, facts }.record(now);
            let class = class::named(class::of(owner, facts));
            let seen = Seen { role, class, record, tag: owner >> LOW };
            if keep(&seen) || facts_of(entry) != facts {
                continue;
            }
            // SAFETY: an aligned word of the memory, which others access as whole words.
            let word = unsafe { AtomicU64::from_ptr(addr_of_mut!((*entry).owner)) };
            if word.compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            // A packet that had found the record may have written its facts since: it is not too old any more.
            if facts_of(entry) != facts
                && word.compare_exchange(0, owner, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                continue;
            }
            taken += 1;
        }
    }
    taken
}
