//! The clock of a slot: set when a record sends a packet elsewhere than to the slot's owner, and by nothing that anyone
//! can send.

use anyhow::Result;
use lb_common::{elsewhere::NEVER, flow::Record, flow_table::Role, slot::Slot, wire::protocol::TCP};
use lb_tests::{
    frame::{
        self,
        Segment::{Data, Fin, Rst},
    },
    need_bpf,
};

use crate::{
    scene::{PORT, V4, client, vip},
    slots::{A, B, Slots, TCP_SERVICE, tcp_key, udp_key},
};

/// Jiffies of silence after which a record says again that its flow was seen.
const LONG: u32 = 1000;

impl Slots {
    /// The flow from port 1 at a backend, last seen a while ago.
    fn at(&mut self, backend: u32, flags: u32) -> Result<()> {
        let last_seen = (self.world.clock()? as u32).wrapping_sub(LONG);
        let record = Record { backend, flags, sequence: 1000, last_seen };
        self.world.set_record(Role::Flow, &tcp_key(1), record)?;
        self.world.set_record(Role::Flow, &udp_key(1), record)
    }

    /// Whether the clock of the slot of the TCP flow from `port` is set; sets it back.
    fn was_set(&mut self, port: u16) -> Result<bool> {
        let ring = self.world.service(TCP_SERVICE)?.ring;
        let slot = ring.slot(self.world.hash(client(V4, port), vip(V4, PORT), TCP));
        let clock = self.world.clock_of(slot)?;
        self.world.set_clock(slot, NEVER)?;
        Ok(clock != NEVER)
    }
}

/// A segment of the flow from port 1 with these flags and a number that is far from the flow's.
fn foreign(flags: u8) -> Vec<u8> {
    const TCP_HEADER: usize = frame::IP + 20;
    let mut segment = frame::tcp(client(V4, 1), vip(V4, PORT), Data, 0, 0);
    segment[TCP_HEADER + 4..TCP_HEADER + 8].copy_from_slice(&0x7000_0000_u32.to_be_bytes());
    segment[TCP_HEADER + 13] = flags;
    segment
}

#[test]
fn a_flow_elsewhere_sets_the_clock_of_its_slot() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::remembering(B))?;
    for (backend, segment, sets) in
        [(A, Data, true), (A, Fin, true), (A, Rst, true), (B, Data, false), (B, Rst, false)]
    {
        slots.at(backend, 0)?;
        slots.tcp(1, segment)?;
        assert_eq!(slots.was_set(1)?, sets, "{segment:?} of a flow at {backend}");
    }
    Ok(())
}

#[test]
fn a_datagram_elsewhere_sets_it_too() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::remembering(B))?;
    slots.at(A, 0)?;
    assert_eq!(slots.udp(1)?.0, A);
    // Both services have rings of seven slots behind one another, so that clocks are shared: any clock counts.
    let is_set = |slots: &mut Slots| -> Result<bool> {
        let clocks: Result<Vec<u16>> = (0..14).map(|slot| slots.world.clock_of(slot)).collect();
        Ok(clocks?.into_iter().any(|clock| clock != NEVER))
    };
    assert!(is_set(&mut slots)?);
    Ok(())
}

#[test]
fn an_unknown_flow_at_the_owner_before_sets_it() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::learning(B, A, 0))?;
    assert_eq!(slots.tcp(1, Data)?.0, A);
    assert!(slots.was_set(1)?);
    Ok(())
}

#[test]
fn what_proves_nothing_does_not_set_it() -> Result<()> {
    need_bpf!();
    let mut slots = Slots::new(Slot::remembering(B))?;
    for (what, record, segment) in [
        ("a SYN on a live flow", 0, 0x02),
        ("a segment with other numbers", Record::BEGAN, 0x10),
        ("a RST with other numbers", Record::BEGAN, 0x04),
        ("a segment that does not fit what was seen once", Record::ONCE, 0x10),
        ("SYN and ACK", 0, 0x12),
    ] {
        slots.at(A, record)?;
        slots.send(&foreign(segment))?;
        assert!(!slots.was_set(1)?, "{what}");
        slots.world.forget_flows()?;
    }
    Ok(())
}
