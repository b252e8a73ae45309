//! The fast path, for nearly every packet: plain headers, a service that is in the table in front of the index, a stable
//! slot. It changes and counts nothing before it is sure; packets that it does not handle take the slow path, from the
//! beginning.
//!
//! The code reads fields where it needs them, and again after a call: the packet lies in the first-level cache, and only
//! four registers survive a call.

use core::{
    hint::assert_unchecked,
    marker::PhantomData,
    mem::offset_of,
    ptr::{addr_of, read_volatile},
};

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{
    backend::Backend,
    counter::Counter,
    encap::Inner,
    owner,
    service_cache::Entry,
    slot::Slot,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Tcp, protocol},
};

use crate::{
    encap::{self, Payload},
    family::{Family, V4, V6},
    known,
    maps::{BACKENDS, RING, SLOT_OWNERS, SVC_FRONT},
    martian,
    packet::{HeaderView, Packet},
    parse::{Flow, IP, Unread},
    slow_path::{self, Tracked},
    transmit, verdict,
};

mod headers;

use self::headers::{TCP, V4_HEADER};

/// Headers without options, extensions or fragments, and with lengths that agree: from the IP header up to the end of
/// TCP's fixed part. A frame has as many bytes behind UDP's header, too.
pub(crate) trait FastHeaders: Family {
    type Headers: Copy;

    /// What the slow path needs of any packet, or why the packet does not give it.
    fn parse(packet: Packet) -> Result<Flow<Self>, Unread>;
    /// Where a packet goes, whatever else is wrong with it.
    fn destination_of(packet: Packet) -> Option<Self::Address>;

    /// The headers of a plain packet; `None` for any other.
    fn of(packet: Packet) -> Option<Self::Headers>;
    /// The headers of a packet that was found to be plain; `None` only where it is shorter.
    fn again(packet: Packet) -> Option<Self::Headers>;
    /// The first `HEAD` bytes of a plain packet that was encapsulated, and its own headers behind them.
    fn after<const HEAD: usize>(packet: Packet) -> Option<(HeaderView<HEAD>, Self::Headers)>;

    /// Source and destination.
    fn addresses(headers: Self::Headers) -> (Self::Address, Self::Address);
    fn protocol(headers: Self::Headers) -> u8;
    fn ports(headers: Self::Headers) -> u32;
    /// TCP's flags; for another protocol, the byte that lies there.
    fn flags(headers: Self::Headers) -> u8;
    /// TCP's sequence number as it is in the header; for another protocol, the bytes that lie there.
    fn sequence(headers: Self::Headers) -> u32;
    /// The source port modulo 256.
    fn source_port_low(headers: Self::Headers) -> u8;
    /// Whether no client has that source, see [`crate::martian`].
    fn has_martian_source(headers: Self::Headers) -> bool;
    /// Where the source's bit is, see [`lb_common::known`].
    fn source_mark(headers: Self::Headers) -> u32;
    /// The key of the service that the packet goes to; for IPv6, the key without the address.
    fn key(headers: Self::Headers) -> u64;
    /// The place of that service.
    fn place(headers: Self::Headers, key: u64, shift: u32) -> u32;
    /// Whether the entry with the key is the entry of that service.
    fn matches_address(headers: Self::Headers, entry: &Entry) -> bool;
    /// Where the destination's bit is, see [`lb_common::known`].
    fn destination_mark(headers: Self::Headers) -> u32;
    /// DSCP and ECN.
    fn tos(headers: Self::Headers) -> u8;
    /// Bytes from the IP header on.
    fn length(headers: Self::Headers) -> u16;

    /// What the outer header says of the packet.
    #[inline(always)]
    fn inner(headers: Self::Headers) -> Inner {
        Inner::new(Self::length(headers), Self::tos(headers))
    }

    #[inline(always)]
    fn is_syn(headers: Self::Headers) -> bool {
        Self::protocol(headers) == protocol::TCP && Self::flags(headers) & (Tcp::SYN | Tcp::ACK) == Tcp::SYN
    }
}

/// [`lb_common::service_cache::loaded_shift`]. The agent writes it before it loads the program, and the kernel forbids
/// every write from then on.
#[unsafe(no_mangle)]
static FRONT_SHIFT: u32 = 0;

/// The XDP action of a packet that stays on the fast path to the end, or that the slow path takes from its slot on. `None`:
/// the slow path has to read the packet from the beginning.
#[inline(always)]
pub(crate) fn try_fast_path(ctx: &XdpContext) -> Option<u32> {
    let packet = Packet::of(ctx);
    // The shortest packet that is plain; a network card delivers at least 60 bytes.
    let head = packet.head::<{ IP + V4_HEADER + TCP }>()?;
    let ethertype = head.load::<u16, { offset_of!(Ethernet, ethertype) }>();
    if ethertype == ETHERTYPE_IPV4 {
        forward::<V4>(ctx, packet)
    } else if ethertype == ETHERTYPE_IPV6 {
        forward::<V6>(ctx, packet)
    } else {
        None
    }
}

#[inline(always)]
fn forward<F: FastHeaders>(ctx: &XdpContext, packet: Packet) -> Option<u32> {
    let headers = F::of(packet)?;
    let key = F::key(headers);
    // SAFETY: a global variable; volatile, since the compiler would take the value above for the one at run time.
    let shift = unsafe { read_volatile(&raw const FRONT_SHIFT) };
    // SAFETY: no table has a larger shift.
    unsafe { assert_unchecked(shift < u64::BITS) };
    let entry = SVC_FRONT.get(F::place(headers, key, shift))?;
    // SAFETY: a field of a live entry; the agent writes it whole, at any time, hence volatile.
    let cached = unsafe { read_volatile(addr_of!(entry.key)) };
    if cached != key || !F::matches_address(headers, entry) {
        // The slow path finds out whose address it is, where the address may be known. Whatever the entry holds, and
        // even if some service listens on every port: an address that is not known is for sure neither a service's nor
        // the host's. But a miss says nothing, not even whether the tables are in use.
        if cached != Entry::MISS && !known::may_be_known(F::destination_mark(headers)) {
            return Some(verdict::finish(Counter::PassedNotService));
        }
        return None;
    }
    if F::has_martian_source(headers) || F::protocol(headers) == protocol::UDP && may_loop::<F>(headers) {
        return None;
    }
    // SAFETY: as above; read once, for it is an offset and a length that belong together.
    let ring = unsafe { read_volatile(addr_of!(entry.ring)) };
    let seed = &entry.seed;
    let (source, destination) = F::addresses(headers);
    let hash = F::flow_hash(seed, source, destination, F::ports(headers), F::protocol(headers));
    let slot_hash =
        if ring.hashes_sources() { F::source_hash(seed, source, ring.source_bits()) } else { hash };
    let at = ring.slot(slot_hash);
    let chosen = match owner(at)? {
        0 => {
            let word = RING.get_ptr(at)?;
            // SAFETY: the word lies in the arena; the agent writes it whole, at any time, hence volatile.
            let slot = Slot(unsafe { read_volatile(word) });
            let Some(owner) = slot.stable_owner() else {
                let tracked = Tracked { number: entry.number, place: at, slot, hash };
                return Some(slow_path::go_on(ctx, tracked));
            };
            owner
        }
        owner => owner as u32,
    };
    let backend = BACKENDS.get(chosen)?;
    let length = F::length(headers);
    if backend.interface == ctx.ingress_ifindex() as u32 {
        let headers = encapsulate::<F>(ctx, backend, length, hash)?;
        verdict::count(Counter::ForwardedTx);
        verdict::count_traffic(chosen, F::length(headers), || F::is_syn(headers));
        return Some(xdp_action::XDP_TX);
    }
    if backend.interface == 0 {
        return None;
    }
    let headers = encapsulate::<F>(ctx, backend, length, hash)?;
    let Ok((action, counter)) = transmit::redirect(backend) else {
        return Some(verdict::finish(Counter::NoEgress));
    };
    verdict::count(counter);
    verdict::count_traffic(chosen, F::length(headers), || F::is_syn(headers));
    Some(action)
}

/// Whether a datagram may come from a UDP service here: decided by its port, and then by its address.
#[inline(always)]
fn may_loop<F: FastHeaders>(headers: F::Headers) -> bool {
    martian::may_be_served(F::source_port_low(headers).into()) && known::may_be_known(F::source_mark(headers))
}

/// The owner of a slot of the arena, 0 where the packet has to read the slot's word: two bytes, so that the owners of a
/// million slots stay in a cache that their words do not fit into.
#[inline(always)]
fn owner(slot: u32) -> Option<u16> {
    let entry = SLOT_OWNERS.get_ptr(owner::word(slot))?;
    // SAFETY: one of four aligned places in the entry; the agent writes entries whole, at any time, hence volatile.
    Some(unsafe { read_volatile(entry.byte_add(owner::byte(slot)).cast::<u16>()) })
}

/// What the rest of the path needs of a packet that was found to be plain.
#[inline(always)]
pub(crate) fn flow<F: FastHeaders>(packet: Packet) -> Option<Flow<F>> {
    let headers = F::again(packet)?;
    let protocol = F::protocol(headers);
    let (source, destination) = F::addresses(headers);
    Some(Flow {
        source,
        destination,
        ports: F::ports(headers),
        protocol,
        flags: if protocol == protocol::TCP { F::flags(headers) } else { 0 },
        sequence: if protocol == protocol::TCP { u32::from_be(F::sequence(headers)) } else { 0 },
        tos: F::tos(headers),
        length: F::length(headers),
    })
}

/// Puts the outer header in front and returns where the packet's own headers are now. `None` only where the packet is too
/// long, or where there was no room for the outer header: a plain packet with an outer header is always longer than the
/// bytes that are read behind it.
#[inline(always)]
fn encapsulate<F: FastHeaders>(
    ctx: &XdpContext,
    backend: &Backend,
    length: u16,
    hash: u64,
) -> Option<F::Headers> {
    if length > backend.room {
        return None;
    }
    encap::encapsulate(ctx, backend, Plain::<F>(PhantomData), hash)
}

/// A plain packet. Its fields are read again behind the outer header.
struct Plain<F>(PhantomData<F>);

impl<F> Clone for Plain<F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Plain<F> {}

impl<F: FastHeaders> Payload for Plain<F> {
    type Behind = F::Headers;

    const IS_V6: bool = F::IS_V6;

    #[inline(always)]
    fn after<const HEAD: usize>(self, packet: Packet) -> Option<(HeaderView<HEAD>, F::Headers)> {
        F::after(packet)
    }

    #[inline(always)]
    fn inner(self, headers: F::Headers) -> Inner {
        F::inner(headers)
    }

    #[inline(always)]
    fn sum(packet: Packet) -> Option<u64> {
        F::sum(packet)
    }
}
