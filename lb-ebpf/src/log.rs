//! Lines for developers, one for each packet on the slow path: only where the agent asked for `--bpf-log debug`, otherwise
//! the verifier deletes them.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
};
use lb_common::{
    counter::Counter,
    wire::{self, ETHERTYPE_IPV4, Ethernet, Ipv4},
};

use crate::{
    family::Family,
    packet::Packet,
    parse::{Flow, IP},
};

/// The backend that a packet goes to.
#[inline(always)]
pub(crate) fn backend<F: Family>(ctx: &XdpContext, flow: &Flow<F>, service: u32, backend: u32) {
    if !level_enabled(Level::Debug) {
        return;
    }
    lb_log(ctx.ctx, (service as u64) << 32 | backend as u64, flow.ports as u64);
}

/// The counter of a packet that leaves before it has a backend.
#[inline(always)]
pub(crate) fn counter(ctx: &XdpContext, counter: Counter) {
    debug!(ctx, "counter {}", counter as u32);
}

/// A function of its own, which reads the addresses again: whatever is kept for the line takes of the stack that all
/// functions on a packet's way share.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_log(ctx: *mut xdp_md, service_backend: u64, ports: u64) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let (from, to) = (wire::source_port(ports as u32), wire::destination_port(ports as u32));
    let (service, backend) = ((service_backend >> 32) as u32, service_backend as u32);
    let packet = Packet::of(ctx);
    let ethertype: Option<u16> = packet.read(offset_of!(Ethernet, ethertype));
    if ethertype == Some(ETHERTYPE_IPV4)
        && let Some(ip) = packet.read::<Ipv4>(IP)
    {
        let (source, destination) = (u32::from_be(ip.source), u32::from_be(ip.destination));
        debug!(
            ctx,
            "{:i}:{} -> {:i}:{} service {} backend {}", source, from, destination, to, service, backend
        );
    } else {
        debug!(ctx, "IPv6 port {} -> port {} service {} backend {}", from, to, service, backend);
    }
    0
}
