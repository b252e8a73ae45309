//! What is recorded of a flow, and what its numbers say. What becomes of it is where packets are judged.

use std::{collections::HashMap, net::IpAddr};

use super::super::ip::{Flow, Says};

/// A flow within its service.
pub type Key = (u32, IpAddr, u16, u16);

/// How much is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// One packet was seen.
    Once,
    /// Two packets that fit each other were.
    Confirmed,
    /// It began with a SYN that was continued, and has no other numbers since.
    Began,
}

/// A flow that is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub backend: u32,
    pub proof: Proof,
    pub fin: bool,
    pub rst: bool,
    /// The furthest number seen, as far as it is noted.
    pub(super) sequence: u32,
    /// The upper half of a number that does not fit, seen last.
    pub(super) candidate: Option<u16>,
    /// A flow began elsewhere while the backend was down.
    pub contested: bool,
    /// Its numbers were taken over from segments that fitted each other alone: what closes by them does not count.
    pub taken: bool,
}

/// What is recorded next to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// A SYN with that number asked for a flow there.
    Asked { backend: u32, sequence: u32 },
    /// Another flow has or had the tuple; `late`: when it was last seen is to be written again.
    Elder { known: Known, late: bool },
}

impl Beside {
    pub fn backend(&self) -> u32 {
        match self {
            Self::Asked { backend, .. } => *backend,
            Self::Elder { known, .. } => known.backend,
        }
    }
}

/// All that is recorded.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub flows: HashMap<Key, Known>,
    pub beside: HashMap<Key, Beside>,
}

impl Records {
    /// Without the records of some backends.
    pub fn retain(&mut self, keeps: impl Fn(u32) -> bool) {
        self.flows.retain(|_, known| keeps(known.backend));
        self.beside.retain(|_, beside| keeps(beside.backend()));
    }

    pub fn clear(&mut self) {
        self.flows.clear();
        self.beside.clear();
    }
}

const MIB: i64 = 1 << 20;

/// How far the one number lies ahead of the other.
pub(super) fn ahead(one: u32, of: u32) -> i64 {
    i64::from(one.wrapping_sub(of).cast_signed())
}

impl Known {
    pub(super) fn new(backend: u32, proof: Proof, flow: &Flow) -> Self {
        let fin = matches!(flow.says, Says::Ordinary { fin: true });
        let (rst, candidate, contested, taken) = (false, None, false, false);
        Self { backend, proof, fin, rst, sequence: flow.sequence, candidate, contested, taken }
    }

    /// A flow whose numbers are those of a segment that is not known to be its client's.
    pub(super) fn with_numbers_of(backend: u32, flow: &Flow) -> Self {
        Self { taken: true, ..Self::new(backend, Proof::Confirmed, flow) }
    }

    /// Whether a FIN or RST is believed: within 1 MiB of the number.
    pub(super) fn may_end(&self, flow: &Flow) -> bool {
        ahead(flow.sequence, self.sequence).abs() <= MIB
    }

    /// Whether the flow has a FIN, or gets one now.
    pub(super) fn with_fin(&self, flow: &Flow) -> bool {
        self.fin || matches!(flow.says, Says::Ordinary { fin: true }) && self.may_end(flow)
    }

    pub(super) fn fits(&self, sequence: u32) -> bool {
        (-16 * MIB..64 * MIB).contains(&ahead(sequence, self.sequence))
    }

    /// The number after a segment that fits: that one's, but at most 1 MiB from the one before.
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

    /// It counts as one that goes on.
    pub(super) fn is_live(&self) -> bool {
        self.proof != Proof::Once && !self.fin && !self.rst
    }

    /// Another flow may begin elsewhere.
    pub(super) fn is_closed(&self) -> bool {
        self.proof == Proof::Once || (self.fin || self.rst) && !self.taken
    }
}
