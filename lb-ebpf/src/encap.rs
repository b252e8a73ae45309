//! Puts the outer header in front: room by one helper call, then the Ethernet and outer IP header whole.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    backend::Backend,
    counter::Counter,
    encap::{OVERHEAD_V4, OVERHEAD_V6, outer_v4, outer_v6},
};

use crate::{
    family::Family,
    packet::{Packet, move_head},
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
    if backend.outer_is_v6() {
        let packet = room(ctx, backend, flow.length, OVERHEAD_V6)?;
        let outer = outer_v6(&backend.outer, backend.source_bits, flow.length, flow.tos, hash);
        link_layer(packet, backend).ok_or(Counter::NoHeadroom)?;
        packet.write(IP, outer).ok_or(Counter::NoHeadroom)
    } else {
        let packet = room(ctx, backend, flow.length, OVERHEAD_V4)?;
        let outer = outer_v4(&backend.outer, backend.source_bits, flow.length, flow.tos, hash);
        link_layer(packet, backend).ok_or(Counter::NoHeadroom)?;
        packet.write(IP, outer).ok_or(Counter::NoHeadroom)
    }
}

#[inline(always)]
fn room(ctx: &XdpContext, backend: &Backend, length: u16, overhead: u16) -> Result<Packet, Counter> {
    if length as u32 + overhead as u32 > backend.mtu as u32 {
        return Err(Counter::TooBig);
    }
    move_head(ctx, -(overhead as i32)).ok_or(Counter::NoHeadroom)
}

/// Writes the Ethernet header.
#[inline(always)]
fn link_layer(packet: Packet, backend: &Backend) -> Option<()> {
    let (first, second, third) = backend.ethernet_words();
    packet.write(0, first)?;
    packet.write(8, second)?;
    packet.write(12, third)
}
