//! The only file that touches `data` and `data_end`: each read and write is behind one bounds check.

use core::arch::asm;

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};

/// A frame between its first and last byte.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn of(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// Bytes in the frame, Ethernet header included.
    #[inline(always)]
    pub(crate) fn length(&self) -> usize {
        self.end - self.start
    }

    /// A header at `offset`, read whole; `None` where the frame ends before the header does.
    #[inline(always)]
    pub(crate) fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        if self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the bytes lie between `data` and `data_end` as just checked (and the verifier checks again);
        // `T` is one of the header types, for which every bit pattern is a value; the read may be unaligned.
        Some(unsafe { ((self.start + offset) as *const T).read_unaligned() })
    }

    /// The first `N` bytes of the frame, checked once for all loads from them; `None` where it is shorter.
    #[inline(always)]
    pub(crate) fn head<const N: usize>(&self) -> Option<HeaderView<N>> {
        if self.start + N > self.end {
            return None;
        }
        Some(HeaderView { start: self.start })
    }

    /// The first `HEAD` bytes of the frame and the `N` bytes behind them, checked once; `None` where it is shorter.
    #[inline(always)]
    pub(crate) fn split<const HEAD: usize, const N: usize>(
        &self,
    ) -> Option<(HeaderView<HEAD>, HeaderView<N>)> {
        if self.start + HEAD + N > self.end {
            return None;
        }
        Some((HeaderView { start: self.start }, HeaderView { start: self.start + HEAD }))
    }

    /// Where `N` bytes from `FROM` on lie, for a helper that reads them; `None` where the frame ends before.
    #[inline(always)]
    pub(crate) fn address<const FROM: usize, const N: usize>(&self) -> Option<*mut u32> {
        if self.start + FROM + N > self.end {
            return None;
        }
        Some((self.start + FROM) as *mut u32)
    }

    /// The frame without its first `N` bytes.
    #[inline(always)]
    pub(crate) fn behind<const N: usize>(&self) -> Self {
        Self { start: self.start + N, end: self.end }
    }

    /// Overwrites what lies at `offset`; `None`, and nothing written, where the frame ends before `value` does.
    #[inline(always)]
    pub(crate) fn write<T: Copy>(&self, offset: usize, value: T) -> Option<()> {
        if self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the bytes lie between `data` and `data_end` as just checked, and XDP owns the frame.
        unsafe { ((self.start + offset) as *mut T).write_unaligned(value) };
        Some(())
    }
}

/// The first `N` bytes of a frame, known to be there.
#[derive(Clone, Copy)]
pub(crate) struct HeaderView<const N: usize> {
    start: usize,
}

impl<const N: usize> HeaderView<N> {
    /// `M` of these bytes from `OFFSET` on; the build fails where they are not inside.
    #[inline(always)]
    pub(crate) fn subview<const OFFSET: usize, const M: usize>(&self) -> HeaderView<M> {
        const { assert!(OFFSET + M <= N) };
        HeaderView { start: self.start + OFFSET }
    }

    /// The value at `OFFSET`, in one load; the build fails where it is not inside.
    #[inline(always)]
    pub(crate) fn load<T: Copy, const OFFSET: usize>(&self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= N) };
        // SAFETY: the bytes are there, as `Packet::head` checked (and the verifier checks again); `T` is an integer, of
        // which every bit pattern is a value; the read may be unaligned.
        unsafe { ((self.start + OFFSET) as *const T).read_unaligned() }
    }

    /// Overwrites the value at `OFFSET`, in one store; the build fails where it is not inside.
    #[inline(always)]
    pub(crate) fn store<T: Copy, const OFFSET: usize>(&self, value: T) {
        const { assert!(OFFSET + size_of::<T>() <= N) };
        // SAFETY: the bytes are there, as `Packet::head` checked, and XDP owns the frame.
        unsafe { ((self.start + OFFSET) as *mut T).write_unaligned(value) };
    }
}

/// An offset below 16,384, only for the verifier: no caller asks for a larger one. The compiler knows that, too, and
/// would leave out a mask written in Rust. But between the place where the compiler knows it and the place where the
/// packet is read, the compiler may keep the offset on the stack, and kernels before 6.12 forget the bounds of values on
/// the stack.
#[inline(always)]
pub(crate) fn mask_offset(offset: usize) -> usize {
    let mut offset = offset;
    // SAFETY: one instruction on one register.
    unsafe { asm!("{0} &= 0x3fff", inout(reg) offset, options(pure, nomem, nostack)) };
    offset
}

/// Moves the frame's start by `delta` bytes; negative = makes room in front. Every [`Packet`] made before is void
/// afterwards, so this returns a new one. `None`: the driver left no room, nothing changed.
#[inline(always)]
pub(crate) fn move_head(ctx: &XdpContext, delta: i32) -> Option<Packet> {
    // SAFETY: `ctx` is the context this program was called with.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, delta) } != 0 {
        return None;
    }
    Some(Packet::of(ctx))
}
