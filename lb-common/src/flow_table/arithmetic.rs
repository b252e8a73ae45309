//! Arithmetic on the way through a table that the packet program does in its own way: its compiler and the verifier must
//! not know too much of the results.

use super::ENTRY;

/// The provided functions are those of ordinary programs.
pub trait Arithmetic {
    /// The highest bit of a number, as 0 or 1. The packet program does this in a way that its compiler cannot make a
    /// branch of.
    #[inline(always)]
    fn sign(number: u64) -> u64 {
        number >> 63
    }

    /// The offset of the next place of a bucket, in bytes. The packet program computes it in a way that its compiler knows
    /// nothing of, so that it keeps a loop a loop: with copies of its body, the registers would not suffice.
    #[inline(always)]
    fn next(offset: u64) -> u64 {
        offset + ENTRY
    }

    /// The same number. The packet program does this in a way that the verifier knows nothing of the result, so that it
    /// follows what comes behind once, and not for each number. `any`: a number of which the verifier knows nothing.
    #[inline(always)]
    fn blur(number: u64, any: u64) -> u64 {
        let _ = any;
        number
    }
}

/// The arithmetic of ordinary programs.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Arithmetic for Plain {}
