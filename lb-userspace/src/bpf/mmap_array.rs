//! An array map as memory: the agent reads and writes words where packets read them, without a system call.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::{
    fault::{self, Kind},
    tables::Shared,
};

/// A mapped array. The map needs `BPF_F_MMAPABLE` and a value size that is a multiple of 8.
pub(crate) struct Mapped {
    address: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory belongs to the map, not to a thread; all access is atomic.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the whole array of `words` words.
    pub(crate) fn new(map: impl AsFd, words: usize) -> io::Result<Self> {
        Self::with(map, words, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// The same for an array that is only read: a store into it would be a memory fault.
    pub(crate) fn read_only(map: impl AsFd, words: usize) -> io::Result<ReadOnly> {
        Self::with(map, words, ProtFlags::PROT_READ).map(ReadOnly)
    }

    fn with(map: impl AsFd, words: usize, protection: ProtFlags) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(words * size_of::<u64>())
            .ok_or_else(|| io::Error::other("an array of nothing cannot be mapped"))?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self { address: address.cast(), words })
    }

    /// All words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped for as long as `self` lives, page-aligned, and every bit pattern is a word.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.words) }
    }

    /// One atomic store with release order: a reader that sees this word also sees everything that was stored before it.
    /// `false` when there is no such word.
    ///
    /// # Errors
    /// Only where a test asked for one; the same is true of [`Self::write`].
    pub(crate) fn store(&self, at: usize, word: u64) -> io::Result<bool> {
        let Some(place) = self.words().get(at) else { return Ok(false) };
        fault::point(Kind::Map)?;
        place.store(word, Ordering::Release);
        Ok(true)
    }

    /// A record of whole words; `None` when there is no such entry.
    pub(crate) fn read<T: Pod>(&self, entry: usize) -> Option<T> {
        let words = self.record::<T>(entry)?;
        let copy: Vec<u64> = words.iter().map(|word| word.load(Ordering::Acquire)).collect();
        // SAFETY: `copy` has the bytes of a T, for which every bit pattern is a value.
        Some(unsafe { copy.as_ptr().cast::<T>().read_unaligned() })
    }

    /// Writes a record word by word, the first word last. The first word makes the record valid (version, interface), so the
    /// other words must be there before. Words that have their value already are not written. `false` when there is no
    /// such entry.
    pub(crate) fn write<T: Pod>(&self, entry: usize, value: &T) -> io::Result<bool> {
        let Some(words) = self.record::<T>(entry) else { return Ok(false) };
        for (i, word) in words.iter().enumerate().rev() {
            let value = Self::word(value, i);
            if word.load(Ordering::Acquire) != value {
                fault::point(Kind::Map)?;
                word.store(value, Ordering::Release);
            }
        }
        Ok(true)
    }

    /// Whether the entry differs from `value` in any word but the first.
    pub(crate) fn differs_behind_first_word<T: Pod>(&self, entry: usize, value: &T) -> bool {
        let words = self.record::<T>(entry).unwrap_or_default();
        words.iter().enumerate().skip(1).any(|(i, word)| word.load(Ordering::Acquire) != Self::word(value, i))
    }

    /// The `i`th word of a record, which must have that many words.
    fn word<T: Pod>(value: &T, i: usize) -> u64 {
        assert!((i + 1) * size_of::<u64>() <= size_of::<T>(), "records are whole words");
        // SAFETY: that many words lie in T, which has no padding.
        unsafe { std::ptr::from_ref(value).cast::<u64>().add(i).read_unaligned() }
    }

    fn record<T: Pod>(&self, entry: usize) -> Option<&[AtomicU64]> {
        let words = size_of::<T>() / size_of::<u64>();
        self.words().get(entry.checked_mul(words)?..)?.get(..words)
    }
}

impl Shared for Mapped {
    fn words(&self) -> &[AtomicU64] {
        Mapped::words(self)
    }
}

/// A mapped array that cannot be written.
pub(crate) struct ReadOnly(Mapped);

impl ReadOnly {
    /// One word; `None` when there is no such word.
    pub(crate) fn word(&self, at: usize) -> Option<u64> {
        self.0.words().get(at).map(|word| word.load(Ordering::Acquire))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length, and no slice of it outlives `self`.
        // A failure would mean that the memory is not mapped, which is the wanted result.
        let _ = unsafe { munmap(self.address.cast(), self.words * size_of::<u64>()) };
    }
}
