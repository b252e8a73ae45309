//! Control messages to addresses of services: errors go to the backend of the flow that they quote, echo requests are
//! answered here. What is neither, or goes to another address, passes.

use core::mem::{offset_of, size_of};

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    programs::XdpContext,
};
use lb_common::{
    checksum,
    counter::Counter,
    icmp::{self, Header, Message, Ping, REPLY_V4, REPLY_V6, TTL},
    map::Node,
    service::Service,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6},
};

use crate::{
    balance,
    family::{Family, V4, V6},
    flow, known, maps,
    packet::{self, Packet},
    parse::{self, Flow, IP},
    send::{self, Facts},
    service,
    slot::{self, SlotKey},
    verdict,
};

/// A control message, as far as both families have it.
struct Control<F: Family> {
    source: F::Address,
    destination: F::Address,
    /// Where its header begins.
    offset: usize,
    /// Bytes from the IP header on.
    length: u16,
    tos: u8,
    message: Message,
    /// There are no IP options.
    is_plain: bool,
}

/// The packet that an error quotes, which went from a service to a client.
struct Quote<F: Family> {
    source: F::Address,
    destination: F::Address,
    protocol: u8,
    /// Where its ports are.
    offset: usize,
}

/// What differs between the two families.
trait ControlFamily: Family {
    fn control(packet: Packet) -> Option<Control<Self>>;
    /// The packet quoted by a message at `offset`; `None` where its ports are not to be found.
    fn quote(packet: Packet, offset: usize) -> Option<Quote<Self>>;
    /// Makes the reply out of a request without IP options.
    fn reply(packet: Packet) -> Option<()>;
}

/// Takes a control message to the end. A function of its own, for the reason of [`send::send`].
#[inline(always)]
pub(crate) fn take(ctx: &XdpContext) -> u32 {
    lb_icmp(ctx.ctx)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_icmp(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    match try_take(&ctx) {
        Ok(action) => action,
        Err(counter) => verdict::finish(counter),
    }
}

#[inline(always)]
fn try_take(ctx: &XdpContext) -> Result<u32, Counter> {
    let node = maps::NODE.get(0).ok_or(Counter::PassedNotReady)?;
    let packet = Packet::of(ctx);
    let ethertype: u16 = packet.read(offset_of!(Ethernet, ethertype)).ok_or(Counter::PassedNotIp)?;
    if ethertype == ETHERTYPE_IPV4 {
        of_family::<V4>(ctx, node, packet)
    } else if ethertype == ETHERTYPE_IPV6 {
        of_family::<V6>(ctx, node, packet)
    } else {
        Err(Counter::PassedNotIp)
    }
}

#[inline(always)]
fn of_family<F: ControlFamily>(ctx: &XdpContext, node: &Node, packet: Packet) -> Result<u32, Counter> {
    let control = F::control(packet).ok_or(Counter::PassedOtherProtocol)?;
    if matches!(control.message, Message::Other) || !known::may_be_known(F::mark(control.destination)) {
        return Err(Counter::PassedOtherProtocol);
    }
    // Any service of the address, on whatever port.
    let (_, service) =
        service::of_address::<F>(node, control.destination).ok_or(Counter::PassedOtherProtocol)?;
    if control.length as usize > packet.length() - IP {
        return Err(Counter::BadLength);
    }
    match control.message {
        Message::Echo => echo(node, packet, &control, service),
        _ => error(ctx, node, packet, &control),
    }
}

#[inline(always)]
fn echo<F: ControlFamily>(
    node: &Node,
    packet: Packet,
    control: &Control<F>,
    service: &Service,
) -> Result<u32, Counter> {
    let ping = node.ping();
    let to: u8 = packet.read(0).ok_or(Counter::PassedOtherProtocol)?;
    if matches!(ping, Ping::Host) || !control.is_plain || to & 1 != 0 {
        return Err(Counter::PassedOtherProtocol);
    }
    if F::is_martian(control.source, control.destination) {
        return Err(Counter::MartianSource);
    }
    let is_silent = matches!(ping, Ping::Healthy) && service.flags & Service::ANSWERS_PING == 0;
    if is_silent || matches!(ping, Ping::Drop) {
        return Err(Counter::EchoUnanswered);
    }
    F::reply(packet).ok_or(Counter::Truncated)?;
    verdict::count(Counter::Echo);
    Ok(xdp_action::XDP_TX)
}

#[inline(always)]
fn error<F: ControlFamily>(
    ctx: &XdpContext,
    node: &Node,
    packet: Packet,
    control: &Control<F>,
) -> Result<u32, Counter> {
    let quote = F::quote(packet, control.offset + size_of::<Header>()).ok_or(Counter::IcmpQuote)?;
    // Bytes of the frame behind the message are no part of the quote.
    let is_whole = quote.offset <= IP + control.length as usize;
    if !is_whole || F::mapped(quote.source) != F::mapped(control.destination) {
        return Err(Counter::IcmpQuote);
    }
    if !icmp::has_ports(quote.protocol) {
        return Err(Counter::PassedOtherProtocol);
    }
    if quote.offset + size_of::<u32>() > IP + control.length as usize {
        return Err(Counter::IcmpQuote);
    }
    let ports: u32 = packet.read(packet::mask_offset(quote.offset)).ok_or(Counter::IcmpQuote)?;
    let flow = Flow::<F> {
        source: quote.destination,
        destination: quote.source,
        ports: icmp::turned(ports),
        protocol: quote.protocol,
        flags: 0,
        sequence: 0,
        tos: control.tos,
        length: control.length,
    };
    let Some((_, service)) = service::find(node, &flow) else {
        return Err(known::not_service(node, known::AddressOwner::Service));
    };
    let hash = F::flow_hash(&node.seed, flow.source, flow.destination, flow.ports, flow.protocol);
    let slot_key = SlotKey::<F> { seed: &node.seed, source: flow.source, hash };
    let (_, slot) = slot::of(service, slot_key).ok_or(Counter::NoBackend)?;
    let (backend, is_guess) = if slot.is_tracked() {
        let home = slot::owner_of_unknown(service, slot, slot_key);
        let (backend, is_known) = flow::look_up(hash, slot, home);
        (backend, !is_known && balance::is_chosen(service))
    } else {
        (slot.current(), false)
    };
    Ok(send::send(ctx, hash, Facts::of::<F>(backend, flow.length, flow.tos).error(is_guess)))
}

impl ControlFamily for V4 {
    #[inline(always)]
    fn control(packet: Packet) -> Option<Control<V4>> {
        let ip: Ipv4 = packet.read(IP)?;
        let offset = packet::mask_offset(IP + ip.header_length());
        let header: Header = packet.read(offset)?;
        let length = u16::from_be(ip.total_length);
        if ip.is_fragment() || (length as usize) < ip.header_length() + size_of::<Header>() {
            return None;
        }
        Some(Control {
            source: ip.source,
            destination: ip.destination,
            offset,
            length,
            tos: ip.tos,
            message: icmp::message_v4(header.kind),
            is_plain: ip.header_length() == size_of::<Ipv4>() && header.code == 0,
        })
    }

    #[inline(always)]
    fn quote(packet: Packet, offset: usize) -> Option<Quote<V4>> {
        let offset = packet::mask_offset(offset);
        let ip: Ipv4 = packet.read(offset)?;
        // The first fragment has ports, later ones have data there.
        if ip.version() != 4
            || ip.header_length() < size_of::<Ipv4>()
            || ip.flags_offset & 0x1fff_u16.to_be() != 0
        {
            return None;
        }
        Some(Quote {
            source: ip.source,
            destination: ip.destination,
            protocol: ip.protocol,
            offset: offset + ip.header_length(),
        })
    }

    #[inline(always)]
    fn reply(packet: Packet) -> Option<()> {
        const ICMP: usize = IP + size_of::<Ipv4>();
        let ethernet: Ethernet = packet.read(0)?;
        let ip: Ipv4 = packet.read(IP)?;
        let header: Header = packet.read(ICMP)?;
        let (old, new) = ([ip.ttl, ip.protocol], [TTL, ip.protocol]);
        let (old, new) = (u16::from_ne_bytes(old), u16::from_ne_bytes(new));
        let ip = Ipv4 {
            ttl: TTL,
            checksum: checksum::replace(ip.checksum, old, new),
            source: ip.destination,
            destination: ip.source,
            ..ip
        };
        packet.write(0, parse::reversed(&ethernet))?;
        packet.write(IP, ip)?;
        packet.write(ICMP, replied(header, REPLY_V4))
    }
}

impl ControlFamily for V6 {
    #[inline(always)]
    fn control(packet: Packet) -> Option<Control<V6>> {
        const OFFSET: usize = IP + size_of::<Ipv6>();
        let ip: Ipv6 = packet.read(IP)?;
        let header: Header = packet.read(OFFSET)?;
        let payload = u16::from_be(ip.payload_length);
        if (payload as usize) < size_of::<Header>() || payload > u16::MAX - size_of::<Ipv6>() as u16 {
            return None;
        }
        Some(Control {
            source: ip.source,
            destination: ip.destination,
            offset: OFFSET,
            length: payload + size_of::<Ipv6>() as u16,
            tos: ip.traffic_class(),
            message: icmp::message_v6(header.kind),
            is_plain: header.code == 0,
        })
    }

    #[inline(always)]
    fn quote(packet: Packet, offset: usize) -> Option<Quote<V6>> {
        let offset = packet::mask_offset(offset);
        let ip: Ipv6 = packet.read(offset)?;
        if ip.version() != 6 {
            return None;
        }
        let (number, skipped) = parse::quoted_extensions(packet, offset + size_of::<Ipv6>(), ip.next_header)?;
        Some(Quote {
            source: ip.source,
            destination: ip.destination,
            protocol: number,
            offset: offset + size_of::<Ipv6>() + skipped,
        })
    }

    #[inline(always)]
    fn reply(packet: Packet) -> Option<()> {
        const ICMP: usize = IP + size_of::<Ipv6>();
        let ethernet: Ethernet = packet.read(0)?;
        let ip: Ipv6 = packet.read(IP)?;
        let header: Header = packet.read(ICMP)?;
        let ip = Ipv6 { hop_limit: TTL, source: ip.destination, destination: ip.source, ..ip };
        packet.write(0, parse::reversed(&ethernet))?;
        packet.write(IP, ip)?;
        packet.write(ICMP, replied(header, REPLY_V6))
    }
}

/// The header of a reply: only the type is another one.
#[inline(always)]
fn replied(header: Header, kind: u8) -> Header {
    let (old, new) =
        (u16::from_ne_bytes([header.kind, header.code]), u16::from_ne_bytes([kind, header.code]));
    let sum = checksum::replace(header.checksum, old, new);
    // Both zeros say the same of a sum (RFC 1624, 3), except in a message that is all zeros: there only this one is right.
    let checksum = if sum == 0 { u16::MAX } else { sum };
    Header { kind, checksum, ..header }
}
