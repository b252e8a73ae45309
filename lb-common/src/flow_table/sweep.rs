//! Going through a table: what is in it, and taking out what is too old. The agent does this in the memory of the map,
//! while packets use it.

use core::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Bucket, Class, Entry, LOW, Role, class};
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

/// Words of an entry.
const ENTRY: usize = size_of::<Entry>() / size_of::<u64>();
/// Words of a bucket.
const BUCKET: usize = size_of::<Bucket>() / size_of::<u64>();

/// Goes through some buckets of a table in these words and takes out the records for which `keep` says `false`; how many. A
/// record that a packet refreshes in this moment stays. `now`: the lower half of the kernel's jiffies.
///
/// Not generic, so that builds for tests, which optimize this crate alone, go through an empty table quickly, too.
pub fn sweep(words: &[AtomicU64], buckets: Range<u32>, now: u32, keep: &mut dyn FnMut(&Seen) -> bool) -> u32 {
    let range = buckets.start as usize * BUCKET..buckets.end as usize * BUCKET;
    let last = words.len() / BUCKET * BUCKET;
    let words = &words[range.start.min(last)..range.end.min(last)];
    let mut taken = 0;
    for entry in words.chunks_exact(ENTRY) {
        let [word, facts_word] = entry else { continue };
        let (owner, facts) = (word.load(Ordering::Relaxed), facts_word.load(Ordering::Relaxed));
        if owner == 0 {
            continue;
        }
        let (role, record) = Entry { owner, facts }.record(now);
        let class = class::named(class::of(owner, facts));
        let seen = Seen { role, class, record, tag: owner >> LOW };
        let is_refreshed = || facts_word.load(Ordering::Relaxed) != facts;
        if keep(&seen) || is_refreshed() {
            continue;
        }
        if word.compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        // A packet that had found the record may have written its facts since: it is not too old any more.
        if is_refreshed() && word.compare_exchange(0, owner, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            continue;
        }
        taken += 1;
    }
    taken
}
