//! Backends as packets see them: one cache line that carries everything needed to send a packet there.

use crate::{encap, pod};

/// A backend. Backend number 0 means "none" and its record stays empty.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    /// Egress interface; 0 = the next hop is not known, packets are dropped as `no_next_hop`.
    pub interface: u32,
    /// [`Backend::ALIVE`] and friends.
    pub flags: u8,
    /// Low bits of the outer source address that the flow hash fills in: 0–32.
    pub source_bits: u8,
    /// Largest packet that the way there takes with the outer header in front, in bytes from the packet's own IP header on.
    pub room: u16,
    /// Its weight, for services that balance by the number of live flows; 0 where no service asks. Since version 2.
    pub weight: u16,
    /// The Ethernet header to write: next hop's address, our address, ethertype of what follows.
    pub ethernet: [u8; 14],
    /// How packets are encapsulated: one of [`encap::form`].
    pub encap: u8,
    /// The DSCP of the outer header where [`encap::form::MARKED`] is set, 0–63.
    pub dscp: u8,
    /// A folded sum of the outer header's words, see [`encap::Outer`].
    pub sum: u16,
    /// 0; room for later versions.
    pub spare: u32,
    /// The outer header to write, as the kind of encapsulation wants it.
    pub outer: encap::Template,
}

impl Backend {
    /// Established flows may go on here: up, draining, or down under `on_down = "hold"`.
    pub const ALIVE: u8 = 1;
    /// The backend is leaving: it takes no new flows, and its flows stay.
    pub const DRAINING: u8 = 1 << 1;
    /// Its health check fails. When a service that balances by live flows compares two candidates, the failing one is
    /// the worse one, even while it is in the ring because the service ignores health. Not set for other services. Since
    /// version 3.
    pub const FAILING: u8 = 1 << 3;

    /// The Ethernet header as two words to be stored, bytes 0–7 and 6–13.
    #[inline(always)]
    pub const fn ethernet_words(&self) -> (u64, u64) {
        let ethernet = (&raw const self.ethernet).cast::<u8>();
        // SAFETY: bytes 0–7 and 6–13 of an array of 14. Whole loads, since the compiler would split the array into
        // single bytes.
        unsafe { (ethernet.cast::<u64>().read_unaligned(), ethernet.add(6).cast::<u64>().read_unaligned()) }
    }

    /// The same with this DSCP in the outer header, where it has one, instead of the packet's.
    pub const fn marked(self, dscp: u8) -> Self {
        Self { encap: self.encap | encap::form::MARKED, dscp, ..self }
    }

    #[inline(always)]
    pub const fn is_alive(&self) -> bool {
        self.flags & Self::ALIVE != 0
    }

    #[inline(always)]
    pub const fn is_draining(&self) -> bool {
        self.flags & Self::DRAINING != 0
    }

    #[inline(always)]
    pub const fn is_failing(&self) -> bool {
        self.flags & Self::FAILING != 0
    }

    /// New flows should go elsewhere, see [`crate::balance::Load::full`].
    #[inline(always)]
    pub const fn is_full(&self) -> bool {
        self.flags & (Self::ALIVE | Self::DRAINING | Self::FAILING) != Self::ALIVE
    }
}

pod!(Backend);

const _: () = {
    assert!(size_of::<Backend>() == 64);
    assert!(core::mem::offset_of!(Backend, ethernet) == 10);
    assert!(core::mem::offset_of!(Backend, outer) == 32);
};
