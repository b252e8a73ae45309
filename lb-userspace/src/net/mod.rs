//! What the kernel's routing knows: links, routes and neighbours, turned into next hops. Reads and asks, never
//! configures.

use std::net::IpAddr;

/// A resolved next hop: everything needed to put an encapsulated packet for a backend on the wire. One that is not
/// resolved is no `Hop` but a reason in words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Number of the egress interface, in our network namespace.
    pub interface: u32,
    pub interface_name: String,
    /// The neighbour packets go to: a gateway, or the backend itself.
    pub via: IpAddr,
    /// The neighbour's link-layer address.
    pub mac: [u8; 6],
    /// The egress interface's link-layer address.
    pub local_mac: [u8; 6],
    /// Largest IP packet, in bytes, that the route and the egress interface take.
    pub mtu: u16,
    /// The source address the kernel would choose on this route; of the same family as the backend's address.
    pub source: IpAddr,
}
