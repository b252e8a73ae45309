//! What a packet in a tracked slot proves: which backend it goes to, and what becomes of the flow's records. Pure: the
//! kernel half (`flow.rs`) and the in-memory tables (`tables/memory`) carry it out.
//!
//! The sender of a packet may have made up its addresses, ports and flags. A stranger does not know the client's
//! sequence number. So the record of a flow says where a flow is, and only segments with the flow's own numbers end it:
//!
//! - A SYN proves nothing. A record next to the flow's keeps it with its number until a segment continues it. On a live flow, a SYN goes
//!   to the flow's backend, where it is a retransmission or the backend answers with a challenge ACK (RFC 9293,
//!   3.10.7.4).
//! - FIN and RST count only close to the flow's numbers ([`Record::is_near`]), and all they do is to let a SYN begin a
//!   new flow next to the old one. When a segment continues that SYN, it is the flow of the tuple, and the
//!   old flow stays next to it as its elder: segments that do not fit the new flow go there.
//! - A segment that fits the flow takes an RST back.
//! - An unknown segment or datagram makes a record that counts for nothing until a second one fits it. RSTs, and
//!   segments that no client sends, make no record; an RST only marks one.
//! - While the backend of a TCP flow is down, its segments go elsewhere and change no record: the other backend knows
//!   nothing of the flow, and the flow's own backend may be back in a moment. Only a new handshake is recorded.
//!   Datagrams may begin a flow at any backend that they come to.

mod decision;

pub use self::decision::{Decision, Origin, Write};
use crate::{flow::Record, slot::Slot, wire::Tcp};

/// What a packet says of its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// TCP with SYN and without ACK, FIN and RST: a flow begins.
    Syn,
    /// TCP with ACK and without SYN and RST: the flow began before. `fin`: the segment has FIN, its client sends no more
    /// data.
    Ordinary { fin: bool },
    /// TCP with RST and without SYN.
    Reset,
    /// TCP that no client sends: SYN with ACK, FIN or RST, or a segment without ACK. It proves nothing.
    Stray,
    /// UDP: a datagram does not say how old its flow is.
    Datagram,
}

impl Segment {
    /// The kind of a segment, from the flags of its TCP header.
    #[inline(always)]
    pub const fn of_tcp(flags: u8) -> Self {
        match flags & (Tcp::SYN | Tcp::ACK | Tcp::RST | Tcp::FIN) {
            Tcp::SYN => Self::Syn,
            flags if flags & Tcp::SYN != 0 => Self::Stray,
            flags if flags & Tcp::RST != 0 => Self::Reset,
            flags if flags & Tcp::ACK != 0 => Self::Ordinary { fin: flags & Tcp::FIN != 0 },
            _ => Self::Stray,
        }
    }
}

/// A packet, as far as it proves something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    pub segment: Segment,
    /// TCP's sequence number in host order; 0 for UDP.
    pub sequence: u32,
    /// The lower half of the kernel's jiffies.
    pub now: u32,
}

/// What the tables say of a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// The flow's record.
    pub flow: Record,
    /// The record next to the flow's, read where [`asks_pending`] says so, otherwise [`Record::NONE`].
    pub pending: Record,
    /// The backend of `flow` is not alive.
    pub dead_flow: bool,
    /// The backend of `pending` is not alive.
    pub dead_pending: bool,
    /// The backend that unknown flows belong to is not alive, and `unknown` is the slot's owner instead.
    pub away: bool,
}

impl Known {
    /// The flow's record where its backend is alive.
    #[inline(always)]
    pub const fn live_flow(&self) -> Record {
        if self.dead_flow { Record::NONE } else { self.flow }
    }

    /// Whether a segment continues the SYN that waits. Where the flow is, only the very next number does: a client's segment is near
    /// its own record, and a stranger's SYN may have a number shortly before it.
    #[inline(always)]
    const fn continues(&self, sequence: u32) -> bool {
        let Self { flow, pending, .. } = self;
        let is_flows = flow.is_there() && !flow.has(Record::ANY) && flow.is_near(sequence);
        pending.is_continued_by(sequence) && (!is_flows || pending.is_next(sequence))
    }

    /// Whether a segment that continues no SYN is the elder's and not the flow's. A segment that fits both belongs to
    /// the one whose number is nearer: a client's own record is close to where the client is, and the other record may
    /// fit by chance, or its number may be a guess of a stranger. A segment that fits neither is the elder's while the
    /// elder lives, for the elder's numbers may have gone on unseen.
    #[inline(always)]
    const fn is_elders(&self, sequence: u32) -> bool {
        let Self { flow, pending, .. } = self;
        if !pending.is_elder() || flow.is_there() && flow.is_near(sequence) {
            return false;
        }
        pending.is_near(sequence)
            || !(flow.is_there() && flow.fits(sequence)) && (pending.fits(sequence) || !pending.is_closed())
    }

    /// Whether one of the records names this backend, and the backend is not alive.
    #[inline(always)]
    const fn is_dead(&self, backend: u32) -> bool {
        self.dead_flow && backend == self.flow.backend || self.dead_pending && backend == self.pending.backend
    }
}

/// Whether the packet path has to look for a record next to the flow's, `flow`
/// ([`Known::live_flow`]). Nearly every packet of a known flow is near the flow's record, and costs one look-up.
#[inline(always)]
pub const fn asks_pending(packet: &Packet, flow: &Record) -> bool {
    match packet.segment {
        Segment::Datagram => false,
        Segment::Syn => true,
        Segment::Ordinary { .. } | Segment::Reset => {
            const ASKS: u32 = Record::CLOSING | Record::ONCE | Record::CONTESTED;
            !flow.is_there() || flow.has(ASKS) || !flow.is_near(packet.sequence)
        }
        Segment::Stray => !flow.is_there(),
    }
}

/// The rule for a packet in a tracked slot.
///
/// `always`: the service records every flow ([`crate::slot::Track::Always`]). `unknown` is [`Slot::owner_of_unknown`];
/// where that says to ask the old ring, the caller has asked it; where that backend is down, the caller has put
/// `current` in its place.
#[inline(always)]
pub fn decide(slot: Slot, always: bool, packet: &Packet, known: &Known, unknown: u32) -> Decision {
    let decision = match packet.segment {
        Segment::Syn => syn(slot, always, packet, known),
        Segment::Ordinary { fin } => ordinary(slot, always, packet, fin, known, unknown),
        Segment::Reset => reset(packet, known, unknown),
        Segment::Stray => stray(known, unknown),
        Segment::Datagram => datagram(slot, always, packet, known, unknown),
    };
    if decision.is_hit() && known.is_dead(decision.backend()) {
        return Decision::to(unknown, false);
    }
    // Without a backend there is nothing to record or to forget.
    if decision.backend() == 0 { Decision::to(0, false) } else { decision }
}

/// The flow sent a segment that fits its record, or that shows its numbers.
#[inline(always)]
fn seen(decision: Decision, packet: &Packet, fin: bool, record: &Record) -> Decision {
    let goes_on = record.goes_on_at(packet.sequence);
    let taken_back =
        Record::RST | Record::ONCE | Record::ANY | Record::CONTESTED | if goes_on { Record::FIN } else { 0 };
    let fin = if goes_on { 0 } else { record.fin_at(packet.sequence, fin) };
    // The number of the last candidate is not the next one's, either.
    let flags = record.plain_flags() & !taken_back | fin;
    // Behind a FIN the client sends nothing new: the record keeps the FIN's number, so that a segment that goes on
    // behind it shows.
    let stays = fin == 0 && record.has(Record::FIN) && !goes_on && !record.has(Record::ANY);
    let sequence = if stays { record.sequence } else { record.towards(packet.sequence) };
    let is_late = packet.now.wrapping_sub(record.last_seen) > Record::REFRESH;
    if flags == record.flags && !is_late && (stays || !record.is_far_from(packet.sequence)) {
        return decision;
    }
    let record = Record { backend: record.backend, flags, sequence, last_seen: packet.now };
    decision.with_flow(Write::Refresh, record)
}

#[inline(always)]
fn syn(slot: Slot, always: bool, packet: &Packet, known: &Known) -> Decision {
    let Known { flow, pending, dead_flow, dead_pending, .. } = *known;
    let has_elder = pending.is_elder();
    let begun =
        Record { backend: pending.backend, flags: 0, sequence: packet.sequence, last_seen: packet.now };
    let asked = pending.is_there() && !has_elder;
    if asked && !dead_pending && (pending.has(Record::ANY) || pending.sequence == packet.sequence) {
        // A retransmit: half of the handshake may be done there.
        let decision = Decision::to(pending.backend, true);
        let is_late = packet.now.wrapping_sub(pending.last_seen) > Record::REFRESH;
        return if is_late { decision.with_pending(Write::Refresh, begun) } else { decision };
    }
    let fits = flow.is_there() && flow.fits(packet.sequence);
    // Segments that follow a SYN that fits a flow whose backend is down would be taken for that flow's.
    let has_live = pending.is_live_elder() && !(dead_flow && fits);
    if has_live && (flow.is_there() && !dead_flow || !dead_pending) {
        // The SYN goes where a segment with its number goes, and so do the segments that follow it.
        let is_flows = flow.is_there() && !dead_flow && (dead_pending || !known.is_elders(packet.sequence));
        return Decision::to(if is_flows { flow.backend } else { pending.backend }, true);
    }
    if flow.is_there() && !dead_flow && !flow.is_closed() {
        if !dead_pending && known.is_elders(packet.sequence) {
            return Decision::to(pending.backend, true);
        }
        let decision = Decision::to(flow.backend, true);
        return if has_elder {
            decision.with_flow(Write::Refresh, flow.with_candidate(packet.sequence))
        } else {
            decision.with_pending(Write::Put, Record { backend: flow.backend, ..begun })
        };
    }
    let current = slot.current();
    let decision = Decision::to(current, false);
    // Without a record, the handshake would go on where the old record says as soon as that backend is back.
    let is_named = flow.is_there() || asked && dead_pending || has_elder;
    if always || slot.is_learning() || is_named {
        let decision = decision.beginning().with_pending(Write::Put, Record { backend: current, ..begun });
        let contested = Record { flags: flow.flags | Record::CONTESTED, ..flow };
        return if dead_flow { decision.with_flow(Write::Refresh, contested) } else { decision };
    }
    decision
}

#[inline(always)]
fn ordinary(slot: Slot, always: bool, packet: &Packet, fin: bool, known: &Known, unknown: u32) -> Decision {
    let Known { flow, pending, .. } = known;
    let sequence = packet.sequence;
    let closing = if fin { Record::FIN } else { 0 };
    let now = Record { backend: 0, flags: closing, sequence, last_seen: packet.now };
    // At the same backend there is nothing to tell apart, except who closes what.
    let continues = known.continues(sequence);
    if continues && pending.backend == flow.backend && !flow.is_closed() {
        return Decision::to(flow.backend, true)
            .with_flow(
                Write::Refresh,
                Record { backend: flow.backend, flags: closing | Record::TAKEN, ..now },
            )
            .with_pending(Write::Remove, Record::NONE);
    }
    if continues {
        let began = Record { backend: pending.backend, flags: closing | Record::BEGAN, ..now };
        let decision = Decision::to(pending.backend, true).with_flow(Write::Put, began);
        if flow.is_there() {
            let flags = flow.plain_flags() & !Record::CONTESTED | Record::ELDER;
            let elder = Record { flags, ..*flow };
            return decision.with_pending(Write::Put, elder);
        }
        return decision.with_pending(Write::Remove, Record::NONE);
    }
    let has_elder = pending.is_elder();
    if flow.is_there() {
        let here = Decision::to(flow.backend, true);
        if known.is_elders(sequence) {
            return if known.dead_pending {
                here
            } else if pending.fits(sequence) {
                seen_of_elder(packet, fin, pending)
            } else {
                may_be_elders(packet, closing, pending)
            };
        }
        if flow.fits(sequence) {
            return seen(here, packet, fin, flow);
        }
        if flow.has(Record::ONCE) {
            // The record does not live longer for it: single segments that fit nothing could keep it for ever, and with
            // it a slot from becoming stable.
            let flags = closing | Record::ONCE;
            let once = Record { backend: flow.backend, flags, sequence, last_seen: flow.last_seen };
            return here.with_flow(Write::Refresh, once);
        }
        if flow.fits_candidate(sequence) {
            // Next to an elder, the flow keeps its numbers: without them the elder might claim its segments.
            let both = Record { last_seen: packet.now, ..flow.with_candidate(sequence) };
            let taken = Record { backend: flow.backend, flags: closing | Record::TAKEN, ..now };
            return here.with_flow(Write::Refresh, if has_elder { both } else { taken });
        }
        // Where the service does not record every flow, this may be a segment of an unrecorded flow, next to which
        // somebody forged the SYN of another.
        let may_be_unknown = flow.has(Record::BEGAN) && (slot.is_learning() || !always);
        if may_be_unknown && unknown != flow.backend && unknown != 0 {
            let decision = Decision::to(unknown, false);
            if pending.is_there() && !(has_elder && pending.is_closed()) || known.away {
                return decision;
            }
            let elder = Record { backend: unknown, flags: closing | Record::ELDER | Record::ONCE, ..now };
            return decision.with_pending(Write::Put, elder);
        }
        return here.with_flow(Write::Refresh, flow.with_candidate(sequence));
    }
    if has_elder && pending.fits(sequence) {
        let taken_back = Record::RST | Record::ONCE | Record::ANY | Record::ELDER;
        let flags = pending.plain_flags() & !taken_back | pending.fin_at(sequence, fin);
        return Decision::to(pending.backend, true)
            .with_flow(
                Write::Put,
                Record { backend: pending.backend, flags, sequence: pending.towards(sequence), ..now },
            )
            .with_pending(Write::Remove, Record::NONE);
    }
    // A handshake that fits neither record went to the elder's backend, also if the agent or the kernel has dropped the
    // flow's own record since.
    if pending.is_live_elder() && !known.dead_pending {
        return may_be_elders(packet, closing, pending);
    }
    if known.away {
        return Decision::to(unknown, false);
    }
    unknown_flow(slot, always, Record { flags: closing | Record::ONCE, ..now }, unknown)
}

/// The elder sent a segment that fits its record: the same as `seen`.
#[inline(always)]
fn seen_of_elder(packet: &Packet, fin: bool, elder: &Record) -> Decision {
    let there = Decision::to(elder.backend, true);
    let is_late = packet.now.wrapping_sub(elder.last_seen) > Record::REFRESH;
    if !is_late && !elder.has(Record::ONCE) {
        return there;
    }
    let taken_back = Record::RST | Record::ANY | Record::ONCE;
    let flags = elder.plain_flags() & !taken_back | elder.fin_at(packet.sequence, fin);
    let sequence = elder.towards(packet.sequence);
    let record = Record { backend: elder.backend, flags, sequence, last_seen: packet.now };
    there.with_pending(Write::Refresh, record)
}

/// A segment that fits neither the flow nor its elder, while the elder lives: the numbers of the elder may have gone on
/// unseen.
#[inline(always)]
fn may_be_elders(packet: &Packet, closing: u32, elder: &Record) -> Decision {
    let record = if elder.fits_candidate(packet.sequence) {
        let flags = closing | Record::TAKEN | Record::ELDER;
        Record { backend: elder.backend, flags, sequence: packet.sequence, last_seen: packet.now }
    } else {
        elder.with_candidate(packet.sequence)
    };
    Decision::to(elder.backend, true).with_pending(Write::Refresh, record)
}

#[inline(always)]
fn reset(packet: &Packet, known: &Known, unknown: u32) -> Decision {
    let Known { flow, pending, .. } = known;
    if known.continues(packet.sequence) {
        return Decision::to(pending.backend, true);
    }
    // As in `ordinary`: the end of a handshake goes where the handshake went.
    let is_elders = known.is_elders(packet.sequence) && !known.dead_pending;
    if flow.is_there() && !is_elders {
        let here = Decision::to(flow.backend, true);
        let flags = flow.flags & !Record::ANY | Record::RST;
        if flags == flow.flags || !flow.is_near(packet.sequence) {
            return here;
        }
        return here.with_flow(Write::Refresh, Record { flags, last_seen: packet.now, ..*flow });
    }
    Decision::to(if is_elders { pending.backend } else { unknown }, is_elders)
}

#[inline(always)]
fn stray(known: &Known, unknown: u32) -> Decision {
    let Known { flow, pending, .. } = known;
    if flow.is_there() {
        Decision::to(flow.backend, true)
    } else if pending.is_elder() {
        Decision::to(pending.backend, true)
    } else {
        Decision::to(unknown, false)
    }
}

#[inline(always)]
fn datagram(slot: Slot, always: bool, packet: &Packet, known: &Known, unknown: u32) -> Decision {
    let flow = &known.flow;
    if flow.is_there() && !known.dead_flow {
        return seen(Decision::to(flow.backend, true), packet, false, flow);
    }
    let once = Record { backend: 0, flags: Record::ONCE, sequence: 0, last_seen: packet.now };
    let mut decision = unknown_flow(slot, always, once, unknown);
    // A record of a backend that is down does not outlive a datagram: the flow may have begun again at another backend.
    if known.dead_flow && matches!(decision.flow(), Write::Keep) {
        decision = decision.with_flow(Write::Remove, Record::NONE);
    }
    // In a learning slot the datagram may be of a flow that began before the change.
    if always && !slot.is_learning() { decision.beginning() } else { decision }
}

/// A packet of a flow that began before, and of which nothing is known.
#[inline(always)]
fn unknown_flow(slot: Slot, always: bool, once: Record, unknown: u32) -> Decision {
    let decision = Decision::to(unknown, false);
    if always || slot.is_learning() {
        return decision.with_flow(Write::Put, Record { backend: unknown, ..once });
    }
    decision
}

#[cfg(test)]
mod tests;
