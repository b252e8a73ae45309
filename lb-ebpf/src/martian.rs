//! Sources that no client has: those of `lb_common::martian`, and the address and port of a UDP service here: a single
//! datagram from there to another such service would go round for ever.

use core::ptr::{addr_of, read_volatile};

pub(crate) use lb_common::martian::{v4, v6};
use lb_common::{
    map::Node,
    wire::{protocol, source_port},
};

use crate::{family::Family, maps::NODE, parse::Flow, service};

/// Whether some UDP service may listen on a port with these lower bits.
#[inline(always)]
pub(crate) fn may_be_served(port: u16) -> bool {
    let Some(node) = NODE.get_ptr(0) else { return false };
    // SAFETY: a word of the record; the agent writes it whole, at any time, hence volatile.
    unsafe { read_volatile(addr_of!((*node).udp_ports)) & Node::port_bit(port) != 0 }
}

/// Whether a datagram comes from the address and port of a UDP service here.
#[inline(always)]
pub(crate) fn is_served<F: Family>(node: &Node, flow: &Flow<F>) -> bool {
    let port = source_port(flow.ports);
    flow.protocol == protocol::UDP
        && may_be_served(port)
        && service::at::<F>(node, flow.source, port, protocol::UDP).is_some()
}
