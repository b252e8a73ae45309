//! Records of flows: what is known of a flow, and next to it what is only claimed (a SYN that no segment has continued)
//! or no longer current (the flow that had the tuple before). What a packet proves about records is in
//! [`crate::evidence`]; how they lie in memory is in [`crate::flow_table`].

use crate::{join, split};

/// What is known of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Backend number; 0 = there is no record.
    pub backend: u32,
    /// [`Record::FIN`] and the other flags; with [`Record::CANDIDATE`], the upper half holds the upper half of another
    /// sequence number.
    pub flags: u32,
    /// The client's sequence number, host order. Of a flow: the last one that fitted, late by at most
    /// [`Record::ADVANCE`]. Next to a flow: the number of the SYN, or the last number of the elder. 0 for UDP.
    pub sequence: u32,
    /// When the flow was last seen: the lower half of the kernel's jiffies, refreshed at most once in
    /// [`Record::REFRESH`] jiffies. Ages are differences modulo 2³²: at most half of that, 24 days with 1,000 jiffies in
    /// a second.
    pub last_seen: u32,
}

impl Record {
    /// The client has sent FIN: the flow is half-closed, and may last as long as any other flow.
    pub const FIN: u32 = 1;
    /// The client has sent RST.
    pub const RST: u32 = 1 << 1;
    /// A new connection may begin on the tuple.
    pub const CLOSING: u32 = Self::FIN | Self::RST;
    /// One packet was seen, and no other packet confirms the flow.
    pub const ONCE: u32 = 1 << 2;
    /// The flow was seen to begin with a SYN, and its record has taken over no other numbers since.
    pub const BEGAN: u32 = 1 << 3;
    /// The sequence number is not known: the record comes from maps of a version before 4.
    pub const ANY: u32 = 1 << 4;
    /// The upper half of `flags` is the upper half of a sequence number that does not fit the flow and was seen last: of
    /// a SYN on the tuple, or of any segment. A segment that fits this candidate shows what the flow's numbers are now.
    pub const CANDIDATE: u32 = 1 << 5;
    /// Next to a flow: the record is of the flow that has or had the tuple, in addition to that one. Without the
    /// flag: only a SYN was seen.
    pub const ELDER: u32 = 1 << 6;

    /// The record took its numbers over from segments that fitted each other and not the flow: anybody may have sent
    /// them. FIN and RST with these numbers do not let another flow begin at another backend.
    pub const TAKEN: u32 = 1 << 8;

    /// While this flow's backend was down, a SYN began another flow elsewhere on the tuple, and the SYN waits in
    /// the record next to this one: the packet path looks there for every segment, until a segment of this flow comes.
    pub const CONTESTED: u32 = 1 << 7;

    /// Jiffies that may pass before a packet writes `last_seen` again: keeps a busy flow's cache line clean.
    pub const REFRESH: u32 = 128;
    /// Bytes that a flow may advance before a packet writes `sequence` again, and the most by which one segment moves
    /// it.
    pub const ADVANCE: u32 = 1 << 20;
    /// How far ahead of the last number a segment may lie: [`Record::ADVANCE`] and as much data as may be on its way and
    /// lost. Linux sends at most 4 MiB ahead by default; hosts that are tuned for long and fast network paths send at
    /// most 64 MiB.
    pub const AHEAD: u32 = 1 << 26;
    /// How far behind the last number a segment may lie: retransmits, keepalives, and RSTs of a closed socket, which
    /// repeat what was acknowledged.
    pub const BEHIND: u32 = 1 << 24;
    /// How far behind its SYN a segment may lie that continues it: ten segments (RFC 6928 allows ten) of 6.5 KB, for the
    /// first segments may be lost.
    pub const FIRST_FLIGHT: u32 = 1 << 16;
    /// How far a segment may lie from a candidate, in units of 64 KiB.
    const NEAR: u16 = 16;

    /// There is no record.
    pub const NONE: Self = Self { backend: 0, flags: 0, sequence: 0, last_seen: 0 };

    /// The record in two words.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        [join(self.backend, self.flags), join(self.sequence, self.last_seen)]
    }

    /// The record of two words.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        let [[backend, flags], [sequence, last_seen]] = [split(words[0]), split(words[1])];
        Self { backend, flags, sequence, last_seen }
    }

    #[inline(always)]
    pub const fn is_there(&self) -> bool {
        self.backend != 0
    }

    #[inline(always)]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Whether the client seems to have closed the flow, or nothing confirms the flow: another flow may begin at another
    /// backend.
    #[inline(always)]
    pub const fn is_closed(&self) -> bool {
        self.has(Self::ONCE) || self.has(Self::CLOSING) && !self.has(Self::TAKEN)
    }

    /// Whether this is an elder that its client has not closed. No other record takes its place.
    #[inline(always)]
    pub const fn is_live_elder(&self) -> bool {
        self.is_elder() && !self.is_closed()
    }

    /// Whether there is a record, of a flow that has or had the tuple apart from the flow that has the first record.
    #[inline(always)]
    pub const fn is_elder(&self) -> bool {
        self.is_there() && self.has(Self::ELDER)
    }

    /// Whether a segment can be the flow's by its number. 80 Mi of the 2³² numbers can, 2 %.
    #[inline(always)]
    pub const fn fits(&self, sequence: u32) -> bool {
        self.has(Self::ANY)
            || sequence.wrapping_sub(self.sequence).wrapping_add(Self::BEHIND) < Self::AHEAD + Self::BEHIND
    }

    /// Whether a segment lies so far from the last number that the record has to move.
    #[inline(always)]
    pub const fn is_far_from(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.sequence).wrapping_add(Self::ADVANCE) > 2 * Self::ADVANCE
    }

    /// Whether a segment lies close to the flow's record, which follows its client closely; 2 Mi of the 2³² numbers do,
    /// 0.05 %. A FIN or RST is believed only there.
    #[inline(always)]
    pub const fn is_near(&self, sequence: u32) -> bool {
        self.has(Self::ANY) || !self.is_far_from(sequence)
    }

    /// [`Record::FIN`] where a segment has FIN and the FIN is believed; otherwise 0.
    #[inline(always)]
    pub const fn fin_at(&self, sequence: u32, fin: bool) -> u32 {
        if fin && self.is_near(sequence) { Self::FIN } else { 0 }
    }

    /// Whether a segment shows that the client did not send the FIN that the record has: its numbers go on behind the
    /// FIN. The segment with the FIN may itself have been as long as a first flight.
    #[inline(always)]
    pub const fn goes_on_at(&self, sequence: u32) -> bool {
        let ahead = sequence.wrapping_sub(self.sequence);
        self.has(Self::FIN) && !self.has(Self::ANY) && ahead > Self::FIRST_FLIGHT && ahead <= i32::MAX as u32
    }

    /// The number that the record has after a segment that fits it: the segment's number, but at most
    /// [`Record::ADVANCE`] away from the old one. A stranger's segment may fit by chance, and must not take the window
    /// away from the client's; where the client itself is further on, its next segments move the record there.
    #[inline(always)]
    pub const fn towards(&self, sequence: u32) -> u32 {
        if self.has(Self::ANY) || !self.is_far_from(sequence) {
            sequence
        } else if sequence.wrapping_sub(self.sequence) <= i32::MAX as u32 {
            self.sequence.wrapping_add(Self::ADVANCE)
        } else {
            self.sequence.wrapping_sub(Self::ADVANCE)
        }
    }

    /// Whether a segment continues the SYN of this record.
    #[inline(always)]
    pub const fn is_continued_by(&self, sequence: u32) -> bool {
        self.is_there()
            && !self.has(Self::ELDER)
            && (self.has(Self::ANY)
                || sequence.wrapping_sub(self.sequence).wrapping_sub(1) < Self::FIRST_FLIGHT)
    }

    /// Whether a segment has the number right behind the SYN's, as the first one of every client has that is not lost.
    #[inline(always)]
    pub const fn is_next(&self, sequence: u32) -> bool {
        self.has(Self::ANY) || sequence == self.sequence.wrapping_add(1)
    }

    /// Whether a segment fits the candidate.
    #[inline(always)]
    pub const fn fits_candidate(&self, sequence: u32) -> bool {
        let candidate = (self.flags >> 16) as u16;
        let distance = ((sequence >> 16) as u16).wrapping_sub(candidate).wrapping_add(Self::NEAR);
        self.has(Self::CANDIDATE) && distance <= 2 * Self::NEAR
    }

    /// The record with another candidate.
    #[inline(always)]
    pub const fn with_candidate(self, sequence: u32) -> Self {
        let flags = self.flags & 0xffff & !Self::CANDIDATE;
        Self { flags: flags | Self::CANDIDATE | (sequence & 0xffff_0000), ..self }
    }

    /// The flags without a candidate.
    #[inline(always)]
    pub const fn plain_flags(&self) -> u32 {
        self.flags & 0xffff & !Self::CANDIDATE
    }
}

/// Jiffies since `seen`; both arguments are lower halves of the kernel's. 0 when `seen` lies ahead, because another CPU
/// saw the flow in this moment.
#[inline(always)]
pub const fn age(seen: u32, now: u32) -> u32 {
    let age = now.wrapping_sub(seen);
    if age > i32::MAX as u32 { 0 } else { age }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_of_a_flow_wraps_and_has_both_ends() {
        let record = Record { backend: 1, sequence: 100, ..Record::NONE };
        for (sequence, fits) in [
            (100, true),
            (100 + Record::AHEAD - 1, true),
            (100 + Record::AHEAD, false),
            (100_u32.wrapping_sub(Record::BEHIND), true),
            (100_u32.wrapping_sub(Record::BEHIND + 1), false),
            (1 << 31, false),
        ] {
            assert_eq!(record.fits(sequence), fits, "{sequence}");
            assert!(Record { flags: Record::ANY, ..record }.fits(sequence));
        }
    }

    #[test]
    fn one_segment_moves_a_record_by_so_much_and_no_more() {
        let record = Record { backend: 1, sequence: 100, ..Record::NONE };
        for (sequence, far, towards) in [
            (100, false, 100),
            (90, false, 90),
            (100 + Record::ADVANCE, false, 100 + Record::ADVANCE),
            (101 + Record::ADVANCE, true, 100 + Record::ADVANCE),
            (100 + Record::AHEAD - 1, true, 100 + Record::ADVANCE),
            (100_u32.wrapping_sub(Record::ADVANCE), false, 100_u32.wrapping_sub(Record::ADVANCE)),
            (100_u32.wrapping_sub(Record::BEHIND), true, 100_u32.wrapping_sub(Record::ADVANCE)),
        ] {
            assert_eq!(
                (record.is_far_from(sequence), record.towards(sequence)),
                (far, towards),
                "{sequence}"
            );
            assert_eq!(Record { flags: Record::ANY, ..record }.towards(sequence), sequence);
        }
    }

    #[test]
    fn a_syn_does_not_continue_itself() {
        let record = Record { backend: 1, sequence: u32::MAX, ..Record::NONE };
        assert!(record.is_continued_by(0) && record.is_continued_by(Record::FIRST_FLIGHT - 1));
        assert!(!record.is_continued_by(u32::MAX) && !record.is_continued_by(Record::FIRST_FLIGHT));
        assert!(!Record { flags: Record::ELDER, ..record }.is_continued_by(0));
        assert!(!Record { backend: 0, ..record }.is_continued_by(0));
    }

    #[test]
    fn a_candidate_leaves_the_flags_as_they_are() {
        let record = Record { backend: 1, flags: Record::FIN | Record::BEGAN, ..Record::NONE };
        assert!(!record.fits_candidate(0));
        let with = record.with_candidate(0xabcd_1234);
        assert_eq!(with.plain_flags(), record.flags);
        assert!(with.fits_candidate(0xabcd_0000) && with.fits_candidate(0xabdd_ffff));
        assert!(with.fits_candidate(0xabbd_0000) && !with.fits_candidate(0xabbc_ffff));
        assert!(!with.fits_candidate(0xabde_0000));
        assert!(record.with_candidate(0x0001_0000).fits_candidate(0xfff1_0000), "numbers wrap");
    }

    #[test]
    fn an_age_wraps_and_is_never_below_0() {
        assert_eq!((age(10, 15), age(u32::MAX, 4), age(15, 10)), (5, 5, 0));
    }
}
