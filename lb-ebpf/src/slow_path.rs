//! The slow path, for all packets that the fast path leaves: `parse → service → slot → (flow, balance, only in tracked slots)
//! → send`, one file for each step. It is a function of its own, so that the compiler has nothing to save for it on the
//! fast path, which nearly every packet takes. Every failure of a step is a counter of `lb_common::counter`, and `verdict`
//! turns the counter into an action.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    counter::{Counter, Kind},
    map::Node,
    slot::Slot,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet},
};

use crate::{
    encap,
    family::{Family, V4, V6},
    fast_path::{self, FastHeaders},
    flow,
    known::{self, AddressOwner},
    log, maps, martian,
    packet::Packet,
    parse::{IP, Unread},
    send::{self, Facts},
    service,
    slot::{self, SlotKey, SlotLookup},
    verdict,
};

/// In place of an action: the packet is a control message, see [`crate::icmp`].
pub(crate) const CONTROL: u32 = u32::MAX;

/// What is known of a packet that came to a tracked slot.
#[derive(Clone, Copy)]
pub(crate) struct Tracked {
    /// The number of its service.
    pub(crate) number: u32,
    /// The slot's number, counted from the start of the arena.
    pub(crate) place: u32,
    pub(crate) slot: Slot,
    /// The hash of the whole flow.
    pub(crate) hash: u64,
}

/// Takes a packet of which nothing is known to the end; or returns [`CONTROL`].
#[inline(always)]
pub(crate) fn begin(ctx: &XdpContext) -> u32 {
    lb_slow_path(ctx.ctx, 0, 0, 0)
}

/// Takes a packet to the end that came to a tracked slot.
#[inline(always)]
pub(crate) fn go_on(ctx: &XdpContext, tracked: Tracked) -> u32 {
    let Tracked { number, place, slot, hash } = tracked;
    lb_slow_path(ctx.ctx, slot.0, (place as u64) << 32 | number as u64, hash)
}

/// `slot`: 0 = nothing is known; no tracked slot is 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_slow_path(ctx: *mut xdp_md, slot: u64, place_number: u64, hash: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    let tracked = (slot != 0).then_some(Tracked {
        number: place_number as u32,
        place: (place_number >> 32) as u32,
        slot: Slot(slot),
        hash,
    });
    match try_slow_path(&ctx, tracked) {
        Ok(action) => action,
        Err(Left::Control) => CONTROL,
        Err(Left::Counted(counter)) => {
            log::counter(&ctx, counter);
            verdict::finish(counter)
        }
    }
}

/// How a packet leaves the slow path before it has a slot.
enum Left {
    Counted(Counter),
    /// A control message, see [`icmp`].
    Control,
}

impl From<Counter> for Left {
    #[inline(always)]
    fn from(counter: Counter) -> Self {
        Self::Counted(counter)
    }
}

#[inline(always)]
fn try_slow_path(ctx: &XdpContext, tracked: Option<Tracked>) -> Result<u32, Left> {
    let node = maps::NODE.get(0).ok_or(Counter::PassedNotReady)?;
    if node.abi_version != lb_common::ABI_VERSION {
        return Err(Counter::PassedNotReady.into());
    }
    let packet = Packet::of(ctx);
    // The type alone: to read the header whole makes the compiler load across two fields.
    let ethertype: u16 = packet.read(offset_of!(Ethernet, ethertype)).ok_or(Counter::PassedNotIp)?;
    if ethertype == ETHERTYPE_IPV4 {
        forward(ctx, node, &resume_or_lookup::<V4>(ctx, node, packet, tracked)?)
    } else if ethertype == ETHERTYPE_IPV6 {
        forward(ctx, node, &resume_or_lookup::<V6>(ctx, node, packet, tracked)?)
    } else {
        Err(Counter::PassedNotIp.into())
    }
}

#[inline(always)]
fn resume_or_lookup<F: FastHeaders>(
    ctx: &XdpContext,
    node: &Node,
    packet: Packet,
    tracked: Option<Tracked>,
) -> Result<SlotLookup<F>, Left> {
    let Some(Tracked { number, place, slot, hash }) = tracked else { return lookup(ctx, node, packet) };
    let flow = fast_path::flow(packet).ok_or(Counter::PassedMalformed)?;
    Ok(SlotLookup { flow, number, place, slot, hash })
}

/// Reads a packet of which nothing is known, and finds its slot.
#[inline(always)]
fn lookup<F: FastHeaders>(ctx: &XdpContext, node: &Node, packet: Packet) -> Result<SlotLookup<F>, Left> {
    let flow = F::parse(packet).map_err(|unread| left_of_unread::<F>(ctx, node, packet, unread))?;
    let Some((number, service)) = service::find(node, &flow) else {
        return Err(known::not_service(node, known::owner_of::<F>(node, flow.destination)).into());
    };
    if F::is_martian(flow.source, flow.destination) || martian::is_served(node, &flow) {
        return Err(Counter::MartianSource.into());
    }
    let hash = F::flow_hash(&node.seed, flow.source, flow.destination, flow.ports, flow.protocol);
    let slot_key = SlotKey::<F> { seed: &node.seed, source: flow.source, hash };
    let (place, slot) = slot::of(service, slot_key).ok_or(Counter::NoBackend)?;
    Ok(SlotLookup { flow, number, place, slot, hash })
}

/// What becomes of a packet that cannot be read: a drop only if the packet came to an address of a service.
#[inline(always)]
fn left_of_unread<F: FastHeaders>(ctx: &XdpContext, node: &Node, packet: Packet, unread: Unread) -> Left {
    let (counter, to) = match (unread, F::destination_of(packet)) {
        (Unread::Control, _) => return Left::Control,
        (Unread::Passed(counter), _) => return counter.into(),
        (Unread::For(_), None) => return Counter::PassedMalformed.into(),
        (Unread::For(counter), Some(to)) => (counter, to),
    };
    let owner = known::owner_of::<F>(node, to);
    // A service takes no packet of another protocol. Counters that drop keep their own name for a service's address;
    // packets that pass count there as not served.
    if (counter.kind() == Kind::Dropped) == (owner == AddressOwner::Service) {
        // More than 64 KB merged into one packet: the length field contradicts the frame, but nothing is wrong with the
        // packet.
        let is_length = matches!(counter, Counter::BadLength | Counter::Truncated);
        if is_length && F::is_without_length(packet) && encap::was_merged(ctx, packet.length() - IP) {
            return Counter::Merged.into();
        }
        return counter.into();
    }
    known::not_service(node, owner).into()
}

#[inline(always)]
fn forward<F: Family>(ctx: &XdpContext, node: &Node, lookup: &SlotLookup<F>) -> Result<u32, Left> {
    let SlotLookup { flow, number, slot, hash, .. } = lookup;
    let chosen = if slot.is_tracked() {
        let slot_key = SlotKey::<F> { seed: &node.seed, source: flow.source, hash: *hash };
        let service = maps::SERVICES.get(*number).ok_or(Counter::PassedNotService)?;
        flow::select_backend(service, lookup, slot_key)
    } else {
        slot.current()
    };
    log::backend(ctx, flow, *number, chosen);
    let facts = Facts::of::<F>(chosen, flow.length, flow.tos).syn(flow.is_syn());
    Ok(send::send(ctx, *hash, facts))
}
