//! What the compiler must not know of a number.

use core::arch::asm;

/// The highest bit of a number, as 0 or 1. The compiler knows nothing of the result: it would make branches of what is
/// computed with a bit, and the verifier would follow both ways of each.
#[inline(always)]
pub(crate) fn sign(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: one instruction on one register.
    unsafe { asm!("{0} >>= 63", inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// The number and 16 more, of which the compiler knows nothing, and the verifier as much as before.
#[inline(always)]
pub(crate) fn next16(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: one instruction on one register.
    unsafe { asm!("{0} += 16", inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// The same number, of which neither the compiler nor the verifier knows anything. `any`: a number of which the verifier
/// knows nothing.
#[inline(always)]
pub(crate) fn blur(number: u64, any: u64) -> u64 {
    let mut number = number;
    // SAFETY: two instructions on two registers.
    unsafe {
        asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) number, in(reg) any, options(pure, nomem, nostack));
    }
    number
}
