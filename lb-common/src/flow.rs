//! Keys and records of the two flow tables: confirmed flows and unconfirmed ones (only a SYN seen).

use crate::{Address, join, pod};

/// A flow within its service. The service stands for the virtual address and the protocol; the destination
/// port is part of `ports` because a service may listen on every port. Aligned to whole words, as the verifier
/// wants keys on the stack.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Key {
    /// The client, IPv4 mapped.
    pub source: Address,
    /// Both ports as they stand in the header.
    pub ports: u32,
    /// Service number.
    pub service: u32,
}

impl Key {
    /// A key put together from whole 8-byte words: on a stack that takes aligned accesses only (the
    /// verifier's), where the compiler may otherwise join two halves of neighbouring words into one store.
    #[inline(always)]
    pub const fn from_parts(source: &Address, ports: u32, service: u32) -> Self {
        let words = [join(source[0], source[1]), join(source[2], source[3]), join(ports, service)];
        // SAFETY: three words are the 24 bytes of a `Key`, for which every bit pattern is a value.
        unsafe { core::mem::transmute::<[u64; 3], Self>(words) }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_from_parts_is_the_key_of_those_parts() {
        let source = [1, 2, 3, 4];
        assert_eq!(Key::from_parts(&source, 5, 6), Key { source, ports: 5, service: 6 });
    }
}
