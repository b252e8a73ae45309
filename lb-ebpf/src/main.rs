//! The programs. `lb_xdp` tries `fast_path`, which nearly every packet takes to the end. All others take `slow_path`, and
//! control messages `icmp`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the xdp attribute hands its function the context by value"
)]

mod arithmetic;
mod balance;
mod decap;
mod encap;
mod family;
mod fast_path;
mod flow;
mod icmp;
mod known;
mod log;
mod lost;
mod maps;
mod martian;
mod packet;
mod parse;
mod send;
mod service;
mod slot;
mod slow_path;
mod too_big;
mod transmit;
mod verdict;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_jiffies64,
    macros::{raw_tracepoint, xdp},
    programs::{RawTracePointContext, XdpContext},
};

/// The balancer: packets for services leave encapsulated towards their backend, all others pass.
#[xdp]
#[inline(always)]
fn lb_xdp(ctx: XdpContext) -> u32 {
    match fast_path::try_fast_path(&ctx) {
        Some(action) => action,
        None => match slow_path::begin(&ctx) {
            slow_path::CONTROL => icmp::take(&ctx),
            action => action,
        },
    }
}

/// Takes outer headers off on a backend, see [`decap`].
#[xdp]
#[inline(always)]
fn lb_decap(ctx: XdpContext) -> u32 {
    match decap::try_decap(&ctx) {
        Ok(action) => action,
        Err(counter) => verdict::finish(counter),
    }
}

/// Writes the kernel's jiffies into `CLOCK`. The agent runs this program by BPF_PROG_TEST_RUN, to read the clock whose
/// values are in flow records; the program is not attached anywhere.
#[xdp]
#[inline(always)]
fn lb_clock(_ctx: XdpContext) -> u32 {
    if let Some(clock) = maps::CLOCK.get_ptr_mut(0) {
        // SAFETY: a value of the map, one aligned word.
        unsafe { *clock = bpf_jiffies64() };
    }
    xdp_action::XDP_PASS
}

/// Passes everything. One end of a veth pair takes frames from the XDP_TX of its peer only while it has an XDP program.
#[xdp]
#[inline(always)]
fn lb_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Counts frames that the target device of a redirect did not take, see [`lost`].
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
fn lb_lost_bundle(ctx: RawTracePointContext) -> i32 {
    lost::bundle(&ctx);
    0
}

/// Counts redirects that the kernel refused, with a map or without one.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
fn lb_lost_refused(ctx: RawTracePointContext) -> i32 {
    lost::redirect(&ctx);
    0
}

/// Counts frames that a driver, or the generic path, failed to send.
#[raw_tracepoint(tracepoint = "xdp_exception")]
fn lb_lost_driver(ctx: RawTracePointContext) -> i32 {
    lost::exception(&ctx);
    0
}

/// Counts frames that were sent back in bulks and that the device did not take.
#[raw_tracepoint(tracepoint = "xdp_bulk_tx")]
fn lb_lost_back(ctx: RawTracePointContext) -> i32 {
    lost::back(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call some helpers; this object is under both licenses.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
