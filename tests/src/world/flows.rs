//! The flow table from user space, and the hash that leads to a flow's slot.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData};
use lb_common::{
    elsewhere,
    flow::Record,
    flow_table::{self, Bucket, Key, Memory as _, Put, Role, Seen, Words},
    hash,
    map::name,
    wire,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{World, address};

/// Words of a bucket.
const BUCKET: usize = size_of::<Bucket>() / size_of::<u64>();
/// Jiffies in one step of a record's time.
const TIME_STEP: u32 = 128;
/// The bits of a record's second word that hold its time.
const TIME: u64 = (1 << 20) - 1;

/// What a flow is known by in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: u8,
}

/// The words of the flow table, as packets see them.
pub(super) struct FlowWords {
    place: NonNull<AtomicU64>,
    words: usize,
}

impl FlowWords {
    pub(super) fn new(map: &MapData, buckets: u32) -> Result<Self> {
        let words = buckets as usize * BUCKET;
        let bytes = NonZeroUsize::new(words * size_of::<u64>()).context("a table without buckets")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let place = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, map.fd(), 0) }?;
        Ok(Self { place: place.cast(), words })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped for as long as `self` lives, page-aligned, and every bit pattern is a word.
        unsafe { std::slice::from_raw_parts(self.place.as_ptr(), self.words) }
    }

    fn table(&self) -> Words<'_, fn(u32) -> u32> {
        Words::new(self.words(), |_| 0)
    }
}

impl Drop for FlowWords {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length, and no slice of it outlives `self`.
        // A failure would mean that the memory is not mapped, which is the wanted result.
        let _ = unsafe { munmap(self.place.cast(), self.words * size_of::<u64>()) };
    }
}

/// What a record says of its flow's hash: all but the lowest 21 bits.
pub fn tag(hash: u64) -> u64 {
    hash >> 21
}

impl World {
    /// A flow's record of that role.
    pub fn record(&mut self, role: Role, flow: &Tuple) -> Result<Option<Record>> {
        let now = self.clock()? as u32;
        let table = self.flows.table();
        Ok(flow_table::find(&table, &self.key(flow), role).map(|found| found.read(role, now)))
    }

    /// Every record of that role, with the [`tag`] of its flow's hash.
    pub fn records(&mut self, role: Role) -> Result<Vec<(u64, Record)>> {
        let mut all = Vec::new();
        self.retain_records(|tag, of, record| {
            if of == role {
                all.push((tag, *record));
            }
            true
        })?;
        Ok(all)
    }

    /// Removes the records for which `keep` says `false`.
    pub fn retain_records(&mut self, mut keep: impl FnMut(u64, Role, &Record) -> bool) -> Result<()> {
        let now = self.clock()? as u32;
        let mut keep = |seen: &Seen| keep(seen.tag, seen.role, &seen.record);
        flow_table::sweep(self.flows.words(), 0..u32::MAX, now, &mut keep);
        Ok(())
    }

    /// Writes a record; its number loses its lowest twelve bits there, unless it is that of a SYN.
    ///
    /// # Errors
    /// The table has no place for it.
    pub fn set_record(&mut self, role: Role, flow: &Tuple, record: Record) -> Result<()> {
        let now = self.clock()? as u32;
        match flow_table::put(&self.flows.table(), &self.key(flow), role, &record, now, 0) {
            Put::Made | Put::Replaced => Ok(()),
            put @ (Put::Evicted(_) | Put::Refused) => bail!("the flow table is full: {put:?}"),
        }
    }

    /// Removes a record, if there is one.
    pub fn remove_record(&mut self, role: Role, flow: &Tuple) {
        if let Some(found) = flow_table::find(&self.flows.table(), &self.key(flow), role) {
            found.remove();
        }
    }

    /// Makes all records of flows say that they were seen `ago` jiffies before now.
    pub fn age_records(&mut self, ago: u32) -> Result<()> {
        let then = u64::from((self.clock()? as u32).wrapping_sub(ago) / TIME_STEP) & TIME;
        let is_flow = |owner: u64| owner >> 20 & 1 == 0;
        let entries = self.flows.words().chunks(2);
        for entry in entries.filter(|entry| is_flow(entry[0].load(Relaxed))) {
            entry[1].store(entry[1].load(Relaxed) & !TIME | then, Relaxed);
        }
        Ok(())
    }

    /// Empties the table, and sets the clocks of all slots back.
    pub fn forget_flows(&mut self) -> Result<()> {
        self.retain_records(|_, _, _| false)?;
        for slot in (0..self.next_slot).step_by((elsewhere::SLOTS * elsewhere::CLOCKS) as usize) {
            self.elsewhere()?.set(elsewhere::entry(slot), 0_u64, 0)?;
        }
        Ok(())
    }

    /// The words of the table as they are.
    pub fn flow_words(&self) -> Vec<u64> {
        self.flows.words().iter().map(|word| word.load(Relaxed)).collect()
    }

    fn elsewhere(&mut self) -> Result<Array<&mut MapData, u64>> {
        self.array::<u64>(name::SLOT_ELSEWHERE)
    }

    /// The clock of a slot of the arena, see [`elsewhere`].
    pub fn clock_of(&mut self, slot: u32) -> Result<u16> {
        let entry = self.elsewhere()?.get(&elsewhere::entry(slot), 0)?.to_ne_bytes();
        let at = elsewhere::byte(slot);
        Ok(u16::from_ne_bytes([entry[at], entry[at + 1]]))
    }

    /// Sets the clock of a slot, and with it those of its neighbours that share it.
    pub fn set_clock(&mut self, slot: u32, clock: u16) -> Result<()> {
        let (number, at) = (elsewhere::entry(slot), elsewhere::byte(slot));
        let mut entry = self.elsewhere()?.get(&number, 0)?.to_ne_bytes();
        entry[at..at + 2].copy_from_slice(&clock.to_ne_bytes());
        Ok(self.elsewhere()?.set(number, u64::from_ne_bytes(entry), 0)?)
    }

    /// The flow hash of a packet, with the seed of this world.
    pub fn hash(&self, source: SocketAddr, destination: SocketAddr, protocol: u8) -> u64 {
        let ports = wire::ports(source.port(), destination.port());
        hash::flow(&self.node.seed, &address(source.ip()), &address(destination.ip()), ports, protocol)
    }

    /// The flow hash of a tuple, with the seed of this world.
    pub fn hash_of(&self, flow: &Tuple) -> u64 {
        self.hash(flow.source, flow.destination, flow.protocol)
    }

    fn key(&self, flow: &Tuple) -> Key {
        Key::of(self.hash_of(flow), self.flows.table().buckets())
    }
}
