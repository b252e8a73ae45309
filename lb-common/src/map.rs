//! The maps: their names, the values that do not belong to another module, and the default sizes.

use crate::{Address, hash::Seed, icmp::Ping, pod};

/// Names of the maps in the object and under the pin directory. The kernel keeps 15 bytes.
pub mod name {
    /// Array of one [`super::Node`].
    pub const NODE: &str = "NODE";
    /// Array of [`crate::service_cache::Entry`]: what the fast path reads first.
    pub const SVC_FRONT: &str = "SVC_FRONT";
    /// Array of [`crate::service::Bucket`]: finds services.
    pub const SVC_INDEX: &str = "SVC_INDEX";
    /// Array of [`crate::service::Service`].
    pub const SERVICES: &str = "SERVICES";
    /// Array of [`crate::slot::Slot`] words, mappable: all rings.
    pub const RING: &str = "RING";
    /// Array of four owners of 2 bytes each, mappable: what packets read before [`RING`], see [`crate::owner`].
    pub const SLOT_OWNERS: &str = "SLOT_OWNERS";
    /// Array of [`crate::backend::Backend`].
    pub const BACKENDS: &str = "BACKENDS";
    /// Array of [`crate::flow_table::Bucket`], mappable: the flows of tracked slots.
    pub const FLOWS: &str = "FLOWS";
    /// Array of u64, four clocks each, mappable: when a record last sent a packet elsewhere than to its slot's owner, see
    /// [`crate::elsewhere`].
    pub const SLOT_ELSEWHERE: &str = "SLOT_ELSEWHERE";
    /// Array of u64 by backend number, mappable: the number of the backend's service.
    pub const BK_SERVICE: &str = "BK_SERVICE";
    /// Per-CPU array of u64 by [`crate::counter::Counter`], twice: see [`crate::counter::ENTRIES`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array of [`super::TrafficCounters`] by service number.
    pub const SVC_TALLY: &str = "SVC_TALLY";
    /// Per-CPU array of [`super::TrafficCounters`] by backend number.
    pub const BK_TALLY: &str = "BK_TALLY";
    /// Array of i64 by backend number, mappable: confirmed flows that are not closed, see [`crate::balance`].
    pub const LIVE: &str = "LIVE";
    /// Array of u64 words, mappable: which addresses may be a service's or the host's, see [`crate::known`].
    pub const KNOWN: &str = "KNOWN";
    /// Hash of [`super::Address`] to u32: the addresses of the host itself.
    pub const HOST: &str = "HOST";
    /// Hash by interface number to u32: the MTU of the interfaces that packets come in on.
    pub const INGRESS: &str = "INGRESS";
    /// Device hash by interface number: where packets may be redirected.
    pub const EGRESS: &str = "EGRESS";
    /// Array of [`super::NameRecord`] by service number: what the agent knows of a service; packets never read it.
    pub const SVC_META: &str = "SVC_META";
    /// Array of [`super::NameRecord`] by backend number: what the agent knows of a backend; packets never read it.
    pub const BK_META: &str = "BK_META";
    /// Array of one u64: the kernel's jiffies when `lb_clock` ran last.
    pub const CLOCK: &str = "CLOCK";
    /// Hash of [`super::Address`] to u32: addresses at which `lb_decap` takes outer headers off, with the bits of the kinds that
    /// it takes off ([`crate::encap::Kind::decap_bit`]).
    pub const DECAP: &str = "DECAP";
    /// Hash of [`crate::loss::Loss`] to u64: frames that were lost behind the program.
    pub const LOSSES: &str = "LOSSES";
    /// Hash of u32 to u32: the numbers of the programs whose losses count.
    pub const LOSS_PROGRAMS: &str = "LOSS_PROGRAMS";
}

/// Default sizes of the maps, in entries; `[limits]` of the configuration overrides them.
pub mod size {
    pub const SERVICES: u32 = 1024;
    pub const BACKENDS: u32 = 16_384;
    /// 40 MiB together with the owners in `SLOT_OWNERS`: for example one service of 10,000 backends and 700 of 10.
    pub const SLOTS: u32 = 4_194_304;
    /// Records of flows: 20 MiB.
    pub const FLOWS: u32 = 1_048_576;
    pub const EGRESS: u32 = 64;
    pub const DECAP: u32 = 64;
    /// Addresses of the host that the tables know; packets for further ones count as if these were not addresses of the
    /// host.
    pub const HOST: u32 = 4096;
    pub const INGRESS: u32 = 64;
    /// An interface loses frames under two or three different errors.
    pub const LOSSES: u32 = 1024;
    pub const LOSS_PROGRAMS: u32 = 64;
}

/// What holds for every packet: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// [`crate::ABI_VERSION`] of the agent that made the maps; 0 = not configured, every packet passes.
    pub abi_version: u32,
    /// [`Node::ANY_PORT`] and friends.
    pub flags: u32,
    /// Buckets of the service index minus 1.
    pub index_mask: u32,
    /// 0; alignment.
    pub reserved: u32,
    /// Key of the flow hash.
    pub seed: Seed,
    /// Fingerprint of the configuration that was applied last; packets do not read it.
    pub configuration: u64,
    /// [`Node::port_bit`] of the ports that UDP services listen on; all bits where one listens on every port. Since
    /// version 4.
    pub udp_ports: u64,
    /// 0; room for later versions.
    pub spare: [u64; 2],
}

impl Node {
    /// At least one service listens on every port: a packet that finds no service with its own port has to look again.
    pub const ANY_PORT: u32 = 1;
    /// Packets for the address of a service that no service takes are dropped. Since version 3.
    pub const DROP_UNSERVED: u32 = 1 << 1;
    /// A packet that is too big for its backend is answered, see [`crate::icmp`]. Since version 5.
    pub const ANSWER_TOO_BIG: u32 = 1 << 2;
    /// Two bits that hold a [`crate::icmp::Ping`]. Since version 5.
    const PING_SHIFT: u32 = 8;

    /// What becomes of echo requests to addresses of services.
    #[inline(always)]
    pub const fn ping(&self) -> Ping {
        match self.flags >> Self::PING_SHIFT & 3 {
            1 => Ping::Answer,
            2 => Ping::Healthy,
            3 => Ping::Drop,
            _ => Ping::Host,
        }
    }

    /// The bits of [`Node::flags`] for that.
    pub const fn ping_flags(ping: Ping) -> u32 {
        (ping as u32) << Self::PING_SHIFT
    }

    /// The bit of a port in [`Node::udp_ports`].
    #[inline(always)]
    pub const fn port_bit(port: u16) -> u64 {
        1 << (port & 63)
    }

    /// The value of [`Node::udp_ports`] for services that listen on these ports; 0 = every port.
    pub fn bits_of(ports: impl IntoIterator<Item = u16>) -> u64 {
        let bits = |port| if port == 0 { u64::MAX } else { Self::port_bit(port) };
        ports.into_iter().fold(0, |all, port| all | bits(port))
    }
}

/// Traffic of a backend on one CPU. For a service: the difference between its traffic and the sum of the traffic of its
/// backends (modulo 2⁶⁴), which are the backends whose [`NameRecord`] names the service. In version 1, it was all of the
/// service's traffic.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrafficCounters {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes forwarded, from the inner IP header on.
    pub bytes: u64,
    /// TCP segments with SYN and without ACK that were forwarded, retransmits included.
    pub new_connections: u64,
    /// Turns that a service has given on this CPU ([`crate::balance::turn`]); 0 for a backend. Since version 2.
    pub turns: u64,
}

/// What the agent must know of a number to adopt running maps: names, which packets do not need.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameRecord {
    /// The service's or backend's name, UTF-8, padded with 0.
    pub name: [u8; NameRecord::NAME],
    /// [`NameRecord::USED`] and friends; 0 = the number is free.
    pub flags: u32,
    /// A backend's service number; 0 for a service.
    pub service: u32,
    /// A backend's address; 0 for a service.
    pub address: Address,
    /// Slots a service asked for (`max_backends`); 0 for a backend.
    pub max_backends: u32,
    /// A retired number may be used again from this `since` step on, see [`crate::slot::since`]. For a backend that is
    /// [`NameRecord::RETURNING`], the agent gives its flows up from this step on.
    pub free_after: u32,
}

impl NameRecord {
    /// The longest name, in bytes.
    pub const NAME: usize = 64;
    /// The number belongs to the name.
    pub const USED: u32 = 1;
    /// The object is gone from the configuration, but flows or slots may still name the number.
    pub const RETIRED: u32 = 1 << 1;
    /// The backend has been down for less than the grace: if it comes back, its flows find it where they left it.
    pub const RETURNING: u32 = 1 << 2;
    /// A free number.
    pub const FREE: Self =
        Self { name: [0; Self::NAME], flags: 0, service: 0, address: [0; 4], max_backends: 0, free_after: 0 };
}

impl Default for NameRecord {
    fn default() -> Self {
        Self::FREE
    }
}

pod!(Node, TrafficCounters, NameRecord);

const _: () = {
    assert!(size_of::<Node>() == 64);
    assert!(size_of::<TrafficCounters>() == 32);
    assert!(size_of::<NameRecord>() == 96);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::Backend,
        counter,
        flow_table::{self, Key},
        hash,
        service::{self, Service},
        service_cache::{self, Entry},
        slot::Slot,
    };
    use core::mem::offset_of;

    /// The layout as numbers. A change here is a change of [`crate::ABI_VERSION`]; update both. A counter at the end, or a map
    /// whose content follows from the other maps, is not a change.
    #[test]
    fn the_layout_has_not_changed_without_a_new_version() {
        let seed = Seed([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
        let layout = [
            crate::ABI_VERSION as usize,
            offset_of!(Node, seed),
            offset_of!(Node, configuration),
            offset_of!(Node, udp_ports),
            offset_of!(Service, port_protocol),
            offset_of!(Service, ring),
            offset_of!(Service, old_ring),
            offset_of!(Service, longest),
            offset_of!(Service, idle_after),
            offset_of!(Backend, flags),
            offset_of!(Backend, source_bits),
            offset_of!(Backend, room),
            offset_of!(Backend, encap),
            offset_of!(Backend, outer),
            offset_of!(flow_table::Entry, facts),
            offset_of!(NameRecord, flags),
            offset_of!(NameRecord, address),
            offset_of!(Entry, ring),
            offset_of!(Entry, address),
            offset_of!(Entry, seed),
            offset_of!(Entry, number),
            counter::ROOM as usize,
            counter::ENTRIES as usize,
        ];
        assert_eq!(
            layout,
            [5, 16, 32, 40, 16, 24, 32, 40, 44, 4, 5, 6, 24, 32, 8, 64, 72, 8, 16, 32, 48, 128, 256]
        );
        let Key { first, second, .. } = Key::of(0x0123_4567_89ab_cdef, flow_table::buckets_for(1 << 20));
        assert_eq!((first, second), (120_877, 107_483));
        assert_eq!(Slot::learning(1, 2, 3).0, 0x8003_0000_0200_0001);
        if cfg!(target_endian = "little") {
            assert_eq!(hash::flow_v4(&seed, 1, 2, 3, 6), 12457559576957729426);
            assert_eq!(service::hash(&[1, 2, 3, 4], 5), 1391977471497793077);
            assert_eq!(service_cache::place(&crate::mapped(0x0a71_00cb), 6 << 16 | 443, 52), 36);
            assert_eq!(service_cache::place(&[1, 2, 3, 4], 6 << 16 | 443, 52), 816);
        }
    }
}
