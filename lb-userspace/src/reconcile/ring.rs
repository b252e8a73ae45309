//! Where rings lie in the arena. Which parts are taken follows from the service records alone, so there is no
//! allocator state that could disagree with these records.

use lb_common::ring::Ring;

/// The taken parts of the arena.
#[derive(Clone, Debug)]
pub struct Arena {
    size: u32,
    /// First slot and length, sorted; disjoint where the tables are sound.
    taken: Vec<(u32, u32)>,
}

/// There is no room for a ring. Figures in slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom {
    /// Free slots, all gaps together.
    pub free: u64,
    /// The largest gap.
    pub largest: u32,
}

impl Arena {
    /// An arena of `size` slots in which these rings lie.
    pub fn new(size: u32, rings: impl Iterator<Item = Ring>) -> Self {
        let mut taken: Vec<_> =
            rings.filter(|ring| *ring != Ring::NONE).map(|ring| (ring.offset(), ring.length())).collect();
        taken.sort_unstable();
        Self { size, taken }
    }

    /// Takes the first gap that is long enough.
    pub fn allocate(&mut self, length: u32) -> Result<Ring, NoRoom> {
        let found = self.gaps().find(|&(_, _, room)| room >= length);
        let Some((place, offset, _)) = found else {
            let free = self.gaps().map(|(_, _, room)| u64::from(room)).sum();
            let largest = self.gaps().map(|(_, _, room)| room).max().unwrap_or(0);
            return Err(NoRoom { free, largest });
        };
        self.taken.insert(place, (offset, length));
        Ok(Ring::new(offset, length))
    }

    /// Gaps as (index in `taken` of the part behind the gap, first slot, length).
    fn gaps(&self) -> impl Iterator<Item = (usize, u32, u32)> {
        let mut from = 0u32;
        let ends = self.taken.iter().copied().chain([(self.size, 0)]).enumerate();
        ends.filter_map(move |(place, (offset, length))| {
            let gap = (place, from, offset.saturating_sub(from));
            from = from.max(offset.saturating_add(length));
            (gap.2 > 0).then_some(gap)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_gap_that_is_long_enough_is_taken() {
        let rings = [Ring::new(10, 10), Ring::new(25, 5), Ring::NONE];
        let mut arena = Arena::new(100, rings.into_iter());
        assert_eq!(arena.allocate(5), Ok(Ring::new(0, 5)));
        assert_eq!(arena.allocate(6), Ok(Ring::new(30, 6)));
        assert_eq!(arena.allocate(5), Ok(Ring::new(5, 5)));
        assert_eq!(arena.allocate(5), Ok(Ring::new(20, 5)));
        assert_eq!(arena.allocate(64), Ok(Ring::new(36, 64)));
        assert_eq!(arena.allocate(1), Err(NoRoom { free: 0, largest: 0 }));
    }

    #[test]
    fn no_room_says_what_is_free_in_all_and_at_a_stretch() {
        let rings = [Ring::new(10, 10), Ring::new(25, 65)];
        let mut arena = Arena::new(100, rings.into_iter());
        assert_eq!(arena.allocate(11), Err(NoRoom { free: 25, largest: 10 }));
    }

    proptest! {
        #[test]
        fn rings_never_overlap_and_freed_room_is_found_again(
            steps in prop::collection::vec((1u32..40, any::<prop::sample::Index>(), any::<bool>()), 1..60),
        ) {
            let mut rings: Vec<Ring> = Vec::new();
            for (length, index, free) in steps {
                if free && !rings.is_empty() {
                    rings.remove(index.index(rings.len()));
                }
                let mut arena = Arena::new(400, rings.iter().copied());
                match arena.allocate(length) {
                    Ok(ring) => rings.push(ring),
                    Err(NoRoom { free, largest }) => {
                        let used: u64 = rings.iter().map(|r| u64::from(r.length())).sum();
                        prop_assert_eq!(free, 400 - used);
                        prop_assert!(largest < length);
                    }
                }
                let mut sorted = rings.clone();
                sorted.sort_by_key(|r| r.offset());
                for pair in sorted.windows(2) {
                    prop_assert!(pair[0].offset() + pair[0].length() <= pair[1].offset());
                }
                prop_assert!(sorted.last().is_none_or(|r| r.offset() + r.length() <= 400));
            }
        }
    }
}
