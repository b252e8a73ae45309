//! The end of the slow path: a packet that has its backend gets its outer header and leaves.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{backend::Backend, counter::Counter, encap::Inner};

use crate::{
    encap::{self, Payload},
    family::{Family, V4, V6},
    maps::BACKENDS,
    packet::{HeaderView, Packet},
    too_big, transmit, verdict,
};

/// What is known of a packet, as one word.
#[derive(Clone, Copy)]
pub(crate) struct Facts(u64);

impl Facts {
    const TOS: u32 = 16;
    const IS_V6: u64 = 1 << 24;
    const IS_SYN: u64 = 1 << 25;
    const IS_ERROR: u64 = 1 << 26;
    const IS_GUESS: u64 = 1 << 27;
    const BACKEND: u32 = 32;

    /// A packet of `length` bytes from its IP header on, on its way to a backend (0 = none).
    #[inline(always)]
    pub(crate) fn of<F: Family>(backend: u32, length: u16, tos: u8) -> Self {
        let family = if F::IS_V6 { Self::IS_V6 } else { 0 };
        Self((backend as u64) << Self::BACKEND | (tos as u64) << Self::TOS | family | length as u64)
    }

    #[inline(always)]
    pub(crate) fn syn(self, is_syn: bool) -> Self {
        Self(if is_syn { self.0 | Self::IS_SYN } else { self.0 })
    }

    /// An ICMP error. `guess`: no one knows for sure whose flow it is about.
    #[inline(always)]
    pub(crate) fn error(self, guess: bool) -> Self {
        Self(self.0 | Self::IS_ERROR | if guess { Self::IS_GUESS } else { 0 })
    }

    #[inline(always)]
    fn length(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

/// Sends a packet to its backend, and counts it. A function of its own, whose arguments but the context are numbers: the
/// verifier goes through it once, and not once for each way that leads here.
#[inline(always)]
pub(crate) fn send(ctx: &XdpContext, hash: u64, facts: Facts) -> u32 {
    lb_send(ctx.ctx, hash, facts.0)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_send(ctx: *mut xdp_md, hash: u64, facts: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    let facts = Facts(facts);
    let number = (facts.0 >> Facts::BACKEND) as u32;
    match try_send(&ctx, number, hash, facts) {
        Ok((action, counter)) => {
            verdict::count(counter);
            verdict::count_traffic(number, facts.length(), || facts.has(Facts::IS_SYN));
            if facts.has(Facts::IS_ERROR) {
                verdict::count(Counter::IcmpSteered);
                if facts.has(Facts::IS_GUESS) {
                    verdict::count(Counter::IcmpGuessed);
                }
            }
            action
        }
        // An error is not answered by another one (RFC 1122, 3.2.2; RFC 4443, 2.4).
        Err(Counter::TooBig) if !facts.has(Facts::IS_ERROR) => too_big::answer(&ctx, number, facts.length()),
        Err(counter) => verdict::finish(counter),
    }
}

#[inline(always)]
fn try_send(ctx: &XdpContext, number: u32, hash: u64, facts: Facts) -> Result<(u32, Counter), Counter> {
    if number == 0 {
        return Err(Counter::NoBackend);
    }
    let backend = BACKENDS.get(number).ok_or(Counter::NoBackend)?;
    if backend.interface == 0 {
        return Err(Counter::NoNextHop);
    }
    if facts.length() > backend.room {
        return Err(encap::too_big(ctx, facts.length()));
    }
    let encapsulated = if facts.has(Facts::IS_V6) {
        encapsulate::<V6>(ctx, backend, hash, facts)
    } else {
        encapsulate::<V4>(ctx, backend, hash, facts)
    };
    encapsulated.ok_or(Counter::NoHeadroom)?;
    transmit::transmit(ctx, backend)
}

#[inline(always)]
fn encapsulate<F: Family>(ctx: &XdpContext, backend: &Backend, hash: u64, facts: Facts) -> Option<()> {
    let inner = Inner::new(facts.length(), (facts.0 >> Facts::TOS) as u8);
    encap::encapsulate(ctx, backend, Known::<F> { inner, family: core::marker::PhantomData }, hash)
}

/// A packet of which everything that the outer header says is known.
struct Known<F> {
    inner: Inner,
    family: core::marker::PhantomData<F>,
}

impl<F> Clone for Known<F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Known<F> {}

impl<F: Family> Payload for Known<F> {
    type Behind = ();

    const IS_V6: bool = F::IS_V6;

    #[inline(always)]
    fn after<const HEAD: usize>(self, packet: Packet) -> Option<(HeaderView<HEAD>, ())> {
        Some((packet.head()?, ()))
    }

    #[inline(always)]
    fn inner(self, (): ()) -> Inner {
        self.inner
    }

    #[inline(always)]
    fn sum(packet: Packet) -> Option<u64> {
        F::sum(packet)
    }
}
