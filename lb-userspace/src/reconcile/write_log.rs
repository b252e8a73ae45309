//! What was written into the tables since a walk over the flow tables began: about these entries the walk decides nothing.

use std::collections::BTreeSet;

/// A set of slots, with one bit for each slot of the arena.
#[derive(Clone, Debug, Default)]
pub struct SlotSet(Vec<u64>);

impl SlotSet {
    /// Empty, for an arena of that many slots.
    pub fn new(slots: usize) -> Self {
        Self(vec![0; slots.div_ceil(64)])
    }

    pub fn insert(&mut self, at: u32) {
        if let Some(bits) = self.0.get_mut(at as usize / 64) {
            *bits |= 1 << (at % 64);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }

    pub fn contains(&self, at: u32) -> bool {
        self.0.get(at as usize / 64).is_some_and(|bits| bits & 1 << (at % 64) != 0)
    }
}

/// Slots, services and backends that were written.
#[derive(Clone, Debug, Default)]
pub struct WriteLog {
    pub slots: SlotSet,
    /// Services whose record was written.
    pub services: BTreeSet<u32>,
    /// Backends that died.
    pub died: BTreeSet<u32>,
}

impl WriteLog {
    /// Nothing yet, for an arena of that many slots.
    pub fn new(slots: usize) -> Self {
        Self { slots: SlotSet::new(slots), ..Self::default() }
    }

    pub fn is_something(&self) -> bool {
        !(self.slots.is_empty() && self.services.is_empty() && self.died.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_knows_its_end() {
        let mut set = SlotSet::new(130);
        for at in [0, 63, 64, 129, 9999] {
            set.insert(at);
        }
        let held: Vec<u32> = (0..20_000).filter(|at| set.contains(*at)).collect();
        assert_eq!(held, [0, 63, 64, 129]);
    }
}
