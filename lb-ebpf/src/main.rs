//! The programs. `lb_xdp` tries `fast_path`, which nearly every packet takes to the end. All others take the slow path,
//! which begins here: `parse → service → slot → (flow, balance, only in tracked slots) → encap → transmit`, one file for
//! each step. Every failure of a step is a counter of `lb_common::counter`, and `verdict` turns the counter into an
//! action.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the xdp attribute hands its function the context by value"
)]

mod arithmetic;
mod balance;
mod decap;
mod encap;
mod family;
mod fast_path;
mod flow;
mod known;
mod lost;
mod maps;
mod martian;
mod packet;
mod parse;
mod service;
mod slot;
mod transmit;
mod verdict;

use core::mem::offset_of;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_jiffies64,
    macros::{raw_tracepoint, xdp},
    programs::{RawTracePointContext, XdpContext},
};
use aya_log_ebpf::debug;
use lb_common::{
    counter::{Counter, Kind},
    is_v4,
    map::Node,
    wire::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet},
};

use crate::{
    family::{Family, V4, V6},
    fast_path::{FastHeaders, Handoff, TRACKED, Tracked},
    known::AddressOwner,
    packet::Packet,
    parse::{Flow, IP, Unread},
    slot::{SlotKey, SlotLookup},
};

/// The balancer: packets for services leave encapsulated towards their backend, all others pass.
#[xdp]
#[inline(always)]
fn lb_xdp(ctx: XdpContext) -> u32 {
    let mut handoff = Handoff::new();
    handoff.keep(&ctx);
    match fast_path::try_fast_path(&ctx, &mut handoff) {
        Some(TRACKED) => {}
        Some(action) => return action,
        // Here and not before: packets on the fast path do not pay for it.
        None => handoff.clear(),
    }
    // The slow path gets nothing but the context and `handoff`, so that the compiler has nothing else to save on the
    // fast path, which nearly every packet takes.
    let ctx = handoff.context();
    match try_slow_path(&ctx, &handoff) {
        Ok(action) => action,
        Err(counter) => {
            debug!(&ctx, "counter {}", counter as u32);
            verdict::finish(counter)
        }
    }
}

/// The slow path, for all packets that the fast path leaves.
#[inline(always)]
fn try_slow_path(ctx: &XdpContext, handoff: &Handoff) -> Result<u32, Counter> {
    let node = maps::NODE.get(0).ok_or(Counter::PassedNotReady)?;
    if node.abi_version != lb_common::ABI_VERSION {
        return Err(Counter::PassedNotReady);
    }
    let packet = Packet::of(ctx);
    // The type alone: to read the header whole makes the compiler load across two fields.
    let ethertype: u16 = packet.read(offset_of!(Ethernet, ethertype)).ok_or(Counter::PassedNotIp)?;
    if ethertype == ETHERTYPE_IPV4 {
        forward(ctx, node, &resume_or_lookup::<V4>(ctx, node, packet, handoff)?)
    } else if ethertype == ETHERTYPE_IPV6 {
        forward(ctx, node, &resume_or_lookup::<V6>(ctx, node, packet, handoff)?)
    } else {
        Err(Counter::PassedNotIp)
    }
}

#[inline(always)]
fn resume_or_lookup<F: FastHeaders>(
    ctx: &XdpContext,
    node: &Node,
    packet: Packet,
    handoff: &Handoff,
) -> Result<SlotLookup<F>, Counter> {
    let Some(Tracked { number, place, slot, hash }) = handoff.get() else { return lookup(ctx, node, packet) };
    let flow = fast_path::flow(packet).ok_or(Counter::PassedMalformed)?;
    Ok(SlotLookup { flow, number, place, slot, hash })
}

/// Reads a packet of which nothing is known, and finds its slot.
#[inline(always)]
fn lookup<F: FastHeaders>(ctx: &XdpContext, node: &Node, packet: Packet) -> Result<SlotLookup<F>, Counter> {
    let flow = F::parse(packet).map_err(|unread| counter_of_unread::<F>(ctx, node, packet, unread))?;
    let Some((number, service)) = service::find(node, &flow) else {
        return Err(known::not_service(node, known::owner_of::<F>(node, flow.destination)));
    };
    if F::is_martian(flow.source, flow.destination) || martian::is_served(node, &flow) {
        return Err(Counter::MartianSource);
    }
    let hash = F::flow_hash(&node.seed, flow.source, flow.destination, flow.ports, flow.protocol);
    let slot_key = SlotKey::<F> { seed: &node.seed, source: flow.source, hash };
    let (place, slot) = slot::of(service, slot_key).ok_or(Counter::NoBackend)?;
    Ok(SlotLookup { flow, number, place, slot, hash })
}

/// The counter of a packet that cannot be read: a drop only if the packet came to an address of a service.
#[inline(always)]
fn counter_of_unread<F: FastHeaders>(
    ctx: &XdpContext,
    node: &Node,
    packet: Packet,
    unread: Unread,
) -> Counter {
    let (counter, to) = match (unread, F::destination_of(packet)) {
        (Unread::Passed(counter), _) => return counter,
        (Unread::For(_), None) => return Counter::PassedMalformed,
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
            return Counter::Merged;
        }
        return counter;
    }
    known::not_service(node, owner)
}

#[inline(always)]
fn forward<F: Family>(ctx: &XdpContext, node: &Node, lookup: &SlotLookup<F>) -> Result<u32, Counter> {
    let SlotLookup { flow, number, slot, hash, .. } = lookup;
    let (number, slot, hash) = (*number, *slot, *hash);
    let chosen = if slot.is_tracked() {
        let slot_key = SlotKey::<F> { seed: &node.seed, source: flow.source, hash };
        let service = maps::SERVICES.get(number).ok_or(Counter::PassedNotService)?;
        flow::select_backend(service, lookup, slot_key)
    } else {
        slot.current()
    };
    if chosen == 0 {
        return Err(Counter::NoBackend);
    }
    let backend = maps::BACKENDS.get(chosen).ok_or(Counter::NoBackend)?;
    if backend.interface == 0 {
        return Err(Counter::NoNextHop);
    }
    log(ctx, flow, number, chosen);
    if flow.length > backend.room {
        return Err(encap::too_big(ctx, flow.length));
    }
    encap::encapsulate(ctx, backend, flow, hash).ok_or(Counter::NoHeadroom)?;
    let (action, counter) = transmit::transmit(ctx, backend)?;
    verdict::count(counter);
    verdict::count_traffic(chosen, flow.length, || flow.is_syn());
    Ok(action)
}

/// One line for each packet, for developers; the verifier deletes it unless the agent asked for `--bpf-log debug`.
#[inline(always)]
fn log<F: Family>(ctx: &XdpContext, flow: &Flow<F>, service: u32, backend: u32) {
    let (from, to) = (wire::source_port(flow.ports), wire::destination_port(flow.ports));
    let (source, destination) = (F::mapped(flow.source), F::mapped(flow.destination));
    if is_v4(&destination) {
        let (source, destination) = (u32::from_be(source[3]), u32::from_be(destination[3]));
        debug!(
            ctx,
            "{:i}:{} -> {:i}:{} service {} backend {}", source, from, destination, to, service, backend
        );
    } else {
        debug!(ctx, "IPv6 port {} -> port {} service {} backend {}", from, to, service, backend);
    }
}

/// Takes outer headers off on a backend, see [`decap`].
#[xdp]
#[inline(always)]
fn lb_decap(ctx: XdpContext) -> u32 {
    match decap::try_decap(&ctx) {
        Ok(action) => action,
        Err(counter) => verdict::finish(counter),
    }
}

/// Writes the kernel's jiffies into `CLOCK`. The agent runs this program by BPF_PROG_TEST_RUN, to read the clock whose
/// values are in flow records; the program is not attached anywhere.
#[xdp]
#[inline(always)]
fn lb_clock(_ctx: XdpContext) -> u32 {
    if let Some(clock) = maps::CLOCK.get_ptr_mut(0) {
        // SAFETY: a value of the map, one aligned word.
        unsafe { *clock = bpf_jiffies64() };
    }
    xdp_action::XDP_PASS
}

/// Passes everything. One end of a veth pair takes frames from the XDP_TX of its peer only while it has an XDP program.
#[xdp]
#[inline(always)]
fn lb_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Counts frames that the target device of a redirect did not take, see [`lost`].
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
fn lb_lost_bundle(ctx: RawTracePointContext) -> i32 {
    lost::bundle(&ctx);
    0
}

/// Counts redirects that the kernel refused, with a map or without one.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
fn lb_lost_refused(ctx: RawTracePointContext) -> i32 {
    lost::redirect(&ctx);
    0
}

/// Counts frames that a driver, or the generic path, failed to send.
#[raw_tracepoint(tracepoint = "xdp_exception")]
fn lb_lost_driver(ctx: RawTracePointContext) -> i32 {
    lost::exception(&ctx);
    0
}

/// Counts frames that were sent back in bulks and that the device did not take.
#[raw_tracepoint(tracepoint = "xdp_bulk_tx")]
fn lb_lost_back(ctx: RawTracePointContext) -> i32 {
    lost::back(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call some helpers; this object is under both licenses.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
