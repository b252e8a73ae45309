//! What is recorded of a flow, and the meaning of its sequence numbers. `flows` judges the packets.

use std::{collections::HashMap, net::SocketAddr};

use super::super::ip::{Flow, Says};

/// A flow: the service does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: u8,
}

impl Key {
    pub(super) fn of(flow: &Flow) -> Self {
        Self {
            source: (flow.source, flow.source_port).into(),
            destination: (flow.destination, flow.destination_port).into(),
            protocol: flow.protocol,
        }
    }
}

/// How much is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// One packet was seen.
    Once,
    /// Two packets that fit each other were seen.
    Confirmed,
    /// The flow began with a SYN, data continued that SYN, and no other numbers were taken over since.
    Began,
}

/// A flow that has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub backend: u32,
    pub proof: Proof,
    pub fin: bool,
    pub rst: bool,
    /// The furthest sequence number seen, as far as it is recorded: in steps of 4 KiB.
    pub(super) sequence: u32,
    /// The upper half of the last sequence number that did not fit.
    pub(super) candidate: Option<u16>,
    /// A flow began at another backend while this backend was down.
    pub contested: bool,
    /// The numbers were taken over only because segments fitted each other: a FIN or RST with such numbers does not count.
    pub taken: bool,
}

/// What is recorded next to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// A SYN with that number asked for a flow at this backend.
    Asked { backend: u32, sequence: u32 },
    /// Another flow has or had the tuple; `late`: the time at which it was last seen must be written again.
    Elder { known: Known, late: bool },
}

impl Pending {
    pub fn backend(&self) -> u32 {
        match self {
            Self::Asked { backend, .. } => *backend,
            Self::Elder { known, .. } => known.backend,
        }
    }
}

/// All records.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub flows: HashMap<Key, Known>,
    pub pending: HashMap<Key, Pending>,
}

impl Records {
    /// Drops the records of backends that `keeps` refuses.
    pub fn retain(&mut self, keeps: impl Fn(u32) -> bool) {
        self.flows.retain(|_, known| keeps(known.backend));
        self.pending.retain(|_, pending| keeps(pending.backend()));
    }

    pub fn clear(&mut self) {
        self.flows.clear();
        self.pending.clear();
    }
}

const MIB: i64 = 1 << 20;

/// How far `one` is ahead of `of`.
pub(super) fn ahead(one: u32, of: u32) -> i64 {
    i64::from(one.wrapping_sub(of).cast_signed())
}

impl Known {
    pub(super) fn new(backend: u32, proof: Proof, flow: &Flow) -> Self {
        let fin = matches!(flow.says, Says::Ordinary { fin: true });
        let (rst, candidate, contested, taken) = (false, None, false, false);
        Self { backend, proof, fin, rst, sequence: flow.sequence, candidate, contested, taken }
    }

    /// The record as the table keeps it.
    pub(super) fn coarse(self) -> Self {
        Self { sequence: self.sequence & !0xfff, ..self }
    }

    /// A flow with the numbers of a segment that is not known to come from the client.
    pub(super) fn with_numbers_of(backend: u32, flow: &Flow) -> Self {
        Self { taken: true, ..Self::new(backend, Proof::Confirmed, flow) }
    }

    /// The record after a segment that fits it: the segment's numbers, and no doubt any more.
    pub(super) fn shown_by(self, flow: &Flow) -> Self {
        let proof = if self.proof == Proof::Once { Proof::Confirmed } else { self.proof };
        let (fin, sequence) = (self.with_fin(flow), self.towards(flow.sequence));
        Self { proof, fin, rst: false, sequence, candidate: None, ..self }
    }

    /// The record after a segment that does not fit it: the next one may.
    pub(super) fn with_candidate(self, sequence: u32) -> Self {
        Self { candidate: Some((sequence >> 16) as u16), ..self }
    }

    /// Whether a segment is within 1 MiB of the number: there a FIN or RST is believed.
    pub(super) fn is_near(&self, flow: &Flow) -> bool {
        ahead(flow.sequence, self.sequence).abs() <= MIB
    }

    /// Whether the flow has a FIN, or gets one now.
    pub(super) fn with_fin(&self, flow: &Flow) -> bool {
        self.fin || matches!(flow.says, Says::Ordinary { fin: true }) && self.is_near(flow)
    }

    pub(super) fn fits(&self, sequence: u32) -> bool {
        (-16 * MIB..64 * MIB).contains(&ahead(sequence, self.sequence))
    }

    /// The number after a segment that fits: the segment's number, but at most 1 MiB from the number before.
    pub(super) fn towards(&self, sequence: u32) -> u32 {
        let by = ahead(sequence, self.sequence).clamp(-MIB, MIB);
        self.sequence.wrapping_add_signed(by as i32)
    }

    pub(super) fn fits_candidate(&self, sequence: u32) -> bool {
        self.candidate.is_some_and(|candidate| {
            let apart = ((sequence >> 16) as u16).wrapping_sub(candidate).cast_signed();
            (-16..=16).contains(&apart)
        })
    }

    /// Whether the flow counts as live.
    pub(super) fn is_live(&self) -> bool {
        self.proof != Proof::Once && !self.fin && !self.rst
    }

    /// Whether another flow may begin at another backend.
    pub(super) fn is_closed(&self) -> bool {
        self.proof == Proof::Once || (self.fin || self.rst) && !self.taken
    }
}
