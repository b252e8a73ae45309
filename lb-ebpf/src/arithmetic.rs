//! The arithmetic of [`lb_common::flow_table`], each function in instructions of which the compiler knows nothing.

use core::arch::asm;

use lb_common::flow_table::Arithmetic;

pub(crate) struct Hidden;

impl Arithmetic for Hidden {
    #[inline(always)]
    fn sign(number: u64) -> u64 {
        let mut number = number;
        // SAFETY: one instruction on one register.
        unsafe { asm!("{0} >>= 63", inout(reg) number, options(pure, nomem, nostack)) };
        number
    }

    /// The verifier knows as much of the result as of the offset: an entry has 16 bytes.
    #[inline(always)]
    fn next(offset: u64) -> u64 {
        let mut offset = offset;
        // SAFETY: one instruction on one register.
        unsafe { asm!("{0} += 16", inout(reg) offset, options(pure, nomem, nostack)) };
        offset
    }

    #[inline(always)]
    fn blur(number: u64, any: u64) -> u64 {
        let mut number = number;
        // SAFETY: two instructions on two registers.
        unsafe {
            asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) number, in(reg) any, options(pure, nomem, nostack));
        }
        number
    }
}
