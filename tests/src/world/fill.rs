//! Writes a whole scene into the maps of a world, as often as wanted: the old content of the maps is removed. The product's
//! own code makes the templates of outer headers, as in the agent.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::{MapError, PerCpuArray, PerCpuValues};
use lb_common::{
    ABI_VERSION, Address,
    backend::Backend,
    balance::Balance,
    encap::Kind,
    hash::Seed,
    icmp::Ping,
    map::{Node, TrafficCounters, name},
    ring::Ring,
    service::{ANY_SERVICE, Bucket, Service},
    slot::{Slot, Track},
    wire::protocol,
};

use super::{MTU, World, backend_by};
use crate::model::{
    next_hop,
    scene::{self, Change, Family, Protocol, Scene, State, Via},
};

/// An interface number that no host reaches.
const NOWHERE: u32 = 0x7fff_0000;

/// Jiffies after which a flow of a scene is idle: longer than any run, and twice as many fit into a record's time.
const IDLE_AFTER: u32 = 1 << 25;

/// The word of a slot. `since` is for the agent; packets do not read it.
pub fn word(slot: scene::Slot) -> Slot {
    match slot {
        scene::Slot::Stable(current) => Slot::stable(current),
        scene::Slot::Remembering(current) => Slot::remembering(current),
        scene::Slot::Learning(current, previous) => Slot::learning(current, previous, 5),
        scene::Slot::LearningFromRing(current) => Slot::after_resize(current, 5),
    }
}

fn balance(balance: scene::Balance) -> Balance {
    match balance {
        scene::Balance::Hash => Balance::Hash,
        scene::Balance::RoundRobin => Balance::RoundRobin,
        scene::Balance::Random => Balance::Random,
        scene::Balance::LeastConnections => Balance::LeastConnections,
    }
}

fn ping(ping: scene::Ping) -> Ping {
    match ping {
        scene::Ping::Answer => Ping::Answer,
        scene::Ping::Healthy => Ping::Healthy,
        scene::Ping::Host => Ping::Host,
        scene::Ping::Drop => Ping::Drop,
    }
}

fn flags(state: State) -> u8 {
    match state {
        State::Up => Backend::ALIVE,
        State::Draining => Backend::ALIVE | Backend::DRAINING,
        State::Down => 0,
        State::Failing => Backend::ALIVE | Backend::FAILING,
    }
}

impl World {
    /// Brings the maps into the state of the scene; `other` is the interface for [`Via::Other`].
    pub fn fill(&mut self, scene: &Scene, other: u32) -> Result<()> {
        self.clear()?;
        for (number, backend) in (1..).zip(&scene.backends) {
            self.set_backend(number, record(backend, number, other))?;
        }
        for service in &scene.services {
            let protocol = if service.protocol == Protocol::Tcp { protocol::TCP } else { protocol::UDP };
            let words = |slots: &[scene::Slot]| slots.iter().map(|slot| word(*slot)).collect::<Vec<_>>();
            let number = self.add_service(service.listen, protocol, &words(&service.slots))?;
            let track = if service.always { Track::Always } else { Track::OnChange };
            self.change_service(number, |record| {
                let pinged = scene.healthy.contains(&service.listen.ip());
                record.flags = Service::flags_of(track, balance(service.balance));
                record.flags |= if pinged { Service::ANSWERS_PING } else { 0 };
                (record.longest, record.idle_after) = (service.longest, IDLE_AFTER);
            })?;
            self.change_service(number, |record| {
                record.ring = record.ring.with_source_prefix(service.source_bits);
            })?;
            if !service.old_slots.is_empty() {
                let old =
                    self.add_ring(&words(&service.old_slots))?.with_source_prefix(service.old_source_bits);
                self.change_service(number, |service| service.old_ring = old)?;
            }
        }
        let kinds = if scene.decap_gue { &[Kind::Ipip, Kind::Gue][..] } else { &[Kind::Ipip] };
        for ip in &scene.decap {
            self.add_decap_of(*ip, kinds)?;
        }
        for ip in &scene.hosts {
            self.add_host(*ip)?;
        }
        if let Some(mtu) = scene.ingress_mtu {
            self.set_ingress_mtu(mtu)?;
        }
        if scene.crowded {
            self.suspect_all()?;
        }
        let dropped = scene.unserved == scene::Unserved::Drop;
        let version = match scene.node {
            scene::Node::Ready => ABI_VERSION,
            scene::Node::Unconfigured => 0,
            scene::Node::OtherVersion => ABI_VERSION + 1,
        };
        let seed = Seed(scene.seed()?);
        let answers = scene.too_big == scene::TooBig::Answer;
        self.set_node(|node| {
            node.abi_version = version;
            node.seed = seed;
            node.flags |= if dropped { Node::DROP_UNSERVED } else { 0 };
            node.flags |= if answers { Node::ANSWER_TOO_BIG } else { 0 };
            node.flags |= Node::ping_flags(ping(scene.ping));
        })
    }

    /// Makes the maps follow a change of `scene`, which is the scene before the change.
    pub fn follow(&mut self, scene: &Scene, change: &Change) -> Result<()> {
        match *change {
            Change::Backend { number, state } if number >= 1 && number as usize <= scene.backends.len() => {
                let states = Backend::ALIVE | Backend::DRAINING | Backend::FAILING;
                self.change_backend(number, |backend| {
                    backend.flags = backend.flags & !states | flags(state);
                })
            }
            Change::Slot { service, slot, to } => {
                let slots = scene.services.get(service as usize).map_or(0, |service| service.slots.len());
                if slot as usize >= slots {
                    return Ok(());
                }
                let ring = self.service(service)?.ring;
                self.write_ring(Ring::new(ring.offset() + slot, 1), &[word(to)])
            }
            Change::Balance { service, to } if (service as usize) < scene.services.len() => self
                .change_service(service, |service| {
                    let pinged = service.flags & Service::ANSWERS_PING;
                    service.flags = Service::flags_of(Track::Always, balance(to)) | pinged;
                }),
            Change::Silence => {
                let long_ago = IDLE_AFTER * 2;
                self.age_records(long_ago)
            }
            Change::Backend { .. } | Change::Balance { .. } => Ok(()),
        }
    }

    /// Brings the maps into the state after [`World::new`], without traffic; counters stay as they are.
    fn clear(&mut self) -> Result<()> {
        self.forget_flows()?;
        for service in 0..self.next_service {
            let key = self.service(service)?;
            for key in [
                lb_common::service::hash(&key.address, key.port_protocol),
                lb_common::service::hash(&key.address, ANY_SERVICE),
            ] {
                for at in self.places(key) {
                    self.set_bucket(at, Bucket::default())?;
                }
            }
            self.change_service(service, |service| *service = Service::default())?;
            self.reset_tally(name::SVC_TALLY, service)?;
        }
        // Number 0 stays empty; backends are filled in from 1 on, so the first empty record ends the loop.
        for number in 1..self.sizes.backends {
            if self.array::<Backend>(name::BACKENDS)?.get(&number, 0)? == Backend::default() {
                break;
            }
            self.set_backend(number, Backend::default())?;
            self.reset_tally(name::BK_TALLY, number)?;
            self.array::<i64>(name::LIVE)?.set(number, 0, 0)?;
        }
        let map = self.ebpf.map_mut(name::DECAP).context("no decap map")?;
        let mut decap = aya::maps::HashMap::<_, Address, u32>::try_from(map)?;
        let addresses: Vec<Address> = decap.keys().collect::<Result<_, MapError>>()?;
        for address in addresses {
            decap.remove(&address)?;
        }
        self.next_service = 0;
        self.next_slot = 0;
        self.clear_service_cache();
        self.know_none()?;
        self.set_node(|node| {
            node.flags = 0;
            node.udp_ports = 0;
        })
    }

    pub fn reset_tally(&mut self, map: &str, number: u32) -> Result<()> {
        let mut map: PerCpuArray<_, TrafficCounters> =
            PerCpuArray::try_from(self.ebpf.map_mut(map).context("no tally")?)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(map.set(number, PerCpuValues::try_from(vec![TrafficCounters::default(); cpus])?, 0)?)
    }
}

fn record(of: &scene::Backend, number: u32, other: u32) -> Backend {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == of.encapsulation.word());
    let kind = kind.expect("a kind for each word of scenes");
    let mut record = backend_by(kind, of.source, of.address, of.carries == Family::Ipv6);
    record.ethernet[..6].copy_from_slice(&next_hop(number));
    record.flags = record.flags & !Backend::ALIVE | flags(of.state);
    record.source_bits = of.source_bits;
    let overhead = MTU - record.room;
    record.room = of.mtu.saturating_sub(overhead);
    record.weight = of.weight;
    record.interface = match of.via {
        Via::Same => record.interface,
        Via::Other => other,
        Via::Unmapped => NOWHERE,
        Via::Unknown => 0,
    };
    record
}

/// The address of a key, in the form of `std`.
pub fn ip(address: &Address) -> IpAddr {
    if lb_common::is_v4(address) {
        return IpAddr::from(address[3].to_ne_bytes());
    }
    let mut octets = [0; 16];
    for (place, word) in octets.chunks_mut(4).zip(address) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::from(octets)
}
