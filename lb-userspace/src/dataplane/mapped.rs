//! An array map as memory: words are read and written where packets read them, without a system call.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped array. The map needs `BPF_F_MMAPABLE` and a value size that is a multiple of 8.
pub(super) struct Mapped {
    address: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory belongs to the map, not to a thread; all access is atomic.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the whole array of `words` words.
    pub(super) fn new(map: impl AsFd, words: usize) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(words * size_of::<u64>())
            .ok_or_else(|| io::Error::other("an array of nothing cannot be mapped"))?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map, 0)
        }?;
        Ok(Self { address: address.cast(), words })
    }

    /// All words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped for as long as `self` lives, page-aligned, and every bit pattern is a word.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.words) }
    }

    /// One atomic store; `false` when there is no such word. Everything stored before it is seen by whoever sees it.
    pub(super) fn store(&self, at: usize, word: u64) -> bool {
        let place = self.words().get(at);
        if let Some(place) = place {
            place.store(word, Ordering::Release);
        }
        place.is_some()
    }

    /// A record of whole words; `None` when there is no such entry.
    pub(super) fn read<T: Pod>(&self, entry: usize) -> Option<T> {
        let words = self.record::<T>(entry)?;
        let copy: Vec<u64> = words.iter().map(|word| word.load(Ordering::Acquire)).collect();
        // SAFETY: `copy` has the bytes of a T, for which every bit pattern is a value.
        Some(unsafe { copy.as_ptr().cast::<T>().read_unaligned() })
    }

    /// Writes a record word by word, the first word last: it holds what makes the record count (version, interface),
    /// so that the rest is there before. `false` when there is no such entry.
    pub(super) fn write<T: Pod>(&self, entry: usize, value: &T) -> bool {
        let Some(words) = self.record::<T>(entry) else { return false };
        for (i, word) in words.iter().enumerate().rev() {
            // SAFETY: T is at least `words.len()` words long and has no padding.
            let value = unsafe { std::ptr::from_ref(value).cast::<u64>().add(i).read_unaligned() };
            word.store(value, Ordering::Release);
        }
        true
    }

    fn record<T: Pod>(&self, entry: usize) -> Option<&[AtomicU64]> {
        let words = size_of::<T>() / size_of::<u64>();
        self.words().get(entry.checked_mul(words)?..)?.get(..words)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length, and no slice of it outlives `self`.
        // A failure would mean that it is not mapped, which is what we want.
        let _ = unsafe { munmap(self.address.cast(), self.words * size_of::<u64>()) };
    }
}
