//! Going through a table: what is in it, and taking out what is too old. The agent does this in the memory of the map,
//! while packets use it.

use core::{
    ops::Range,
    ptr::{addr_of_mut, write_volatile},
};

use super::{
    BACKEND, BACKEND_BITS, Class, Found, Memory, PER_BUCKET, Role, class, facts, facts_of, owner_of,
};
use crate::flow::Record;

/// A record that a sweep came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub role: Role,
    pub class: Class,
    pub record: Record,
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
            let role = if owner >> BACKEND_BITS & 1 == 0 { Role::Flow } else { Role::Pending };
            let record = facts::unpack(role, (owner & BACKEND) as u32, facts, now);
            let seen = Seen { role, class: class::named(class::of(owner, facts)), record };
            if keep(&seen) || owner_of(entry) != owner || facts_of(entry) != facts {
                continue;
            }
            let found = Found { entry, owner };
            found.remove();
            // A packet that had found the record may write its facts now: the record is not too old any more.
            if facts_of(entry) != facts && owner_of(entry) == 0 {
                // SAFETY: as above; words are written whole.
                unsafe { write_volatile(addr_of_mut!((*entry).owner), owner) };
                continue;
            }
            taken += 1;
        }
    }
    taken
}
