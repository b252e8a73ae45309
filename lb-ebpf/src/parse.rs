//! From a frame to a flow: Ethernet, IPv4 with options, IPv6 with extension headers, TCP, UDP.
//!
//! A packet without a flow has a counter instead. Most of these counters depend on whose address the packet goes to,
//! which [`destination_v4`] and [`destination_v6`] read again: off the fast path, where only those packets pay for it.

use lb_common::{
    Address,
    counter::Counter,
    is_v4,
    wire::{Ethernet, Ipv4, Ipv6, Tcp, Udp, protocol},
};

use crate::{
    family::{Family, V4, V6},
    packet::{self, Packet},
};

/// Where the IP header begins.
pub(crate) const IP: usize = size_of::<Ethernet>();

/// Where an IPv4 packet goes, whatever else is wrong with it.
#[inline(always)]
pub(crate) fn destination_v4(packet: Packet) -> Option<u32> {
    packet.read::<Ipv4>(IP).map(|ip| ip.destination)
}

/// Where an IPv6 packet goes, whatever else is wrong with it.
#[inline(always)]
pub(crate) fn destination_v6(packet: Packet) -> Option<Address> {
    packet.read::<Ipv6>(IP).map(|ip| ip.destination)
}

/// Whether this is a TCP segment whose length does not fit into the IPv4 header and is left out there: more than 64 KB
/// that were merged into one packet ("BIG TCP", since kernel 6.3).
#[inline(always)]
pub(crate) fn is_without_length_v4(packet: Packet) -> bool {
    packet.read::<Ipv4>(IP).is_some_and(|ip| ip.total_length == 0 && ip.protocol == protocol::TCP)
}

/// The same for IPv6, where TCP follows at once or behind the jumbo payload option (RFC 2675), which kernels from 5.19
/// on add; and where the length fits into the header, but not into [`Flow::length`], which includes the header.
#[inline(always)]
pub(crate) fn is_without_length_v6(packet: Packet) -> bool {
    let Some(ip) = packet.read::<Ipv6>(IP) else { return false };
    let whole = u16::from_be(ip.payload_length) as usize + size_of::<Ipv6>();
    let is_long = whole > 0xffff && whole <= packet.length() - IP;
    if ip.payload_length != 0 && !is_long {
        return false;
    }
    if ip.next_header == protocol::TCP {
        return true;
    }
    let option: Option<[u8; 4]> = packet.read(IP + size_of::<Ipv6>());
    ip.next_header == protocol::HOP_BY_HOP
        && option.is_some_and(|[next, words, option, length]| {
            next == protocol::TCP && words == 0 && option == JUMBO && length == 4
        })
}

/// The jumbo payload option (RFC 2675, 2).
const JUMBO: u8 = 0xc2;

/// IPv6 extension headers that we read before we give up: one of each kind that RFC 8200 (4.1) recommends, and one more.
const MAX_EXTENSIONS: usize = 6;

/// Why a packet has no flow.
#[derive(Clone, Copy)]
pub(crate) enum Unread {
    /// A control message, which has a path of its own, see [`crate::icmp`].
    Control,
    /// The packet passes under that counter, whatever its address.
    Passed(Counter),
    /// The counter depends on the packet's address.
    For(Counter),
}

/// Everything that the rest of the path needs of a packet.
pub(crate) struct Flow<F: Family> {
    pub(crate) source: F::Address,
    pub(crate) destination: F::Address,
    /// Both ports as they are in the header.
    pub(crate) ports: u32,
    pub(crate) protocol: u8,
    /// TCP flags; 0 for UDP.
    pub(crate) flags: u8,
    /// TCP's sequence number, host order; 0 for UDP.
    pub(crate) sequence: u32,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// Bytes from the IP header on, Ethernet padding left out.
    pub(crate) length: u16,
}

impl<F: Family> Flow<F> {
    /// Whether this is a TCP segment that asks for a new connection.
    #[inline(always)]
    pub(crate) fn is_syn(&self) -> bool {
        self.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN
    }
}

#[inline(always)]
fn is_transport(number: u8) -> bool {
    number == protocol::TCP || number == protocol::UDP
}

/// Reads an IPv4 packet, or returns what is wrong with it.
#[inline(always)]
pub(crate) fn v4(packet: Packet) -> Result<Flow<V4>, Unread> {
    let ip: Ipv4 = packet.read(IP).ok_or(Unread::Passed(Counter::PassedMalformed))?;
    let header = ip.header_length();
    if ip.version() != 4 || header < size_of::<Ipv4>() {
        return Err(Unread::Passed(Counter::PassedMalformed));
    }
    if !is_transport(ip.protocol) {
        let is_control = ip.protocol == protocol::ICMP;
        return Err(if is_control { Unread::Control } else { Unread::For(Counter::PassedOtherProtocol) });
    }
    if ip.is_fragment() {
        return Err(Unread::For(Counter::Fragment));
    }
    let length = u16::from_be(ip.total_length);
    if length as usize > packet.length() - IP || (length as usize) < header {
        return Err(Unread::For(Counter::BadLength));
    }
    let flow = Flow {
        source: ip.source,
        destination: ip.destination,
        ports: 0,
        protocol: ip.protocol,
        flags: 0,
        sequence: 0,
        tos: ip.tos,
        length,
    };
    let payload = length as usize - header;
    // Without options, as in nearly every packet, the offset is a constant.
    if header == size_of::<Ipv4>() {
        transport(packet, IP + size_of::<Ipv4>(), payload, flow)
    } else {
        transport(packet, IP + header, payload, flow)
    }
}

#[inline(always)]
pub(crate) fn v6(packet: Packet) -> Result<Flow<V6>, Unread> {
    let ip: Ipv6 = packet.read(IP).ok_or(Unread::Passed(Counter::PassedMalformed))?;
    if ip.version() != 6 {
        return Err(Unread::Passed(Counter::PassedMalformed));
    }
    // A mapped address means an IPv4 host and has no place on the wire: it would find the IPv4 service.
    if is_v4(&ip.destination) {
        return Err(Unread::Passed(Counter::PassedNotService));
    }
    let payload = u16::from_be(ip.payload_length) as usize;
    let mut flow = Flow {
        source: ip.source,
        destination: ip.destination,
        ports: 0,
        protocol: ip.next_header,
        flags: 0,
        sequence: 0,
        tos: ip.traffic_class(),
        length: 0,
    };
    // Payload length 0 may announce a jumbogram (RFC 2675), which is longer than any frame of a wire, see
    // `is_without_length_v6`.
    let fits = payload + size_of::<Ipv6>() <= packet.length() - IP && payload + size_of::<Ipv6>() <= 0xffff;
    flow.length = (payload + size_of::<Ipv6>()) as u16;
    if is_transport(ip.next_header) {
        if !fits {
            return Err(Unread::For(Counter::BadLength));
        }
        return transport(packet, IP + size_of::<Ipv6>(), payload, flow);
    }
    if ip.next_header == protocol::ICMPV6 {
        return Err(Unread::Control);
    }
    let (number, skipped) = extensions(packet, ip.next_header)?;
    if !fits || skipped > payload {
        return Err(Unread::For(Counter::BadLength));
    }
    flow.protocol = number;
    transport(packet, IP + size_of::<Ipv6>() + skipped, payload - skipped, flow)
}

/// Reads the extension headers (RFC 8200, 4): which transport protocol follows, after how many bytes.
#[inline(always)]
fn extensions(packet: Packet, first: u8) -> Result<(u8, usize), Unread> {
    let mut number = first;
    let mut skipped = 0usize;
    for _ in 0..MAX_EXTENSIONS {
        if is_transport(number) {
            return Ok((number, packet::mask_offset(skipped)));
        }
        if number == protocol::FRAGMENT {
            return Err(Unread::For(Counter::Fragment));
        }
        let units = match number {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => 8,
            // Counted in 4 bytes, and without the first 8 (RFC 4302, 2.2).
            protocol::AUTHENTICATION => 4,
            // Control messages behind extension headers (multicast listeners, RFC 3810) are the host's.
            protocol::ICMPV6 => return Err(Unread::Passed(Counter::PassedOtherProtocol)),
            _ => return Err(Unread::For(Counter::PassedOtherProtocol)),
        };
        // A bound that no packet reaches: six headers are at most 2,048 bytes each.
        skipped = packet::mask_offset(skipped);
        let Some(head) = packet.read::<[u8; 4]>(IP + size_of::<Ipv6>() + skipped) else {
            return Err(Unread::For(Counter::Truncated));
        };
        if number == protocol::ROUTING && head[3] != 0 {
            return Err(Unread::For(Counter::PassedRoutingHeader));
        }
        number = head[0];
        skipped += 8 + head[1] as usize * units;
    }
    if is_transport(number) {
        return Ok((number, packet::mask_offset(skipped)));
    }
    Err(Unread::For(Counter::ExtensionHeaders))
}

/// Reads the extension headers of a packet that an error quotes: which protocol follows, after how many bytes. `None`:
/// the quote ends before, or a later fragment is quoted, which has data where the ports would be.
#[inline(always)]
pub(crate) fn quoted_extensions(packet: Packet, at: usize, first: u8) -> Option<(u8, usize)> {
    let mut number = first;
    let mut skipped = 0usize;
    for _ in 0..MAX_EXTENSIONS {
        let units = match number {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => 8,
            protocol::AUTHENTICATION => 4,
            protocol::FRAGMENT => 0,
            number => return Some((number, packet::mask_offset(skipped))),
        };
        skipped = packet::mask_offset(skipped);
        let head = packet.read::<[u8; 4]>(packet::mask_offset(at + skipped))?;
        if number == protocol::FRAGMENT && (head[2] != 0 || head[3] & 0xf8 != 0) {
            return None;
        }
        number = head[0];
        skipped += 8 + head[1] as usize * units;
    }
    // What is behind a further one of them is not looked for.
    match number {
        protocol::HOP_BY_HOP
        | protocol::DESTINATION_OPTIONS
        | protocol::ROUTING
        | protocol::AUTHENTICATION
        | protocol::FRAGMENT => None,
        number => Some((number, packet::mask_offset(skipped))),
    }
}

/// The Ethernet header of a packet that goes back where another one came from.
#[inline(always)]
pub(crate) fn reversed(ethernet: &Ethernet) -> Ethernet {
    Ethernet { destination: ethernet.source, source: ethernet.destination, ethertype: ethernet.ethertype }
}

/// Ports and flags from the transport header at `offset`; header and data have `payload` bytes.
#[inline(always)]
fn transport<F: Family>(
    packet: Packet,
    offset: usize,
    payload: usize,
    mut flow: Flow<F>,
) -> Result<Flow<F>, Unread> {
    if flow.protocol == protocol::TCP {
        let tcp = packet.read::<Tcp>(offset);
        let Some(tcp) = tcp.filter(|_| payload >= size_of::<Tcp>()) else {
            return Err(Unread::For(Counter::Truncated));
        };
        let header = tcp.header_length();
        if header < size_of::<Tcp>() || header > payload {
            return Err(Unread::For(Counter::BadLength));
        }
        flow.ports = tcp.ports;
        flow.flags = tcp.flags;
        flow.sequence = u32::from_be(tcp.sequence);
    } else {
        let udp = packet.read::<Udp>(offset);
        let Some(udp) = udp.filter(|_| payload >= size_of::<Udp>()) else {
            return Err(Unread::For(Counter::Truncated));
        };
        let length = u16::from_be(udp.length) as usize;
        if length < size_of::<Udp>() || length > payload {
            return Err(Unread::For(Counter::BadLength));
        }
        flow.ports = udp.ports;
    }
    Ok(flow)
}
