//! What the kernel half, the agent, the tests and the fuzzers share: the layout of every map value
//! (the ABI) and the pure logic over it. No kernel, no allocation, no I/O lives here.
//!
//! The same source compiles into the XDP programs (`no_std`, BPF target) and into ordinary host
//! programs, so a unit test of a function here tests what the kernel runs.
#![cfg_attr(not(test), no_std)]

pub mod backend;
pub mod balance;
pub mod checksum;
pub mod counter;
pub mod elsewhere;
pub mod encap;
pub mod evidence;
pub mod flow;
pub mod flow_table;
pub mod hash;
pub mod icmp;
pub mod known;
pub mod loss;
pub mod map;
pub mod martian;
pub mod owner;
#[cfg(test)]
mod properties;
pub mod ring;
pub mod service;
pub mod service_cache;
pub mod slot;
pub mod wire;

/// Version of everything in this crate that two programs of different age may both look at: sizes and
/// meaning of map keys and values, slot words, the flow hash.
///
/// Pinned maps carry it in [`map::Node::abi_version`]; an agent adopts only maps of its own version, and carries the
/// content of older maps over into new ones. Increase it with every such change;
/// `map::tests::the_layout_has_not_changed_without_a_new_version` fails when somebody forgot to.
///
/// Not such a change is another counter ([`counter::ROOM`]), or another map whose content follows from the other maps: the
/// agent makes that map alone, and an agent without it removes it.
///
/// | version | what is new |
/// |---|---|
/// | 1 | |
/// | 2 | `Service::flags` has [`service::Service::ALWAYS`] and [`service::Service::balance`]; rings have [`ring::Ring::source_bits`]; tallies of services have `turns`; one more counter; `Backend::weight`; three more maps, `SVC_FRONT`, `TURNOVER` and `LIVE`; sizes and places are those of version 1, and values that version 1 wrote mean the same |
/// | 3 | four more maps, `KNOWN`, `HOST`, `INGRESS` and `SLOT_OWNERS`; [`map::Node::DROP_UNSERVED`]; four more counters; [`service_cache::Entry::NO_SERVICE`] also where a service listens on every port; `Service::longest` and `Service::idle_after` where version 2 had 0, and 0 still means that nothing is known; [`backend::Backend::FAILING`] |
/// | 4 | flow records have the client's sequence number and the lower half of the clock, and other flags; [`map::Node::udp_ports`]; one more counter |
/// | 5 | one table of flows in an array ([`flow_table`]) in place of `FLOWS`, `PENDING` and `TURNOVER`; two more maps, `SLOT_ELSEWHERE` and `BK_SERVICE`; two more counters, and from then on room for 128; [`map::Node::ping`] and [`map::Node::ANSWER_TOO_BIG`], [`service::Service::ANSWERS_PING`]; [`backend::Backend`] has `room` in place of the MTU, `encap` in place of a flag, and outer headers of 32 bytes |
pub const ABI_VERSION: u32 = 5;

/// Implements `aya::Pod` (any bit pattern is a value, no padding) for the ABI types of a module.
macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: repr(C) over integers, no padding (sizes are asserted next to each type), so
            // every bit pattern is a valid value.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $type {}
        )+
    };
}
pub(crate) use pod;

/// An IPv4 or IPv6 address as it is on the wire, IPv4 mapped into `::ffff:0:0/96` (RFC 4291, 2.5.5.2).
///
/// Each word holds four bytes in network order, read with the host's own loads: compare and copy, never
/// do arithmetic on it.
pub type Address = [u32; 4];

/// The mapped form of an IPv4 address that is given as it is in a header.
#[inline(always)]
pub const fn mapped(v4: u32) -> Address {
    [0, 0, 0xffff_u32.to_be(), v4]
}

/// Whether this is a mapped IPv4 address.
#[inline(always)]
pub const fn is_v4(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == 0xffff_u32.to_be()
}

/// The word `FIRST` and the next one of an array, in one load: the compiler would use two.
#[inline(always)]
pub(crate) const fn pair<const FIRST: usize, const N: usize>(words: &[u32; N]) -> u64 {
    const { assert!(FIRST + 1 < N) };
    // SAFETY: both words are inside the array.
    unsafe { words.as_ptr().add(FIRST).cast::<u64>().read_unaligned() }
}

/// Two words joined into one, in the order in which they lie in memory.
#[inline(always)]
pub const fn join(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        (second as u64) << 32 | first as u64
    } else {
        (first as u64) << 32 | second as u64
    }
}

/// The two words that [`join`] has joined.
#[inline(always)]
pub const fn split(pair: u64) -> [u32; 2] {
    if cfg!(target_endian = "little") {
        [pair as u32, (pair >> 32) as u32]
    } else {
        [(pair >> 32) as u32, pair as u32]
    }
}
