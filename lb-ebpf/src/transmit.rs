//! Sends an encapsulated packet on: out of the interface it came in on, or through the device map.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{backend::Backend, counter::Counter};

use crate::maps::EGRESS;

/// The action, and the counter of the packet.
#[inline(always)]
pub(crate) fn transmit(ctx: &XdpContext, backend: &Backend) -> Result<(u32, Counter), Counter> {
    if backend.interface == ctx.ingress_ifindex() as u32 {
        return Ok((xdp_action::XDP_TX, Counter::ForwardedTx));
    }
    redirect(backend)
}

/// Sends it through the device map, whatever interface it came in on.
#[inline(always)]
pub(crate) fn redirect(backend: &Backend) -> Result<(u32, Counter), Counter> {
    match EGRESS.redirect(backend.interface, 0) {
        Ok(action) => Ok((action, Counter::ForwardedRedirect)),
        Err(_) => Err(Counter::NoEgress),
    }
}
