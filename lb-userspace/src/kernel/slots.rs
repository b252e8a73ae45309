//! The words of all slots, the owners in front of them ([`lb_common::owner`]) and the clocks of [`lb_common::elsewhere`]: no
//! other module writes these maps, so that an owner never contradicts its slot's word, and a clock never comes too late.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::{
    map::name,
    owner::{self, PER_WORD},
    slot::Slot,
};

use super::map_io::{failed, out_of_range};
use crate::{
    bpf::mmap_array::Mapped,
    fault::{self, Kind},
    tables::{TableError, clocks},
};

pub(super) struct Slots {
    words: Mapped,
    owners: Mapped,
    elsewhere: Mapped,
}

impl Slots {
    /// `owners` has as many entries as [`owner::words_for`] gives for the slots in `words`, and `elsewhere` as many as
    /// [`lb_common::elsewhere::entries_for`] gives.
    pub(super) fn new(words: Mapped, owners: Mapped, elsewhere: Mapped) -> Self {
        Self { words, owners, elsewhere }
    }

    /// The arena, as packets see it.
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.words.words()
    }

    /// The clocks, four in an entry.
    pub(super) fn elsewhere(&self) -> &[AtomicU64] {
        self.elsewhere.words()
    }

    /// The owners in front of the arena, four in a word.
    #[cfg(test)]
    pub(super) fn owners(&self) -> &[AtomicU64] {
        self.owners.words()
    }

    /// Gives a slot its word; `clock` is the time on the slots' clocks. The owner is 0 while the word changes: a packet that
    /// reads 0 reads the word next, and a packet that has read the old owner came before the change. An agent that dies in
    /// between leaves 0, which is correct with every word. It also leaves a clock that was set for nothing, and never a word
    /// without its clock. Returns whether the clock was set.
    pub(super) fn set(&self, slot: u32, word: u64, clock: u16) -> Result<bool, TableError> {
        let size = self.words().len() as u32;
        let Some(old) = self.words().get(slot as usize) else {
            return Err(out_of_range(name::RING, slot, size));
        };
        let failed = |map| failed(map, format!("writing slot {slot}"));
        let is_concerned = clocks::is_concerned(Slot(old.load(Ordering::Relaxed)), Slot(word));
        if is_concerned {
            self.set_clock(slot, clock)?;
        }
        self.set_owner(slot, 0).map_err(failed(name::SLOT_OWNERS))?;
        self.words.store(slot as usize, word).map_err(failed(name::RING))?;
        self.set_owner(slot, owner::of(Slot(word))).map_err(failed(name::SLOT_OWNERS))?;
        Ok(is_concerned)
    }

    /// Sets the clock of a slot.
    pub(super) fn set_clock(&self, slot: u32, clock: u16) -> Result<(), TableError> {
        if clocks::get(self.elsewhere(), slot) == clock {
            return Ok(());
        }
        let failed = || failed(name::SLOT_ELSEWHERE, format!("setting the clock of slot {slot}"));
        fault::point(Kind::Map).map_err(failed())?;
        let is_set = clocks::set(self.elsewhere(), slot, clock);
        if is_set { Ok(()) } else { Err(failed()(io::Error::other("it has too few entries"))) }
    }

    /// Computes every owner from its slot's word. To be called before a program of ours uses maps that another
    /// agent has written: an agent of a version without owners changed the words only.
    pub(super) fn derive(&self) -> Result<(), TableError> {
        for (at, words) in self.words().chunks(PER_WORD as usize).enumerate() {
            let entry = (0..).zip(words).fold(0, |entry, (lane, word)| {
                owner::set(entry, lane, owner::of(Slot(word.load(Ordering::Relaxed))))
            });
            self.put(at, entry).map_err(failed(name::SLOT_OWNERS, format!("writing entry {at}")))?;
        }
        Ok(())
    }

    fn set_owner(&self, slot: u32, owner: u16) -> io::Result<()> {
        let at = owner::word(slot) as usize;
        let entry = self.owners.words().get(at).map_or(0, |entry| entry.load(Ordering::Relaxed));
        self.put(at, owner::set(entry, slot, owner))
    }

    /// There is only one writer, so the other owners in the entry cannot change between the load and the store.
    fn put(&self, at: usize, entry: u64) -> io::Result<()> {
        let is = self.owners.words().get(at).map(|entry| entry.load(Ordering::Relaxed));
        if is != Some(entry) && !self.owners.store(at, entry)? {
            return Err(io::Error::other("it has too few entries"));
        }
        Ok(())
    }
}
