//! Puts the outer header in front: one helper call makes room, then the Ethernet and the outer IP header are written
//! whole.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    backend::Backend,
    counter::Counter,
    encap::{Inner, OVERHEAD_V4, OVERHEAD_V6, outer_v4, outer_v6},
};

use crate::{
    family::Family,
    maps::INGRESS,
    packet::{HeaderView, move_head},
    parse::{Flow, IP},
};

/// Encapsulates the packet for `backend`; on an error the packet is as it was.
#[inline(always)]
pub(crate) fn encapsulate<F: Family>(
    ctx: &XdpContext,
    backend: &Backend,
    flow: &Flow<F>,
    hash: u64,
) -> Result<(), Counter> {
    let inner = Inner::new(flow.length, flow.tos);
    if backend.outer_is_v6() {
        let head = room(ctx, backend, flow.length, OVERHEAD_V6)?;
        write_v6(head, backend, inner, hash);
    } else {
        let head = room(ctx, backend, flow.length, OVERHEAD_V4)?;
        write_v4(head, backend, inner, hash);
    }
    Ok(())
}

/// Writes the Ethernet and the outer IPv4 header in front of a packet.
#[inline(always)]
pub(crate) fn write_v4(head: HeaderView<{ IP + 20 }>, backend: &Backend, inner: Inner, hash: u64) {
    let (a, b, c) = outer_v4(&backend.outer, backend.source_bits, inner, hash);
    link_layer(head, backend);
    head.store::<u64, IP>(a);
    head.store::<u64, { IP + 8 }>(b);
    head.store::<u32, { IP + 16 }>(c);
}

/// The same with an outer IPv6 header.
#[inline(always)]
pub(crate) fn write_v6(head: HeaderView<{ IP + 40 }>, backend: &Backend, inner: Inner, hash: u64) {
    let (a, b, c, d, e) = outer_v6(&backend.outer, backend.source_bits, inner, hash);
    link_layer(head, backend);
    head.store::<u64, IP>(a);
    head.store::<u64, { IP + 8 }>(b);
    head.store::<u64, { IP + 16 }>(c);
    head.store::<u64, { IP + 24 }>(d);
    head.store::<u64, { IP + 32 }>(e);
}

/// Whether the interface that a packet came in on takes no packet of `length` bytes, so that the frame is several
/// packets merged into one.
#[inline(always)]
pub(crate) fn was_merged(ctx: &XdpContext, length: usize) -> bool {
    // SAFETY: a value of 4 bytes, which the agent replaces whole.
    match unsafe { INGRESS.get(ctx.ingress_ifindex() as u32) } {
        Some(mtu) => length > *mtu as usize,
        None => false,
    }
}

/// The counter of a packet that is too long.
#[inline(always)]
fn too_big(ctx: &XdpContext, length: u16) -> Counter {
    if was_merged(ctx, length as usize) { Counter::Merged } else { Counter::TooBig }
}

/// Makes room for `overhead` bytes in front and returns the frame's new head.
#[inline(always)]
fn room<const HEAD: usize>(
    ctx: &XdpContext,
    backend: &Backend,
    length: u16,
    overhead: u16,
) -> Result<HeaderView<HEAD>, Counter> {
    if length as u32 + overhead as u32 > backend.mtu as u32 {
        return Err(too_big(ctx, length));
    }
    let packet = move_head(ctx, -(overhead as i32)).ok_or(Counter::NoHeadroom)?;
    packet.head().ok_or(Counter::NoHeadroom)
}

/// Writes the Ethernet header.
#[inline(always)]
fn link_layer<const HEAD: usize>(head: HeaderView<HEAD>, backend: &Backend) {
    let (first, second) = backend.ethernet_words();
    head.store::<u64, 0>(first);
    head.store::<u64, 6>(second);
}
