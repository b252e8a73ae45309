//! The common part of the tests of tracked slots: a TCP and a UDP service in one tracked state, three backends, and flows
//! that differ by their client port.

use anyhow::Result;
use lb_common::{
    backend::Backend,
    counter::Counter,
    flow::Record,
    flow_table::Role,
    slot::Slot,
    wire::protocol::{TCP, UDP},
};
use lb_tests::{
    frame::{self, Segment},
    world::{Sizes, World, flows::Tuple},
};

use crate::scene::{PORT, SEED, V4, add_backend, backend_of, client, vip};

/// Backends.
pub(crate) const A: u32 = 1;
pub(crate) const B: u32 = 2;
pub(crate) const C: u32 = 3;

/// Numbers of the two services.
pub(crate) const TCP_SERVICE: u32 = 0;
pub(crate) const UDP_SERVICE: u32 = 1;

/// Slots in each ring.
pub(crate) const LENGTH: usize = 7;

/// Two services whose every slot is `slot`.
pub(crate) struct Slots {
    pub(crate) world: World,
}

impl Slots {
    pub(crate) fn new(slot: Slot) -> Result<Self> {
        Self::with_sizes(slot, Sizes::default())
    }

    pub(crate) fn with_sizes(slot: Slot, sizes: Sizes) -> Result<Self> {
        let mut world = World::new(sizes, SEED)?;
        for number in [A, B, C] {
            add_backend(&mut world, number, V4, V4)?;
        }
        assert_eq!(world.add_service(vip(V4, PORT), TCP, &[slot; LENGTH])?, TCP_SERVICE);
        assert_eq!(world.add_service(vip(V4, PORT), UDP, &[slot; LENGTH])?, UDP_SERVICE);
        Ok(Self { world })
    }

    /// Overwrites every slot of both services.
    pub(crate) fn set(&mut self, slot: Slot) -> Result<()> {
        self.world.set_slots(TCP_SERVICE, slot)?;
        self.world.set_slots(UDP_SERVICE, slot)
    }

    /// Sends a TCP segment of the flow from `port`: the backend that gets it (0 = dropped as `no_backend`), and the events.
    pub(crate) fn tcp(&mut self, port: u16, segment: Segment) -> Result<(u32, Vec<Counter>)> {
        self.send(&frame::tcp(client(V4, port), vip(V4, PORT), segment, 0, 0))
    }

    /// The same for a UDP packet.
    pub(crate) fn udp(&mut self, port: u16) -> Result<(u32, Vec<Counter>)> {
        self.send(&frame::udp(client(V4, port), vip(V4, PORT), 0, 10))
    }

    pub(crate) fn send(&mut self, packet: &[u8]) -> Result<(u32, Vec<Counter>)> {
        let outcome = self.world.run("lb_xdp", packet)?;
        let backend = match outcome.verdict() {
            Counter::ForwardedTx => backend_of(&outcome),
            Counter::NoBackend => 0,
            other => panic!("{}", other.name()),
        };
        Ok((backend, outcome.events()))
    }

    pub(crate) fn kill(&mut self, backend: u32) -> Result<()> {
        self.world.change_backend(backend, |backend| backend.flags &= !Backend::ALIVE)
    }

    pub(crate) fn revive(&mut self, backend: u32) -> Result<()> {
        self.world.change_backend(backend, |backend| backend.flags |= Backend::ALIVE)
    }

    pub(crate) fn drain(&mut self, backend: u32) -> Result<()> {
        self.world.change_backend(backend, |backend| backend.flags |= Backend::DRAINING)
    }

    /// The backend at which the TCP flow from `port` is confirmed, and the one at which it is unconfirmed.
    pub(crate) fn recorded(&mut self, port: u16) -> Result<(Option<u32>, Option<u32>)> {
        let key = tcp_key(port);
        let backend = |record: Option<Record>| record.map(|record| record.backend);
        Ok((backend(self.world.record(Role::Flow, &key)?), backend(self.world.record(Role::Pending, &key)?)))
    }

    /// The flags of the TCP flow's record from `port`, without a candidate.
    pub(crate) fn flags(&mut self, port: u16) -> Result<u32> {
        let record = self.world.record(Role::Flow, &tcp_key(port))?;
        Ok(record.expect("it was recorded").plain_flags())
    }

    /// The number of records of flows, and of those next to them.
    pub(crate) fn count(&mut self) -> Result<(usize, usize)> {
        Ok((self.world.records(Role::Flow)?.len(), self.world.records(Role::Pending)?.len()))
    }
}

/// The TCP flow from `port`.
pub(crate) fn tcp_key(port: u16) -> Tuple {
    Tuple { source: client(V4, port), destination: vip(V4, PORT), protocol: TCP }
}

/// The UDP flow from `port`.
pub(crate) fn udp_key(port: u16) -> Tuple {
    Tuple { protocol: UDP, ..tcp_key(port) }
}
