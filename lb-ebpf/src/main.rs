//! The XDP programs. `lb_xdp` walks straight down:
//! `parse → service → slot → (flow, only in tracked slots) → encap → transmit`, a file each; every step's failure is
//! a counter of `lb_common::counter`, and `verdict` turns it into an action.
#![no_std]
#![no_main]

mod decap;
mod encap;
mod flow;
mod maps;
mod packet;
mod parse;
mod service;
mod slot;
mod transmit;
mod verdict;

use aya_ebpf::{bindings::xdp_action, helpers::bpf_jiffies64, macros::xdp, programs::XdpContext};
use aya_log_ebpf::debug;
use lb_common::{
    counter::{Counter, Kind},
    hash, is_v4, wire,
};

use crate::{packet::Packet, parse::Flow};

/// The balancer: packets for services leave encapsulated towards their backend, all others pass.
#[xdp]
fn lb_xdp(ctx: XdpContext) -> u32 {
    match try_lb_xdp(&ctx) {
        Ok(action) => action,
        Err(counter) => {
            debug!(&ctx, "counter {}", counter as u32);
            verdict::conclude(counter)
        }
    }
}

#[inline(always)]
fn try_lb_xdp(ctx: &XdpContext) -> Result<u32, Counter> {
    let node = maps::NODE.get(0).ok_or(Counter::PassedNotReady)?;
    if node.abi_version != lb_common::ABI_VERSION {
        return Err(Counter::PassedNotReady);
    }
    let flow = match parse::parse(Packet::of(ctx)) {
        Ok(flow) => flow,
        Err(counter) if counter.kind() == Kind::Dropped => {
            let ours = parse::destination(Packet::of(ctx)).is_some_and(|to| service::is_ours(node, &to));
            return Err(if ours { counter } else { Counter::PassedNotService });
        }
        Err(counter) => return Err(counter),
    };
    let (number, service) = service::find(node, &flow).ok_or(Counter::PassedNotService)?;
    let hash = if flow.is_v6 {
        hash::flow_v6(&node.seed, &flow.source, &flow.destination, flow.ports, flow.protocol)
    } else {
        hash::flow_v4(&node.seed, flow.source[3], flow.destination[3], flow.ports, flow.protocol)
    };
    let slot = slot::of(service, hash).ok_or(Counter::NoBackend)?;
    let chosen =
        if slot.is_tracked() { flow::backend(service, number, slot, hash, &flow) } else { slot.current() };
    if chosen == 0 {
        return Err(Counter::NoBackend);
    }
    let backend = maps::BACKENDS.get(chosen).ok_or(Counter::NoBackend)?;
    if backend.interface == 0 {
        return Err(Counter::NoNextHop);
    }
    log(ctx, &flow, number, chosen);
    encap::encapsulate(ctx, backend, &flow, hash)?;
    let (action, counter) = transmit::transmit(ctx, backend)?;
    verdict::count(counter);
    verdict::tally(number, chosen, &flow);
    Ok(action)
}

/// One line a packet, for developers; the verifier deletes it unless the agent asked for `--bpf-log debug`.
#[inline(always)]
fn log(ctx: &XdpContext, flow: &Flow, service: u32, backend: u32) {
    let (from, to) = (wire::source_port(flow.ports), wire::destination_port(flow.ports));
    if is_v4(&flow.destination) {
        let (source, destination) = (u32::from_be(flow.source[3]), u32::from_be(flow.destination[3]));
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
fn lb_decap(ctx: XdpContext) -> u32 {
    match decap::try_decap(&ctx) {
        Ok(action) => action,
        Err(counter) => verdict::conclude(counter),
    }
}

/// Writes the kernel's jiffies into `CLOCK`. The agent runs it by BPF_PROG_TEST_RUN, to read the clock that flow
/// records are stamped with; it is attached nowhere.
#[xdp]
fn lb_clock(_ctx: XdpContext) -> u32 {
    if let Some(clock) = maps::CLOCK.get_ptr_mut(0) {
        // SAFETY: a value of the map, one aligned word.
        unsafe { *clock = bpf_jiffies64() };
    }
    xdp_action::XDP_PASS
}

/// Passes everything. A veth end takes frames from its peer's XDP_TX only while it has an XDP program.
#[xdp]
fn lb_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call some helpers; ours is under both.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
