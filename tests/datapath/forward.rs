//! What a packet to a service looks like afterwards.

use std::net::{IpAddr, SocketAddr};

use lb_common::{counter::Counter, hash::Seed, map::name, slot::Slot, wire::protocol};
use lb_tests::{
    frame::{self, Segment},
    world::{self, Sizes, World},
};

const XDP_TX: u32 = 3;

fn world() -> World {
    World::new(Sizes::default(), Seed([1, 2])).expect("a world")
}

#[test]
fn an_ipv4_packet_leaves_in_an_ipv4_header_to_its_backend() {
    let mut world = world();
    let (us, web): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.11".parse().unwrap());
    let vip: SocketAddr = "203.0.113.10:443".parse().unwrap();
    world.set_backend(7, world::backend(us, web, false)).unwrap();
    let service = world.add_service(vip, protocol::TCP, &[Slot::stable(7); 251]).unwrap();
    let frame = frame::tcp("198.51.100.1:40000".parse().unwrap(), vip, Segment::Syn, 0xb9, 0);

    let outcome = world.run("lb_xdp", &frame).unwrap();

    assert_eq!(outcome.action, XDP_TX);
    assert_eq!(outcome.counters, [(Counter::ForwardedTx, 1)]);
    let out = &outcome.frame;
    assert_eq!(out[..14], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0]);
    assert_eq!(out[14..24], [0x45, 0xb9, 0, 60, 0, 0, 0x40, 0, 64, 4]);
    assert_eq!(frame::ipv4_checksum(&out[14..34]), 0);
    assert_eq!(out[26..34], [10, 0, 0, 1, 10, 0, 0, 11]);
    assert_eq!(out[34..], frame[14..], "the inner packet is untouched");
    assert_eq!(world.tally(name::SVC_TALLY, service).unwrap(), (1, 40, 1));
    assert_eq!(world.tally(name::BK_TALLY, 7).unwrap(), (1, 40, 1));
}
