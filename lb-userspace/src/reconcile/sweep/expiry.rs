//! Whether a flow record is still of use: pure, computed from the record, the clock and what the tables say of its backend.
//! Which slot the record belongs to follows from its hash, but only in rings that hash whole flows.

use lb_common::{
    balance::{self, Balance},
    flow::{self, Record},
    flow_table::{Role, Seen},
    map::NameRecord,
    ring::Ring,
    service::Service,
};

use crate::{reconcile::mirror::Mirror, tables::Jiffies};

/// How long a flow is kept after its client's FIN or RST where the table is crowded, in seconds. TIME-WAIT would be four
/// minutes (RFC 9293, 3.4.2); hosts really use one minute. Where the table is not crowded, such a flow is kept as long as any
/// other: a half-closed client may wait for its answer, and an RST may be forged.
const CLOSING: u32 = 60;

/// Seconds of silence after which a flow that its client closed counts as ended: longer than the last packets of a
/// connection take, and longer than a record may lag behind ([`LAG`]).
const ENDED: u32 = 3;

/// How long a SYN may wait for the client's next segment, in seconds: longer than the pauses between retransmitted SYNs
/// (RFC 6298, doubled from 1 s; Linux gives up after the pause of 64 s).
const PENDING: u32 = 120;

/// Jiffies by which a flow may have sent a packet later than its record says: packets refresh records at most so often, and
/// the table rounds times down to as much.
const LAG: u32 = 2 * Record::REFRESH;

/// What the tables say of the flows of a backend.
#[derive(Clone, Copy, Default)]
struct Rule {
    /// Flows may be found there, now or when it comes back.
    keeps: bool,
    /// Its service balances by live flows.
    by_live_flows: bool,
    service: u32,
    /// Jiffies of silence after which a flow is forgotten.
    window: u32,
    /// Jiffies of silence after which a flow is idle; 0 = never.
    idle_after: u32,
    /// The ring where a record's slot is found; [`Ring::NONE`] where a record does not say its slot.
    ring: Ring,
}

/// Judges flow records.
pub struct Judge {
    /// By backend number.
    rules: Vec<Rule>,
    clock: Jiffies,
    /// The walk before met more than half as many flows as there is room for.
    crowded: bool,
}

impl Judge {
    /// By what the tables say now.
    pub fn new(mirror: &Mirror, clock: Jiffies, crowded: bool) -> Self {
        let jiffies = |seconds: u64| u32::try_from(seconds.saturating_mul(clock.hz)).unwrap_or(u32::MAX);
        let rule = |(number, meta): (u32, &NameRecord)| {
            let service = mirror.services.get(meta.service as usize).copied().unwrap_or_default();
            let window = mirror.windows.get(&meta.service).map(|window| jiffies(window.as_secs()));
            let shows_slot = service.flags & Service::PRESENT != 0 && !service.ring.hashes_sources();
            Rule {
                keeps: meta.flags & NameRecord::USED != 0 && mirror.keeps_flows(number),
                by_live_flows: service.balance() == Balance::LeastConnections,
                service: meta.service,
                window: window.unwrap_or(u32::MAX),
                idle_after: service.idle_after,
                ring: if shows_slot { service.ring } else { Ring::NONE },
            }
        };
        Self { rules: (0..).zip(&mirror.backend_metas).map(rule).collect(), clock, crowded }
    }

    fn rule(&self, record: &Record) -> Rule {
        self.rules.get(record.backend as usize).copied().unwrap_or_default()
    }

    /// Whether a record is still of use. The record of a flow that is at its slot's owner may be of no use, but does no harm:
    /// it disappears when it is too old.
    pub fn is_needed(&self, seen: &Seen) -> bool {
        self.rule(&seen.record).keeps && !self.is_over(seen)
    }

    /// Whether no one waits for a flow any more: its client closed it and has been quiet since. The agent keeps its record
    /// for a while, for packets that are still under way.
    pub fn has_ended(&self, seen: &Seen) -> bool {
        // A flow of which one packet was seen is treated as closed, too: the packet may be a stranger's.
        let closed = seen.role == Role::Flow && seen.record.has(Record::CLOSING | Record::ONCE);
        closed && self.age(&seen.record) >= self.jiffies(ENDED) || self.is_over(seen)
    }

    /// Whether a flow has sent nothing for so long that neither balancing nor a drain counts it. Its packets go where they
    /// went before, and then the flow counts again.
    pub fn is_idle(&self, seen: &Seen) -> bool {
        let after = self.rule(&seen.record).idle_after;
        seen.role == Role::Flow && balance::is_idle(seen.record.last_seen, self.clock.now as u32, after)
    }

    /// Whether a record is a live flow for a service that balances by live flows.
    pub fn is_live(&self, seen: &Seen) -> bool {
        self.rule(&seen.record).by_live_flows
            && seen.role == Role::Flow
            && !self.is_idle(seen)
            && !seen.record.has(Record::CLOSING | Record::ONCE)
    }

    /// The number of the service that a record belongs to: that of its backend.
    pub fn service(&self, seen: &Seen) -> u32 {
        self.rule(&seen.record).service
    }

    /// The slot of a flow, counted from the start of the arena; `None` where the record does not say it.
    pub fn slot(&self, seen: &Seen) -> Option<u32> {
        let ring = self.rule(&seen.record).ring;
        (ring.length() > 0).then(|| ring.slot(u64::from(seen.hash) << 32))
    }

    /// Whether a flow is too old to keep.
    fn is_over(&self, seen: &Seen) -> bool {
        let (record, age) = (&seen.record, self.age(&seen.record));
        let window = self.rule(record).window;
        age.saturating_sub(LAG) > window
            || self.crowded && record.has(Record::CLOSING) && age > self.jiffies(CLOSING)
            || seen.role == Role::Pending && !record.has(Record::ELDER) && age > self.jiffies(PENDING)
    }

    fn age(&self, record: &Record) -> u32 {
        flow::age(record.last_seen, self.clock.now as u32)
    }

    fn jiffies(&self, seconds: u32) -> u32 {
        u32::try_from(u64::from(seconds) * self.clock.hz).unwrap_or(u32::MAX)
    }
}
