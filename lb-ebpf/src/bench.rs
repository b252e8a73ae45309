//! What `cargo xtask bench` measures with, never part of the product: the rig that restores a packet between runs, the
//! floors, and several flow hashes to compare.
//!
//! BPF_PROG_TEST_RUN hands a program its own output again. The rig therefore runs before the program under test: it
//! takes the grown head back, restores the Ethernet header, draws the next flow, and tail-calls. The rig calls the
//! floors in the same way, so that its own cost cancels out.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the xdp attribute hands its function the context by value"
)]

mod arithmetic;
mod generator;
#[expect(dead_code, reason = "the product's view of a packet, of which the rig needs a part")]
mod packet;
mod table;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, ProgramArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    hash::{Seed, flow_v4, flow_v6},
    wire::{Ethernet, Ipv4, Ipv6},
};

use crate::packet::{Packet, move_head};

/// What the rig restores and draws.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rig {
    /// Bytes of the frame as it was.
    length: u32,
    /// Number of flows minus 1, a power of two minus 1; 0 = leave the addresses alone.
    mask: u32,
    /// Counts up with every run.
    next: u64,
    /// The first 16 bytes of the frame, as two words: the Ethernet header and what follows it.
    first: u64,
    second: u64,
    /// Number of services, whose addresses follow one another; 0 = leave the destination alone.
    services: u32,
    /// The first service's IPv4 address, in host order.
    base: u32,
}

/// One [`Rig`]: written by the bench before a run.
#[btf_map]
static RIG: Array<Rig, 1> = Array::new();

/// Entry 0: the program under test.
#[btf_map]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

/// Words of a row's table of 8 MiB, as many bytes as a million slots have.
const WORDS: usize = 1 << 20;

/// A table from which `floor_memory` reads a word at random. Mappable, so that its values lie next to each other.
#[btf_map]
static MEMORY: Array<u64, WORDS, { 1 << 10 }> = Array::new();

/// Where the hash rows find their seed, and leave their result so that the compiler does not remove them.
#[btf_map]
static HASHED: Array<[u64; 2], 1> = Array::new();

const IP: usize = size_of::<Ethernet>();

#[xdp]
#[inline(always)]
fn rig(ctx: XdpContext) -> u32 {
    try_rig(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn try_rig(ctx: &XdpContext) -> Option<u32> {
    let rig = RIG.get_ptr_mut(0)?;
    // SAFETY: a value of the map; the bench runs one program at a time.
    let rig = unsafe { &mut *rig };
    let mut packet = Packet::of(ctx);
    // In 64 bits: the verifier allows no subtraction of pointers in 32 bits.
    let grown = packet.length().wrapping_sub(rig.length as usize);
    if grown != 0 {
        packet = move_head(ctx, grown as i32)?;
    }
    // Wide stores: a load that spans two narrower stores would wait for both, which never happens with a packet that a
    // network card has written.
    packet.write(0, rig.first)?;
    packet.write(8, rig.second)?;
    let n = rig.next;
    rig.next = n + 1;
    if rig.mask != 0 {
        // Fibonacci hashing: every flow once in mask + 1 runs, in an order no prefetcher guesses.
        let flow = (n as u32).wrapping_mul(0x9e37_79b1) & rig.mask;
        let source = (0x0a00_0000 | flow).to_be() as u64;
        let is_v4 = (rig.second >> 32) as u16 == lb_common::wire::ETHERTYPE_IPV4;
        // Written together with the word next to it, for the same reason.
        if is_v4 {
            let at = IP + core::mem::offset_of!(Ipv4, source);
            let destination = if rig.services == 0 {
                packet.read::<u32>(at + 4)?
            } else {
                // By another multiplier (murmur3's), so that flows and services combine as if at random.
                let draw = (n as u32).wrapping_mul(0xcc9e_2d51) as u64;
                rig.base.wrapping_add(((draw * rig.services as u64) >> 32) as u32).to_be()
            };
            packet.write(at, (destination as u64) << 32 | source)?;
        } else {
            let at = IP + core::mem::offset_of!(Ipv6, source) + 8;
            let destination = packet.read::<u32>(at)?;
            packet.write(at, source << 32 | destination as u64)?;
        }
    }
    // SAFETY: a tail call touches no memory of ours; it returns only when there is no program.
    unsafe { UNDER_TEST.tail_call(ctx, 0) };
    None
}

/// Floor: does nothing.
#[xdp]
#[inline(always)]
fn floor_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Floor: makes room for an IPv4 header and sends the frame back, headers unwritten.
#[xdp]
#[inline(always)]
fn floor_grow(ctx: XdpContext) -> u32 {
    grow(&ctx)
}

#[inline(always)]
fn grow(ctx: &XdpContext) -> u32 {
    match move_head(ctx, -20) {
        Some(_) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Floor: the same after one read of a word of 8 MiB, chosen by the flow: what a cache miss costs on this machine, in
/// any program.
#[xdp]
#[inline(always)]
fn floor_memory(ctx: XdpContext) -> u32 {
    let Some(source) = Packet::of(&ctx).read::<u32>(IP + core::mem::offset_of!(Ipv4, source)) else {
        return xdp_action::XDP_ABORTED;
    };
    // Multiplied, so that neighbouring flows do not share a cache line.
    let word = (source.swap_bytes().wrapping_mul(0x9e37_79b1) >> 12) & (WORDS as u32 - 1);
    // The table is all zeroes; a result that depends on the word makes the packet wait for it.
    match MEMORY.get(word) {
        Some(0) => grow(&ctx),
        _ => xdp_action::XDP_ABORTED,
    }
}

/// Floor: sends the frame back as it is.
#[xdp]
#[inline(always)]
fn floor_tx(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Hashes that one program makes; its run time divided by this is the cost of one hash.
const HASHES: u32 = 64;

#[inline(always)]
fn repeat(hash: impl Fn(&Seed, u32) -> u64) -> u32 {
    let Some(place) = HASHED.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: a value of the map; the bench runs one program at a time.
    let place = unsafe { &mut *place };
    let seed = Seed(*place);
    let mut h = 0u64;
    for i in 0..HASHES {
        // Each hash depends on the one before: a packet waits for the latency of a hash.
        h ^= hash(&seed, h as u32 ^ i);
    }
    place[0] ^= h & 1;
    xdp_action::XDP_PASS
}

#[xdp]
#[inline(always)]
fn hash_none(_ctx: XdpContext) -> u32 {
    repeat(|seed, i| seed.0[0] ^ i as u64)
}

#[xdp]
#[inline(always)]
fn hash_flow_v4(_ctx: XdpContext) -> u32 {
    repeat(|seed, i| flow_v4(seed, i, 0x0a71_00cb, i ^ 0xbb01, 6))
}

#[xdp]
#[inline(always)]
fn hash_flow_v6(_ctx: XdpContext) -> u32 {
    repeat(|seed, i| flow_v6(seed, &[0xb80d_0120, 1, 2, i], &[0xb80d_0120, 0, 0, 0x1000_0000], i ^ 0xbb01, 6))
}

#[xdp]
#[inline(always)]
fn hash_jhash_v4(_ctx: XdpContext) -> u32 {
    repeat(|seed, i| jhash3(i, 0x0a71_00cb, i ^ 0xbb01, seed.0[0] as u32) as u64)
}

#[xdp]
#[inline(always)]
fn hash_siphash13_v4(_ctx: XdpContext) -> u32 {
    repeat(|seed, i| siphash13(seed, (i as u64) << 32 | 0x0a71_00cb, (i ^ 0xbb01) as u64))
}

/// Bob Jenkins' lookup3 for three words (burtleburtle.net/bob/c/lookup3.c, final), the alternative that most programs
/// use.
#[inline(always)]
fn jhash3(a: u32, b: u32, c: u32, seed: u32) -> u32 {
    let init = 0xdead_beef_u32.wrapping_add(3 << 2).wrapping_add(seed);
    let (mut a, mut b, mut c) = (a.wrapping_add(init), b.wrapping_add(init), c.wrapping_add(init));
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// SipHash-1-3 of 16 bytes (Aumasson and Bernstein, INDOCRYPT 2012), the alternative that resists an attacker.
#[inline(always)]
fn siphash13(seed: &Seed, first: u64, second: u64) -> u64 {
    let mut v = [
        seed.0[0] ^ 0x736f_6d65_7073_6575,
        seed.0[1] ^ 0x646f_7261_6e64_6f6d,
        seed.0[0] ^ 0x6c79_6765_6e65_7261,
        seed.0[1] ^ 0x7465_6462_7974_6573,
    ];
    for word in [first, second, 16 << 56] {
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The same license as the product's object.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
