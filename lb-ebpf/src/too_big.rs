//! The answer to a packet that is too big for its backend: *packet too big*, in IPv4 *fragmentation needed* (RFC 1191,
//! RFC 8201), from the address of the service to the packet's sender.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_csum_diff, bpf_xdp_adjust_tail},
    },
    programs::XdpContext,
};
use lb_common::{
    checksum,
    counter::Counter,
    icmp::{self, ERROR_TOS, Header, QUOTE_V4, QUOTE_V6, SMALLEST_V6, TOO_BIG_V4, TOO_BIG_V6, TTL},
    map::Node,
    wire::{ETHERTYPE_IPV4, Ethernet, Ipv4, Ipv6, protocol},
};

use crate::{
    maps::{BACKENDS, NEXT_ANSWER, NODE},
    packet::{Packet, move_head},
    parse::{self, IP},
    verdict,
};

/// Bytes in front of the quote.
const HEAD_V4: usize = size_of::<Ipv4>() + size_of::<Header>();
const HEAD_V6: usize = size_of::<Ipv6>() + size_of::<Header>();

/// Answers a packet of `length` bytes, where it may be answered, and counts it.
#[inline(always)]
pub(crate) fn answer(ctx: &XdpContext, backend: u32, length: u16) -> u32 {
    lb_too_big(ctx.ctx, (backend as u64) << 32 | length as u64)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_too_big(ctx: *mut xdp_md, backend_length: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    let (backend, length) = ((backend_length >> 32) as u32, backend_length as u16);
    match try_answer(&ctx, backend, length) {
        Some(()) => {
            verdict::count(Counter::PacketTooBig);
            xdp_action::XDP_TX
        }
        None => verdict::finish(Counter::TooBig),
    }
}

/// `None`: there is no answer, and the packet, which may be changed, is to be dropped.
#[inline(always)]
fn try_answer(ctx: &XdpContext, backend: u32, length: u16) -> Option<()> {
    let room = BACKENDS.get(backend)?.room;
    let packet = Packet::of(ctx);
    let ethernet: Ethernet = packet.read(0)?;
    let is_v4 = ethernet.ethertype == ETHERTYPE_IPV4;
    if is_v4 {
        let flags: u16 = packet.read(IP + offset_of!(Ipv4, flags_offset))?;
        if flags & 0x4000_u16.to_be() == 0 {
            // Routers tell only senders that forbid fragments (RFC 1191, 3).
            verdict::count(Counter::TooBigMayFragment);
            return None;
        }
    }
    // A frame to everybody is not answered (RFC 1122, 3.2.2; RFC 4443, 2.4).
    if NODE.get(0)?.flags & Node::ANSWER_TOO_BIG == 0 || ethernet.destination[0] & 1 != 0 {
        return None;
    }
    if is_v4 {
        if (length as usize) < QUOTE_V4 {
            return None;
        }
        take_turn()?;
        answer_v4(ctx, &ethernet, room)
    } else {
        if room < SMALLEST_V6 || (length as usize) < QUOTE_V6 {
            return None;
        }
        take_turn()?;
        answer_v6(ctx, &ethernet, room)
    }
}

/// Whether this CPU may send one now, see [`icmp::take_turn`].
#[inline(always)]
fn take_turn() -> Option<()> {
    let next = NEXT_ANSWER.get_ptr_mut(0)?;
    // SAFETY: no arguments, no memory. The value is this CPU's own copy.
    unsafe { *next = icmp::take_turn(*next, bpf_ktime_get_ns())? };
    Some(())
}

/// The frame's first bytes become the quote, and `head` bytes of new headers come in front.
#[inline(always)]
fn quote(ctx: &XdpContext, head: usize, quote: usize) -> Option<Packet> {
    let cut = (IP + quote) as i32 - Packet::of(ctx).length() as i32;
    // SAFETY: `ctx` is the context that this program was called with.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, cut) } != 0 {
        return None;
    }
    move_head(ctx, -(head as i32))
}

#[inline(always)]
fn answer_v4(ctx: &XdpContext, ethernet: &Ethernet, room: u16) -> Option<()> {
    const ICMP: usize = IP + size_of::<Ipv4>();
    const QUOTED: usize = IP + HEAD_V4;
    let packet = quote(ctx, HEAD_V4, QUOTE_V4)?;
    let (client, service) = {
        let quoted: Ipv4 = packet.read(QUOTED)?;
        (quoted.source, quoted.destination)
    };
    let (kind, code) = TOO_BIG_V4;
    let header = Header { kind, code, checksum: 0, rest: (room as u32).to_be() };
    let first = sum_of::<QUOTED, 512>(packet, sum_of_header(header))?;
    let sum = sum_of::<{ QUOTED + 512 }, { QUOTE_V4 - 512 }>(packet, first)?;
    const LENGTH: [u8; 2] = ((HEAD_V4 + QUOTE_V4) as u16).to_be_bytes();
    let words = [
        u32::from_ne_bytes([0x45, ERROR_TOS, LENGTH[0], LENGTH[1]]),
        // Identification 0, and fragments are allowed: the message must not be lost for its own size.
        0,
        u32::from_ne_bytes([TTL, protocol::ICMP, 0, 0]),
        service,
        client,
    ];
    let ip = Ipv4 {
        version_ihl: 0x45,
        tos: ERROR_TOS,
        total_length: u16::from_ne_bytes(LENGTH),
        identification: 0,
        flags_offset: 0,
        ttl: TTL,
        protocol: protocol::ICMP,
        checksum: checksum::finish(checksum::sum(&words)),
        source: service,
        destination: client,
    };
    packet.write(0, parse::reversed(ethernet))?;
    packet.write(IP, ip)?;
    packet.write(ICMP, Header { checksum: checksum::finish(sum as u64), ..header })
}

#[inline(always)]
fn answer_v6(ctx: &XdpContext, ethernet: &Ethernet, room: u16) -> Option<()> {
    const ICMP: usize = IP + size_of::<Ipv6>();
    const QUOTED: usize = IP + HEAD_V6;
    const PAYLOAD: u16 = (size_of::<Header>() + QUOTE_V6) as u16;
    let packet = quote(ctx, HEAD_V6, QUOTE_V6)?;
    let (kind, code) = TOO_BIG_V6;
    let header = Header { kind, code, checksum: 0, rest: (room as u32).to_be() };
    // The pseudo header (RFC 8200, 8.1): both addresses, which the quote has one after the other, length and protocol.
    let addresses = sum_of::<{ QUOTED + 8 }, 32>(packet, sum_of_header(header))?;
    let pseudo = addresses + (PAYLOAD.to_be() as u32) + ((protocol::ICMPV6 as u16).to_be() as u32);
    let first = sum_of::<QUOTED, 512>(packet, fold(pseudo as u64))?;
    let second = sum_of::<{ QUOTED + 512 }, 512>(packet, first)?;
    let sum = sum_of::<{ QUOTED + 1024 }, { QUOTE_V6 - 1024 }>(packet, second)?;
    let (source, destination): ([u32; 4], [u32; 4]) = packet.read(QUOTED + 8)?;
    packet.write(0, parse::reversed(ethernet))?;
    packet.write(
        IP,
        Ipv6 {
            version_class_label: (6 << 28 | (ERROR_TOS as u32) << 20).to_be(),
            payload_length: PAYLOAD.to_be(),
            next_header: protocol::ICMPV6,
            hop_limit: TTL,
            source: destination,
            destination: source,
        },
    )?;
    packet.write(ICMP, Header { checksum: checksum::finish(sum as u64), ..header })
}

#[inline(always)]
fn sum_of_header(header: Header) -> u32 {
    (header.kind as u32 | (header.code as u32) << 8) + fold(header.rest as u64)
}

#[inline(always)]
fn fold(sum: u64) -> u32 {
    checksum::fold(sum) as u32
}

/// Adds the sum of `N` bytes of the frame from `FROM` on, folded to 16 bits. `N`: at most 512, since older kernels sum up
/// no more in one call, and a multiple of 4.
#[inline(always)]
fn sum_of<const FROM: usize, const N: usize>(packet: Packet, sum: u32) -> Option<u32> {
    const { assert!(N <= 512 && N.is_multiple_of(4)) };
    let bytes = packet.address::<FROM, N>()?;
    // SAFETY: `N` bytes of the frame, as just checked; nothing is read of the other side, whose length is 0.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes, N as u32, sum) };
    if sum < 0 { None } else { Some(fold(sum as u64)) }
}
