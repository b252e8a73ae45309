//! Flow records of old maps on their way into the flow table of new ones: those of versions up to 4, which lie in hash tables
//! under the flow's tuple, and those of our own version, whose entries are taken over without knowing the tuple.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
};

use lb_common::{
    Address,
    flow::Record,
    flow_table::{Bucket, Entry, Memory, PER_BUCKET, Role},
    hash::{self, Seed},
    map::name,
};

use super::{content::Content, error::MigrateError, v1};
use crate::{
    bpf::{map_shapes::PENDING, mmap_array::ReadOnly, sys},
    kernel::import::{Flows, is_before},
};

/// The number of flow records that are read at once.
const BATCH: usize = 4096;

/// The flow records of old maps.
pub(crate) enum OldFlows {
    Hashes(Hashes),
    Table(Table),
}

impl OldFlows {
    /// How many there are.
    pub(super) fn count(&self) -> Result<u64, MigrateError> {
        let mut count = 0;
        match self {
            Self::Hashes(hashes) => {
                for role in [Role::Pending, Role::Flow] {
                    hashes.each(role, |_, _| count += 1)?;
                }
            }
            Self::Table(table) => table.entries().for_each(|_| count += 1),
        }
        Ok(count)
    }

    /// Copies all records. Records that packets write meanwhile may or may not be copied.
    pub(super) fn copy(&self, content: &Content, to: &mut Flows<impl Memory>) -> Result<(), MigrateError> {
        match self {
            Self::Hashes(hashes) => {
                let tuples = Tuples::of(content);
                // `PENDING` first: so a flow that moves to `FLOWS` meanwhile is met at least once.
                for role in [Role::Pending, Role::Flow] {
                    hashes.each(role, |key, record| {
                        if let Some(hash) = tuples.hash(key) {
                            to.put(hash, role, record);
                        }
                    })?;
                }
            }
            Self::Table(table) => table.carry(to, |_| true),
        }
        Ok(())
    }

    /// Copies the records that packets wrote since `since`, in the lower half of jiffies (`None`: at any time), where there is
    /// no younger record. The caller makes sure that no packet uses the old maps any more.
    pub(super) fn rest(
        &self,
        content: &Content,
        to: &mut Flows<impl Memory>,
        since: Option<u32>,
    ) -> Result<(), MigrateError> {
        let is_recent = |last_seen: u32| since.is_none_or(|since| !is_before(last_seen, since));
        match self {
            Self::Hashes(hashes) => {
                hashes.rest(&Tuples::of(content), to, |record| is_recent(record.last_seen))
            }
            // An entry's time is rounded down.
            Self::Table(table) => {
                let now = to.now();
                table.carry(to, |entry| {
                    is_recent(entry.record(now).1.last_seen.wrapping_add(Record::REFRESH))
                });
                Ok(())
            }
        }
    }
}

/// What tells flows apart.
struct Tuples {
    seed: Seed,
    /// Address and protocol of each service.
    services: HashMap<u32, (Address, u8)>,
}

impl Tuples {
    fn of(content: &Content) -> Self {
        let services = content.entries().into_iter();
        let services = services
            .map(|service| (service.number, (service.address, (service.port_protocol >> 16) as u8)))
            .collect();
        Self { seed: content.node.seed, services }
    }

    /// The hash of a flow; `None` = its service is gone.
    fn hash(&self, key: &v1::Key) -> Option<u64> {
        let (destination, protocol) = self.services.get(&key.service)?;
        Some(hash::flow(&self.seed, &key.source, destination, key.ports, *protocol))
    }
}

/// The hash tables `FLOWS` and `PENDING` of a version.
pub(crate) struct Hashes {
    pub(super) version: u32,
    pub(super) flows: OwnedFd,
    pub(super) pending: OwnedFd,
    /// Converts a record.
    pub(super) record: fn(&[u8; 16]) -> Record,
}

impl Hashes {
    fn each(&self, role: Role, mut visit: impl FnMut(&v1::Key, &Record)) -> Result<(), MigrateError> {
        let (map, fd) = match role {
            Role::Flow => (name::FLOWS, &self.flows),
            Role::Pending => (PENDING, &self.pending),
        };
        let mut convert = |keys: &[v1::Key], records: &[[u8; 16]]| {
            keys.iter().zip(records).for_each(|(key, record)| visit(key, &(self.record)(record)));
            Ok(())
        };
        let failed = |source| MigrateError::Read { map, version: self.version, source };
        match sys::lookup_batches(fd.as_fd(), 1, BATCH, &mut convert).map_err(failed)? {
            true => Ok(()),
            // Such a kernel is older than any kernel that we run on, so there is no fallback.
            false => Err(failed(io::Error::other(
                "the kernel reads no hash tables in batches (it is older than 5.6)",
            ))),
        }
    }

    fn rest(
        &self,
        tuples: &Tuples,
        to: &mut Flows<impl Memory>,
        is_recent: impl Fn(&Record) -> bool,
    ) -> Result<(), MigrateError> {
        let recent = |role| {
            let mut recent = HashMap::<u64, Record>::new();
            self.each(role, |key, record| {
                if let Some(hash) = tuples.hash(key).filter(|_| is_recent(record)) {
                    recent.insert(hash, *record);
                }
            })?;
            Ok::<_, MigrateError>(recent)
        };
        let begun = recent(Role::Pending)?;
        let mut only_begun = begun.clone();
        self.each(Role::Flow, |key, _| {
            if let Some(hash) = tuples.hash(key) {
                only_begun.remove(&hash);
            }
        })?;
        // In versions before 4 a SYN ended one flow and began another: the record of the first flow was copied before and must
        // go.
        for (hash, record) in &only_begun {
            to.forget_before(*hash, Role::Flow, record.last_seen);
        }
        for (role, records) in [(Role::Pending, begun), (Role::Flow, recent(Role::Flow)?)] {
            for (hash, record) in &records {
                to.put(*hash, role, record);
            }
        }
        Ok(())
    }
}

/// The array `FLOWS` of our version.
pub(crate) struct Table {
    pub(super) words: ReadOnly,
    pub(super) buckets: u32,
}

impl Table {
    /// The entries in use, with the numbers of their buckets.
    fn entries(&self) -> impl Iterator<Item = (u32, Entry)> {
        (0..self.buckets).flat_map(move |bucket| {
            let places = (0..PER_BUCKET).filter_map(move |at| Some((bucket, self.entry(bucket, at)?)));
            places.filter(|(_, entry)| entry.owner != 0)
        })
    }

    fn entry(&self, bucket: u32, at: usize) -> Option<Entry> {
        const WORDS: usize = size_of::<Bucket>() / size_of::<u64>();
        let word = |i: usize| self.words.word(bucket as usize * WORDS + 2 * at + i);
        // A packet that writes the entry leaves its owner empty in between.
        let (owner, facts) = (word(0)?, word(1)?);
        (word(0)? == owner).then_some(Entry { owner, facts })
    }

    fn carry(&self, to: &mut Flows<impl Memory>, wanted: impl Fn(&Entry) -> bool) {
        for (bucket, entry) in self.entries().filter(|(_, entry)| wanted(entry)) {
            to.carry(entry, bucket, self.buckets);
        }
    }
}
