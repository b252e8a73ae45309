//! Control messages (ICMP, RFC 792; ICMPv6, RFC 4443): which of them belong to services, what they quote, and the two
//! that the packet program makes itself, replies to echo requests and *packet too big*.
//!
//! An error quotes a packet that a backend has sent: its source is the address of the service, its destination the client.
//! With both turned round, it is a packet of the flow, and goes where the flow's packets go. It proves nothing: records
//! are read for it and never written.

use crate::{evidence::Known, wire::protocol};

/// The header of a control message, 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The type.
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    /// Identifier and sequence of an echo; the MTU of *packet too big*, in IPv4 in the last two bytes (RFC 1191, 4).
    pub rest: u32,
}

const _: () = assert!(size_of::<Header>() == 8);

/// What a control message is for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// An error that quotes a packet.
    Error,
    /// An echo request.
    Echo,
    /// Anything else is for the host.
    Other,
}

/// ICMP: destination unreachable with every code, time exceeded, parameter problem. A redirect is no error, and hosts do not
/// obey a source quench (RFC 6633).
#[inline(always)]
pub const fn message_v4(kind: u8) -> Message {
    match kind {
        3 | 11 | 12 => Message::Error,
        8 => Message::Echo,
        _ => Message::Other,
    }
}

/// ICMPv6: destination unreachable, packet too big, time exceeded, parameter problem.
#[inline(always)]
pub const fn message_v6(kind: u8) -> Message {
    match kind {
        1..=4 => Message::Error,
        128 => Message::Echo,
        _ => Message::Other,
    }
}

/// What becomes of an echo request to the address of a service: `node.ping`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ping {
    /// The host may answer it.
    #[default]
    Host = 0,
    /// The packet program answers it.
    Answer = 1,
    /// The packet program answers it while a service of the address has a backend that works
    /// ([`crate::service::Service::ANSWERS_PING`]).
    Healthy = 2,
    /// It gets no answer.
    Drop = 3,
}

/// Bytes of the packet that *packet too big* quotes from its IP header on, IPv4: 576 with both headers (RFC 1812, 4.3.2.3).
pub const QUOTE_V4: usize = 548;
/// IPv6: 1,280 with both headers (RFC 4443, 2.4).
pub const QUOTE_V6: usize = 1232;
/// The smallest MTU that IPv6 knows (RFC 8200, 5): hosts do not obey a *packet too big* that says less (RFC 8201, 4).
pub const SMALLEST_V6: u16 = 1280;
/// TOS and traffic class of errors: internetwork control, as routers send them (RFC 1812, 4.3.2.5).
pub const ERROR_TOS: u8 = 0xc0;
/// TTL and hop limit of messages that we make (RFC 1700).
pub const TTL: u8 = 64;
/// *Packet too big* messages a second that one CPU sends, and as many at once as a tenth of it: the default of Linux for
/// all its errors.
pub const ANSWERS_PER_SECOND: u64 = 1000;
/// How many may come at once.
pub const BURST: u64 = 100;

/// When the next *packet too big* may be sent, in nanoseconds of the monotonic clock, as one CPU remembers it: each one
/// moves the time on by its share of a second, and the time may lie back by one burst. Returns the new time, or
/// `None` = not now.
#[inline(always)]
pub const fn take_turn(next: u64, now: u64) -> Option<u64> {
    const SHARE: u64 = 1_000_000_000 / ANSWERS_PER_SECOND;
    if next > now {
        return None;
    }
    let earliest = now.saturating_sub(SHARE * (BURST - 1));
    Some(if next > earliest { next } else { earliest } + SHARE)
}

/// The two types of *packet too big*: `(kind, code)`.
pub const TOO_BIG_V4: (u8, u8) = (3, 4);
pub const TOO_BIG_V6: (u8, u8) = (2, 0);
/// Types of an echo reply.
pub const REPLY_V4: u8 = 0;
pub const REPLY_V6: u8 = 129;

/// Whether a quoted protocol has ports.
#[inline(always)]
pub const fn has_ports(number: u8) -> bool {
    number == protocol::TCP || number == protocol::UDP
}

/// The ports of a quote, turned round: those of a packet in the other direction.
#[inline(always)]
pub const fn turned(ports: u32) -> u32 {
    ports.rotate_left(16)
}

/// The backend of an error in a tracked slot: where a segment of the flow goes that says nothing new. A SYN that waits says
/// nothing of it, for anyone can send one next to a flow that is not recorded. `unknown` is the backend of unknown flows.
/// The second value says whether a record named the backend.
#[inline(always)]
pub const fn backend_of(known: &Known, unknown: u32) -> (u32, bool) {
    let Known { flow, pending, dead_flow, dead_pending, .. } = known;
    if flow.is_there() && !*dead_flow {
        return (flow.backend, true);
    }
    if pending.is_elder() && !*dead_pending {
        return (pending.backend, true);
    }
    (unknown, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::Record, wire};

    #[test]
    fn only_errors_and_echo_requests_are_ours() {
        let of = |message: fn(u8) -> Message, wanted| -> std::vec::Vec<u8> {
            (0..=u8::MAX).filter(|kind| message(*kind) == wanted).collect()
        };
        assert_eq!(of(message_v4, Message::Error), [3, 11, 12]);
        assert_eq!(of(message_v4, Message::Echo), [8]);
        assert_eq!(of(message_v6, Message::Error), [1, 2, 3, 4]);
        assert_eq!(of(message_v6, Message::Echo), [128]);
    }

    #[test]
    fn turned_ports_are_those_of_the_other_direction() {
        assert_eq!(turned(wire::ports(443, 40_000)), wire::ports(40_000, 443));
    }

    /// Whatever comes, no second has more answers than its share and a burst.
    #[test]
    fn answers_are_bounded_by_burst_and_rate() {
        let second = 1_000_000_000;
        let (mut next, mut given) = (0, 0);
        for tick in 0..100_000_u64 {
            let now = 50 * second + tick * 10_000;
            if let Some(later) = take_turn(next, now) {
                next = later;
                given += 1;
            }
        }
        assert_eq!(given, BURST + ANSWERS_PER_SECOND - 1);
        // After a pause there is a burst again, and not more.
        let now = 90 * second;
        let burst =
            (0..1000).filter(|_| take_turn(next, now).inspect(|later| next = *later).is_some()).count();
        assert_eq!(burst as u64, BURST);
    }

    #[test]
    fn a_record_of_a_live_backend_comes_before_the_slot() {
        let record = |backend| Record { backend, ..Record::NONE };
        let waits = record(2);
        let pending = Record { flags: Record::ELDER, ..waits };
        let known = Known { flow: record(1), pending, dead_flow: false, dead_pending: false, away: false };
        assert_eq!(backend_of(&known, 3), (1, true));
        assert_eq!(backend_of(&Known { dead_flow: true, ..known }, 3), (2, true));
        assert_eq!(backend_of(&Known { dead_flow: true, dead_pending: true, ..known }, 3), (3, false));
        let unrecorded = Known { flow: Record::NONE, ..known };
        assert_eq!(backend_of(&unrecorded, 3), (2, true));
        assert_eq!(backend_of(&Known { pending: Record::NONE, ..unrecorded }, 3), (3, false));
        assert_eq!(
            backend_of(&Known { pending: waits, ..unrecorded }, 3),
            (3, false),
            "anyone can send a SYN"
        );
    }
}
