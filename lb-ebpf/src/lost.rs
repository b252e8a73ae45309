//! Frames that `lb_xdp` has sent and the kernel lost: counted at the kernel's tracepoints, by interface and error. The
//! losses of all XDP programs of the host come by there, in every network namespace; only the losses of our programs
//! count.
//!
//! A tracepoint hands over pointers. [`Offsets`] says where the fields lie in the structures; the agent reads that from
//! the kernel's type information (BTF).

use core::{arch::asm, ffi::c_void, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_NOEXIST, xdp_action},
    helpers::bpf_probe_read_kernel,
    programs::RawTracePointContext,
};
use lb_common::loss::{Loss, Offsets};

use crate::maps::{LOSS_PROGRAMS, LOSSES};

type Pointer = *const c_void;

/// With these values nothing is found; the agent writes the real ones before it loads the programs.
#[unsafe(no_mangle)]
static LOSS_OFFSETS: Offsets = Offsets {
    device_number: 0,
    device_namespace: 0,
    device_program: 0,
    device_link: 0,
    link_program: 0,
    program_more: 0,
    more_id: 0,
    namespace_inode: 0,
    our_namespace: 0,
    target_argument: 0,
};

#[inline(always)]
fn offsets() -> Offsets {
    // SAFETY: a global variable; volatile, since the agent has changed it after the compiler saw it.
    unsafe { read_volatile(&raw const LOSS_OFFSETS) }
}

/// `xdp_devmap_xmit(from_dev, to_dev, sent, drops, err)`: the kernel handed a bulk of redirected frames to a device.
#[inline(always)]
pub(crate) fn bundle(ctx: &RawTracePointContext) {
    let dropped = ctx.arg::<i32>(3);
    if dropped <= 0 {
        return;
    }
    let offsets = offsets();
    if is_ours(ctx.arg(0), &offsets) == Some(true)
        && let Some(interface) = number(ctx.arg(1), &offsets)
    {
        count(interface, ctx.arg::<i32>(4).unsigned_abs(), dropped.unsigned_abs());
    }
}

/// `xdp_bulk_tx(dev, sent, drops, err)`: frames that went back out of their own device (`XDP_TX`), where a driver sends
/// them in bulks.
#[inline(always)]
pub(crate) fn back(ctx: &RawTracePointContext) {
    let dropped = ctx.arg::<i32>(2);
    if dropped <= 0 {
        return;
    }
    let offsets = offsets();
    let device: Pointer = ctx.arg(0);
    if is_ours(device, &offsets) == Some(true)
        && let Some(interface) = number(device, &offsets)
    {
        count(interface, ctx.arg::<i32>(3).unsigned_abs(), dropped.unsigned_abs());
    }
}

/// `xdp_redirect_err(dev, xdp, tgt, err, map, index)`, since kernel 5.13 `(dev, xdp, tgt, err, map_type, map_id, index)`. The
/// index in our map is the interface's number. (`xdp_redirect_map_err` has not been used since kernel 5.6.)
#[inline(always)]
pub(crate) fn redirect(ctx: &RawTracePointContext) {
    let offsets = offsets();
    if counts(ctx.arg(1), &offsets) == Some(true) {
        count(target(ctx, &offsets), ctx.arg::<i32>(3).unsigned_abs(), 1);
    }
}

/// The interface that a redirect was meant for. In Rust, the compiler would choose the argument's address first and read
/// once, which the verifier refuses; and the kernel does not attach a program that could read the seventh argument to a
/// tracepoint with six.
#[inline(always)]
fn target(ctx: &RawTracePointContext, offsets: &Offsets) -> u32 {
    let arguments = ctx.as_ptr();
    let target: u64;
    // SAFETY: the context is an array of the arguments, 8 bytes each; the agent has found out how many there are.
    unsafe {
        if offsets.target_argument == 6 {
            asm!("{target} = *(u64 *)({arguments} + 48)", arguments = in(reg) arguments, target = out(reg) target);
        } else {
            asm!("{target} = *(u64 *)({arguments} + 40)", arguments = in(reg) arguments, target = out(reg) target);
        }
    }
    target as u32
}

/// `xdp_exception(dev, xdp, act)`: what a driver, or the generic path on behalf of either action, could not send. A
/// refused redirect comes here, too, after [`redirect`] counted it.
#[inline(always)]
pub(crate) fn exception(ctx: &RawTracePointContext) {
    let offsets = offsets();
    if ctx.arg::<u32>(2) == xdp_action::XDP_TX
        && counts(ctx.arg(1), &offsets) == Some(true)
        && let Some(interface) = number(ctx.arg(0), &offsets)
    {
        count(interface, Loss::NOT_SENT, 1);
    }
}

/// Whether the losses of a program count.
#[inline(always)]
fn counts(program: Pointer, offsets: &Offsets) -> Option<bool> {
    let more: Pointer = field(program, offsets.program_more)?;
    let id: u32 = field(more, offsets.more_id)?;
    Some(LOSS_PROGRAMS.get_ptr(id).is_some())
}

/// Whether a program of ours sent the frames that came in over this device: the program in its driver. A port of a bond
/// has no program, since the program is on the bond; its frames count in our network namespace.
#[inline(always)]
fn is_ours(device: Pointer, offsets: &Offsets) -> Option<bool> {
    let link: Pointer = field(device, offsets.device_link)?;
    if !link.is_null() {
        return counts(field(link, offsets.link_program)?, offsets);
    }
    let program: Pointer = field(device, offsets.device_program)?;
    if !program.is_null() {
        return counts(program, offsets);
    }
    let namespace: Pointer = field(device, offsets.device_namespace)?;
    let inode: u32 = field(namespace, offsets.namespace_inode)?;
    Some(inode == offsets.our_namespace)
}

#[inline(always)]
fn number(device: Pointer, offsets: &Offsets) -> Option<u32> {
    field(device, offsets.device_number)
}

/// A field of a structure of the kernel.
#[inline(always)]
fn field<T>(of: Pointer, offset: u32) -> Option<T> {
    if of.is_null() {
        return None;
    }
    // SAFETY: the helper reads for us, and fails where it cannot read.
    unsafe { bpf_probe_read_kernel(of.byte_add(offset as usize).cast::<T>()) }.ok()
}

#[inline(always)]
fn count(interface: u32, error: u32, frames: u32) {
    let key = Loss { interface, error };
    if LOSSES.get_ptr(key).is_none() {
        // Another CPU may have been first, or the map is full: the look-up below shows it.
        let _ = LOSSES.insert(key, 0, u64::from(BPF_NOEXIST));
    }
    if let Some(total) = LOSSES.get_ptr_mut(key) {
        let frames = u64::from(frames);
        // As for `LIVE`: an atomic addition that returns nothing.
        // SAFETY: a word of the map, aligned, which packets change atomically.
        unsafe {
            asm!("lock *(u64 *)({total} + 0) += {frames}", total = in(reg) total, frames = in(reg) frames);
        }
    }
}
