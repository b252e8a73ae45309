//! The tables as a scene for the model, so that a capture contains only results on which program and model agree.

use std::{collections::BTreeMap, net::IpAddr, sync::atomic::Ordering};

use anyhow::{Result, bail};
use lb_common::{
    ABI_VERSION,
    backend::Backend,
    balance::Balance,
    encap::Kind,
    icmp::Ping,
    map::Node as NodeRecord,
    ring::Ring,
    service::Service,
    slot::{PREVIOUS_RING, Slot},
    wire::protocol,
};
use lb_userspace::tables::{Tables as _, address, memory::Twin};

use super::planned_tables::PlannedTables;
use crate::{
    model::scene::{self, Family, Node, Protocol, Scene, State, TooBig, Unserved, Via},
    world::INGRESS,
};

/// An address that belongs to no service, for numbers that are not in use.
const UNUSED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 255));

/// The scene for planned tables.
pub(super) fn scene(planned: &PlannedTables) -> Result<Scene> {
    let node = planned.node()?;
    let services = services(planned)?;
    let mut decap = planned.decap().to_vec();
    decap.sort_unstable();
    decap.dedup();
    Ok(Scene {
        about: String::new(),
        node: match node.abi_version {
            ABI_VERSION => Node::Ready,
            0 => Node::Unconfigured,
            _ => Node::OtherVersion,
        },
        seed: node.seed.0.map(|half| format!("{half:x}")),
        unserved: if node.flags & NodeRecord::DROP_UNSERVED != 0 { Unserved::Drop } else { Unserved::Pass },
        ping: match node.ping() {
            Ping::Answer => scene::Ping::Answer,
            Ping::Healthy => scene::Ping::Healthy,
            Ping::Host => scene::Ping::Host,
            Ping::Drop => scene::Ping::Drop,
        },
        healthy: healthy(planned)?,
        too_big: if node.flags & NodeRecord::ANSWER_TOO_BIG != 0 { TooBig::Answer } else { TooBig::Drop },
        hosts: planned.tables().hosts()?.iter().map(address::from_wire).collect(),
        ingress_mtu: planned.tables().ingress()?.values().next().copied(),
        crowded: false,
        decap,
        decap_gue: false,
        backends: backends(planned)?,
        services,
    })
}

/// Addresses that answer echo requests under `ping = "healthy"`: packets ask any service of an address, so all must agree.
fn healthy(planned: &PlannedTables) -> Result<Vec<IpAddr>> {
    let mut answers = BTreeMap::new();
    for record in planned.tables().services()? {
        if record.flags & Service::PRESENT == 0 {
            continue;
        }
        let (address, pinged) =
            (address::from_wire(&record.address), record.flags & Service::ANSWERS_PING != 0);
        if *answers.entry(address).or_insert(pinged) != pinged {
            bail!("services of {address} disagree whether it answers echo requests");
        }
    }
    Ok(answers.into_iter().filter(|(_, pinged)| *pinged).map(|(address, _)| address).collect())
}

fn services(planned: &PlannedTables) -> Result<Vec<scene::Service>> {
    let tables = planned.tables();
    let mut all = tables.services()?;
    while all.last().is_some_and(|record| record.flags & Service::PRESENT == 0) {
        all.pop();
    }
    all.iter()
        .map(|record| {
            if record.flags & Service::PRESENT == 0 {
                return Ok(scene::Service {
                    listen: (UNUSED, 9).into(),
                    protocol: Protocol::Udp,
                    always: false,
                    balance: scene::Balance::Hash,
                    longest: 0,
                    source_bits: 0,
                    old_source_bits: 0,
                    slots: Vec::new(),
                    old_slots: Vec::new(),
                });
            }
            let tcp = (record.port_protocol >> 16) as u8 == protocol::TCP;
            Ok(scene::Service {
                listen: (address::from_wire(&record.address), record.port_protocol as u16).into(),
                protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                always: record.tracks_always(),
                balance: balance(record),
                longest: record.longest,
                source_bits: record.ring.source_bits() as u8,
                old_source_bits: record.old_ring.source_bits() as u8,
                slots: slots(tables, record.ring)?,
                old_slots: slots(tables, record.old_ring)?,
            })
        })
        .collect()
}

fn balance(record: &Service) -> scene::Balance {
    match record.balance() {
        // A service balances only if it records every flow: otherwise only the hash says where a flow is.
        _ if !record.tracks_always() => scene::Balance::Hash,
        Balance::Hash => scene::Balance::Hash,
        Balance::RoundRobin => scene::Balance::RoundRobin,
        Balance::Random => scene::Balance::Random,
        Balance::LeastConnections => scene::Balance::LeastConnections,
    }
}

fn slots(tables: &Twin, ring: Ring) -> Result<Vec<scene::Slot>> {
    let words = (ring.offset()..).take(ring.length() as usize);
    words
        .map(|at| {
            let Some(word) = tables.slots().get(at as usize) else { bail!("slot {at} is outside the arena") };
            let word = Slot(word.load(Ordering::Relaxed));
            Ok(match (word.is_tracked(), word.previous()) {
                (false, _) => scene::Slot::Stable(word.current()),
                (true, 0) => scene::Slot::Remembering(word.current()),
                (true, PREVIOUS_RING) => scene::Slot::LearningFromRing(word.current()),
                (true, previous) => scene::Slot::Learning(word.current(), previous),
            })
        })
        .collect()
}

fn backends(planned: &PlannedTables) -> Result<Vec<scene::Backend>> {
    let tables = planned.tables();
    let (records, metas, services) = (tables.backends()?, tables.backend_metas()?, tables.services()?);
    let egress = planned.egress()?;
    let used = metas.iter().rposition(|meta| meta.flags != 0).unwrap_or(0);
    let of = |number: usize| -> Option<scene::Backend> {
        let (record, meta) = (records.get(number)?, metas.get(number)?);
        let service = services.get(meta.service as usize)?;
        let listens = address::from_wire(&service.address);
        let to = address::from_wire(&meta.address);
        let kind = Kind::of(record.encap)?;
        let overhead = kind.outer(&meta.address, &meta.address, listens.is_ipv6()).overhead;
        let encapsulation = scene::Encapsulation::ALL.into_iter().find(|(word, _)| *word == kind.name());
        let [a, b, c, d, ..] = record.outer;
        let is_known = record.interface != 0;
        Some(scene::Backend {
            address: to,
            source: match to {
                IpAddr::V4(_) => d.to_ne_bytes().into(),
                IpAddr::V6(_) => address::from_wire(&[a, b, c, d]),
            },
            source_bits: record.source_bits,
            encapsulation: encapsulation?.1,
            carries: if listens.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 },
            mtu: if is_known { record.room + overhead } else { 0 },
            weight: record.weight,
            via: match record.interface {
                0 => Via::Unknown,
                INGRESS => Via::Same,
                interface if egress.contains(&interface) => Via::Other,
                _ => Via::Unmapped,
            },
            state: match (record.is_alive(), record.flags & Backend::DRAINING != 0) {
                (true, false) if record.flags & Backend::FAILING != 0 => State::Failing,
                (true, false) => State::Up,
                (true, true) => State::Draining,
                (false, _) => State::Down,
            },
        })
    };
    Ok((1..=used).filter_map(of).collect())
}
