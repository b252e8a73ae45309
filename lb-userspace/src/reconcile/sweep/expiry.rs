//! Whether a flow record is still of use, and which slot it belongs to: pure, computed from the record, the clock and what
//! the tables say.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use lb_common::{
    balance,
    flow::{Key, Record},
    hash,
    map::NameRecord,
    service::Service,
    slot::Slot,
};

use crate::{
    reconcile::mirror::Mirror,
    tables::{Fate, FlowTable, Jiffies},
};

/// How long a flow is kept after its client's FIN or RST where the table is crowded, in seconds. TIME-WAIT would be four
/// minutes (RFC 9293, 3.4.2); hosts really use one minute. Where the table is not crowded, such a flow is kept as long as any
/// other: a half-closed client may wait for its answer, and an RST may be forged.
const CLOSING: u64 = 60;

/// Seconds of silence after which a flow that its client closed counts as ended: longer than the last packets of a
/// connection take, and longer than `last_seen` may lag behind (`Record::REFRESH`).
const ENDED: u64 = 2;

/// How long a SYN may wait for the client's next segment, in seconds: longer than the pauses between retransmitted SYNs
/// (RFC 6298, doubled from 1 s; Linux gives up after the pause of 64 s).
const PENDING: u64 = 120;

/// Whether a flow record is still of use.
pub struct Judge<'a> {
    pub mirror: &'a Mirror,
    pub slots: &'a [AtomicU64],
    pub clock: Jiffies,
    /// Flows that have an elder on the same tuple which stays. A flow's record is needed for as long as the elder stays, also
    /// where the flow is at its slot's owner: without the record the elder would claim the flow's packets.
    pub elders: &'a HashSet<Key>,
    /// The walk before met more than half as many flows as there is room for.
    pub crowded: bool,
}

impl Judge<'_> {
    /// The fate of a record, and the slot it belongs to.
    pub fn fate(&self, table: FlowTable, key: &Key, record: &Record) -> (Fate, Option<u32>) {
        let Some(slot) = slot_of(self.mirror, key) else { return (Fate::Delete, None) };
        let word = self.slots.get(slot as usize).map_or(0, |word| word.load(Ordering::Relaxed));
        let fate = if self.is_needed(table, key, record, Slot(word)) { Fate::Keep } else { Fate::Delete };
        (fate, Some(slot))
    }

    fn is_needed(&self, table: FlowTable, key: &Key, record: &Record, word: Slot) -> bool {
        let backend = record.backend as usize;
        let used =
            self.mirror.backend_metas.get(backend).is_some_and(|meta| meta.flags & NameRecord::USED != 0);
        // A backend that is down comes back to the flows that it had, until these flows are given up.
        let keeps = self.mirror.keeps_flows(record.backend);
        // No packet looks for a record in a stable slot, and a record there would mislead after the next change. In a
        // remembering slot a flow without a record is at `current` anyway, unless the service records every flow.
        let always = self.mirror.services.get(key.service as usize).is_some_and(Service::tracks_always);
        // A handshake is of use at the slot's owner, too: another flow may be recorded on its tuple.
        let handshake = table == FlowTable::Pending && !record.has(Record::ELDER);
        let disagrees = record.backend != word.current();
        // A flow that took over its tuple since the walk began may have an elder that the walk did not meet.
        let is_new = record.has(Record::BEGAN)
            && record.last_seen.wrapping_sub(self.clock.now as u32).cast_signed() >= 0;
        let divided = table == FlowTable::Confirmed && (is_new || self.elders.contains(key));
        let says_something =
            word.is_learning() || word.is_tracked() && (always || handshake || disagrees || divided);
        used && keeps && says_something && !self.is_over(table, key, record)
    }

    /// Whether a flow is recorded at another backend than its slot's owner.
    pub fn disagrees(&self, key: &Key, record: &Record) -> bool {
        let word = slot_of(self.mirror, key).and_then(|slot| self.slots.get(slot as usize));
        word.is_some_and(|word| Slot(word.load(Ordering::Relaxed)).current() != record.backend)
    }

    /// Whether no one waits for a flow any more: its client closed it and has been quiet since. The agent keeps its record
    /// for a while, for packets that are still under way.
    pub fn has_ended(&self, table: FlowTable, key: &Key, record: &Record) -> bool {
        // A flow of which one packet was seen is treated as closed, too: the packet may be a stranger's.
        let closed = table == FlowTable::Confirmed && record.has(Record::CLOSING | Record::ONCE);
        closed && self.clock.age(record.last_seen) >= ENDED || self.is_over(table, key, record)
    }

    /// Whether a flow has sent nothing for so long that neither balancing nor a drain counts it. Its packets go where they
    /// went before, and then the flow counts again.
    pub fn is_idle(&self, table: FlowTable, key: &Key, record: &Record) -> bool {
        let after = self.mirror.services.get(key.service as usize).map_or(0, |service| service.idle_after);
        table == FlowTable::Confirmed && balance::is_idle(record.last_seen, self.clock.now as u32, after)
    }

    /// Whether a flow is too old to keep.
    pub fn is_over(&self, table: FlowTable, key: &Key, record: &Record) -> bool {
        let age = self.clock.age(record.last_seen);
        let window = self.mirror.windows.get(&key.service).map(Duration::as_secs);
        age > window.unwrap_or(u64::MAX)
            || self.crowded && record.has(Record::CLOSING) && age > CLOSING
            || table == FlowTable::Pending && !record.has(Record::ELDER) && age > PENDING
    }
}

/// The slot of a flow, counted from the start of the arena.
pub fn slot_of(mirror: &Mirror, key: &Key) -> Option<u32> {
    let service = mirror.services.get(key.service as usize)?;
    if service.flags & Service::PRESENT == 0 {
        return None;
    }
    let protocol = (service.port_protocol >> 16) as u8;
    let (seed, ring) = (&mirror.node.seed, service.ring);
    Some(ring.slot(hash::slot_hash(seed, ring, &key.source, &service.address, key.ports, protocol)))
}
