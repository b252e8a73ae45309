//! Puts the outer header in front: one helper call makes room, then the Ethernet and the outer header are written whole.
//! A kind of encapsulation is one arm of [`encapsulate`], which both paths use.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    backend::Backend,
    counter::Counter,
    encap::{
        Inner, form, gue,
        ip::{OVERHEAD_V4, OVERHEAD_V6, outer_v4, outer_v6},
        ipip,
    },
    wire::{Ipv4, Ipv6, Udp, protocol},
};

use crate::{
    maps::INGRESS,
    packet::{HeaderView, Packet, move_head},
    parse::IP,
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

    /// The sum of the packet's bytes from its IP header on, without reading them; `None` = not known. `packet`: as it came,
    /// without the outer header.
    fn sum(packet: Packet) -> Option<u64>;

    /// Encapsulates in a form that [`by_form`] has no arm for: one with a DSCP of its own.
    #[inline(always)]
    fn by_other_form(self, ctx: &XdpContext, backend: &Backend, hash: u64) -> Option<Self::Behind> {
        let marked = Marked { payload: self, dscp: backend.dscp };
        by_form(ctx, backend, backend.encap & !form::MARKED, marked, hash)
    }
}

/// A packet whose outer header has another DSCP than it has.
#[derive(Clone, Copy)]
struct Marked<P> {
    payload: P,
    dscp: u8,
}

impl<P: Payload> Payload for Marked<P> {
    type Behind = P::Behind;

    const IS_V6: bool = P::IS_V6;

    #[inline(always)]
    fn after<const HEAD: usize>(self, packet: Packet) -> Option<(HeaderView<HEAD>, P::Behind)> {
        self.payload.after(packet)
    }

    #[inline(always)]
    fn inner(self, behind: P::Behind) -> Inner {
        self.payload.inner(behind).with_dscp(self.dscp)
    }

    #[inline(always)]
    fn sum(packet: Packet) -> Option<u64> {
        P::sum(packet)
    }

    /// The agent writes no other form.
    #[inline(always)]
    fn by_other_form(self, _: &XdpContext, _: &Backend, _: u64) -> Option<P::Behind> {
        None
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
    by_form(ctx, backend, backend.encap, payload, hash)
}

/// The same in one of the forms. A DSCP of its own costs the other packets nothing: it is a form that they have not.
#[inline(always)]
fn by_form<P: Payload>(
    ctx: &XdpContext,
    backend: &Backend,
    form: u8,
    payload: P,
    hash: u64,
) -> Option<P::Behind> {
    match form {
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
        form::IPIP_V6 => {
            let (head, behind) = grow::<P, { IP + 40 }>(ctx, payload, OVERHEAD_V6)?;
            let next = ipip::inner_protocol(P::IS_V6);
            write_v6(head, backend, payload.inner(behind), next, 0, hash);
            Some(behind)
        }
        form::GUE_V4 => {
            let (head, behind) = grow::<P, { IP + 28 }>(ctx, payload, OVERHEAD_V4 + gue::UDP)?;
            let inner = payload.inner(behind);
            write_v4(head.subview::<0, { IP + 20 }>(), backend, inner, gue::UDP, hash);
            head.store::<u64, { IP + 20 }>(gue::header(inner, hash, 0));
            Some(behind)
        }
        // A bit, so that the other forms are compared with as few numbers as without it.
        form if form & form::MARKED == 0 => {
            let packet = move_head(ctx, -((OVERHEAD_V6 + gue::UDP) as i32))?;
            let (head, behind) = payload.after::<{ IP + 48 }>(packet)?;
            let inner = payload.inner(behind);
            write_v6(head.subview::<0, { IP + 40 }>(), backend, inner, protocol::UDP, gue::UDP, hash);
            let sum = P::sum(packet.behind::<48>());
            let checksum = gue::checksum_v6(backend.sum, backend.source_bits, inner, hash, sum);
            head.store::<u64, { IP + 40 }>(gue::header(inner, hash, checksum));
            Some(behind)
        }
        _ => payload.by_other_form(ctx, backend, hash),
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

/// See [`Payload::sum`]: of a packet without options.
#[inline(always)]
pub(crate) fn sum_v4(packet: Packet) -> Option<u64> {
    let ip: Ipv4 = packet.read(IP)?;
    let payload = u16::from_be(ip.total_length).wrapping_sub(size_of::<Ipv4>() as u16);
    let inside = gue::Inside { payload, protocol: ip.protocol };
    let is_plain = ip.version_ihl == 0x45 && has_sum(packet, IP + size_of::<Ipv4>(), inside);
    is_plain.then(|| inside.sum_v4(&ip))
}

/// See [`Payload::sum`]: of a packet without extension headers.
#[inline(always)]
pub(crate) fn sum_v6(packet: Packet) -> Option<u64> {
    let ip: Ipv6 = packet.read(IP)?;
    let inside = gue::Inside { payload: u16::from_be(ip.payload_length), protocol: ip.next_header };
    has_sum(packet, IP + size_of::<Ipv6>(), inside).then(|| inside.sum_v6(&ip))
}

/// Whether what is at `offset` sums up to its pseudo header.
#[inline(always)]
fn has_sum(packet: Packet, offset: usize, inside: gue::Inside) -> bool {
    match inside.protocol {
        protocol::TCP => true,
        protocol::UDP => packet.read::<Udp>(offset).is_some_and(|udp| inside.is_whole(&udp)),
        _ => false,
    }
}
