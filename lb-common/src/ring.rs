//! Where a ring lies in the arena and how a hash becomes a slot. The agent builds the rings (`lb-userspace/src/ring`).

/// The lengths a ring may have: primes, because Maglev's permutations need one (NSDI '16, section 3.4).
/// Each is about twice the one before, so that a service wastes at most half of its slots.
pub const LENGTHS: [u32; 15] = [
    251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_537, 131_071, 262_139, 524_287, 1_000_003,
    2_000_003, 4_000_037,
];

/// Slots per backend that keep the imbalance near 1 % (NSDI '16, section 5.3).
pub const SLOTS_PER_BACKEND: u32 = 100;

/// The most backends that one service can be planned for: the length of the largest ring over [`SLOTS_PER_BACKEND`].
pub const MAX_BACKENDS: u32 = LENGTHS[LENGTHS.len() - 1] / SLOTS_PER_BACKEND;

/// A service that does not say how many backends it is planned for has room for this many times its backends.
const ROOM: u32 = 4;

/// The least number of backends that such a service is planned for.
pub const LEAST_PLANNED: u32 = 16;

/// Above this length a ring has no room for more backends by default. Packets to such a service read so many owners that
/// the room would cost every packet cache: 262,139 owners take half a megabyte; the owners of 10,000 backends with room
/// for four times as many take 8 MB.
const LONGEST_WITH_ROOM: u32 = 262_139;

/// How many backends a service is planned for that has `backends` in its configuration and does not set `max_backends`:
/// it asks for [`ROOM`] times as many, and gets the most that the ring for these has slots for. A function of the
/// configuration alone, so that every node gives the service the same ring.
pub const fn default_max_backends(backends: u32) -> u32 {
    let most_with_room = LONGEST_WITH_ROOM / SLOTS_PER_BACKEND;
    let mut wanted = backends.saturating_mul(ROOM);
    if wanted > most_with_room {
        wanted = if backends > most_with_room { backends } else { most_with_room };
    }
    if wanted < LEAST_PLANNED {
        wanted = LEAST_PLANNED;
    }
    match length_for(wanted) {
        Some(length) => length / SLOTS_PER_BACKEND,
        None => MAX_BACKENDS,
    }
}

/// The length of the ring of a service planned for `max_backends`; `None` above [`MAX_BACKENDS`].
pub const fn length_for(max_backends: u32) -> Option<u32> {
    let mut i = 0;
    while i < LENGTHS.len() {
        if LENGTHS[i] as u64 >= max_backends as u64 * SLOTS_PER_BACKEND as u64 {
            return Some(LENGTHS[i]);
        }
        i += 1;
    }
    None
}

const SOURCE_SHIFT: u32 = 24;
const LENGTH_MASK: u64 = (1 << SOURCE_SHIFT) - 1;

/// A ring in the arena, and which part of a packet decides its slot there, in one word, so that the packet path reads
/// all of it or nothing: bits 0–23 length, 24–31 [`Ring::source_bits`], 32–63 offset.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ring(pub u64);

impl Ring {
    /// No ring; no hash falls into it.
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn new(offset: u32, length: u32) -> Self {
        Self((offset as u64) << 32 | length as u64 & LENGTH_MASK)
    }

    /// The same ring, where that many leading bits of the client's address decide the slot, 1 to 128; 0 = the whole flow
    /// decides.
    #[inline(always)]
    pub const fn with_source_prefix(self, bits: u8) -> Self {
        Self(self.0 & !(0xff << SOURCE_SHIFT) | (bits as u64) << SOURCE_SHIFT)
    }

    /// The same ring at another place.
    #[inline(always)]
    pub const fn at_offset(self, offset: u32) -> Self {
        Self((offset as u64) << 32 | self.0 & 0xffff_ffff)
    }

    /// First slot, counted in slots from the start of the arena.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Number of slots.
    #[inline(always)]
    pub const fn length(self) -> u32 {
        (self.0 & LENGTH_MASK) as u32
    }

    /// Which part of a packet decides its slot: that many leading bits of the client's address; 0 = its addresses, ports
    /// and protocol. Since version 2; rings of version 1 have 0.
    #[inline(always)]
    pub const fn source_bits(self) -> u32 {
        (self.0 >> SOURCE_SHIFT & 0xff) as u32
    }

    /// Whether [`Ring::source_bits`] is not 0, in one comparison.
    #[inline(always)]
    pub const fn hashes_sources(self) -> bool {
        self.0 as u32 >= 1 << SOURCE_SHIFT
    }

    /// The slot of a hash (see [`crate::hash::slot_hash`]), counted from the start of the arena. Multiply-shift on the
    /// upper half of the hash (Lemire, "Fast random integer generation in an interval", 2019): no division.
    #[inline(always)]
    pub const fn slot(self, hash: u64) -> u32 {
        self.offset() + (((hash >> 32) * self.length() as u64) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_prime_and_grow() {
        for pair in LENGTHS.windows(2) {
            assert!(pair[0] < pair[1]);
        }
        for length in LENGTHS {
            assert!((2..).take_while(|d| d * d <= length).all(|d| length % d != 0), "{length}");
        }
    }

    #[test]
    fn lengths_give_a_hundred_slots_to_each_backend() {
        assert_eq!(length_for(1), Some(251));
        assert_eq!(length_for(3), Some(509));
        assert_eq!(length_for(655), Some(65_537));
        assert_eq!(length_for(10_000), Some(1_000_003));
        assert_eq!(length_for(MAX_BACKENDS), Some(4_000_037));
        assert_eq!(length_for(MAX_BACKENDS + 1), None);
        assert_eq!(length_for(u32::MAX), None);
    }

    #[test]
    fn the_default_has_room_for_four_times_the_backends() {
        let lengths = [
            (0, 2_039),
            (1, 2_039),
            (5, 2_039),
            (6, 4_093),
            (10, 4_093),
            (11, 8_191),
            (40, 16_381),
            (41, 32_749),
            (100, 65_537),
            (200, 131_071),
            (328, 262_139),
            (2_621, 262_139),
            (2_622, 524_287),
            (10_000, 1_000_003),
            (MAX_BACKENDS, 4_000_037),
            (u32::MAX, 4_000_037),
        ];
        for (backends, length) in lengths {
            assert_eq!(length_for(default_max_backends(backends)), Some(length), "{backends} backends");
        }
    }

    #[test]
    fn the_default_grows_with_the_backends() {
        let mut before = 0;
        for backends in 0..=MAX_BACKENDS {
            let planned = default_max_backends(backends);
            assert!(
                planned >= backends && planned >= before,
                "{backends} backends: {planned}, {before} for one less"
            );
            before = planned;
        }
    }

    #[test]
    fn the_extremes_of_the_hash_fall_inside_the_ring() {
        let ring = Ring::new(1000, 251);
        assert_eq!(ring.slot(0), 1000);
        assert_eq!(ring.slot(u64::MAX), 1250);
        assert_eq!((ring.offset(), ring.length()), (1000, 251));
    }

    #[test]
    fn a_ring_keeps_its_parts_apart() {
        let longest = LENGTHS[LENGTHS.len() - 1];
        let ring = Ring::new(u32::MAX, longest).with_source_prefix(128);
        assert_eq!((ring.offset(), ring.length(), ring.source_bits()), (u32::MAX, longest, 128));
        assert!(ring.hashes_sources() && !Ring::new(u32::MAX, longest).hashes_sources());
        let moved = ring.at_offset(7);
        assert_eq!((moved.offset(), moved.length(), moved.source_bits()), (7, longest, 128));
        assert_eq!(moved.with_source_prefix(0), Ring::new(7, longest));
        assert_eq!(moved.slot(u64::MAX), 7 + longest - 1);
    }
}
