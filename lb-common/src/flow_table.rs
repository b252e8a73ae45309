//! A table of flows in an array map: buckets of one cache line, and two buckets where a flow may be.
//!
//! An entry has two words. The first one, the *owner*, alone decides where packets go: it holds a part of the flow's
//! hash (the tag), the record's role and the backend's number, and it is read and written whole. The second one, the
//! *facts*, says how old the record is and what it knows of the client's numbers ([`facts`]). Two CPUs may write the two
//! words of one entry at the same time; the entry then has the facts of another flow, but never the backend of one.
//!
//! The flow's tuple is not stored. Two flows are taken for one where 43 bits of their hashes are equal and they share a
//! bucket. In a table that is full to 80 % a packet is compared with 6.4 records of other flows on average, so this
//! happens once in 1.4 × 10¹² look-ups ([`MISTAKEN`]).
//!
//! A record that finds no free place may take the place of another one, but only of one that is worth at most as much
//! ([`Class`]). So no number of packets that prove nothing can push out a flow that has proved itself. And among records
//! of one class, a service takes places from others only while it has less than half of those where its record may be
//! ([`SHARE`]); beyond that it takes its own.

mod arithmetic;
mod carry;
mod class;
mod facts;
// It needs compare-and-swap, which packet programs do not have on the oldest kernels, and only the agent sweeps.
#[cfg(target_has_atomic = "64")]
mod sweep;
#[cfg(test)]
mod tests;
mod words;

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

#[cfg(target_has_atomic = "64")]
pub use self::sweep::{Seen, sweep};
pub use self::{
    arithmetic::{Arithmetic, Plain},
    carry::{carry, heirs},
    class::Class,
    words::Words,
};
use crate::{flow::Record, hash::K0, pod};

/// Entries of a bucket.
pub const PER_BUCKET: usize = 4;
/// Bits of the number of a place where a record may be, one of eight.
const PLACE_BITS: u32 = 3;

/// Larger than every score with its place, and below 2⁶³.
const NO_PLACE: u64 = u64::MAX >> 1;

/// Places of the eight where a record may be that a service may take from others' records of the same class.
pub const SHARE: u64 = 4;

/// Bytes of an entry, and of a bucket.
const ENTRY: u64 = size_of::<Entry>() as u64;
const BUCKET: u64 = size_of::<Bucket>() as u64;

const BACKEND_BITS: u32 = 20;
const TAG_BITS: u32 = 43;
const BACKEND: u64 = (1 << BACKEND_BITS) - 1;
/// Bits of an owner word below the tag.
const LOW: u32 = BACKEND_BITS + 1;

/// The largest number of a backend that an entry can name.
pub const MAX_BACKEND: u32 = BACKEND as u32;

/// How often a look-up takes another flow for its own, in a table that is full to 80 %: 0.8 of eight places, each with
/// one of 2⁴³ tags.
pub const MISTAKEN: f64 = 0.8 * (1_u64 << PLACE_BITS) as f64 / (1_u64 << TAG_BITS) as f64;

/// What a record is of a tuple. A tuple has at most one record of each role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The flow that has the tuple.
    Flow,
    /// A SYN that no segment has continued, or the flow that had the tuple before ([`Record::ELDER`]).
    Pending,
}

impl Role {
    /// The role of the record with that owner word.
    const fn of(owner: u64) -> Self {
        if owner >> BACKEND_BITS & 1 == 0 { Self::Flow } else { Self::Pending }
    }

    const fn bit(self) -> u64 {
        (self as u64) << BACKEND_BITS
    }
}

/// One record: see the module.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// From the highest bit on: 43 bits of the flow's hash, the [`Role`], 20 bits of the backend's number; 0 = empty.
    pub owner: u64,
    pub facts: u64,
}

/// Four entries: one cache line, where the array begins at one.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    pub entries: [Entry; PER_BUCKET],
}

/// Records that a table of the smallest size has room for.
const SMALLEST: u32 = 16;
/// Buckets of a table of the smallest size.
const SMALLEST_BUCKETS: u32 = 5;

/// The largest number of records that a table can be made for.
pub const MAX_FLOWS: u32 = SMALLEST << 24;
/// Buckets of a table of that size.
pub const MAX_BUCKETS: u32 = SMALLEST_BUCKETS << 24;

/// The global variable of the programs that holds the number of buckets of their table.
pub const BUCKETS: &str = "FLOW_BUCKETS";

/// Buckets of a table that holds at least `flows` records while it is full to 80 %: 20 bytes a record, for 16, 32, 64
/// and so on. Sizes double, so that a table of another size can be filled from the entries alone ([`heirs`]). More than
/// [`MAX_FLOWS`] counts as that.
pub const fn buckets_for(flows: u32) -> u32 {
    let flows = if flows > MAX_FLOWS { MAX_FLOWS } else { flows };
    SMALLEST_BUCKETS * flows.div_ceil(SMALLEST).next_power_of_two()
}

/// Records that a table of so many buckets holds while it is full to 80 %.
pub const fn room_of(buckets: u32) -> u32 {
    buckets / SMALLEST_BUCKETS * SMALLEST
}

/// Whether a table can have so many buckets.
pub const fn is_size(buckets: u32) -> bool {
    buckets.is_multiple_of(SMALLEST_BUCKETS) && (buckets / SMALLEST_BUCKETS).is_power_of_two()
}

/// Where the records of a flow may be, and what tells them from the records of other flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// The owner word of the flow without role and backend.
    tag: u64,
    pub first: u32,
    pub second: u32,
}

impl Key {
    /// The key of a flow with that hash ([`crate::hash::flow`]) in a table of `buckets` buckets.
    ///
    /// The first bucket comes from the lowest 21 bits of the hash, which are not part of the tag. The second one follows
    /// from the tag and the first one, and the first one in the same way from the second one: so an entry alone says
    /// which two buckets its flow has.
    #[inline(always)]
    pub const fn of(hash: u64, buckets: u32) -> Self {
        let low = hash as u32;
        let first = scale(low.rotate_right(LOW), buckets);
        Self::at(hash, first, buckets)
    }

    /// The key of a record with that owner word, or of a flow with that hash, one of whose buckets is `bucket`.
    #[inline(always)]
    const fn at(hash: u64, bucket: u32, buckets: u32) -> Self {
        let tag = hash >> LOW << LOW;
        Self { tag, first: bucket, second: other_bucket(tag, bucket, buckets) }
    }

    /// The owner word of a record without its backend.
    #[inline(always)]
    const fn owner(&self, role: Role) -> u64 {
        self.tag | role.bit()
    }
}

/// The other bucket of a flow with that tag: one of those in the same fifth of the table. In a table of twice the size it
/// is one of the two that take the place of this one.
#[inline(always)]
const fn other_bucket(tag: u64, bucket: u32, buckets: u32) -> u32 {
    let fifth = buckets & buckets.wrapping_neg();
    bucket ^ scale((tag.wrapping_mul(K0) >> 32) as u32, fifth)
}

/// A number below `limit` that grows with `fraction`, a fraction of 2³².
#[inline(always)]
const fn scale(fraction: u32, limit: u32) -> u32 {
    ((fraction as u64 * limit as u64) >> 32) as u32
}

/// `a` where `choice` is 0, `b` where it is 1. Without a branch, as all that is done for each place of a flow: the
/// verifier follows both ways of a branch, and eight places in a row would open hundreds of ways.
#[inline(always)]
const fn select(choice: u64, a: u64, b: u64) -> u64 {
    a ^ (a ^ b) & 0_u64.wrapping_sub(choice)
}

/// The memory that a table lies in.
///
/// # Safety
/// A pointer that [`Memory::bucket`] returns must be valid for reads and writes of whole words while the memory is
/// borrowed. Others may write the words at the same time.
pub unsafe trait Memory {
    type Arithmetic: Arithmetic;

    fn buckets(&self) -> u32;

    /// The bucket with that number; `None` for numbers from [`Memory::buckets`] on.
    fn bucket(&self, number: u32) -> Option<*mut Bucket>;

    /// The service of a backend; all backends of one service, and only these, have the same.
    fn service(&self, backend: u32) -> u32;
}

/// Whether an owner word is the one looked for, with any backend.
#[inline(always)]
const fn is(owner: u64, wanted: u64) -> bool {
    (owner ^ wanted) >> BACKEND_BITS == 0
}

/// 1 where an owner word is that of a record, 0 where the place is free.
#[inline(always)]
fn is_used<M: Memory>(owner: u64) -> u64 {
    M::Arithmetic::sign(owner | 0_u64.wrapping_sub(owner))
}

/// The smaller one of two numbers below 2⁶³.
#[inline(always)]
fn smaller<M: Memory>(a: u64, b: u64) -> u64 {
    select(M::Arithmetic::sign(b.wrapping_sub(a)), a, b)
}

/// What became of a record that was put into a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// It has a place that was free.
    Made,
    /// The tuple's record of that role says this now.
    Replaced,
    /// It has the place of a record of that class, which is lost.
    Evicted(Class),
    /// It has no place: all records there are worth more.
    Refused,
}

/// A record that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    entry: *mut Entry,
    /// The owner word as it was when the record was found: another flow may have the place since.
    owner: u64,
}

impl Found {
    /// The record; `now`: the lower half of the kernel's jiffies.
    #[inline(always)]
    pub fn read(&self, role: Role, now: u32) -> Record {
        facts::unpack(role, (self.owner & BACKEND) as u32, facts_of(self.entry), now)
    }

    /// Gives the record other facts; its backend stays. Nothing happens if another flow has the place by now.
    #[inline(always)]
    pub fn refresh(&self, role: Role, record: &Record) {
        if owner_of(self.entry) == self.owner {
            // SAFETY: `find` made the pointer; words are written whole.
            unsafe { write_volatile(addr_of_mut!((*self.entry).facts), facts::pack(role, record)) };
        }
    }

    /// Empties the place. Nothing happens if another flow has it by now.
    #[inline(always)]
    pub fn remove(&self) {
        if owner_of(self.entry) == self.owner {
            // SAFETY: as in `refresh`.
            unsafe { write_volatile(addr_of_mut!((*self.entry).owner), 0) };
        }
    }
}

/// The record of a flow in that role. Most records are in the first bucket of their flow, and then the second one is not
/// read.
#[inline(always)]
pub fn find<M: Memory>(memory: &M, key: &Key, role: Role) -> Option<Found> {
    let wanted = key.owner(role);
    let at = any_place(memory, key, |owner| is(owner, wanted))?;
    let entry = place(memory, key, at)?;
    let owner = owner_of(entry);
    is(owner, wanted).then_some(Found { entry, owner })
}

/// Whether the table has any record of the flow. Where it has none, as of most packets in a slot that remembers, this says
/// so for both roles in one pass.
#[inline(always)]
pub fn holds<M: Memory>(memory: &M, key: &Key) -> bool {
    any_place(memory, key, |owner| (owner ^ key.tag) >> LOW == 0).is_some()
}

/// A place of the flow whose owner word fits.
#[inline(always)]
fn any_place<M: Memory>(memory: &M, key: &Key, fits: impl Fn(u64) -> bool) -> Option<u64> {
    first_place(memory, key, 0, &fits).or_else(|| first_place(memory, key, 1, &fits))
}

/// The first place in one of the two buckets whose owner word fits.
#[inline(always)]
fn first_place<M: Memory>(memory: &M, key: &Key, which: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
    let bucket = memory.bucket(if which == 0 { key.first } else { key.second })?;
    let mut offset = 0;
    while offset < BUCKET {
        if fits(owner_of(entry_of(bucket, offset))) {
            return Some(M::Arithmetic::blur((offset / ENTRY) | (which << 2), key.tag));
        }
        offset = M::Arithmetic::next(offset);
    }
    None
}

/// Puts a record into the table, in the place of the tuple's record of that role where there is one. `now`: the lower half
/// of the kernel's jiffies. `random` decides between records that are worth the same and prove nothing.
#[inline(always)]
pub fn put<M: Memory>(memory: &M, key: &Key, role: Role, record: &Record, now: u32, random: u32) -> Put {
    let owner = key.owner(role) | record.backend as u64 & BACKEND;
    let facts = facts::pack(role, record);
    if let Some(found) = find(memory, key, role) {
        write(found.entry, owner, facts);
        return Put::Replaced;
    }
    // How many places each bucket has in use, in a byte each.
    let Some(used) =
        search(memory, key, 0, |entry, at, used| used + (is_used::<M>(owner_of(entry)) << (at / 4 * 8)))
    else {
        return Put::Refused;
    };
    let (first, second) = (used & 0xff, used >> 8);
    // The first bucket, until it is half full: then a look-up mostly reads one cache line. From then on the emptier one,
    // so that a full table has a place for nearly every flow.
    let which = (first >= PER_BUCKET as u64 / 2 && first > second) as u64;
    let which = M::Arithmetic::blur(which, key.tag) & 1;
    if let Some(at) = first_place(memory, key, which, |owner| owner == 0) {
        let Some(entry) = place(memory, key, at) else { return Put::Refused };
        write(entry, owner, facts);
        return Put::Made;
    }
    let Some(best) = search(memory, key, NO_PLACE, |entry, at, best| {
        let score = class::score(owner_of(entry), facts_of(entry), now, random);
        smaller::<M>(best, score << PLACE_BITS | at)
    }) else {
        return Put::Refused;
    };
    let (lost, worth) = (class::of_score(best >> PLACE_BITS), class::of(owner, facts));
    if lost > worth {
        return Put::Refused;
    }
    let best = if lost == worth {
        let Some(best) = within_share(memory, key, best, worth, record, (now, random)) else {
            return Put::Refused;
        };
        best
    } else {
        best
    };
    let Some(entry) = place(memory, key, best) else { return Put::Refused };
    write(entry, owner, facts);
    Put::Evicted(class::named(lost))
}

/// The place to take where all records are worth as much as the new one or more: `best`, or where that is another service's
/// and the service has its share already, one of its own.
#[inline(always)]
fn within_share<M: Memory>(
    memory: &M,
    key: &Key,
    best: u64,
    worth: u64,
    record: &Record,
    (now, random): (u32, u32),
) -> Option<u64> {
    let service = memory.service(record.backend);
    let victim = owner_of(place(memory, key, best)?);
    if memory.service((victim & BACKEND) as u32) == service {
        return Some(best);
    }
    // 1 for a record of the same service and class.
    let is_own = |owner: u64, facts: u64| {
        let other = memory.service((owner & BACKEND) as u32) ^ service;
        let differs = other as u64 | class::of(owner, facts) ^ worth;
        1 ^ is_used::<M>(differs)
    };
    let own = search(memory, key, 0, |entry, _, own| own + is_own(owner_of(entry), facts_of(entry)))?;
    if own < SHARE {
        return Some(best);
    }
    search(memory, key, NO_PLACE, |entry, at, best| {
        let (owner, facts) = (owner_of(entry), facts_of(entry));
        let score = class::score(owner, facts, now, random) << PLACE_BITS | at;
        select(is_own(owner, facts), best, smaller::<M>(best, score))
    })
}

/// Goes through the places of a flow with a function that is given a place, its number and what it returned before.
#[inline(always)]
fn search<M: Memory>(
    memory: &M,
    key: &Key,
    start: u64,
    step: impl Fn(*const Entry, u64, u64) -> u64,
) -> Option<u64> {
    let (first, second) = (memory.bucket(key.first)?, memory.bucket(key.second)?);
    let mut best = start;
    for (bucket, from) in [(first, 0), (second, PER_BUCKET as u64)] {
        let mut offset = 0;
        while offset < BUCKET {
            best = step(entry_of(bucket, offset), from + offset / ENTRY, best);
            offset = M::Arithmetic::next(offset);
        }
    }
    Some(best)
}

/// The place of a bucket at an offset in bytes.
#[inline(always)]
fn entry_of(bucket: *mut Bucket, offset: u64) -> *const Entry {
    // SAFETY: the caller has the bucket from the memory, and the offset of one of its four entries.
    unsafe { addr_of!((*bucket).entries).byte_add(offset as usize).cast() }
}

/// The place with that number, of which the lowest three bits count. The verifier does not know which one it is, and so
/// follows what comes behind only once.
#[inline(always)]
fn place<M: Memory>(memory: &M, key: &Key, at: u64) -> Option<*mut Entry> {
    let number = select(at >> 2 & 1, key.first as u64, key.second as u64) as u32;
    let bucket = memory.bucket(number)?.cast::<Entry>();
    // SAFETY: one of the bucket's four entries.
    Some(unsafe { bucket.add((at & 3) as usize) })
}

#[inline(always)]
fn owner_of(entry: *const Entry) -> u64 {
    // SAFETY: a place of the memory; words are read whole.
    unsafe { read_volatile(addr_of!((*entry).owner)) }
}

#[inline(always)]
fn facts_of(entry: *const Entry) -> u64 {
    // SAFETY: as in `owner_of`.
    unsafe { read_volatile(addr_of!((*entry).facts)) }
}

/// Writes an entry. In between it is empty, so that no one reads the new facts with the old owner.
#[inline(always)]
fn write(entry: *mut Entry, owner: u64, facts: u64) {
    // SAFETY: a place of the memory; words are written whole.
    unsafe {
        if read_volatile(addr_of!((*entry).owner)) != owner {
            write_volatile(addr_of_mut!((*entry).owner), 0);
        }
        write_volatile(addr_of_mut!((*entry).facts), facts);
        write_volatile(addr_of_mut!((*entry).owner), owner);
    }
}

pod!(Entry, Bucket);

const _: () = {
    assert!(size_of::<Entry>() == 16 && size_of::<Bucket>() == 64);
    assert!(TAG_BITS + 1 + BACKEND_BITS == u64::BITS);
};
