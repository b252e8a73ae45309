//! Keys and records of the two flow tables: confirmed flows and unconfirmed ones (only a SYN seen).

use crate::{Address, pod};

/// A flow within its service. The service stands for the virtual address and the protocol; the destination
/// port is part of `ports` because a service may listen on every port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Key {
    /// The client, IPv4 mapped.
    pub source: Address,
    /// Both ports as they stand in the header.
    pub ports: u32,
    /// Service number.
    pub service: u32,
}

/// What is known of a flow: 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Backend number, never 0.
    pub backend: u32,
    /// [`Record::CLOSING`] or 0.
    pub flags: u32,
    /// When it was last seen: the kernel's 64-bit jiffies, refreshed at most once in
    /// [`Record::REFRESH`] jiffies.
    pub last_seen: u64,
}

impl Record {
    /// A FIN or RST of the client was seen.
    pub const CLOSING: u32 = 1;
    /// Jiffies that may pass before `last_seen` is written again: keeps a busy flow's cache line clean.
    pub const REFRESH: u64 = 64;
}

pod!(Key, Record);

const _: () = {
    assert!(size_of::<Key>() == 24);
    assert!(size_of::<Record>() == 16);
};
