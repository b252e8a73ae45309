//! The answer of the rule for one packet, in words that the packet program can keep on its stack.

use crate::flow::Record;

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    Keep,
    /// The record stays, with other flags, another number or another time.
    Refresh,
    /// A record takes the place of the old one, or is made where there was none.
    Put,
    /// The record is removed; there need not be one.
    Remove,
}

/// Why a packet goes to its backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The slot names the backend.
    Slot,
    /// A record names the backend.
    Record,
    /// The slot names the backend, and a flow begins: a service that balances by something other than the hash chooses
    /// another one, see [`Decision::balanced`].
    Begins,
}

/// The answer for one packet in a tracked slot. Whole words: the compiler joins stores of smaller parts into stores that
/// the verifier does not accept on a stack.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The backend in the lower half. From bit 32 on, one byte each: the [`Origin`], what becomes of the flow's record,
    /// and what becomes of the record next to it.
    word: u64,
    flow: [u64; 2],
    pending: [u64; 2],
}

const ORIGIN: u32 = 32;
const FLOW: u32 = 40;
const PENDING: u32 = 48;

impl Write {
    #[inline(always)]
    const fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Keep,
            1 => Self::Refresh,
            2 => Self::Put,
            _ => Self::Remove,
        }
    }
}

impl Decision {
    /// The backend; 0 = none.
    #[inline(always)]
    pub const fn backend(&self) -> u32 {
        self.word as u32
    }

    #[inline(always)]
    pub const fn origin(&self) -> Origin {
        match (self.word >> ORIGIN) as u8 {
            0 => Origin::Slot,
            1 => Origin::Record,
            _ => Origin::Begins,
        }
    }

    /// Whether a record named the backend.
    #[inline(always)]
    pub const fn is_hit(&self) -> bool {
        matches!(self.origin(), Origin::Record)
    }

    /// Whether a flow begins.
    #[inline(always)]
    pub const fn begins(&self) -> bool {
        matches!(self.origin(), Origin::Begins)
    }

    /// What becomes of the flow's record.
    #[inline(always)]
    pub const fn flow(&self) -> Write {
        Write::of((self.word >> FLOW) as u8)
    }

    /// What becomes of the record next to the flow's.
    #[inline(always)]
    pub const fn pending(&self) -> Write {
        Write::of((self.word >> PENDING) as u8)
    }

    /// The flow's record that is written.
    #[inline(always)]
    pub const fn flow_record(&self) -> Record {
        Record::from_words(self.flow)
    }

    /// The record that is written next to the flow's.
    #[inline(always)]
    pub const fn pending_record(&self) -> Record {
        Record::from_words(self.pending)
    }

    /// Whether any record is written or removed.
    #[inline(always)]
    pub const fn writes(&self) -> bool {
        self.word >> FLOW != 0
    }

    /// Whether a record is written that says that the flow was seen now, and where it is: not at its slot's owner. A SYN
    /// that waits does not count, for anyone can send it.
    #[inline(always)]
    pub const fn is_elsewhere(&self, current: u32, now: u32) -> bool {
        const fn says(write: Write, record: &Record, current: u32, now: u32) -> bool {
            let is_written = matches!(write, Write::Refresh | Write::Put);
            is_written && record.backend != current && record.last_seen == now
        }
        let pending = self.pending_record();
        says(self.flow(), &self.flow_record(), current, now)
            || pending.has(Record::ELDER) && says(self.pending(), &pending, current, now)
    }

    /// What the flow's record is afterwards, where it held `before`.
    #[inline(always)]
    pub const fn flow_after(&self, before: &Record) -> Record {
        match self.flow() {
            Write::Keep => *before,
            Write::Refresh | Write::Put => self.flow_record(),
            Write::Remove => Record::NONE,
        }
    }

    /// The same decision with the backend that the service's balancing chose for a flow that begins.
    #[inline(always)]
    pub const fn balanced(mut self, backend: u32) -> Self {
        self.word = self.word & !(u32::MAX as u64) | backend as u64;
        if matches!(self.flow(), Write::Put) {
            self.flow = Record { backend, ..self.flow_record() }.words();
        }
        self.pending = Record { backend, ..self.pending_record() }.words();
        self
    }

    /// The packet goes to that backend, and nothing is written.
    #[inline(always)]
    pub(super) const fn to(backend: u32, hit: bool) -> Self {
        let origin = if hit { Origin::Record } else { Origin::Slot };
        Self { word: backend as u64 | (origin as u64) << ORIGIN, flow: [0; 2], pending: [0; 2] }
    }

    #[inline(always)]
    pub(super) const fn beginning(mut self) -> Self {
        self.word |= (Origin::Begins as u64) << ORIGIN;
        self
    }

    #[inline(always)]
    pub(super) const fn with_flow(mut self, write: Write, record: Record) -> Self {
        self.word |= (write as u64) << FLOW;
        self.flow = record.words();
        self
    }

    #[inline(always)]
    pub(super) const fn with_pending(mut self, write: Write, record: Record) -> Self {
        self.word |= (write as u64) << PENDING;
        self.pending = record.words();
        self
    }
}
