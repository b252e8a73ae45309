//! Operations that carrying maps over needs in addition to [`crate::tables::Tables`].

use std::sync::atomic::Ordering;

use lb_common::{
    counter::Counter,
    flow::{self, Record},
    flow_table::{self, Entry, Key, Memory, Put, Role},
    map::{TrafficCounters, name},
};

use super::{Kernel, map_io::put};
use crate::tables::TableError;

/// The age of the oldest records that are carried over, in jiffies: beyond the longest window, and below the time after which
/// the table's clock wraps (2²⁷ jiffies).
const OLDEST: u32 = 120_000_000;

/// The flow table, for writing. The services of all backends are known to it.
pub(crate) struct Flows<M> {
    memory: M,
    /// The lower half of jiffies.
    now: u32,
    /// Records that were lost: they, or others for them, found no place.
    lost: u64,
}

impl Kernel {
    /// The flow table, for writing at `now`, the lower half of jiffies.
    pub(crate) fn flows_for_writing(&self, now: u32) -> Flows<impl Memory> {
        let services = self.backend_services.words();
        let service = |backend: u32| {
            services.get(backend as usize).map_or(0, |service| service.load(Ordering::Relaxed) as u32)
        };
        Flows { memory: self.flows.with(service), now, lost: 0 }
    }
}

impl<M: Memory> Flows<M> {
    /// Puts the record of a flow with that hash into the table, unless there is one that is not older.
    pub(crate) fn put(&mut self, hash: u64, role: Role, record: &Record) {
        // The table does not tell a time so long ago from a later one.
        if flow::age(record.last_seen, self.now) > OLDEST {
            return;
        }
        let key = Key::of(hash, self.memory.buckets());
        if let Some(found) = flow_table::find(&self.memory, &key, role)
            && !is_before(found.read(role, self.now).last_seen, rounded(record.last_seen))
        {
            return;
        }
        let result = flow_table::put(&self.memory, &key, role, record, self.now, random(hash));
        self.note(result);
    }

    /// Takes over an entry of a bucket of a table of another size, or of the same one.
    pub(crate) fn carry(&mut self, entry: Entry, bucket: u32, buckets: u32) {
        for heir in flow_table::heirs(bucket, buckets, self.memory.buckets()) {
            let result = flow_table::carry(&self.memory, entry, heir, self.now, random(entry.owner));
            self.note(result);
        }
    }

    /// Takes the record of a flow with that hash out if it is older than `before`, in the lower half of jiffies.
    pub(crate) fn forget_before(&self, hash: u64, role: Role, before: u32) {
        let key = Key::of(hash, self.memory.buckets());
        let found = flow_table::find(&self.memory, &key, role);
        let older = found.filter(|found| is_before(found.read(role, self.now).last_seen, rounded(before)));
        if let Some(older) = older {
            older.remove();
        }
    }

    /// The lower half of jiffies, as it was when the writing began.
    pub(crate) fn now(&self) -> u32 {
        self.now
    }

    /// How many records were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    fn note(&mut self, put: Put) {
        self.lost += u64::from(matches!(put, Put::Refused | Put::Evicted(_)));
    }
}

/// Whether `one` is before `other`. The clock wraps: the two must be less than half of its range apart.
pub(crate) fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}

/// A time as the table keeps it, at least.
fn rounded(time: u32) -> u32 {
    time & !(Record::REFRESH - 1)
}

/// Decides between records that are worth the same.
fn random(of: u64) -> u32 {
    (of.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

impl Kernel {
    /// Sets the part of a service's traffic that is not in the counts of its backends. One CPU's entry holds it all.
    pub(crate) fn put_service_tally(
        &mut self,
        number: u32,
        tally: &TrafficCounters,
    ) -> Result<(), TableError> {
        put(name::SVC_TALLY, &mut self.service_tallies, number, tally)
    }

    pub(crate) fn put_backend_tally(
        &mut self,
        number: u32,
        tally: &TrafficCounters,
    ) -> Result<(), TableError> {
        put(name::BK_TALLY, &mut self.backend_tallies, number, tally)
    }

    /// Sets what earlier maps have counted. Packets never write that entry.
    pub(crate) fn put_carried(&mut self, counter: Counter, value: u64) -> Result<(), TableError> {
        put(name::COUNTERS, &mut self.counters, counter.carried(), &value)
    }
}
