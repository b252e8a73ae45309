//! A table in the memory of an ordinary program: a mapped array, or words of the program's own.

use core::sync::atomic::AtomicU64;

use super::{Bucket, Memory, Plain};

/// Words of a bucket.
const PER_BUCKET: usize = size_of::<Bucket>() / size_of::<u64>();

/// A table in words that others may read and write at the same time, eight for each bucket; and a function that says the
/// service of a backend ([`Memory::service`]).
#[derive(Clone, Copy, Debug)]
pub struct Words<'a, S> {
    words: &'a [AtomicU64],
    service: S,
}

impl<'a, S: Fn(u32) -> u32> Words<'a, S> {
    /// Words behind the last whole bucket are not used.
    pub const fn new(words: &'a [AtomicU64], service: S) -> Self {
        Self { words, service }
    }
}

// SAFETY: a bucket is eight words of the slice, which stays borrowed; atomic words may be written through pointers.
unsafe impl<S: Fn(u32) -> u32> Memory for Words<'_, S> {
    type Arithmetic = Plain;

    fn buckets(&self) -> u32 {
        (self.words.len() / PER_BUCKET) as u32
    }

    fn bucket(&self, number: u32) -> Option<*mut Bucket> {
        let first = number as usize * PER_BUCKET;
        let words = self.words.get(first..first + PER_BUCKET)?;
        Some(words.as_ptr().cast_mut().cast())
    }

    fn service(&self, backend: u32) -> u32 {
        (self.service)(backend)
    }
}
