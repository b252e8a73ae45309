//! Puts the outer header in front: one helper call makes room, then the Ethernet and the outer header are written whole.
//! A kind of encapsulation is one arm of [`encapsulate`], which both paths use.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    backend::Backend,
    counter::Counter,
    encap::{
        Inner, form,
        ip::{OVERHEAD_V4, OVERHEAD_V6, outer_v4, outer_v6},
        ipip,
    },
};

use crate::{
    family::Family,
    maps::INGRESS,
    packet::{HeaderView, Packet, move_head},
    parse::{Flow, IP},
};

/// A packet that gets an outer header, as one of the two paths knows it.
pub(crate) trait Payload: Copy {
    /// What the path wants to know of the packet behind the outer header: it may read fields again there.
    type Behind: Copy;

    const IS_V6: bool;

    /// The first `HEAD` bytes of a frame that has got room in front, and what is behind them.
    fn after<const HEAD: usize>(self, packet: Packet) -> Option<(HeaderView<HEAD>, Self::Behind)>;

    /// What the outer header says of the packet.
    fn inner(self, behind: Self::Behind) -> Inner;
}

/// The slow path keeps what it has read.
impl<F: Family> Payload for &Flow<F> {
    type Behind = ();

    const IS_V6: bool = F::IS_V6;

    #[inline(always)]
    fn after<const HEAD: usize>(self, packet: Packet) -> Option<(HeaderView<HEAD>, ())> {
        Some((packet.head()?, ()))
    }

    #[inline(always)]
    fn inner(self, (): ()) -> Inner {
        Inner::new(self.length, self.tos)
    }
}

/// Encapsulates a packet, which is not longer than the backend's `room`, for the backend. `None`: the driver left no room in
/// front of the frame, and the packet is as it was.
#[inline(always)]
pub(crate) fn encapsulate<P: Payload>(
    ctx: &XdpContext,
    backend: &Backend,
    payload: P,
    hash: u64,
) -> Option<P::Behind> {
    // The agent writes no other form.
    match backend.encap {
        form::IPIP_V4 => {
            let (head, behind) = grow::<P, { IP + 20 }>(ctx, payload, OVERHEAD_V4)?;
            write_v4(head, backend, payload.inner(behind), 0, hash);
            Some(behind)
        }
        form::L2 => {
            let (head, behind) = payload.after::<IP>(Packet::of(ctx))?;
            link_layer(head, backend);
            Some(behind)
        }
        _ => {
            let (head, behind) = grow::<P, { IP + 40 }>(ctx, payload, OVERHEAD_V6)?;
            let next = ipip::inner_protocol(P::IS_V6);
            write_v6(head, backend, payload.inner(behind), next, 0, hash);
            Some(behind)
        }
    }
}

/// Makes room for `overhead` bytes in front.
#[inline(always)]
fn grow<P: Payload, const HEAD: usize>(
    ctx: &XdpContext,
    payload: P,
    overhead: u16,
) -> Option<(HeaderView<HEAD>, P::Behind)> {
    payload.after(move_head(ctx, -(overhead as i32))?)
}

/// Writes the Ethernet and the outer IPv4 header; arguments as for [`outer_v4`].
#[inline(always)]
fn write_v4(head: HeaderView<{ IP + 20 }>, backend: &Backend, inner: Inner, more: u16, hash: u64) {
    let (a, b, c) = outer_v4(&backend.outer, backend.source_bits, inner, more, hash);
    link_layer(head, backend);
    head.store::<u64, IP>(a);
    head.store::<u64, { IP + 8 }>(b);
    head.store::<u32, { IP + 16 }>(c);
}

/// The same with an outer IPv6 header; arguments as for [`outer_v6`].
#[inline(always)]
fn write_v6(head: HeaderView<{ IP + 40 }>, backend: &Backend, inner: Inner, next: u8, more: u16, hash: u64) {
    let (a, b, c, d, e) = outer_v6(&backend.outer, backend.source_bits, inner, next, more, hash);
    link_layer(head, backend);
    head.store::<u64, IP>(a);
    head.store::<u64, { IP + 8 }>(b);
    head.store::<u64, { IP + 16 }>(c);
    head.store::<u64, { IP + 24 }>(d);
    head.store::<u64, { IP + 32 }>(e);
}

/// Writes the Ethernet header.
#[inline(always)]
fn link_layer<const HEAD: usize>(head: HeaderView<HEAD>, backend: &Backend) {
    let (first, second) = backend.ethernet_words();
    head.store::<u64, 0>(first);
    head.store::<u64, 6>(second);
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

/// The counter of a packet that is longer than the backend's `room`.
#[inline(always)]
pub(crate) fn too_big(ctx: &XdpContext, length: u16) -> Counter {
    if was_merged(ctx, length as usize) { Counter::Merged } else { Counter::TooBig }
}
