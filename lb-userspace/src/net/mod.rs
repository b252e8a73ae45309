//! What the kernel's routing knows: links, routes and neighbours, turned into next hops. Reads and asks, never
//! configures.
//!
//! `netlink` (sockets) and `message` (bytes) speak with the kernel, `tables` keeps what it said, `resolve` makes a
//! next hop of it, `fib` what the forwarding tables say without what was learned, `state` decides what to tell and to ask, `watcher` is the task that drives them. `link` asks about
//! one interface without any of that, `own` about one address of this host, `offload` what an interface merges; `device` asks what an interface is, and `ability` says what XDP
//! can do with it.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

pub mod ability;
pub mod device;
mod fib;
pub mod link;
mod message;
mod netlink;
pub mod offload;
pub mod own;
mod resolve;
mod services;
pub mod source;
mod state;
mod tables;
mod watcher;

pub use watcher::{Handle, Watcher};

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

/// What was known of the way to an address before anything was asked: from an agent before us, whose records packets follow.
/// It stays as long as the neighbour says nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    pub interface: u32,
    pub mac: [u8; 6],
    /// The interface's own address: another one makes it another interface.
    pub local_mac: [u8; 6],
}

/// By backend address.
pub type Seeds = HashMap<IpAddr, Seed>;

/// The next hops of all tracked addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    /// By backend address: the next hop, or why there is none. An address that has just begun to be tracked is absent
    /// until its neighbour has answered or had 300 ms to do so.
    pub hops: HashMap<IpAddr, Result<Hop, String>>,
    /// What is wrong with addresses that have a hop, for example that their neighbour does not answer any more and the
    /// hop is what was last known.
    pub notes: HashMap<IpAddr, String>,
}

/// What the [`Watcher`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// Some next hop, reason or note changed. Always all of them, changes of a moment in one.
    Hops(Hops),
    /// An interface to attach to came, went or changed.
    Link {
        name: String,
        /// `None` = there is no interface of that name. One that was replaced by another of the same name and number
        /// is reported as gone first: what was attached to it is gone.
        index: Option<u32>,
        /// `None` = it has no Ethernet header.
        mac: Option<[u8; 6]>,
        /// Wanted up, and has a carrier.
        up: bool,
        /// Largest IP packet, in bytes.
        mtu: u32,
        /// What packets come up to it from, itself first.
        below: Vec<Lower>,
    },
    /// All addresses of this host that others may send packets to.
    Addresses(BTreeSet<IpAddr>),
    /// The addresses of services to which this host has a route that leads on, all of them: if it forwards packets, those
    /// that no service takes leave again.
    Forwarded(BTreeSet<IpAddr>),
}

/// A device that packets come through on their way to an interface of ours, or that interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lower {
    pub name: String,
    /// Of a virtual device, for example `bridge`; empty = hardware, or one of the few that do not say.
    pub kind: String,
    /// Of a veth the other end's name; `Some(None)` = that is in another network namespace.
    pub far_end: Option<Option<String>>,
}
