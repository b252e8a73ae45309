//! Traffic for the benchmark's throughput: the program that fills live frames of BPF_PROG_TEST_RUN, and the program
//! where they end.
//!
//! The kernel recycles the pages of such frames without cleaning them, so the generator writes the headers each time.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray},
    helpers::{bpf_get_smp_processor_id, bpf_redirect},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::wire::{Ethernet, Ipv4};

use crate::packet::Packet;

/// Words of a frame that are written: Ethernet, IPv4 and TCP header, and a few bytes of payload.
const WORDS: usize = 8;

/// The frame that is sent.
#[repr(C)]
#[derive(Clone, Copy)]
struct Template {
    head: [u64; WORDS],
    /// The interface that it leaves by.
    interface: u32,
    /// Number of flows minus 1, a power of two minus 1.
    mask: u32,
}

/// One [`Template`]: written by the bench before a run.
#[btf_map]
static TEMPLATE: Array<Template, 1> = Array::new();

/// Frames that were sent. Written by `generate`, read by the bench.
#[btf_map]
static SENT: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Frames that arrived, and their bytes. Written by `sink`, read by the bench.
#[btf_map]
static TAKEN: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

/// Sends the template, with the source address of the next flow, out of its interface.
#[xdp]
#[inline(always)]
fn generate(ctx: XdpContext) -> u32 {
    try_generate(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn try_generate(ctx: &XdpContext) -> Option<u32> {
    let template = TEMPLATE.get(0)?;
    let sent = SENT.get_ptr_mut(0)?;
    // SAFETY: this CPU's own copy of the value.
    let n = unsafe {
        *sent += 1;
        *sent
    };
    // Each CPU begins at another flow: with many flows, a flow that is new on one CPU is not yet in use on another.
    // SAFETY: a helper without memory arguments.
    let n = n.wrapping_add((unsafe { bpf_get_smp_processor_id() } as u64) << 20);
    let packet = Packet::of(ctx);
    packet.write(0, template.head)?;
    let source = 0x0a00_0000 | (n as u32).wrapping_mul(0x9e37_79b1) & template.mask;
    packet.write(size_of::<Ethernet>() + core::mem::offset_of!(Ipv4, source), source.to_be())?;
    // SAFETY: a helper without memory arguments.
    Some(unsafe { bpf_redirect(template.interface, 0) } as u32)
}

/// Counts what arrives and drops it.
#[xdp]
#[inline(always)]
fn sink(ctx: XdpContext) -> u32 {
    let Some(taken) = TAKEN.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: this CPU's own copy of the value.
    unsafe {
        (*taken)[0] += 1;
        (*taken)[1] += Packet::of(&ctx).length() as u64;
    }
    xdp_action::XDP_DROP
}
