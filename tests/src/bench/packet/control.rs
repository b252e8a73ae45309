//! The rows of control messages and of packets that are too big.

use std::net::IpAddr;

use super::{
    cases::{Case, DROP, case, client, tcp},
    worlds::{Key, tracked, vip},
};
use crate::frame::{self, Segment};

/// *Fragmentation needed* from a router, quoting 8 bytes of a packet that went from that service to the client.
fn error(service: u32) -> Vec<u8> {
    let quoted = frame::tcp(vip(service), client(), Segment::Data, 0, 0);
    let mut message = vec![3, 4, 0, 0, 0, 0, 0x05, 0x14];
    message.extend(&quoted[14..14 + 20 + 8]);
    frame::ip(IpAddr::from([10, 9, 9, 9]), vip(service).ip(), 1, &message)
}

pub(super) fn cases() -> Vec<Case> {
    let row = |id: &str, what: &str, world, frame| case(id, what, world, frame, 1);
    let echo = frame::ip(client().ip(), vip(0).ip(), 1, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let long = frame::tcp(client(), vip(0), Segment::Data, 0, 1500 - 40);
    vec![
        row("icmp/steered", "an ICMP error that quotes a flow of a stable slot", Key::Plain, error(0)),
        row(
            "icmp/steered-tracked",
            "the same in a slot that learns, the flow recorded",
            Key::Tracked,
            error(tracked::LEARNING),
        ),
        row("icmp/echo", "an echo request to a service's address: answered", Key::Answers, echo),
        row(
            "too-big/answered",
            "too big for its backend, nearly all above the rate: dropped",
            Key::Answers,
            long,
        )
        .ends(DROP),
        row("icmp/like", "TCP to the same service, to compare with", Key::Answers, tcp(0)).quick(false),
    ]
}
